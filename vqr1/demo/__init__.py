"""The demonstration: data and a policy that are made here, and the proof that a run on them learnt to rank.

Nothing of the product imports this package; the command line registers its datasets and hands its proof to a run.
"""

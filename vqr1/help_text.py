"""What ``--help`` says of ``vqr1 train``, ``evaluate``, ``plan`` and ``doctor``. Imports neither Hydra nor torch."""

from __future__ import annotations

from vqr1.packaged import packaged

TRAIN = """usage: vqr1 train SETTING=VALUE ...           one run, in runs/NAME
       vqr1 train -m SETTING=A,B ...          a sweep: a run for every combination, one after the other
       vqr1 train --cfg job SETTING=VALUE ... prints every setting and starts nothing

Trains a policy by reinforcement learning to rank (GRPO).

The usual settings:
  data=NAME, data=[A,B]         datasets to train, validate and test on (vqr1 data list); --root FOLDER holds them
  policy.path=FOLDER            the weights, where policy= names none below; nothing is downloaded
  policy.tuning=full|lora|auto  all weights, or LoRA
  name=NAME, runs=FOLDER        the run's folder is FOLDER/NAME; without a name: experiment, date and time
  resume=true|auto              go on with the run called NAME; auto begins it where there is none
  objective=rl2r                levels, comparison or depict learn answers that are shown (docs/methods.md):
                                experiment=levels, comparison, depict, and demo_ before these
  rollout.k=6                   answers to each picture
  trainer.learning_rate=1e-6    and trainer.beta, trainer.max_steps, trainer.images_per_step, ...
  trainer.answers_per_device=6  answers in one pass; null, the default: as many as fit
  evaluation.every=50           steps between evaluations
  launcher=auto|none|ddp|zero2|zero3|fsdp2  processes on several GPUs (docs/cluster.md)
  seed=0

Groups, and what may be chosen from each:
{groups}

Every setting with type, default and a comment: vqr1/config.py; docs/configuration.md says more.
Exit codes: 0 done, 1 a defect, 2 to be put right by you, 75 stopped by a signal, 130 by Ctrl-C.
Hydra's own options (--config-dir, --info, --shell-completion, ...): vqr1 train --hydra-help
"""

EVALUATE = """usage: vqr1 evaluate model=MODEL data=[A,B] SETTING=VALUE ...

Rates every picture of some datasets, then prints the table. The same command goes on where it was interrupted.

The usual settings:
  model=MODEL              tiny, a hub id, a folder of weights or of vqr1 export, or a run's: its best/, else final/
  data=NAME, data=[A,B]    datasets (vqr1 data list); --root FOLDER holds them
  method=mean              the mean of k=6 answers; greedy: one, the likeliest; expected: of the score's distribution
  method=levels            the five words' probabilities, one pass a picture; comparison: against anchors of the
                           training part (anchors=SET, intervals=5); votes: all pairs of a reference
  limit_per_reference=40   pictures of each reference that vote
  orders=both              of two pictures that are compared, or one; yes=true asks over 100,000 questions
  until=0.05               in place of k: as many answers as that standard error of the mean takes, max_k=48 at most
  limit=100                pictures of each dataset, spread over it
  name=NAME                what the table calls the model
  part=validation|test     that split of every dataset; otherwise the test split of those trained on, all of others
  folder=FOLDER            of the results; otherwise evaluations/NAME-METHOD-kK-seedSEED
  engine=auto|transformers|vllm
  gpus=2                   that share the pictures; otherwise all
  batch, max_pixels        lower them where memory runs out
  seed=0

Every setting with type, default and a comment: vqr1/answering/settings.py and vqr1/scoring/settings.py.
docs/evaluation.md says more.
vqr1 evaluate --cfg job model=MODEL data=NAME prints them all and starts nothing.
"""

DOCTOR = """usage: vqr1 doctor [--json] [--root FOLDER]               this machine, and whether make train would run
       vqr1 doctor [--json] SETTING=VALUE ...            whether vqr1 train SETTING=VALUE ... would

Looks at driver, GPUs, packages, attention kernels, compilers, memory, disks, data and weights, and prints a line for
each: ok, warning, or missing with a remedy. A run that is named is looked at by the checks that it begins with itself.
Nothing is downloaded, trained or written; a machine without a GPU is looked at as well.

  vqr1 doctor experiment=kadid10k --root /data

Exit codes: 0 the run would begin, 2 something is missing. docs/install.md says more.
"""

PLAN = """usage: vqr1 plan [plan.SETTING=VALUE ...] [--json FILE] WORDS OF vqr1 train

Estimates what a run would need on machines that are not at hand, and starts nothing: what is chosen, the command that
starts it, memory by part, tokens, operations, seconds a step, GPU hours and what the GPUs send each other. It needs
neither a GPU, data nor weights: the policy's sizes are in its config.json, and those of Qwen2.5-VL are known by name.

  plan.gpus=8            GPUs of a machine
  plan.nodes=1           machines
  plan.gpu_memory=80     GB of a GPU, as it is sold
  plan.answer=100        tokens of an answer, on average; memory is that of the longest, rollout.max_tokens
  plan.picture=512x384   pixels of the pictures, where the training sets have no published size
  plan.pictures=6000     training pictures, where they have no published number
  plan.tflops=989        1e12 operations a second of a GPU in bfloat16 (an H100's)
  plan.utilisation=0.35  of that, in passes

How it is counted: docs/scale.md.
"""


def train_help() -> str:
    conf = packaged("conf")
    groups = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in conf.iterdir()}
    lines = [
        f"  {name}={'|'.join(groups[name])}"
        for name in ("experiment", "data", "policy", "rollout", "reward", "trainer", "logger")
    ]
    return TRAIN.format(groups="\n".join(lines))

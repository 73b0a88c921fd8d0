"""The proof that a demonstration run learnt to rank, and did not just answer with less noise.

When answers merely become less random the SRCC of a few of them rises by itself. So both ends are judged by the mean
of many answers, the start also at a low temperature, and both are compared with two ceilings: what the labels' noise
allows, and what the same weights reach when they are trained on the true labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqr1.data.sample import Sample
from vqr1.demo.ceiling import read_ceiling
from vqr1.demo.datasets import DEMO_DATASETS, load_pictures
from vqr1.evaluation.correlation import srcc

LOW_TEMPERATURE = 0.3


def low_temperature_name(name: str) -> str:
    """What the start policy's ratings of a set at the low temperature are called among the metrics."""
    return f"{name}_at_{LOW_TEMPERATURE}"


def label_ceiling(samples: Sequence[Sample], root: Path) -> float | None:
    """The SRCC of the noise-free labels against the labels; None for a set without noise-free labels."""
    name = samples[0].dataset
    if name not in DEMO_DATASETS:
        return None
    noise_free = {f"{name}/{p.file}": p.noise_free_mos for p in load_pictures(name, root / name)}
    return srcc([noise_free[sample.image_id] for sample in samples], [sample.mos for sample in samples])


def make_proof(
    start: dict[str, dict[str, float]],
    final: dict[str, dict[str, float]],
    tests: Mapping[str, Sequence[Sample]],
    *,
    answers: int,
    root: Path,
    policy: Path,
) -> dict[str, Any]:
    """``summary.json``'s "proof": for each test set both ends, and the ceilings.

    ``start`` and ``final`` are the figures per evaluated set, ``tests`` the test sets by their evaluated names.
    """
    ceiling = read_ceiling(policy)
    kept = ("srcc", "srcc_low", "srcc_high", "score_std")
    return {
        name: {
            "start": {key: start[name][key] for key in kept},
            "final": {key: final[name][key] for key in kept},
            f"start_at_{LOW_TEMPERATURE}": {"srcc": start[low_temperature_name(name)]["srcc"]},
            "label_ceiling": label_ceiling(samples, root),
            "supervised_ceiling": ceiling.get(name),
            "n": len(samples),
            "answers": answers,
        }
        for name, samples in tests.items()
    }


def proof_table(proof: dict[str, Any]) -> str:
    """The proof as lines for the screen."""
    lines = ["proof: SRCC on unseen photographs, means of many answers (95 % bootstrap interval)"]
    for name, row in proof.items():
        start, final = row["start"], row["final"]
        ceiling = "run make ceiling" if row["supervised_ceiling"] is None else f"{row['supervised_ceiling']:.3f}"
        lines += [
            f"  {name}: {row['n']} pictures, {row['answers']} answers each",
            f"    start       {_end(start)}",
            f"    start T={LOW_TEMPERATURE} {_number(row[f'start_at_{LOW_TEMPERATURE}']['srcc'])}",
            f"    final       {_end(final)}",
            f"    ceilings    labels {_number(row['label_ceiling'])}  supervised {ceiling}",
        ]
    lines.append("  pseudo-labels: this shows that the machinery learns; it is not an accuracy benchmark")
    return "\n".join(lines)


class DemonstrationProof:
    """The proof as a run asks for it (:class:`vqr1.training.evaluation_callback.Proof`)."""

    temperature = LOW_TEMPERATURE

    name = staticmethod(low_temperature_name)
    make = staticmethod(make_proof)
    text = staticmethod(proof_table)


def _end(end: dict[str, float]) -> str:
    interval = f"({_number(end['srcc_low'])} to {_number(end['srcc_high'])})"
    return f"{_number(end['srcc'])} {interval}  score std {_number(end['score_std'])}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"

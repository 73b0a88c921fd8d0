"""Do opinion scores fall as the distortion grows? The check that catches a DMOS read as MOS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from vqr1.data.sample import Sample
from vqr1.data.spec import DatasetSpec
from vqr1.errors import UserError

SERIES = 3  # series of levels that a decision requires


def check_orientation(samples: Sequence[Sample], spec: DatasetSpec, where: str) -> None:
    """Raises UserError where quality, so called, correlates negatively with being less distorted."""
    found = level_correlations(samples, spec)
    if len(found) >= SERIES and fmean(found) > 0:
        raise UserError(
            f"{where}: scores are in the wrong orientation: they rise with the distortion level (mean correlation "
            f"{fmean(found):+.2f} over {len(found)} series; of quality with less distortion {-fmean(found):+.2f}); a "
            "DMOS was read as a MOS, or a MOS as a DMOS: use the authors' own label file"
        )


def level_correlations(samples: Sequence[Sample], spec: DatasetSpec) -> list[float]:
    """Pearson's correlation of distortion level with MOS for each content and kind; sound labels give below 0.

    Series of fewer than three levels, and constant ones, have none. Empty where the names hold no levels.
    """
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for sample in samples:
        found = spec.level.search(sample.image_id) if spec.level else None
        if found:
            series.setdefault((sample.group, found["kind"]), []).append((float(found["level"]), sample.mos))
    values = (_correlation(points) for points in series.values() if len(points) > 2)
    return [value for value in values if value is not None]


def _correlation(points: Iterable[tuple[float, float]]) -> float | None:
    x, y = zip(*points, strict=True)
    dx, dy = ([value - fmean(values) for value in values] for values in (x, y))
    norm = (sum(d * d for d in dx) * sum(d * d for d in dy)) ** 0.5
    return sum(a * b for a, b in zip(dx, dy, strict=True)) / norm if norm > 0 else None


def repeated_kinds(samples: Sequence[Sample], spec: DatasetSpec) -> list[tuple[str, str]]:
    """Pairs of distortion kinds whose scores are the same throughout: one kind's labels under another's names."""
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for sample in samples:
        found = spec.level.search(sample.image_id) if spec.level else None
        if found:
            scores.setdefault(found["kind"], {})[sample.group, found["level"]] = sample.mos
    seen: dict[tuple[tuple[tuple[str, str], float], ...], str] = {}
    repeated = []
    for kind, values in sorted(scores.items()):
        key = tuple(sorted(values.items()))
        if len(set(values.values())) > 2 and key in seen:
            repeated.append((seen[key], kind))
        seen.setdefault(key, kind)
    return repeated

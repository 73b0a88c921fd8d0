"""Calibration of evaluated models, from their result files: tables in Markdown.

Scores are read as MOS by a curve that did not see them: that of another result, on other contents of the set; without
one the content groups are halved, and each half is mapped by the curve that fits the other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.errors import UserError, printable
from vqr1.evaluation.bootstrap import LEVEL, ROUNDS
from vqr1.evaluation.calibration import PairCalibration, StdCalibration, pair_calibration, std_calibration
from vqr1.evaluation.mos_map import fit_mos_map
from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.results import Evaluation, ResultRow, SetFacts
from vqr1.evaluation.scale import find_fit, fit_scale
from vqr1.evaluation.table import Grid, interval_text, number_text


@dataclass(frozen=True)
class SetCalibration:
    """One model on one set."""

    model: str
    facts: SetFacts
    stds: StdCalibration | None  # None: see notes
    pairs: PairCalibration
    read_by: str  # which curve: in words
    notes: tuple[str, ...]


def calibrate(
    evaluations: Sequence[Evaluation], rounds: int = ROUNDS, fits: Sequence[Evaluation] = ()
) -> list[SetCalibration]:
    """Every set of every result file. Pictures enter whose score has a std: with two readable answers or more.

    ``fits`` are results of the same weights, asked in the same way, on other contents of the sets, to fit the curves.
    Raises UserError where fits are given and one is missing or has rated what is shown; for a set without any std.
    """
    return [
        _calibrate(evaluation, name, facts, rounds, fits)
        for evaluation in evaluations
        for name, facts in evaluation.sets.items()
    ]


def calibration_page(calibrations: Sequence[SetCalibration]) -> str:
    """Up to four tables and what they do not say."""
    grids = [_summary(calibrations), _std_bins(calibrations), _coverage(calibrations), _pair_bins(calibrations)]
    notes = [
        f"Intervals are {100 * LEVEL:.0f} % percentile bootstrap over contents, a picture's own or shared by several.",
        "Std (of one answer) and error are root mean squares on the scale of the opinion scores, which scores are read "
        "on by a rising curve.",
        *(f"{each.model}, {each.facts.title}: the curve is {each.read_by}." for each in calibrations if each.stds),
        "Error / std is what a std must be multiplied by to be the error. Coverage is the share of opinion scores "
        "within the normal interval of the score.",
        "Confidence is the mean probability (Thurstone) of the picture that the model puts first, accuracy how often "
        "the opinion scores agree.",
        *(f"{each.model}, {each.facts.title}: {note}." for each in calibrations for note in each.notes),
    ]
    tables = [markdown_grid(grid) for grid in grids if grid.rows]
    return "\n\n".join([*tables, "\n".join(f"- {printable(note)}" for note in notes)]) + "\n"


def _calibrate(
    evaluation: Evaluation, name: str, facts: SetFacts, rounds: int, fits: Sequence[Evaluation]
) -> SetCalibration:
    rated = [row for row in evaluation.rows[name] if row.score is not None]
    kept = [(row.score, row.std, row) for row in rated if row.score is not None and row.std is not None]
    if not kept:
        raise UserError(
            f"{evaluation.folder}: no picture of {name} has a standard deviation; evaluate it with several answers, as "
            "k=6, or with method=expected, not greedily"
        )
    rows = [row for _, _, row in kept]
    score, std = (np.array(values) for values in zip(*((score, std) for score, std, _ in kept), strict=True))
    mos, groups = np.array([row.mos for row in rows]), [row.group for row in rows]
    notes = []
    if facts.pseudo_labels:
        notes.append("its labels are pseudo-labels, which no person gave")
    if len(rows) < facts.pictures:
        notes.append(f"{facts.pictures - len(rows)} of {facts.pictures} pictures without two readable answers left out")
    stds, read_by = None, "that which fits the other half of the contents"
    if facts.per_group_scale:
        notes.append(f"no errors, since its opinion scores compare within one {facts.group} only")
    else:
        fit = find_fit(fits, evaluation, name) if fits else None
        try:
            if fit:
                scale = fit_scale(fit, name)
                predicted, predicted_std = scale.curve(score), scale.curve.std(score, std)
                read_by = f"of {scale.part}: {scale.curve.in_words()}"
            else:
                predicted, predicted_std = _read_as_mos(score, std, mos, rows, facts.title)
        except UserError as error:
            notes.append(f"no errors: {error}")
        else:
            stds = std_calibration(predicted, predicted_std, mos, groups, rounds=rounds)
    pairs = pair_calibration(score, std, mos, groups, per_group=facts.per_group_scale, rounds=rounds)
    return SetCalibration(evaluation.name, facts, stds, pairs, read_by, tuple(notes))


def _read_as_mos(
    score: np.ndarray, std: np.ndarray, mos: np.ndarray, rows: Sequence[ResultRow], title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and stds (n,) on the MOS scale, each half of the groups by the curve of the other."""
    first = _first_half([row.group for row in rows])
    predicted, predicted_std = np.full_like(score, math.nan), np.full_like(std, math.nan)
    for half in (first, ~first):
        curve = fit_mos_map(score[~half], mos[~half], f"half of {title}")
        predicted[half], predicted_std[half] = curve(score[half]), curve.std(score[half], std[half])
    return predicted, predicted_std


def _first_half(groups: Sequence[str]) -> np.ndarray:
    """Which pictures are of every second group, in an order that has nothing to do with names or the file."""
    order = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    chosen = set(order[::2])
    return np.array([group in chosen for group in groups])


def _summary(calibrations: Sequence[SetCalibration]) -> Grid:
    header = ["Model", "Set", "Pictures", "Error / std", "SRCC of std and error", "Pairs", "Confidence", "Accuracy"]
    return Grid([*header, "Brier score", "Calibration error"], [_summary_row(each) for each in calibrations])


def _summary_row(each: SetCalibration) -> list[str]:
    stds, pairs = each.stds, each.pairs
    of_stds = ["-", "-", "-"]
    if stds:
        of_stds = [
            str(stds.pictures) + (f" ({stds.without_spread} without spread)" if stds.without_spread else ""),
            f"{number_text(stds.error_per_std)} {interval_text(stds.error_per_std_interval)}",
            f"{number_text(stds.srcc)} {interval_text(stds.srcc_interval)}",
        ]
    return [
        each.model,
        each.facts.title,
        *of_stds,
        str(pairs.pairs),
        number_text(pairs.confidence),
        f"{number_text(pairs.accuracy)} {interval_text(pairs.accuracy_interval)}",
        number_text(pairs.brier),
        number_text(pairs.calibration_error),
    ]


def _std_bins(calibrations: Sequence[SetCalibration]) -> Grid:
    return Grid(
        ["Model", "Set", "Pictures", "Std", "Error"],
        [
            [
                each.model,
                each.facts.title,
                str(part.pictures),
                f"{part.std:.3f}",
                f"{part.error:.3f} {interval_text(part.error_interval)}",
            ]
            for each in calibrations
            if each.stds
            for part in each.stds.bins
        ],
    )


def _coverage(calibrations: Sequence[SetCalibration]) -> Grid:
    return Grid(
        ["Model", "Set", "Level", "Coverage"],
        [
            [
                each.model,
                each.facts.title,
                f"{part.level:.2f}",
                f"{part.share:.3f} {interval_text(part.share_interval)}",
            ]
            for each in calibrations
            if each.stds
            for part in each.stds.coverage
        ],
    )


def _pair_bins(calibrations: Sequence[SetCalibration]) -> Grid:
    return Grid(
        ["Model", "Set", "Probability", "Pairs", "Confidence", "Accuracy"],
        [
            [
                each.model,
                each.facts.title,
                f"{part.low:.1f} to {part.high:.1f}",
                str(part.pairs),
                f"{part.confidence:.3f}",
                f"{part.accuracy:.3f} {interval_text(part.accuracy_interval)}",
            ]
            for each in calibrations
            for part in each.pairs.bins
        ],
    )

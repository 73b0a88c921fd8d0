"""The curve by which a model's scores are read as the MOS of one set, from its results on some pictures of that set.

It belongs to the weights and to how they were asked: the mean of six answers spreads less than one answer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqr1.errors import UserError
from vqr1.evaluation.mos_map import MosMap, fit_mos_map
from vqr1.evaluation.results import Evaluation
from vqr1.evaluation.summary import method_of

# What has to be the same in two results for the curve of the one to hold in the other.
SAME = ("weights_sha256", "prompt", "method", "k", "until", "temperature", "min_pixels", "max_pixels")


@dataclass(frozen=True)
class Scale:
    """A fitted curve and what it was fitted on."""

    curve: MosMap  # its dataset is the set's key
    part: str  # of the set: `SetFacts.part`
    answers: str  # what its scores are: `answers_in_words`
    pseudo_labels: bool  # no person gave the opinion scores

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON; see `from_record`."""
        return {
            **self.curve.record(),
            "part": self.part,
            "answers": self.answers,
            "pseudo_labels": self.pseudo_labels,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Scale:
        """The scale of `record`. Raises UserError for what is none."""
        own: dict[str, type] = {"part": str, "answers": str, "pseudo_labels": bool}
        if not isinstance(record, Mapping) or any(type(record.get(name)) is not kind for name, kind in own.items()):
            raise UserError(f"not a map from scores to MOS: {record!r}; it needs {', '.join(own)}; fit it again")
        curve = MosMap.from_record({name: value for name, value in record.items() if name not in own})
        return cls(curve, record["part"], record["answers"], record["pseudo_labels"])


def answers_in_words(method: str, k: int, until: float | None = None) -> str:
    """What a picture's score is: ``greedy``, ``levels``, ``mean of 6``, ``expected of 2``, ``mean until 0.05``."""
    if method not in ("mean", "expected"):
        return method
    return f"{method} of {k}" if until is None else f"{method} until {until:g}"


def options_of(answers: str) -> str:
    """The options of ``vqr1 rate`` for such answers, each with a blank before it."""
    method, *rest = answers.split()
    options = {"of": "-k", "until": "--until"}
    if not rest:
        return "" if method == "greedy" else f" --method {method}"
    return f" --method {method} {options[rest[0]]} {rest[1]}"


def answers_of(evaluation: Evaluation) -> str:
    """The same of a result file."""
    asked = _asked(evaluation)
    return answers_in_words(asked["method"], asked.get("k") or 1, asked.get("until"))


def fit_scale(evaluation: Evaluation, name: str) -> Scale:
    """The curve of the set ``name`` of a result file, from its pictures that have a score.

    Raises UserError, with the reason, where there is none: see `vqr1.evaluation.mos_map.fit_mos_map`.
    """
    facts = evaluation.sets[name]
    if facts.per_group_scale:
        raise UserError(
            f"{evaluation.folder}: opinion scores of {name} compare within one {facts.group} only, so there is no MOS "
            "to read scores as; leave it out"
        )
    rated = [(row.score, row.mos) for row in evaluation.rows[name] if row.score is not None]
    try:
        curve = fit_mos_map([score for score, _ in rated], [mos for _, mos in rated], name)
    except UserError as error:
        raise UserError(f"{evaluation.folder}: {error}") from error
    return Scale(curve, facts.part, answers_of(evaluation), facts.pseudo_labels)


def fit_scales(fits: Sequence[Evaluation], shown: Sequence[Evaluation]) -> dict[str, Scale]:
    """The scales of all sets of ``fits``, by set. None of them may have rated a content that ``shown`` has.

    Raises UserError where two are of one set, one has no curve, or they share contents with what is shown.
    """
    found: dict[str, Scale] = {}
    for fit in fits:
        for name in fit.sets:
            if name in found:
                raise UserError(f"{fit.folder}: a second result to fit {name}; give one for each set")
            for other in shown:
                if name in other.sets:
                    check_apart(fit, other, name)
            found[name] = fit_scale(fit, name)
    return found


def rmse_on(scale: Scale, shown: Evaluation) -> tuple[int, float] | None:
    """How many pictures of the set were rated in ``shown`` in the way that the scale is for, and the root mean square
    of their errors on the MOS scale. None where there are none."""
    name = scale.curve.dataset
    if name not in shown.sets or answers_of(shown) != scale.answers:
        return None
    rated = [(row.score, row.mos) for row in shown.rows[name] if row.score is not None]
    if not rated:
        return None
    score, mos = np.array(rated, dtype=float).T
    return len(rated), float(np.sqrt(np.mean((scale.curve(score) - mos) ** 2)))


def check_apart(fitted: Evaluation, shown: Evaluation, name: str) -> None:
    """Raises UserError where both rated pictures of one content: a curve is no better than on those it has not seen."""
    shared = {row.group for row in fitted.rows[name]} & {row.group for row in shown.rows[name]}
    if shared:
        raise UserError(
            f"{fitted.folder} and {shown.folder} are both on {min(shared)} of {name} (and {len(shared) - 1} contents "
            "more), so the curve would be shown on what it was fitted to; fit it on vqr1 evaluate part=validation, and "
            "show it on part=test"
        )


def find_fit(fits: Sequence[Evaluation], shown: Evaluation, name: str) -> Evaluation:
    """That of ``fits`` on the set ``name`` of the weights and the settings of ``shown``, on other contents.

    Raises UserError where there is none, saying what differs, or several.
    """
    of_set = [fit for fit in fits if name in fit.sets]
    found = [fit for fit in of_set if not differing(fit, shown)]
    if not found:
        why = "; ".join(f"{fit.folder} differs in {', '.join(differing(fit, shown))}" for fit in of_set)
        raise UserError(
            f"no result to fit the curve of {shown.folder} on {name} ({why or 'none is on that set'}); rate it by the "
            "same weights in the same way with vqr1 evaluate part=validation"
        )
    if len(found) > 1:
        raise UserError(f"{found[0].folder} and {found[1].folder} both fit {shown.folder} on {name}; give one of them")
    check_apart(found[0], shown, name)
    return found[0]


def differing(one: Evaluation, other: Evaluation) -> list[str]:
    """The settings that decide what a score is, and differ."""
    return [key for key in SAME if _asked(one).get(key) != _asked(other).get(key)]


def _asked(evaluation: Evaluation) -> dict[str, Any]:
    return {**evaluation.settings, "method": method_of(evaluation)}

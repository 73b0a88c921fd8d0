"""What the answers say, with intervals: percentile bootstrap over pairs or questions, which are drawn with both orders
or all rotations together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_array

from vqr1.asking.choice_question import ChoiceQuestion
from vqr1.asking.pair_sets import PairSet
from vqr1.comparison.scores import comparison_matrix, map_scores
from vqr1.evaluation.bootstrap import correlation_intervals, interval, resampled_means
from vqr1.evaluation.correlation import plcc, srcc
from vqr1.questions import (
    Choice,
    MultipleChoice,
    Share,
    TwoAlternatives,
    multiple_choice,
    two_alternatives,
    wins,
)
from vqr1.votes import bapps_agreement, correlation_per_reference

OTHER_FORM = "ask in the form that it has learnt to answer (--form)"


@dataclass(frozen=True)
class Figure:
    """A figure and its interval of 95%, NaN where there is none; of how many it is a share, where it is one."""

    value: float
    low: float
    high: float
    of: int | None = None


@dataclass(frozen=True)
class Figures:
    """What is said of one set: figures by name, and counts."""

    figures: dict[str, Figure]
    counts: dict[str, int]
    remarks: tuple[str, ...] = ()


def pair_figures(asked: PairSet, as_listed: Sequence[Choice], swapped: Sequence[Choice] | None) -> Figures:
    """Of P pairs, asked in both orders, or as listed alone where ``swapped`` is None.

    Accuracies are those of :func:`vqr1.questions.two_alternatives`; of one order alone ``right``, the share of right
    answers, stands for them. With scores of pictures: ``srcc`` and ``plcc`` of the scores that follow from decided,
    consistent pairs, and ``srcc_one_order`` from the answers in one order. With judgements: ``agreement``, where a pair
    that is not consistent, or a draw, counts 1/2.
    """
    if swapped is None:
        return _one_order(asked, as_listed)
    known = two_alternatives(asked.pairs, asked.mos, as_listed, swapped)
    better = np.sign(asked.mos[asked.pairs[:, 0]] - asked.mos[asked.pairs[:, 1]])
    each = [_one_pair(*one) for one in zip(as_listed, swapped, better.tolist(), strict=True)]
    figures = {
        "consistent": _share(known.consistent, [one.consistent for one in each]),
        "accuracy": _share(known.accuracy, [one.accuracy for one in each]),
        "accuracy_of_consistent": _share(known.accuracy_of_consistent, [one.accuracy_of_consistent for one in each]),
        "single_order": _share(known.single_order, [one.single_order for one in each]),
        "first": _share(known.first, [one.first for one in each]),
    }
    remarks: tuple[str, ...] = ()
    if asked.judge is not None:
        second_won = [_second_won(answer) * one.consistent.count for answer, one in zip(as_listed, each, strict=True)]
        figures["agreement"] = _agreement(asked.judge, np.array(second_won))
    else:
        found, remarks = _scores(asked, wins(asked.pairs, as_listed, swapped, len(asked.pictures)))
        one_order, _ = _scores(asked, _wins_as_listed(asked, as_listed))
        figures |= found | {"srcc_one_order": one_order["srcc"]}
    counts = {
        "pairs": len(asked.pairs),
        "equal_mos": known.equal_mos,
        "answers": known.answers,
        "draws": known.draws,
        "unreadable": known.unreadable,
    }
    figures["published_bias"] = Figure(known.published_bias, np.nan, np.nan)
    return Figures(figures, counts, _unread(counts, OTHER_FORM) + remarks)


def choice_figures(questions: Sequence[ChoiceQuestion], answers: Sequence[Sequence[int | None]]) -> Figures:
    """Of Q questions, each asked in all its rotations, or in rotation 0 alone; hidden answers enter no accuracy.

    Accuracies are those of :func:`vqr1.questions.multiple_choice`, over all questions and by their kinds.
    """
    known = [
        (question, list(own), question.right)
        for question, own in zip(questions, answers, strict=True)
        if question.right is not None
    ]
    all_asked = all(len(own) == len(question.options) for question, own in zip(questions, answers, strict=True))
    figures: dict[str, Figure] = {}
    if known:
        figures |= _choices("", known, all_asked)
        kinds = sorted({kind for question, _, _ in known for kind in question.kinds.items()})
        for name, value in kinds:
            of_kind = [one for one in known if one[0].kinds.get(name) == value]
            figures |= _choices(f" of {name} {value}", of_kind, all_asked, accuracies_alone=True)
    given = [place for own in answers for place in own]
    counts = {
        "questions": len(questions),
        "hidden": len(questions) - len(known),
        "answers": len(given),
        "unreadable": given.count(None),
    }
    return Figures(
        figures, counts, _unread(counts, "--likeliest takes the likeliest letter in place of what it writes")
    )


def _unread(counts: dict[str, int], remedy: str) -> tuple[str, ...]:
    """What to say where no answer could be read."""
    if not counts["answers"] or counts["unreadable"] < counts["answers"]:
        return ()
    return (f"no answer could be read, so no figure says what the policy sees: {remedy}",)


def _choices(
    what: str,
    known: Sequence[tuple[ChoiceQuestion, list[int | None], int]],
    all_asked: bool,
    accuracies_alone: bool = False,
) -> dict[str, Figure]:
    if not all_asked:
        hits = [float(own[0] == right) for _, own, right in known]
        return {f"as_published{what}": _mean(float(np.mean(hits)), hits)}
    whole = multiple_choice([own for _, own, _ in known], [right for _, _, right in known])
    each = [multiple_choice([own], [right]) for _, own, right in known]
    figures = {
        f"as_published{what}": _share(whole.as_published, [one.as_published for one in each]),
        f"accuracy{what}": _mean(whole.accuracy, [one.accuracy for one in each]),
        f"in_all{what}": _share(whole.in_all, [one.in_all for one in each]),
    }
    return figures if accuracies_alone else figures | _bias(whole)


def _bias(whole: MultipleChoice) -> dict[str, Figure]:
    nan = float("nan")
    letters = {
        f"letter {chr(ord('A') + i)}": Figure(share, nan, nan, whole.answers - whole.unreadable)
        for i, share in enumerate(whole.letters)
    }
    return {"position_bias": Figure(whole.position_bias, nan, nan), **letters}


def _one_order(asked: PairSet, as_listed: Sequence[Choice]) -> Figures:
    first, second = asked.mos[asked.pairs[:, 0]], asked.mos[asked.pairs[:, 1]]
    better = np.sign(first - second)
    won = np.array([_second_won(answer) for answer in as_listed])
    right = (won == -better)[better != 0].astype(float)
    named = (won[won != 0] < 0).astype(float)
    figures = {
        "right": _mean(float(right.mean()) if len(right) else np.nan, right),
        "first": _mean(float(named.mean()) if len(named) else np.nan, named),
    }
    remarks: tuple[str, ...] = ()
    if asked.judge is None:
        found, remarks = _scores(asked, _wins_as_listed(asked, as_listed))
        figures |= found
    else:
        figures["agreement"] = _agreement(asked.judge, won)
    answers = list(as_listed)
    counts = {
        "pairs": len(asked.pairs),
        "equal_mos": int((better == 0).sum()),
        "answers": len(answers),
        "draws": answers.count(Choice.draw),
        "unreadable": answers.count(Choice.unreadable),
    }
    return Figures(figures, counts, _unread(counts, OTHER_FORM) + remarks)


def _second_won(answer: Choice) -> int:
    """1 where the second shown was named, -1 where the first was, else 0."""
    return (answer == Choice.second) - (answer == Choice.first)


@cache
def _one_pair(listed: Choice, turned: Choice, better: float) -> TwoAlternatives:
    """The statistics of one pair, whose first picture is better by ``better``, 1, 0 or -1."""
    return two_alternatives([[0, 1]], [better, 0.0], [listed], [turned])


def _share(whole: Share, each: Sequence[Share]) -> Figure:
    """Of units drawn with replacement: the sum of what counts over the sum of what it is a share of."""
    if not whole.of:
        return Figure(whole.value, np.nan, np.nan, 0)
    drawn = resampled_means(np.array([[one.count for one in each], [one.of for one in each]], dtype=float))
    rounds = np.divide(drawn[0], drawn[1], out=np.full(len(drawn[0]), np.nan), where=drawn[1] > 0)
    return Figure(whole.value, *interval(rounds), whole.of)


def _mean(value: float, each: Sequence[float] | np.ndarray) -> Figure:
    if not len(each):
        return Figure(value, np.nan, np.nan, 0)
    return Figure(value, *interval(resampled_means(np.array([each], dtype=float))[0]), len(each))


def _agreement(judge: np.ndarray, second_won: np.ndarray) -> Figure:
    chosen = (1 + second_won) / 2
    each = [bapps_agreement([share], [one]) for share, one in zip(judge, chosen, strict=True)]
    return _mean(bapps_agreement(judge, chosen), each)


def _wins_as_listed(asked: PairSet, as_listed: Sequence[Choice]) -> csr_array:
    decided = [i for i, answer in enumerate(as_listed) if answer in (Choice.first, Choice.second)]
    preference = [float(as_listed[i] == Choice.second) for i in decided]
    shown = asked.pairs[decided]
    return comparison_matrix(len(asked.pictures), shown[:, 0], shown[:, 1], preference)


def _scores(asked: PairSet, C: csr_array) -> tuple[dict[str, Figure], tuple[str, ...]]:
    """SRCC and PLCC of the scores by MAP; within references, SRCC's mean, where only there pictures were compared."""
    solved = map_scores(C)
    if asked.groups is not None:
        known = correlation_per_reference(solved.scores, asked.mos, asked.groups)
        values = list(known.srcc.values())
        remark = f"srcc is the mean of {len(values)} references; {known.few + known.constant_mos} have no correlation"
        if known.constant_scores:
            remark += f", nor have {known.constant_scores} whose scores are all equal"
        return {"srcc": _mean(known.mean, values)}, (remark,)
    remarks = () if solved.parts.connected else (solved.parts.in_words(),)
    rank, linear = correlation_intervals(solved.scores, asked.mos)
    figures = {
        "srcc": Figure(srcc(solved.scores, asked.mos), *rank, len(asked.pictures)),
        "plcc": Figure(plcc(solved.scores, asked.mos), *linear, len(asked.pictures)),
    }
    return figures, remarks

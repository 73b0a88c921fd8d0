"""What the policy says of a picture as training goes on: the paper's Figure 4, from any run.

Pictures are judged by ranks, for scores and opinion scores need not be on one scale: of the probe pictures of a set, 1
is the one with the highest mean score, and pictures with equal means share the mean of their ranks. A picture's error
is the distance between its rank by the mean score and its rank by the opinion score. It got better where the error at
the last evaluation is smaller than at the first, and worse where it is larger.
"""

from __future__ import annotations

import textwrap
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqr1.answer import read_score
from vqr1.folder_writer import read_json_lines
from vqr1.report.fonts import drawable
from vqr1.report.pictures import read_picture
from vqr1.report.style import BAND, LIGHT, RC, WIDTH, save

# All in inches.
PICTURE, LEFT = 1.5, 0.05  # the picture's column and its margin
STRIP, STRIP_LEFT = 1.45, 2.15  # the column of scores
TEXT_LEFT = 3.8
LINE = 0.115
SPACED = 1.17  # a line's height in DejaVu Sans Mono, of its size
AXIS = 0.34  # ticks and name below the scores
CAPTION, BETWEEN = 0.15, 0.2  # a caption's line, and what is between two pictures

FONT = 6.5  # points
CELLS = int((WIDTH - TEXT_LEFT - 0.05) / (0.602 * FONT / 72))  # of the font of one width: 0.602 of its size
ACROSS, NOTE_ACROSS = 96, 140  # characters of a caption's line and of the note's
LONGEST = 420  # characters shown of an answer
LISTED = 8  # scores that are written out; more are points only
BLOCK = 3  # lines that an evaluation takes at least, so that its scores have room

COLOURS = {"better": LIGHT[2], "worse": LIGHT[1], "as before": LIGHT[0]}
NOTE = (
    "Points: the scores of all K answers; bar: their mean. Rank 1 is the highest mean score among the probe pictures "
    "of the set. Better: the rank is nearer to that by opinion score than at the first evaluation; worse: farther. "
    "The text is the first answer."
)

# Where a picture has one score, which was read and not drawn.
NOTE_OF_ONE = (
    "Point: the score. Rank 1 is the highest score among the probe pictures of the set. Better: the rank is nearer to "
    "that by opinion score than at the first evaluation; worse: farther. The text has the likeliest words."
)


@dataclass(frozen=True)
class Moment:
    """A picture at one evaluation."""

    step: int
    scores: list[float | None]  # of its K answers, None where one cannot be read
    mean: float | None  # of the readable ones
    rank: float | None  # by the mean among the probes with a readable answer, 1 the best
    opinion_rank: float | None  # of the opinion score among these
    rated: int  # how many these are
    answer: str  # the first

    @property
    def error(self) -> float | None:
        """How far the two ranks are apart."""
        return None if self.rank is None or self.opinion_rank is None else abs(self.rank - self.opinion_rank)


@dataclass(frozen=True)
class Story:
    """A probe picture over training."""

    set_name: str
    image_id: str
    mos: float
    picture: Path
    moments: list[Moment]  # by step

    @property
    def gain(self) -> float | None:
        """The error at first less that at last; None where one is undefined."""
        first, last = self.moments[0].error, self.moments[-1].error
        return None if first is None or last is None else first - last

    @property
    def verdict(self) -> str:
        return "better" if (self.gain or 0) > 0 else "worse" if (self.gain or 0) < 0 else "as before"

    @property
    def moved(self) -> float:
        """How far the mean score did."""
        first, last = self.moments[0].mean, self.moments[-1].mean
        return 0.0 if first is None or last is None else abs(last - first)


def draw_reasoning(folder: Path) -> Path | None:
    """``reasoning.png`` and ``reasoning.pdf`` of a run folder; returns the first, None where nothing was answered.

    The pictures are those of the folder, and where it is of an earlier version those that the run read. One that is not
    there any more, or damaged, is left out with a warning.
    """
    found = stories(read_json_lines(folder / "answers.jsonl"), folder)
    kept = [story for story in found if read_picture(story.picture) is not None]
    if lost := [story.image_id for story in found if story not in kept]:
        warnings.warn(f"reasoning.png leaves out pictures that cannot be read: {', '.join(lost)}", stacklevel=2)
    chosen = choose(kept)
    return save(reasoning(chosen), folder, "reasoning") if chosen else None


def stories(rows: list[dict[str, Any]], folder: Path) -> list[Story]:
    """The probe pictures of those sets that were evaluated most often, from the rows of ``answers.jsonl``.

    Of a set are told the pictures that were rated as often as any.
    """
    sets: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for row in rows:
        sets.setdefault(row["set"], {}).setdefault(row["image_id"], {})[row["step"]] = row
    often = max((len(of) for pictures in sets.values() for of in pictures.values()), default=0)
    found = []
    for name, pictures in sets.items():
        for image_id, of in pictures.items():
            if len(of) == often:
                last = of[max(of)]
                picture = folder / last["picture"] if "picture" in last else Path(last["image"])
                moments = [_moment(image_id, step, pictures) for step in sorted(of)]
                found.append(Story(name, image_id, last["mos"], picture, moments))
    return found


def _moment(image_id: str, step: int, pictures: dict[str, dict[int, dict[str, Any]]]) -> Moment:
    there = {other: of[step] for other, of in pictures.items() if step in of}
    means = {other: mean for other, row in there.items() if (mean := _mean(_scores(row))) is not None}
    own, mean = there[image_id], means.get(image_id)
    return Moment(
        step,
        _scores(own),
        mean,
        None if mean is None else _rank(mean, list(means.values())),
        None if mean is None else _rank(own["mos"], [there[other]["mos"] for other in means]),
        len(means),
        own["answers"][0],
    )


def _scores(row: dict[str, Any]) -> list[float | None]:
    """All K of them; in a folder of an earlier version those of the answers that are kept."""
    return row["scores"] if "scores" in row else [read_score(text) for text in row["answers"]]


def _mean(scores: list[float | None]) -> float | None:
    readable = [score for score in scores if score is not None]
    return sum(readable) / len(readable) if readable else None


def _rank(value: float, among: list[float]) -> float:
    """1 for the highest; equal ones share the mean of their ranks. ``value`` is one of them."""
    return 1 + sum(other > value for other in among) + (sum(other == value for other in among) - 1) / 2


def choose(found: list[Story]) -> list[Story]:
    """The picture that got better most and the one that got worse most, as far as there are such.

    Of equal ones the one whose mean score moved most. Where no rank changed, that one of all.
    """
    best = max(found, key=lambda story: (story.gain or 0, story.moved), default=None)
    worst = max(found, key=lambda story: (-(story.gain or 0), story.moved), default=None)
    told = [story for story, verdict in ((best, "better"), (worst, "worse")) if story and story.verdict == verdict]
    return told or ([max(found, key=lambda story: story.moved)] if found else [])


def reasoning(told: list[Story]) -> Any:
    """The figure of these stories, one below the other, each at its first, middle and last evaluation.

    Raises FileNotFoundError for a picture that is not there, or no longer one.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [_shown(story.moments) for story in told]
    # All texts at once: what no font has is warned of once.
    everything = "\0".join(_said(moment) for moments in shown for moment in moments)
    text, fonts = drawable(everything, "DejaVu Sans Mono")
    blocks = iter(_wrapped(each, CELLS) for each in text.split(r"\x00"))
    texts = [[next(blocks) for _ in moments] for moments in shown]
    drawn = any(len(moment.scores) > 1 for story in told for moment in story.moments)
    note = textwrap.wrap(NOTE if drawn else NOTE_OF_ONE, NOTE_ACROSS)
    captions = [_wrapped(drawable(_caption(story), warn=False)[0], ACROSS) for story in told]
    pictures = []
    for story in told:
        picture = read_picture(story.picture)
        if picture is None:
            raise FileNotFoundError(f"{story.picture} is no picture")
        pictures.append(picture)
    heights = [
        _caption_height(caption) + max(_size(picture)[1], sum(map(_height, blocks)) + AXIS)
        for caption, picture, blocks in zip(captions, pictures, texts, strict=True)
    ]
    height = sum(heights) + BETWEEN * len(heights) + LINE * (len(note) + 0.5)
    scores = [score for moments in shown for moment in moments for score in moment.scores if score is not None]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        top = height
        for i, story in enumerate(told):
            parts = Parts(COLOURS[story.verdict], captions[i], pictures[i], shown[i], texts[i])
            _draw(figure, top, parts, fonts, scores)
            top -= heights[i] + BETWEEN
        figure.text(LEFT / WIDTH, LINE * (len(note) + 0.25) / height, "\n".join(note), va="top", fontsize=FONT)
    return figure


@dataclass(frozen=True)
class Parts:
    """What is drawn of a story."""

    colour: str
    caption: str
    picture: Image.Image
    moments: list[Moment]
    blocks: list[str]  # the moments' texts


def _draw(figure: Any, top: float, parts: Parts, fonts: list[str], scores: list[float]) -> None:
    """One story below ``top``, in inches from the figure's lower edge; ``scores`` are those of all stories."""
    height = figure.get_figheight()

    def words(text: str, left: float, below: float, **look: Any) -> None:
        # No mathematics: a dollar sign in a name or an answer is a dollar sign.
        figure.text(left / WIDTH, (top - below) / height, text, va="top", parse_math=False, **look)

    def axes(left: float, below: float, wide: float, high: float) -> Any:
        return figure.add_axes((left / WIDTH, (top - below - high) / height, wide / WIDTH, high / height))

    families = drawable(parts.caption, warn=False)[1]
    words(parts.caption, LEFT, 0.03, fontsize=8, weight="bold", color=parts.colour, family=families)
    below = _caption_height(parts.caption)
    shown = axes(LEFT, below, *_size(parts.picture))
    shown.imshow(np.asarray(parts.picture), aspect="auto")
    shown.axis("off")
    strip = axes(STRIP_LEFT, below, STRIP, sum(map(_height, parts.blocks)))
    _draw_scores(strip, parts, scores)
    for block in parts.blocks:
        words(block, TEXT_LEFT, below, fontsize=FONT, family=fonts, linespacing=LINE * 72 / FONT / SPACED)
        below += _height(block)


def _draw_scores(strip: Any, parts: Parts, scores: list[float]) -> None:
    """The K scores of each moment beside its text."""
    from matplotlib.ticker import MaxNLocator

    strip.set_ylim(sum(map(_height, parts.blocks)), 0)  # inches from its top
    if scores:
        margin = 0.06 * (max(scores) - min(scores)) or 0.5
        strip.set_xlim(min(scores) - margin, max(scores) + margin)
    strip.xaxis.set_major_locator(MaxNLocator(4))
    strip.set_xlabel("score")
    strip.grid(visible=False, axis="y")
    strip.tick_params(axis="y", length=0)
    places, below = [], 0.0
    for moment, block in zip(parts.moments, parts.blocks, strict=True):
        strip.axhspan(below, below + _height(block) - LINE / 2, color="grey", alpha=BAND / 3, linewidth=0)
        middle = below + LINE * BLOCK / 2
        readable = [score for score in moment.scores if score is not None]
        if moment.mean is not None and len(moment.scores) > 1:
            strip.plot([moment.mean] * 2, [middle - 1.3 * LINE, middle + 1.3 * LINE], color="black", linewidth=1.2)
        # Beside each other, for equal ones would hide each other.
        beside = np.linspace(-0.8, 0.8, len(readable)) * LINE if len(readable) > 1 else np.zeros(len(readable))
        strip.plot(readable, middle + beside, "o", color=parts.colour, alpha=0.7, markersize=3.5)
        places.append(middle)
        below += _height(block)
    strip.set_yticks(places, [f"step {moment.step}" for moment in parts.moments])


def _shown(moments: list[Moment]) -> list[Moment]:
    """The first, the middle and the last."""
    places = sorted({0, (len(moments) - 1) // 2, len(moments) - 1})
    return [moments[place] for place in places]


def _size(picture: Image.Image) -> tuple[float, float]:
    """Width and height in inches, within the picture's square."""
    share = PICTURE / max(picture.size)
    return picture.width * share, picture.height * share


def _height(block: str) -> float:
    """Of an evaluation's text with a line's half below it, in inches."""
    return LINE * (max(block.count("\n") + 1, BLOCK) + 0.5)


def _caption_height(caption: str) -> float:
    return CAPTION * (caption.count("\n") + 1) + 0.06


def _caption(story: Story) -> str:
    first, last = story.moments[0], story.moments[-1]
    ranks = _number(last.rank) if first.rank == last.rank else f"{_number(first.rank)} to {_number(last.rank)}"
    said = {"better": "Got better", "worse": "Got worse", "as before": "As good as before"}[story.verdict]
    return (
        f"{said}: rank {ranks} of {last.rated} pictures of {story.set_name}; rank {_number(last.opinion_rank)} by "
        f"opinion score, {story.mos:.4g}"
    )


def _number(rank: float | None) -> str:
    return "undefined" if rank is None else f"{rank:g}"


def _said(moment: Moment) -> str:
    """A line of figures, and the answer in another."""
    text = " ".join(moment.answer.split())
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    readable = [score for score in moment.scores if score is not None]
    figures = "no readable score"
    if moment.mean is not None and len(moment.scores) == 1:
        figures = f"rank {_number(moment.rank)}, score {moment.mean:.3g}"
    elif moment.mean is not None:
        each = " of " + " ".join(f"{score:.2f}" for score in readable) if len(readable) <= LISTED else ""
        figures = f"rank {_number(moment.rank)}, mean {moment.mean:.2f}{each}"
        if len(readable) < len(moment.scores):
            figures += f", {len(moment.scores) - len(readable)} of {len(moment.scores)} unreadable"
    return f"{figures}\n{shown}"


def _wrapped(text: str, width: int) -> str:
    """Lines of at most ``width`` characters; one that is twice as wide counts for two."""
    made = []
    for line in text.split("\n"):
        cells = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
        made += textwrap.wrap(line, max(width * len(line) // max(cells, 1), 20))
    return "\n".join(made)

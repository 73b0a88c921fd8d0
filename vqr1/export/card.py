"""The README.md of an exported folder.

It is the card that the run left beside its weights (what they were trained on, settings, figures, limits), with how to
ask them in place of how to load them beside their run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vqr1.errors import UserError
from vqr1.evaluation.results import Evaluation
from vqr1.evaluation.scale import Scale, answers_of, options_of, rmse_on
from vqr1.evaluation.summary import Outcome, outcome_of
from vqr1.export.asking import ORIGINAL, client_lines, levels_lines, server_line, transformers_lines
from vqr1.exported import Exported
from vqr1.folder_reader import settings_in

FILE = "README.md"
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_FRONT = "---\n"
# What the run's card says of weights that are adapters, and what they have become.
_ADAPTERS, _MERGED = "LoRA adapters, to be laid on the base model", "LoRA adapters, merged into the base model"


def read_card(weights: Path) -> str | None:
    """The card beside a run's weights; None where its run left none."""
    path = weights / FILE
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); write it in UTF-8 or remove it") from error


def export_card(
    name: str,
    card: str | None,
    exported: Exported,
    length: int,
    evaluations: Sequence[Evaluation] = (),
    scales: Mapping[str, Scale] | None = None,
) -> str:
    """``card`` (the run's, of the same weights) rewritten for the exported folder.

    ``length``: tokens of the longest prompt and answer that is drawn. ``evaluations`` of the exported weights become a
    table, and so do the ``scales`` by set.
    Raises UserError where the front matter of ``card`` is not YAML, or has tags or datasets that are no lists.
    """
    known, opening, sections = _parts(name, card)
    known["library_name"] = "transformers"
    known["tags"] = [tag for tag in known.get("tags", ["image-quality-assessment", "vqr1"]) or [] if tag != "lora"]
    sections.pop("Load", None)
    measured = {"Measured by vqr1 evaluate": _measured(evaluations)} if evaluations else {}
    measured |= {"Scores as MOS": _scales(list(scales.values()), evaluations)} if scales else {}
    ordered = {
        "Ask": _ask(exported, length),
        **{title: text for title, text in sections.items() if title not in ("Limits", "Made with")},
        **measured,
        **{title: sections[title] for title in ("Limits",) if title in sections},
        "Licence": _licence(known),
        **{title: sections[title] for title in ("Made with",) if title in sections},
    }
    front = f"{_FRONT}{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}{_FRONT}"
    body = [opening.replace(_ADAPTERS, _MERGED).strip()]
    body += [f"## {title}\n\n{text.strip()}" for title, text in ordered.items()]
    return f"{front}\n" + "\n\n".join(body) + "\n"


def _parts(name: str, card: str | None) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Front matter, what comes before the first section, and the sections by their titles."""
    if card is None:
        opening = f"# {name}\n\nA Qwen2.5-VL trained to rate the quality of pictures with vqr1."
        return {"pipeline_tag": "image-text-to-text"}, f"{opening} Its run left no card of data and figures.", {}
    known: dict[str, Any] = {}
    if card.startswith(_FRONT):
        _, front, card = card.split(_FRONT, 2) if card.count(_FRONT) > 1 else ("", card, "")
        where = f"the front matter of the run's {FILE}"
        known = settings_in(f"\n{front}", where, "mend or remove it") if front.strip() else {}
        for key in ("tags", "datasets"):
            if not isinstance(known.get(key, []), (list, type(None))):
                raise UserError(f"{where}: {key} is {str(known[key])[:80]!r} and no list; mend or remove it")
    opening, *rest = _SECTION.split(card)
    return known, opening, dict(zip(rest[::2], rest[1::2], strict=True))


def _ask(exported: Exported, length: int) -> str:
    picture = (
        f"The processor resizes pictures to {exported.min_pixels} to {exported.max_pixels} pixels, and "
        f"`generation_config.json` asks for one greedy answer of at most {exported.max_tokens} tokens. `FOLDER` is the "
        "place of this file."
    )
    if exported.objective == "levels":
        return "\n".join(
            [
                "It is asked the question that it was trained with, behind the picture. The score, from 1 to 5, is the "
                "mean of the five words' levels by the probabilities that it gives them; no answer is drawn. "
                f"The processor resizes pictures to {exported.min_pixels} to {exported.max_pixels} pixels. `FOLDER` is "
                "the place of this file.",
                "",
                "With vqr1:",
                "",
                "    vqr1 rate photo.jpg --model FOLDER --method levels",
                "",
                "With transformers alone:",
                "",
                "```python",
                levels_lines(exported.prompt) + "```",
                "",
                "vLLM's server answers with a word, such as *good*, and does not give the five probabilities.",
            ]
        )
    beside = f" --reference {ORIGINAL.strip(chr(34))}" if exported.reference else ""
    shown = "the undistorted reference and the picture" if exported.reference else "the picture"
    return "\n".join(
        [
            f"It is asked the prompt that it was trained with, behind {shown}. The score, from 1 to 5, is the "
            "number in `<answer> </answer>`; an answer without one is no score. " + picture,
            "",
            "With vqr1:",
            "",
            f"    vqr1 rate photo.jpg --model FOLDER{beside}",
            "",
            "With transformers alone:",
            "",
            "```python",
            transformers_lines(exported.prompt, original=ORIGINAL if exported.reference else None) + "```",
            "",
            "With vLLM's server:",
            "",
            f"    {server_line(length, exported.dtype, 2 if exported.reference else 1)}",
            "",
            "```python",
            client_lines(exported.prompt, exported.max_tokens, exported.reference) + "```",
            "",
            "or with vqr1 as its client:",
            "",
            f"    vqr1 rate photo.jpg --server http://localhost:8000 --model FOLDER{beside}",
            "",
            "Without `temperature=0` vLLM draws the answer. vqr1 resizes pictures over the limits itself, the "
            "processor by another implementation of the same filter: such pictures may get slightly other scores.",
        ]
    )


def _measured(evaluations: Sequence[Evaluation]) -> str:
    rows = [
        _row(evaluation, name, outcome_of(evaluation, name, facts))
        for evaluation in evaluations
        for name, facts in evaluation.sets.items()
    ]
    return "\n".join(
        [
            "These weights against the opinion scores, with 95 % bootstrap intervals. `part` says which pictures of a "
            "set were rated.",
            "",
            "| Set | part | answers | SRCC | interval | PLCC | interval | no score | pictures |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _row(evaluation: Evaluation, name: str, outcome: Outcome) -> str:
    counts, measures = outcome.counts, outcome.measures
    cells = [name, outcome.facts.part, answers_of(evaluation)]
    for figure in ("srcc", "plcc"):
        value, (low, high) = measures.figures[figure], measures.intervals[figure]
        cells += ["-" if value != value else f"{value:.3f}", "-" if low != low else f"{low:.3f} to {high:.3f}"]
    return f"| {' | '.join(cells)} | {counts.unreadable + counts.missing + counts.pending} | {counts.pictures} |"


def _scales(scales: Sequence[Scale], evaluations: Sequence[Evaluation]) -> str:
    """How scores are read as the MOS of some sets: curves, a table of them, and how to ask for it."""
    numbers = (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)
    lines = [
        "The score's scale is the model's own. These curves read it as the mean opinion score (MOS) that people would "
        "give in the tests behind a set, for pictures like those of the set. They rise, so no order changes.",
        "",
        f"| Score | {' | '.join(f'{each:g}' for each in numbers)} |",
        f"|---|{'---|' * len(numbers)}",
        *(
            f"| MOS of {each.curve.dataset} | {' | '.join(f'{mos:.3g}' for mos in each.curve(numbers))} |"
            for each in scales
        ),
        "",
    ]
    for scale in scales:
        labels = " Its opinion scores are pseudo-labels, which no person gave." if scale.pseudo_labels else ""
        tested = [found for each in evaluations if (found := rmse_on(scale, each))]
        others = "".join(
            f"; on {number} pictures that it has not seen the RMSE is {rmse:.3g}" for number, rmse in tested
        )
        lines.append(
            f"- {scale.curve.in_words()}: pictures of its {scale.part}, scores of the method {scale.answers}{others}. "
            f"Outside these scores it is a guess.{labels}"
        )
    first = scales[0]
    lines += ["", f"    vqr1 rate photo.jpg --model FOLDER{options_of(first.answers)} --scale {first.curve.dataset}"]
    return "\n".join(lines)


def _licence(known: dict[str, Any]) -> str:
    base, sets = known.get("base_model"), known.get("datasets") or []
    origin = f"`{base}`" if base else "the policy named above"
    return (
        f"None is claimed here. The weights come from {origin}, whose licence holds for them too. The opinion scores"
        + (f" of {', '.join(map(str, sets))}" if sets else "")
        + " have their publishers' terms, which may allow research alone. State a licence (`license:` at the top of "
        "this file) before you publish the folder."
    )

"""Your own ratings, and label files in three common forms, declared by a ``dataset.yaml`` beside them.

``ROOT/NAME/dataset.yaml`` makes NAME a dataset for every command. Nothing is inferred from the name of a column::

    form: csv                    # csv, visualquality, json_lines, pyiqa
    labels: ratings.csv          # a path from this folder
    images: pictures             # a path from this folder
    higher_is_better: true       # false: scores are reflected about the middle of the range
    range: [0, 100]              # of the scores in the file; null for an end that is open
    spread: std                  # std, variance or none: what the column of spread holds
    group: reference             # image: each picture its own; reference: the column; or a pattern: '^(I[0-9]+)_'
    columns: {image: file, mos: score, spread: sd, group: scene, part: split}    # form csv; the last three optional
    references: originals        # the folder of the reference pictures that columns.reference, ref or ref_name names

The other forms: ``visualquality`` is VisualQuality-R1's whitespace text, and ``fields`` names its values in order (ref,
dist, mos, std); ``json_lines`` are its training rows, of which ``dataset`` names those to take; ``pyiqa`` is pyiqa's
meta_info csv, and ``part`` names its column of official parts. Optional everywhere: ``title``, ``test_only``,
``per_group_scale``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from vqr1.data.files import MISSING, read_text, trouble
from vqr1.data.labels import NUMBER, LabelRow, csv_rows, shortened, text_rows
from vqr1.data.plain_yaml import Lines, read_yaml
from vqr1.data.reading import PictureFiles, Reading, path_below
from vqr1.data.sample import Splits
from vqr1.data.spec import DatasetSpec
from vqr1.errors import MissingFileError, UserError

DECLARATION = "dataset.yaml"
ADVICE = "docs/data.md shows a declaration"
PARTS = {
    "train": ("train", "training", "0"),
    "validation": ("validation", "valid", "val", "1"),
    "test": ("test", "testing", "2"),
}
# What programs write for a value that is missing: as a group it would join pictures that have nothing in common.
ABSENT = ("nan", "<na>", "#n/a", "n/a", "null", "none", "nat")


def _truth(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if not isinstance(value, str) or value.casefold() not in words:
        raise ValueError("true or false is expected")
    return words[value.casefold()]


def _limits(value: Any) -> tuple[float, float]:
    ends = value if isinstance(value, list) else []
    texts = ["" if end is None else str(end).casefold().replace(".inf", "inf") for end in ends]
    if len(texts) != 2 or not all(text == "" or NUMBER.fullmatch(text) for text in texts):
        raise ValueError("range must be [low, high], two numbers, or null for an end that is open")
    low, high = (float(text or end) for text, end in zip(texts, (-math.inf, math.inf), strict=True))
    if not low < high:  # nor where one is no number
        raise ValueError("range must be [low, high], the lower number first")
    return low, high


Truth = Annotated[bool, BeforeValidator(_truth)]
Limits = Annotated[tuple[float, float], BeforeValidator(_limits)]


class Columns(BaseModel):
    """Which column of a csv is what."""

    model_config = ConfigDict(extra="forbid")
    image: str
    mos: str
    spread: str | None = None
    group: str | None = None
    part: str | None = None
    reference: str | None = None

    def named(self) -> list[str]:
        names = (self.image, self.mos, self.spread, self.group, self.part, self.reference)
        return [name for name in names if name is not None]


class Declaration(BaseModel):
    """A ``dataset.yaml``."""

    model_config = ConfigDict(extra="forbid")
    form: Literal["csv", "visualquality", "json_lines", "pyiqa"]
    labels: str
    images: str
    references: str | None = None
    higher_is_better: Truth
    range: Limits
    spread: Literal["std", "variance", "none"]
    group: str
    columns: Columns | None = None
    fields: list[Literal["ref", "dist", "mos", "std"]] | None = None
    dataset: str | None = None
    part: str | None = None
    title: str | None = None
    test_only: Truth = False
    per_group_scale: Truth = False

    @model_validator(mode="after")
    def _fits_its_form(self) -> Declaration:
        used = {"csv": "columns", "visualquality": "fields", "json_lines": "dataset", "pyiqa": "part"}
        for form, key in used.items():
            if form != self.form and getattr(self, key) is not None:
                raise ValueError(f"{key} is for form {form}; leave it out")
        if self.form in ("csv", "visualquality") and getattr(self, used[self.form]) is None:
            raise ValueError(f"form {self.form} needs {used[self.form]}")
        if self.fields is not None and not {"dist", "mos"} <= set(self.fields):
            raise ValueError("fields must have dist and mos")
        if not self.higher_is_better and not all(map(math.isfinite, self.range)):
            raise ValueError(
                "scores are reflected about the middle of range, and an open one has none: give both ends, or negate "
                "the scores in the file and set higher_is_better: true"
            )
        if self.spread != "none" and self.form in ("visualquality", "json_lines"):
            raise ValueError("these files rescale mos but not std, so their std is on another scale: set spread: none")
        self._check_references()
        self._check_group()
        return self

    def _check_references(self) -> None:
        named = self.columns.reference is not None if self.columns else self.form != "json_lines"
        named = named and (self.fields is None or "ref" in self.fields)
        if self.references is not None and not named:
            raise ValueError("references: a row must name its reference, by columns.reference, ref or ref_name")

    def _check_group(self) -> None:
        if self.columns is not None and (self.spread != "none") != (self.columns.spread is not None):
            raise ValueError("spread and columns.spread belong together: give both, or spread: none and no column")
        if self.group == "reference" and self.columns is not None and self.columns.group is None:
            raise ValueError("group: reference needs columns.group")
        if self.group in ("image", "reference"):
            return
        try:
            brackets = re.compile(self.group).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"group: {error}") from error
        if brackets != 1:
            raise ValueError("group is image, reference, or a pattern with one pair of brackets")


class Entry(NamedTuple):
    """A row of any form."""

    where: str
    name: str
    mos: float
    spread: float | None = None
    reference: str | None = None  # its name as the group
    part: str | None = None
    original: str | None = None  # the reference's file; None where the row has none


def declared_spec(name: str, folder: Path) -> DatasetSpec | None:
    """The dataset that ``folder`` declares, or None without a declaration. Raises UserError for one that is wrong."""
    file = folder / DECLARATION
    why = trouble(file)
    if why == MISSING:
        return None
    if why is not None:
        raise UserError(f"{file} {why}; {ADVICE}")
    values, lines = read_yaml(file, ADVICE)
    try:
        declaration = Declaration.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{file}: {_shown(error, lines)}; {ADVICE}") from error
    has_parts = declaration.part is not None or bool(declaration.columns and declaration.columns.part)
    spec: DatasetSpec

    def read(folder: Path) -> Splits:
        return _read(spec, declaration, folder)

    spec = DatasetSpec(
        name=name,
        title=declaration.title or name,
        range=declaration.range,
        read=read,
        fetch=f"it is declared in {file}",
        size=0,
        group="image" if declaration.group == "image" else "reference",
        licence="yours to know",
        higher_is_better_in_file=declaration.higher_is_better,
        spread=declaration.spread,
        per_group_scale=declaration.per_group_scale,
        split="test" if declaration.test_only else "official" if has_parts else "content",
        own=True,
    )
    return spec


def _shown(error: ValidationError, lines: Lines) -> str:
    shown = []
    for one in error.errors():
        place = ".".join(map(str, one["loc"]))
        line = f"line {lines[one['loc']]}, " if place and one["loc"] in lines else ""
        shown.append(line + ": ".join(filter(None, (place, one["msg"].removeprefix("Value error, ")))))
    return "; ".join(shown)


def _read(spec: DatasetSpec, declaration: Declaration, folder: Path) -> Splits:
    labels = folder / declaration.labels
    images = folder / declaration.images
    for key, why in (("labels", trouble(labels)), ("images", trouble(images, folder=True))):
        if why is not None:
            path = shortened(str(folder / getattr(declaration, key)), 400)
            message = f"{path} {why}; correct {key}: in {folder / DECLARATION}"
            raise MissingFileError(message) if why == MISSING else UserError(message)
    reading = Reading(spec, PictureFiles(images), f"labels {declaration.labels} ({declaration.form})")
    for entry in FORMS[declaration.form](labels, declaration):
        reading.add(
            entry.where,
            entry.name,
            entry.mos,
            spread=entry.spread,
            group=_group(entry, declaration.group),
            part=_part(entry),
            reference=_original(entry, folder, declaration),
        )
    return reading.splits()


def _original(entry: Entry, folder: Path, declaration: Declaration) -> Path | None:
    if not entry.original or entry.original.casefold() in ABSENT:
        return None
    place = folder / (declaration.references or declaration.images)
    return place / path_below(place, entry.original, entry.where)


def _group(entry: Entry, rule: str) -> str | None:
    if rule == "image":
        return None
    if rule == "reference":
        if entry.reference is None:
            raise UserError(f"{entry.where}: no reference; set group: image, or a pattern, in {DECLARATION}")
        if entry.reference.casefold() in ABSENT:
            raise UserError(
                f"{entry.where}: group {entry.reference!r} stands for a value that is missing, and would join pictures "
                "that have nothing in common; fill it in (another word, if it is the group's name), or drop the row"
            )
        return entry.reference
    found = re.search(rule, entry.name)
    if found is None or not found[1]:
        raise UserError(f"{entry.where}: {entry.name} does not fit the pattern {rule}; correct group: in {DECLARATION}")
    return found[1]


def _part(entry: Entry) -> str:
    if entry.part is None:
        return "train"
    word = re.sub(r"\.0+$", "", entry.part.casefold())  # 0.0: a column of numbers that had a gap
    for part, words in PARTS.items():
        if word in words:
            return part
    accepted = "; ".join(f"{', '.join(words)}" for words in PARTS.values())
    raise UserError(f"{entry.where}: part {entry.part!r}; use train, validation or test ({accepted})")


def _csv(labels: Path, declaration: Declaration) -> Iterator[Entry]:
    columns = declaration.columns
    assert columns is not None
    remedy = f"correct columns: in {DECLARATION}, or the first line of the file"
    for row in csv_rows(labels, columns.named(), remedy=remedy):
        yield Entry(
            row.where,
            row.text(columns.image),
            row.number(columns.mos),
            row.number(columns.spread) if columns.spread else None,
            row.text(columns.group) if columns.group else None,
            row.text(columns.part) if columns.part else None,
            str(row.values[columns.reference] or "").strip() if columns.reference else None,
        )


def _visualquality(labels: Path, declaration: Declaration) -> Iterator[Entry]:
    assert declaration.fields is not None
    for row in text_rows(labels, declaration.fields, f"correct fields: in {DECLARATION}, or the row"):
        reference = row.text("ref") if "ref" in declaration.fields else None
        original = reference if declaration.references else None
        yield Entry(row.where, row.text("dist"), row.number("mos"), reference=reference, original=original)


def _json_lines(labels: Path, declaration: Declaration) -> Iterator[Entry]:
    """Rows ``{"dataset_name", "image": [path], "conversations": [question, {"value": mos}]}``."""
    named: str | None = declaration.dataset
    for number, line in enumerate(read_text(labels).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{labels}, line {number}"
        image, value, dataset = _json_fields(line, where)
        if declaration.dataset is not None and dataset != declaration.dataset:
            continue
        named = named or dataset
        if dataset != named:
            raise UserError(
                f"{where}: dataset_name {dataset} after {named}; their scales may differ, so name one with dataset: in "
                f"{DECLARATION}, and declare the other in a folder of its own"
            )
        yield Entry(where, image, LabelRow({"mos": value}, where).number("mos"))


def _json_fields(line: str, where: str) -> tuple[str, Any, str]:
    try:
        row = json.loads(line, object_pairs_hook=_once)
        images, answer, dataset = row["image"], row["conversations"][-1]["value"], row["dataset_name"]
        images = images if isinstance(images, list) else [images]
        for text in (dataset, *images):
            if not isinstance(text, str):
                raise TypeError(f"{text!r} in place of a text")
            text.encode()  # not half a surrogate pair
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{where}: expected dataset_name, image and conversations with a last value "
            f"({shortened(repr(error), 300)}); correct or drop the row"
        ) from error
    if len(images) != 1:
        raise UserError(f"{where}: {len(images)} images; a row rates one picture")
    return images[0], answer, dataset


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _pyiqa(labels: Path, declaration: Declaration) -> Iterator[Entry]:
    """Both orders of columns: ``img_name,mos[,std],..`` and ``ref_name,dist_name,mos[,std],..``; dmos for mos."""
    header = [name.strip(' "') for name in re.split("[,;\t]", read_text(labels).partition("\n")[0])]
    names = ["ref_name", "dist_name"] if "dist_name" in header else ["img_name"]
    score = "mos" if "mos" in header else "dmos"
    part = [declaration.part] if declaration.part else []
    spread = ["std"] if declaration.spread != "none" else []
    for row in csv_rows(labels, [*names, score, *spread, *part], remedy="they are those of pyiqa's meta_info"):
        reference = row.text("ref_name") if len(names) > 1 else None
        yield Entry(
            row.where,
            row.text(names[-1]),
            row.number(score),
            row.number("std") if spread else None,
            reference,
            row.text(part[0]) if part else None,
            reference if declaration.references else None,
        )


FORMS: dict[str, Callable[[Path, Declaration], Iterator[Entry]]] = {
    "csv": _csv,
    "visualquality": _visualquality,
    "json_lines": _json_lines,
    "pyiqa": _pyiqa,
}

"""What every reader needs: files that are found or missed with a remedy, and rows that become records."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vqr1.data.files import MISSING, trouble
from vqr1.data.labels import AUTHORS, shortened, within
from vqr1.data.sample import Sample, Splits
from vqr1.data.spec import DatasetSpec
from vqr1.data.splits import split_by_group
from vqr1.errors import MissingFileError, UserError

MANY = 1000  # names, from which on a folder is listed once rather than asked for each
DEEPER = 20  # folders that are looked into for one that was unpacked too deep
# A path below a folder that is written as its file's.
PLAIN = re.compile(r"(?!__MACOSX/)[^./\\:\0][^/\\:\0]*(/(?!__MACOSX/)[^./\\:\0][^/\\:\0]*)*")


class MissingPicturesError(UserError):
    """Rows without a picture file. ``rest`` holds the records of the others."""

    def __init__(self, missing: list[tuple[str, Path]], rest: Splits):
        where, path = missing[0]
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        super().__init__(f"{where}: {path} is missing; unpack the whole archive there, or drop the row{more}")
        self.missing = missing
        self.rest = rest


def is_nobodys(name: str) -> bool:
    """Whether a file or folder is what systems leave behind: ``._a.png`` and ``__MACOSX`` of a Mac, ``.DS_Store``."""
    return name.startswith(".") or name == "__MACOSX"


def find_file(folder: Path, *names: str) -> Path:
    """The first of ``names``, paths below ``folder``, that is a file or folder; the case of letters does not matter.

    Raises MissingFileError naming the first of them and, where it lies one folder too deep or too high, that place.
    """
    for name in names:
        found = _ignoring_case(folder, name)
        if found is not None:
            return found
    raise MissingFileError(f"{folder / names[0]} is missing{_elsewhere(folder, names)}")


def _ignoring_case(folder: Path, name: str) -> Path | None:
    if (folder / name).exists():
        return folder / name
    for part in PurePosixPath(name).parts:
        if not folder.is_dir():
            return None
        same = sorted(entry.name for entry in folder.iterdir() if entry.name.casefold() == part.casefold())
        if not same:
            return None
        folder = folder / same[0]
    return folder


def _elsewhere(folder: Path, names: tuple[str, ...]) -> str:
    """Where a file is that was unpacked one or two folders too deep, or one too high."""
    deeper = _folders(folder)
    for place in [*deeper, *(inner for outer in deeper[:DEEPER] for inner in _folders(outer)), folder.parent]:
        for name in names:
            found = _ignoring_case(place, name)
            if found is not None:
                return f", but {found} is there: move the contents of {place} to {folder}"
    return ""


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir() and not is_nobodys(entry.name))


def path_below(folder: Path, name: str, where: str) -> PurePosixPath:
    """The path from ``folder`` that a label file names. Raises UserError for one that leaves the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts:
        raise UserError(f"{where}: {name!r} is no name of a picture; give a path below {folder}")
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise UserError(f"{where}: {name} leaves {folder}; give a path below it")
    return path


class PictureFiles:
    """The picture files below a folder, found by the names that a label file gives."""

    def __init__(self, folder: Path, *, anywhere: bool = False):
        """``anywhere``: a bare file name may be in any folder below, as long as it is in one only."""
        self.folder = folder
        self._prefix = str(folder / "_")[:-1]  # with its separator
        self.renamed: list[str] = []  # names found in another case or Unicode form
        self._anywhere = anywhere
        self._listings: dict[str, set[str]] = {}  # by folder below, with its separator: the regular files in it
        self._asked = 0
        self._folded: dict[str, list[str]] | None = None

    def path_of(self, name: str, where: str) -> str | None:
        """As :meth:`find`, in less time for a name that is an ordinary path and fits one file."""
        if PLAIN.fullmatch(name):
            if self._is_there(name):
                return self._prefix + name
            found = self._index().get(fold(name), [])
            if len(found) == 1 and _is_file(self._prefix + found[0]):
                self._note(name, found[0], where)
                return self._prefix + found[0]
        image = self.find(name, where)
        return None if image is None else str(image)

    def find(self, name: str, where: str) -> Path | None:
        """The file of ``name``, or None. Raises UserError for a name that leaves the folder or fits several files."""
        path = path_below(self.folder, name, where)
        if any(map(is_nobodys, path.parts)):
            raise UserError(f"{where}: {name} is what a Mac or a system leaves behind, and no picture; drop the row")
        if self._is_file(str(path), where):
            return self.folder / path
        found = self._index().get(fold(str(path)), [])
        if len(found) > 1:
            raise UserError(f"{where}: {name} fits several files ({', '.join(found)}); write its name as the file's")
        if found:
            self._note(str(path), found[0], where)
        return self.folder / found[0] if found and self._is_file(found[0], where) else None

    def _is_file(self, name: str, where: str) -> bool:
        """False where there is nothing. Raises UserError for what is there and cannot be opened as a file."""
        why = trouble(self.folder / name)
        if why not in (None, MISSING):
            shown = self.folder / shortened(name)
            raise UserError(f"{where}: {shown} {why}; give a picture file that can be read, or drop the row")
        return why is None

    def _is_there(self, name: str) -> bool:
        """Whether a plain name is a file's. For many names each folder is listed once: less than to ask for each."""
        self._asked += 1
        if self._asked < MANY:
            return _is_file(self._prefix + name)
        at = name.rfind("/") + 1
        folder = name[:at]
        if folder not in self._listings:
            self._listings[folder] = _regular_files(self._prefix + folder)
        return name[at:] in self._listings[folder]

    def _note(self, name: str, found: str, where: str) -> None:
        if name.rpartition("/")[2] != found.rpartition("/")[2]:
            self.renamed.append(f"{where}: {name} is {found} on disk")

    def _index(self) -> dict[str, list[str]]:
        if self._folded is None:
            self._folded = {}
            for name in self._names():
                keys = {fold(name)}
                if self._anywhere:
                    keys.add(fold(PurePosixPath(name).name))
                for key in keys:
                    self._folded.setdefault(key, []).append(name)
        return self._folded

    def _names(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.folder):
            folders[:] = sorted(inner for inner in folders if not is_nobodys(inner))
            below = "".join(f"{part}/" for part in Path(folder).relative_to(self.folder).parts)
            for file in sorted(file for file in files if not is_nobodys(file)):
                yield f"{below}{file}"


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # pathlib takes five times as long, and there may be a million rows


def _regular_files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:  # no folder, or one that only names its files to who knows them: each is asked for
        return set()


def fold(name: str) -> str:
    """Equal for two names that differ in case or Unicode form only."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class Reading:
    """The records of one dataset as they are read, row after row."""

    def __init__(self, spec: DatasetSpec, pictures: PictureFiles, *notes: str):
        self._spec = spec
        self._pictures = pictures
        self.notes = list(notes)
        self._parts: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
        self._seen: dict[str, str] = {}
        self._missing: list[tuple[str, Path]] = []

    def add(
        self,
        where: str,
        name: str,
        score: float,
        *,
        spread: float | None = None,
        group: str | None = None,
        part: str = "train",
        column: str = "mos",
        reference: Path | None = None,
    ) -> None:
        """One row. ``score`` and ``spread`` as the file has them; ``group`` is the picture itself where it is None.

        ``reference`` is where the labels say that the undistorted picture is; nobody looks before it is to be shown.
        """
        remedy = f"correct the row, or range: in {self._spec.name}/dataset.yaml" if self._spec.own else AUTHORS
        score = within(where, column, score, self._spec.range, remedy)
        image_id = f"{self._spec.name}/{name}"
        image = self._pictures.path_of(name, where)
        self._check_new(where, image_id, image)
        if image is None:
            self._missing.append((where, self._pictures.folder / name))
            return
        self._parts[part].append(
            Sample(
                image=image,
                mos=score if self._spec.higher_is_better_in_file else sum(self._spec.range) - score,
                mos_std=self._std(where, spread),
                dataset=self._spec.name,
                group=unicodedata.normalize("NFC", name if group is None else group),
                image_id=image_id,
                reference=None if reference is None else str(reference),
            )
        )

    def _check_new(self, where: str, image_id: str, image: str | None) -> None:
        before = self._seen.setdefault(image or image_id, where)  # one name is one file, and one file may have two
        if before is not where:
            raise UserError(
                f"{where}: {image_id} appears more than once; keep one row per picture (another is {before})"
            )

    def _std(self, where: str, spread: float | None) -> float | None:
        if spread is None or self._spec.spread == "none":
            return None
        if not (spread >= 0 and math.isfinite(spread)):
            raise UserError(
                f"{where}: the ratings' {self._spec.spread} {spread:g} is negative or not finite; correct the row"
            )
        std = math.sqrt(spread) if self._spec.spread == "variance" else spread
        low, high = self._spec.range
        most = (high - low) / math.sqrt(2)  # of two ratings at the ends, divided by n - 1; of n, half the range
        if std > most * (1 + 1e-6):
            raise UserError(
                f"{where}: no ratings within {low:g} to {high:g} have a std of {std:g}, at most {most:.3g}; is the "
                f"spread (read as {self._spec.spread}) a variance, or on another scale?"
            )
        return std

    def splits(self, *, official: bool | None = None) -> Splits:
        """All rows, divided as the spec says; ``official=False`` where the files hold no official split after all.

        Raises MissingPicturesError.
        """
        division = self._spec.split if official is None or official else "content"
        everything = [sample for part in self._parts.values() for sample in part]
        if division == "official":
            splits = Splits(self._parts["train"], self._parts["validation"], self._parts["test"])
        elif division == "content":
            splits = split_by_group(everything)
        else:
            splits = Splits(test=everything)
        splits = replace(splits, division=division, notes=(*self.notes, *self._renamed()))
        if self._missing:
            raise MissingPicturesError(self._missing, splits)
        return splits

    def _renamed(self) -> list[str]:
        renamed = self._pictures.renamed
        if not renamed:
            return []
        return [f"{len(renamed)} names differ in case or Unicode form from their files, such as {renamed[0]}"]

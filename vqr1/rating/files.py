"""Which files a user means by the photos and folders that are named."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from vqr1.data.files import MISSING, trouble
from vqr1.errors import MissingFileError, UserError

# Photos, drawings and films that are in folders of pictures and that Pillow does not open. They fail and are not passed
# over: who has them there may think that they were rated.
UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".svg", ".ai", ".psb"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".wmv", ".3gp"),
)


@dataclass
class Found:
    paths: list[str] = field(default_factory=list)  # each once, in the order of the words, folders by name
    others: Counter[str] = field(default_factory=Counter)  # files in folders that are no pictures, by their ending


def picture_endings() -> set[str]:
    """The endings of the formats that Pillow opens here, in lower case with the dot."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def find_pictures(words: list[str], recursive: bool) -> Found:
    """The pictures that are named and those in the folders that are named.

    A file that is named is rated whatever its ending; of a folder those that end as pictures and films do, hidden ones
    left out. Raises UserError for a word that is neither file nor folder, and for a folder without a picture.
    """
    found, endings = Found(), picture_endings() | set(UNREAD)
    for word in words:
        path = Path(word)
        if trouble(path, folder=True) is None:
            found.paths += _in_folder(path, recursive, endings, found.others)
        elif (why := trouble(path)) is not None:
            error = MissingFileError if why == MISSING else UserError
            raise error(f"{path} {why}; give a picture or a folder of pictures")
        else:
            found.paths.append(str(path))
    found.paths = list(dict.fromkeys(found.paths))
    return found


def refuse_unread(path: str) -> None:
    """Raises UserError for a file that Pillow does not open here, by its ending: clearer than what Pillow would say."""
    ending = Path(path).suffix.lower()
    if ending in UNREAD and ending not in picture_endings() and Path(path).is_file():
        raise UserError(f"{path}: files that end in {ending} are not read; convert it to PNG or JPEG, or leave it out")


def _in_folder(folder: Path, recursive: bool, endings: set[str], others: Counter[str]) -> list[str]:
    files, folders = _below(folder, recursive)
    pictures = [str(path) for path in files if path.suffix.lower() in endings]
    left = Counter(path.suffix.lower() or "no ending" for path in files if path.suffix.lower() not in endings)
    if not pictures:
        deeper = f"; --recursive looks into its {folders} folders" if folders and not recursive else ""
        holds = f", but {listed(left)}" if left else ""
        raise UserError(f"{folder} holds no pictures{holds}{deeper}")
    others += left
    return pictures


def _below(folder: Path, recursive: bool) -> tuple[list[Path], int]:
    """The files, in order, and how many folders there are; without hidden ones. Links to folders are not followed.

    Raises UserError for a folder that may not be read: its pictures would be left out without a word.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); let it be read or leave it out"
        ) from error

    files, count = [], 0
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
        count += len(folders)
        if not recursive:
            break
    return sorted(files), count


def listed(endings: Counter[str]) -> str:
    """Such as ``3 files (2 .txt, 1 .csv)``."""
    parts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    more = f", {len(endings) - 5} other kinds" if len(endings) > 5 else ""
    return f"{endings.total()} file{'s' * (endings.total() != 1)} ({parts}{more})"

"""Files that a user names: looked at before they are opened, since a pipe would be waited for without end."""

from __future__ import annotations

import codecs
import errno
import stat
from pathlib import Path

from vqr1.errors import MissingFileError, UserError

MISSING = "is missing"
KINDS = {
    stat.S_IFREG: "is a file",
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def trouble(path: Path, *, folder: bool = False) -> str | None:
    """Why ``path`` is no regular file (no folder), as words that follow its name, or None. Links are followed."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return _dangling(path) or MISSING
    except ValueError:  # a zero byte, half a surrogate pair
        return "has a name that no file can have"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads back to itself"
        return f"cannot be read ({error.strerror})"
    if kind == (stat.S_IFDIR if folder else stat.S_IFREG):
        return None
    return f"{KINDS.get(kind, 'is of an unknown kind')}, not a {'folder' if folder else 'regular file'}"


def _dangling(path: Path) -> str | None:
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            what = "is" if place == path else f"is missing, since {place} is"
            return f"{what} a symbolic link to {place.readlink()}, which is not there"
    return None


def check_file(path: Path, remedy: str = "give a file that can be read") -> None:
    """Raises UserError for what is not a regular file, MissingFileError where there is nothing."""
    why = trouble(path)
    if why is not None:
        raise (MissingFileError if why == MISSING else UserError)(f"{path} {why}; {remedy}")


def read_text(
    path: Path,
    remedy: str = "give a file that can be read",
    as_text: str = "save the file as UTF-8 (in a spreadsheet: CSV UTF-8)",
) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; lines end in ``\n``.

    Raises UserError naming the file, and the line of what is not text, for which ``as_text`` is the remedy.
    """
    check_file(path, remedy)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    mark, encoding = next(((mark, name) for mark, name in MARKS.items() if raw.startswith(mark)), (b"", "utf-8"))
    body = raw[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, errors="replace").count("\n") + 1
        shown = f"0x{body[error.start]:02x} " if encoding == "utf-8" else ""
        raise UserError(
            f"{path}, line {line}: {shown}is not text in {encoding.upper()} ({error.reason}); {as_text}"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"{path}, line {line}: a zero byte, which no text holds; {as_text}")
    return text

"""Fonts that have a text's characters: matplotlib's own have neither Chinese nor most emoji."""

from __future__ import annotations

import warnings
from functools import cache


def drawable(text: str, family: str = "DejaVu Sans", warn: bool = True) -> tuple[str, list[str]]:
    """``text`` and the fonts to draw it in: ``family``, then installed ones for what that lacks.

    A character that no installed font has is written as an escape, ``\\u4e2d``; with ``warn`` a warning says how many
    there are.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    missing = {ord(c) for c in text if c.isprintable()} - _characters(findfont(FontProperties(family=family)))
    families = [family]
    for font in fontManager.ttflist if missing else ():
        if font.style != "normal" or font.name in families or font.name.startswith("Last Resort"):
            continue  # the last resort has a box for every character
        found = missing & _characters(font.fname)
        if found:
            families.append(font.name)
            missing -= found
    if missing and warn:
        warnings.warn(
            f"no installed font has {len(missing)} of the characters in a figure, which shows their codes; "
            "install a font that has them, such as Noto Sans CJK",
            stacklevel=2,
        )
    return "".join(_escaped(c) if ord(c) in missing or not _plain(c) else c for c in text), families


def _plain(c: str) -> bool:
    return c.isprintable() or c == "\n"


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()


@cache
def _characters(path: str) -> frozenset[int]:
    """What a font file has; nothing where matplotlib cannot draw with it (emoji in colour)."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()

"""Scores of an exported model read as the mean opinion scores of a set: ``vqr1 rate --scale SET``."""

from __future__ import annotations

from vqr1.errors import UserError
from vqr1.evaluation.scale import Scale
from vqr1.exported import FILE, read_exported
from vqr1.policy.load import find_weights
from vqr1.rating.hub import fetch
from vqr1.rating.rating import Rating


def find_scale(model: str, name: str) -> Scale:
    """The curve of the set ``name`` that is stored in an exported folder, or a hub id of one.

    Raises UserError, naming those that there are, where it is not.
    """
    fetch(model)
    folder = find_weights(model)
    exported = read_exported(folder)
    known = exported.scales if exported else {}
    if name not in known:
        have = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(
            f"--scale {name}: {model} stores no curve from its scores to the MOS of {name} ({have}); vqr1 export RUN "
            "FOLDER --mos-map RESULT fits and stores one"
        )
    try:
        return Scale.from_record(known[name])
    except UserError as error:
        raise UserError(f"{folder / FILE}: {error}") from error


def mos_of(scale: Scale, rating: Rating) -> float | None:
    """None where there is no score."""
    return None if rating.score is None else float(scale.curve(rating.score))

"""The variants of the ranking reward by name, for the settings and for the maths (:mod:`vqr1.ranking`)."""

from enum import StrEnum


class Opponent(StrEnum):
    mean = "mean"
    each = "each"


class Variance(StrEnum):
    sample = "sample"
    unit = "unit"


class Agreement(StrEnum):
    fidelity = "fidelity"
    binary = "binary"

"""What is known of a dataset before it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vqr1.data.sample import Splits

Spread = Literal["std", "variance", "none"]
Division = Literal["official", "content", "test"]


@dataclass(frozen=True)
class DatasetSpec:
    """One layout, spelled out: nothing of it is inferred from the name of a column.

    Records always have higher = better. Where the file has lower = better, its scores are reflected about the middle of
    ``range``, so that the range is the same before and after.
    """

    name: str  # the key of DATASETS and the folder below the root
    title: str  # as tables print it
    range: tuple[float, float]  # of the opinion scores; infinite where the published range is not known
    read: Callable[[Path], Splits]
    fetch: str  # where to get it and what to put where; {folder} stands for the dataset's folder
    size: int  # rated pictures after cleaning
    group: str  # what splits keep together: reference, scene, prompt, image
    licence: str
    higher_is_better_in_file: bool = True
    spread: Spread = "none"  # what the file's column of spread holds; records hold a standard deviation
    per_group_scale: bool = False  # scores compare within a group only: correlate per group
    pseudo_labels: bool = False  # no person rated these very pictures
    evaluate_test_only: bool = False  # a policy we ship has seen the other parts
    split: Division = "content"  # the authors' own, by content group, or all of it for testing
    made_at_first_use: bool = False  # drawn by us, and nothing to fetch
    train: int | None = None  # pictures of the training part, where the authors' split is fixed
    picture: tuple[int, int] | None = None  # pixels, wide and high, where all pictures have one size
    # Makes the reference pictures that records name, in the dataset's folder, where they do not come with the others.
    draw_references: Callable[[Path], None] | None = None
    own: bool = False  # declared by its user: there are no authors to ask for a label file
    # Finds the distortion in an image_id by the named groups kind and level; a higher level is a stronger distortion.
    level: re.Pattern[str] | None = None
    # The published name of each such kind, as a noun. The keys are in lower case.
    kinds: Mapping[str, str] = field(default_factory=dict, hash=False)

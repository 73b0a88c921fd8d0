"""The data of a run: the records of every set that is named, checked, and as the columns that TRL reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from vqr1.config import Config, Objective, Preference, RewardKind
from vqr1.data import Sample, SplitRule, Splits, check_size, find_spec, read_dataset
from vqr1.data.pictures import Load, PictureLoader, decoders, load_many, load_shown
from vqr1.data.reference_pictures import with_references, without_references
from vqr1.data.sample import some_of
from vqr1.data.splits import described
from vqr1.errors import UserError
from vqr1.screen import Screen


@dataclass(frozen=True)
class RunData:
    """The records of a run: all training sets as one list, the others set by set."""

    train: list[Sample]
    validation: dict[str, list[Sample]]
    test: dict[str, list[Sample]]
    splits: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # which groups are in which part, for the run folder


def read_data(config: Config) -> RunData:
    """The records of every set that is named. Raises UserError for a set in part, or too small to be ranked."""
    root = Path(config.data.root).expanduser()
    names = set_names(config)
    rule = SplitRule(tuple(config.data.split_ratio), config.data.split_seed)
    splits = {name: read_dataset(name, root, rule) for name in names}

    def shown(name: str, samples: list[Sample]) -> list[Sample]:
        if config.data.reference:
            return with_references(find_spec(name, root), root / name, samples, "data.reference")
        return without_references(samples)

    def learnt(name: str, samples: list[Sample]) -> list[Sample]:
        if config.objective is Objective.depict and config.depict.reference:
            return with_references(find_spec(name, root), root / name, samples, "depict.reference", optional=True)
        return shown(name, samples)

    for name, split in splits.items():
        if not config.data.partial:
            check_size(name, root, split, "data.partial")
    _check_shared(config, splits)
    limit = config.evaluation.max_pictures
    train = [sample for name in config.data.train for sample in learnt(name, splits[name].train)]
    data = RunData(
        train=shuffled_mos(train, config.seed) if config.data.shuffle_mos else train,
        validation={name: shown(name, some_of(splits[name].validation, limit)) for name in config.data.validation},
        test={name: shown(name, some_of(splits[name].test, limit)) for name in config.data.test},
        splits={name: described(split) for name, split in splits.items()},
    )
    for name in config.data.train:
        if len(splits[name].train) < 2:
            raise UserError(f"{name} has {len(splits[name].train)} training pictures: ranking needs two or more")
    for part, sets in (("validation", data.validation), ("test", data.test)):
        for name, samples in sets.items():
            if len(samples) < 3:
                raise UserError(
                    f"data.{part}: {name} has {len(samples)} {part} pictures, and a correlation needs three; "
                    f"take it out of data.{part}"
                )
    if config.reward.kind is RewardKind.regression:
        for name in config.data.train:
            if not all(map(math.isfinite, find_spec(name, root).range)):
                raise UserError(
                    f"reward.kind=regression rescales scores from their range, and that of {name} is open: give both "
                    "ends in its dataset.yaml, or use reward.kind=ranking"
                )
    if config.reward.preference is Preference.thurstone:
        without = next((s for s in data.train if s.mos_std is None), None)
        if without is not None:
            raise UserError(
                "reward.preference=thurstone needs the spread of the ratings, and "
                f"{without.image_id} has none; use hard"
            )
    return data


def _check_shared(config: Config, splits: dict[str, Splits]) -> None:
    """Raises UserError where one file is in a part of one set and in another part of another set of the run.

    Links of either kind are followed; copies are found by ``vqr1 data check``, which compares pixels.
    """
    if len(splits) < 2:
        return
    first: dict[tuple[int, int, int], tuple[str, Sample]] = {}
    shared = []
    for part, names in (
        ("train", config.data.train),
        ("validation", config.data.validation),
        ("test", config.data.test),
    ):
        for sample in (sample for name in names for sample in splits[name].parts()[part]):
            try:
                file = Path(sample.image).stat()
            except OSError:
                continue  # opening it will say so
            key = (file.st_dev, file.st_ino, file.st_size)
            other_part, other = first.setdefault(key, (part, sample))
            if other_part != part and other.dataset != sample.dataset:
                shared.append(f"{other.image_id} ({other_part}) and {sample.image_id} ({part})")
    if shared:
        raise UserError(
            f"{shared[0]} are one picture file, so what is learnt from would be judged by, {len(shared)} such in all; "
            "leave one of the sets out of the run, or give both the same parts with columns.part in their dataset.yaml"
        )


def set_names(config: Config) -> list[str]:
    """The sets that a run reads, each once."""
    return list(dict.fromkeys([*config.data.train, *config.data.validation, *config.data.test]))


def shuffled_mos(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The same pictures and the same opinion scores, dealt out anew within each dataset."""
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        places.setdefault(sample.dataset, []).append(i)
    dealt = list(samples)
    for own in places.values():
        for here, other in zip(own, rng.permutation(own), strict=True):
            dealt[here] = replace(samples[here], mos=samples[other].mos, mos_std=samples[other].mos_std)
    return dealt


def check_pictures(data: RunData, load: PictureLoader, screen: Screen, more: Sequence[str] = ()) -> None:
    """Open every picture once, and those at the paths ``more``, so that a broken one stops the run now and not in its
    third hour.

    From then on ``load`` refuses a picture whose file has another content. Collective.
    """
    sets = [data.train, *data.validation.values(), *data.test.values()]
    paths = [path for samples in sets for sample in samples for path in sample.pictures]
    paths = list(dict.fromkeys([*paths, *more]))
    state = PartialState()
    own = paths[state.process_index :: state.num_processes]
    mine = f", {len(own)} of them here" if state.num_processes > 1 else ""
    with screen.count(f"checking {len(paths)} pictures{mine}", len(own), "pictures") as advance, decoders() as pool:
        for _ in pool.map(load, own):
            advance(1)
    load.expect({path: digest for some in gather_object([load.digests]) for path, digest in some.items()})


def picture_rows(data: RunData, load: PictureLoader) -> list[dict[str, Any]]:
    """What is learnt from and measured on, by content: a row for each picture and its part. After check_pictures."""
    parts = [("train", data.train)]
    parts += [("validation", samples) for samples in data.validation.values()]
    parts += [("test", samples) for samples in data.test.values()]
    return [
        {
            "image_id": sample.image_id,
            "part": part,
            "mos": sample.mos,
            "mos_std": sample.mos_std,
            "content": load.expected(sample.image),
            **({"reference": load.expected(sample.reference)} if sample.reference is not None else {}),
        }
        for part, samples in parts
        for sample in samples
    ]


def as_dataset(samples: Sequence[Sample], prompt: list[dict[str, str]], load: Load) -> Dataset:
    """The records as the columns that TRL and the reward read; pictures are opened as they are asked for."""
    rows = Dataset.from_list(
        [
            {
                "image": sample.image,
                "mos": sample.mos,
                "mos_std": sample.mos_std,
                "dataset": sample.dataset,
                "group": sample.group,
                "image_id": sample.image_id,
                **({"reference": sample.reference} if sample.reference is not None else {}),
            }
            for sample in samples
        ]
    )

    def open_pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Pictures as TRL's column ``image``; beside their references, both as its column ``images``."""
        count = len(batch["image"])
        prompts = [prompt] * count
        if "reference" not in batch:
            return {**batch, "image": load_many(load, batch["image"]), "prompt": prompts}
        pairs = list(zip(batch.pop("reference"), batch.pop("image"), strict=True))
        return {**batch, "images": load_shown(load, pairs), "prompt": prompts}

    return rows.with_transform(open_pictures)

"""What ``vqr1 data check`` looks at: labels, pictures, duplicates, orientation and the split of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vqr1.data import check_dataset, find_spec, read_dataset
from vqr1.data.orientation import level_correlations, repeated_kinds
from vqr1.data.pictures import decoders, open_picture
from vqr1.data.reading import MissingPicturesError
from vqr1.data.sample import Sample, Splits
from vqr1.data.spec import DatasetSpec
from vqr1.data.splits import SplitRule, split_hash
from vqr1.errors import UserError

SHOWN = 5  # of a kind of problem; the rest is counted
FLAT = "one colour"  # in place of a digest: pictures without content are alike and no duplicates
NEEDED = 786432  # pixels that are compared of a large JPEG: what the 7B policy sees


@dataclass
class DatasetReport:
    """What was found, as lines to print, and what is wrong. A content is a digest of pixels."""

    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    contents: dict[str, list[tuple[str, Sample]]] = field(default_factory=dict)  # digest -> part and record

    def say(self, what: str, text: str) -> None:
        self.lines.append((what, text))

    def complain(self, texts: Sequence[str], remedy: str) -> None:
        """A kind of problem: its first cases, the number of the others, and what to do."""
        self.problems += [f"{text}; {remedy}" for text in texts[:SHOWN]]
        if len(texts) > SHOWN:
            self.problems.append(f"... and {len(texts) - SHOWN} more of this kind")


def check(name: str, root: Path, rule: SplitRule) -> DatasetReport:
    """Read and open everything of a dataset. Raises what :func:`read_dataset` raises, but for missing pictures."""
    report = DatasetReport(name)
    spec = find_spec(name, root)
    try:
        splits = read_dataset(name, root, rule)
    except MissingPicturesError as error:
        splits = error.rest
        missing = [f"{where}: {path} is missing" for where, path in error.missing]
        report.complain(missing, "unpack the whole archive there, or drop the row")
        check_dataset(spec, splits, f"{name} in {root / name}")
    for note in splits.notes:
        report.say("found", note)
    _check_labels(report, spec, splits)
    _check_split(report, spec, splits)
    _check_pictures(report, splits)
    return report


def _check_labels(report: DatasetReport, spec: DatasetSpec, splits: Splits) -> None:
    samples = splits.all()
    if not samples:  # every picture is missing, which is said already
        return
    report.say("rows", f"{len(samples)}" + (f" of {spec.size} published" if spec.size else ""))
    if spec.size and len(samples) != spec.size:
        report.problems.append(
            f"{len(samples)} rows where {spec.size} were published; it is another version, or a part is missing"
        )
    scores = [sample.mos for sample in samples]
    stds = [sample.mos_std for sample in samples if sample.mos_std is not None]
    spread = f"spread {min(stds):.3g} to {max(stds):.3g}" if stds else "no spread"
    report.say("scores", f"{min(scores):.3g} to {max(scores):.3g} after reading, higher is better; {spread}")
    if min(scores) == max(scores):
        report.problems.append(f"every score is {scores[0]:g}; nothing can be ranked: look at the label file")
    found = level_correlations(samples, spec)
    if found:
        mean = sum(found) / len(found)
        report.say(
            "orientation", f"scores against distortion level: mean correlation {mean:+.2f} over {len(found)} series"
        )
    elif spec.level is None:
        report.say("orientation", "file names hold no distortion level to check it by: look at vqr1 data show")
    repeated = [f"kinds {a} and {b} have the same scores throughout" for a, b in repeated_kinds(samples, spec)]
    report.complain(repeated, "one has the labels of the other: use the authors' label file")


def _check_split(report: DatasetReport, spec: DatasetSpec, splits: Splits) -> None:
    sizes = ", ".join(
        f"{part} {len(samples)} ({len({sample.group for sample in samples})} {spec.group}s)"
        for part, samples in splits.parts().items()
    )
    report.say("split", f"{splits.division}, {split_hash(splits)}: {sizes}")
    wanted = {"test"} if splits.division == "test" else {"train", "test"}
    for part in sorted(wanted):
        if not splits.parts()[part]:
            report.problems.append(f"the {part} part is empty; give more groups, or another --ratio or --seed")


def _check_pictures(report: DatasetReport, splits: Splits) -> None:
    records = [(part, sample) for part, samples in splits.parts().items() for sample in samples]
    unreadable = []
    flat = 0
    results = _contents([sample.image for _, sample in records], report.name)
    for (part, sample), (digest, error) in zip(records, results, strict=True):
        if error is not None:
            unreadable.append(f"{sample.image_id}: {error}")
        elif digest == FLAT:
            flat += 1
        else:
            report.contents.setdefault(digest, []).append((part, sample))
    report.problems += unreadable[:SHOWN]
    if len(unreadable) > SHOWN:
        report.problems.append(f"... and {len(unreadable) - SHOWN} more unreadable pictures")
    report.say(
        "pictures", f"{len(records) - len(unreadable)} opened, {len(unreadable)} unreadable, {flat} of one colour"
    )
    _check_duplicates(report)


def _contents(paths: Sequence[str], name: str) -> Iterator[tuple[str, UserError | None]]:
    """A digest of each picture's pixels, or why it cannot be read."""
    with decoders() as pool:
        found = pool.map(_content, paths)
        yield from tqdm(found, total=len(paths), desc=f"opening {name}", unit="picture", disable=None, leave=False)


def _content(path: str) -> tuple[str, UserError | None]:
    try:
        picture = open_picture(path, NEEDED)
    except UserError as error:
        return "", error
    if len(picture.getcolors(maxcolors=1) or []) == 1:
        return FLAT, None
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest(), None


def _check_duplicates(report: DatasetReport) -> None:
    """The same pixels under two names: in two parts, or with two contents, that is a mistake."""
    leaking, repeated, harmless = [], [], 0
    for found in report.contents.values():
        (part, first), *others = found
        for other_part, other in others:
            text = f"{first.image_id} and {other.image_id} are the same picture"
            if part != other_part:
                leaking.append(f"{text}, in {part} and in {other_part}")
            elif first.group != other.group:
                repeated.append(f"{text}, rated {first.mos:g} and {other.mos:g}")
            else:
                harmless += 1
    report.complain(leaking, "what is trained on would be tested on: drop one of them")
    report.complain(repeated, "drop one of them")
    count = len(leaking) + len(repeated)
    report.say("duplicates", f"{count} of different content, {harmless} within a group")


def check_pairs(folder: Path) -> DatasetReport:
    """BAPPS: how many pairs, how people judged, whether every picture opens. Raises what the reader raises."""
    from vqr1.data.bapps import read_bapps

    report = DatasetReport("bapps")
    for part, pairs in read_bapps(folder).items():
        kinds = sorted({pair.group for pair in pairs})
        mean = sum(pair.preference for pair in pairs) / max(len(pairs), 1)
        report.say(part, f"{len(pairs)} pairs ({', '.join(kinds)}), second preferred by {mean:.0%}")
        paths = [path for pair in pairs for path in (pair.reference, pair.first, pair.second)]
        bad = [str(error) for _, error in _contents(paths, f"bapps {part}") if error is not None]
        report.problems += bad[:SHOWN] + ([f"... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else [])
    return report


def across(reports: Sequence[DatasetReport]) -> list[str]:
    """Pictures that are in two of the datasets."""
    shared = []
    for i, one in enumerate(reports):
        for other in reports[i + 1 :]:
            common = sorted(set(one.contents) & set(other.contents))
            if common:
                (_, first), (_, second) = one.contents[common[0]][0], other.contents[common[0]][0]
                shared.append(
                    f"{one.name} and {other.name} share {len(common)} pictures, such as {first.image_id} and "
                    f"{second.image_id}; do not train on one and test on the other"
                )
    return shared

"""Runs that are killed at random moments and gone on with end as an undisturbed one, to the byte.

``make test-faults-full`` runs them. Of 20 kills 11 come at instants that are spread evenly from the first checkpoint to
the end, and the others inside writes: in the middle of a file, and between files of a checkpoint and of ``best/``.
"""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.runs import forked, words

pytestmark = [pytest.mark.faults, pytest.mark.full]

SEED = 20261128
OFTEN = {
    "data": "demo_five",
    "seed": "7",  # with which the weights of steps 1 and 3 are the best so far
    "trainer.max_steps": "4",
    "trainer.save_steps": "1",
    "trainer.save_total_limit": "2",
    "evaluation.every": "1",
}
# Place, step, and how many bytes of the file are written; none: before it begins.
AIMED = [
    ("weights", 2, 900_000),
    ("weights", 3, 1),
    ("optimiser", 2, 1_500_000),
    ("random states", 3, 1000),
    ("state", 2, ""),
    ("rename", 3, ""),
    ("deletion", 3, ""),
    ("best", 1, 900_000),
    ("best renamed", 3, ""),
]
AIMED_OF_RANKS = [
    ("weights", 2, 900_000, 0),
    ("random states", 3, "", 1),
    ("rename", 2, "", 0),
    ("best renamed", 3, "", 0),
]


@pytest.fixture(scope="module")
def run(data_root):
    def run(folder, ranks, **how):
        place = {"runs": folder.parent, "name": folder.name, "data.root": data_root, "resume": "auto"}
        return forked(words({**OFTEN, **place}), scripted=True, ranks=ranks, figures=False, **how)

    return run


def first_checkpoint(folder):
    end = time.monotonic() + 300
    while not (folder / "checkpoint-1").is_dir():
        assert time.monotonic() < end, "no checkpoint after five minutes"
        time.sleep(0.002)


def learnt(folder):
    """What a run is compared by: its figures, answers, and weights."""
    names = [f"{name}.jsonl" for name in ("metrics", "answers", "samples")]
    names += ["best/step.json", *(f"{of}/model.safetensors" for of in ("best", "final"))]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


class Killer:
    """Kills one of a run's processes some time after its first checkpoint."""

    def __init__(self, folder: Path, after: float, rank: int):
        self.folder, self.after, self.rank = folder, after, rank

    def __call__(self, processes: list[int]) -> None:
        first_checkpoint(self.folder)
        time.sleep(self.after)
        with suppress(ProcessLookupError):  # it was faster this time
            os.kill(processes[self.rank], signal.SIGKILL)


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def undisturbed(request, run, tmp_path_factory):
    """Ranks, what an undisturbed run learns, and its seconds from the first checkpoint to the end."""
    folder, began = tmp_path_factory.mktemp("whole") / "run", []

    def meanwhile(processes):
        first_checkpoint(folder)
        began.append(time.monotonic())

    done = run(folder, request.param, meanwhile=meanwhile)
    assert done.returncode == 0, done.stderr[-4000:]
    assert {"metrics.jsonl", "best/model.safetensors", "final/model.safetensors"} <= learnt(folder).keys()
    return request.param, learnt(folder), time.monotonic() - began[0]


def killed_at_random(run, folder, ranks, rng, seconds):
    """The run's exit code, and the instant; a run that ended before it does not count and is begun again."""
    for attempt in range(5):
        at, rank = rng.uniform(0, seconds) / (attempt + 1), rng.randrange(ranks)
        name = folder.with_name(f"{folder.name}-{attempt}")
        done = run(name, ranks, meanwhile=Killer(name, at, rank))
        if done.returncode != 0:
            return name, f"rank {rank} {at:.3f} s after the first checkpoint"
    raise AssertionError("the run ended before it was killed, five times")


def killed_in_a_write(run, folder, ranks, place, step, size, rank=0):
    fault = f"tests.support.faults_disk:kill_at:{place}:{step}:{size}:{rank}"
    done = run(folder, ranks, fault=fault)
    assert done.returncode != 0, f"{fault} did not come about"
    if ranks == 1:
        assert done.returncode == -(signal.SIGXFSZ if size else signal.SIGKILL), done.stderr[-2000:]
    return folder, f"in {place} of step {step}, {f'{size} bytes' if size else 'before it'}"


def test_killed_runs_end_as_an_undisturbed_one(run, undisturbed, tmp_path, fault):
    ranks, expected, seconds = undisturbed
    aimed, total = (AIMED, 20) if ranks == 1 else (AIMED_OF_RANKS, 10)
    rng = random.Random(SEED)
    lost = []
    for i in range(total):
        folder = tmp_path / f"run{i}"
        if i < len(aimed):
            folder, how = killed_in_a_write(run, folder, ranks, *aimed[i])
        else:
            folder, how = killed_at_random(run, folder, ranks, rng, seconds)
        done = run(folder, ranks)
        assert done.returncode == 0, (how, done.stderr[-3000:])
        other = [name for name, content in learnt(folder).items() if expected[name] != content]
        other += sorted(expected.keys() - learnt(folder).keys())
        print(f"{i + 1} of {total}, seed {SEED}, {how}: {', '.join(other) or 'the same'}")
        left = [path.name for path in folder.iterdir() if path.name.endswith((".new", ".old"))]
        lost += [(how, other, left)] if other or left else []
    assert not lost
    who = "a run" if ranks == 1 else "one of two ranks"
    fault(
        f"SIGKILL to {who} at a random moment",
        how=f"{total} times, {len(aimed)} of them inside writes of checkpoints and weights",
        happens=f"the same command ends {total} of {total} runs with the same figures and weights, to the byte",
        lost="the steps since the last checkpoint",
    )

"""The examples of the documentation and of docstrings, run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

from tests.support.miniatures import picture
from vqr1 import answer, levels, questions, ranking, votes
from vqr1.policy.load import SHIPPED

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("module", [answer, levels, questions, ranking, votes], ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_hold(module):
    public = {
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    }
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert {test.name.rpartition(".")[2] for test in tests} == {name for name in public if not name.startswith("_")}
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    reports: list[str] = []
    for test in tests:
        runner.run(test, out=reports.append)
    assert not reports, "".join(reports)


def code_of(page: str, heading: str) -> str:
    """The Python block under a heading."""
    section = (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return block


def test_the_reward_works_in_a_trainer_of_ones_own(tmp_path):
    """As the page has it, but for the shipped policy, a smaller batch, a folder of the test's, and a single step."""
    code = code_of("method.md", "In a trainer of your own")
    assert len(code.splitlines()) < 20
    changes = {
        '"Qwen/Qwen2.5-VL-3B-Instruct"': repr(str(SHIPPED)),
        "max_completion_length=256": "max_completion_length=48, max_steps=1, logging_steps=1, use_cpu=True",
        '"out"': repr(str(tmp_path / "out")),
        "k=6": "k=4",
        "num_generations=6, per_device_train_batch_size=48": "num_generations=4, per_device_train_batch_size=12",
    }
    for theirs, ours in changes.items():
        assert code.count(theirs) == 1, theirs
        code = code.replace(theirs, ours)
    rated = [(str(picture(tmp_path / f"{i}.png", seed=i)), 20.0 * i) for i in range(3)]
    state = torch.random.get_rng_state()
    names = {"rated": rated}
    exec(code, names)
    torch.random.set_rng_state(state)
    (logged,) = [row for row in names["trainer"].state.log_history if "loss" in row]
    assert {"reward/fidelity", "reward/format", "rewards/fidelity/mean", "rollout/unreadable"} <= set(logged)
    assert 0 < logged["reward/fidelity"] <= 1 and logged["reward/no_rival"] == 0
    assert logged["rewards/format/mean"] == pytest.approx(logged["reward/format"])

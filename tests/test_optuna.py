"""The search of docs/sweeps.md, run as it stands on runs that end at once."""

from __future__ import annotations

import json
import math
import os
import sys

import optuna

from tests.test_examples import code_of

# One parabola over the logarithm of beta; the third run fails, and a signal stops the fifth.
RUN = f"""#!{sys.executable}
import json, math, pathlib, sys
settings = dict(word.split("=") for word in sys.argv[2:])
with open("calls", "a") as file:
    print(json.dumps(settings), file=file)
calls = len(open("calls").readlines())
if calls in (3, 5):
    sys.exit(1 if calls == 3 else 75)
beta = float(settings["trainer.beta"])
folder = pathlib.Path("runs", settings["name"])
folder.mkdir(parents=True)
found = {{"final": {{"demo_five": {{"srcc": 1 - (math.log10(beta) + 2) ** 2}}}}}}
(folder / "summary.json").write_text(json.dumps(found))
"""


def test_a_search_is_stopped_and_goes_on_with_the_same_trial(tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "vqr1"
    program.write_text(RUN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    code = code_of("sweeps.md", "A search by Optuna")

    exec(code, {})
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call["name"] for call in calls] == [f"search/{number}" for number in range(5)]
    exec(code, {})
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call["name"] for call in calls] == [f"search/{number}" for number in [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]]
    assert calls[4] == calls[5]

    figures = {call["name"]: 1 - (math.log10(float(call["trainer.beta"])) + 2) ** 2 for call in calls}
    del figures["search/2"]  # failed
    best = max(figures, key=figures.get)
    assert capsys.readouterr().out.splitlines()[-1].startswith(best.removeprefix("search/") + " {'trainer.beta': ")
    exec(code, {})  # nothing is left to do
    assert len((tmp_path / "calls").read_text().splitlines()) == 11

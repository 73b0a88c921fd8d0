"""The wandb workspace: only figures and settings that runs have, the same each time, renewed and not made again."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vqr1.config import Config, as_dict
from vqr1.dashboard import BY, MEDIA_PANELS, SETS, dashboard, settings, spec, summary_key, workspace
from vqr1.errors import UserError
from vqr1.metric_names import MEDIA, METRICS, TIMINGS, as_regex, described

KEY = "a" * 40


class Server(ThreadingHTTPServer):
    """What of wandb's GraphQL the command asks, on loopback. ``views`` are those that it has been given, by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.views: dict[str, dict[str, Any]] = {}
        self.projects = {"me/vqr1"}
        self.key = KEY

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        if operation == "VqrView":
            if f"{given['entity']}/{given['project']}" not in self.projects:
                return {"project": None}
            found = [view for name, view in self.views.items() if name == given["view"]]
            return {"project": {"allViews": {"edges": [{"node": {"id": view["id"]}} for view in found]}}}
        if operation == "UpsertView2":
            # A view is renewed by its id; without one another is made, which a name alone does not prevent.
            name = given["name"] if "id" in given or given["name"] not in self.views else f"{given['name']}-again"
            self.views[name] = {**given, "id": given.get("id") or f"view-{len(self.views)}"}
            return {"upsertView": {"view": {"id": self.views[name]["id"], "name": name}, "inserted": "id" not in given}}
        viewer = {"id": "1", "username": "me", "entity": "me", "teams": {"edges": []}, "flags": "{}", "email": ""}
        return {"viewer": viewer, "serverInfo": {"features": []}}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"])[0]
        allowed = self.headers["Authorization"].endswith(b64encode(f"api:{self.server.key}".encode()).decode())
        body = json.dumps({"data": self.server.answer(operation, asked.get("variables") or {})} if allowed else {})
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""


@pytest.fixture
def as_user_of(monkeypatch, tmp_path) -> Iterator[Callable[[str], None]]:
    """Lets wandb have a key and a server, whose address is given."""
    import wandb

    def told(url: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("NETRC", raising=False)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # the settings of an earlier test

    yield told
    wandb.teardown()


@pytest.fixture
def server(as_user_of) -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True, args=(0.02,)).start()
        as_user_of(f"http://127.0.0.1:{made.server_port}")
        yield made
        made.shutdown()


def strings(node: Any) -> Iterator[tuple[str, str]]:
    """Every text in the spec, with the key that it is below."""
    if isinstance(node, dict):
        for key, value in node.items():
            for inner, text in strings(value):
                yield inner or key, text
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield "", node


def panels(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for part in made["spec"]["section"]["panelBankConfig"]["sections"] for panel in part["panels"]]


def test_every_figure_in_the_workspace_is_one_that_runs_log():
    made = panels(spec(workspace("me", "vqr1")))
    lines = [panel["config"] for panel in made if panel["viewType"] == "Run History Line Plot"]
    names = {name for line in lines for name in [*line["metrics"], line["xAxis"]]} - {"step"}
    assert {"train/reward", "train/reward_std", "policy/kl", "canary/logp_difference"} <= names
    known = {**METRICS, **TIMINGS}
    assert [name for name in names if described(name, known) is None] == []
    patterns = [re.compile(line["metricRegex"]) for line in lines if line.get("metricRegex")]
    matched = [
        [each for each in METRICS if pattern.search(each.replace("{set}", "demo_five_test"))] for pattern in patterns
    ]
    assert matched == [["eval/{set}/srcc"], ["eval/{set}/score_std"]]
    media = {key for panel in made if panel["viewType"] == "Media Browser" for key in panel["config"]["mediaKeys"]}
    assert media == set(MEDIA_PANELS.values())
    assert media <= set(MEDIA)


def test_every_summary_in_the_workspace_is_where_wandb_keeps_it():
    made = spec(workspace("me", "vqr1", ["kadid10k"], ["rollout.k", "trainer.beta", "reward.kind"]))
    keys = {text.removeprefix("summary:") for _, text in strings(made) if text.startswith("summary:")}
    assert keys == {"eval/kadid10k/srcc.max", "policy/kl", "train/reward"}
    for key in keys:
        name, _, best = key.partition(".")
        assert described(name, METRICS).best == (best or None)


def test_every_setting_in_the_workspace_is_one_that_runs_have():
    made = spec(workspace("me", "vqr1", by=["rollout.k", "trainer.beta", "reward.kind"]))
    found = {text.removeprefix("config:") for _, text in strings(made) if text.startswith("config:")}
    [runs] = made["spec"]["section"]["runSets"]
    grouped = [key["name"] for key in runs["grouping"]]
    assert grouped == ["rollout.value.k", "trainer.value.beta", "reward.value.kind"]
    assert found == {*grouped, "seed.value"}
    logged = as_dict(Config())
    logged["trainer"]["beta"] = 0.04  # from conf/trainer
    for key in found:
        first, value, *others = key.split(".")
        assert value == "value"  # around each setting of the first level
        node = logged[first]
        for word in others:
            node = node[word]


def test_settings_are_those_of_the_schema():
    assert {"seed", "rollout.k", "rollout.vllm.sleep", "trainer.beta", "trainer.images_per_step"} <= set(settings())
    assert "trainer" not in settings()


def test_as_many_runs_are_drawn_as_a_sweep_has():
    made = spec(workspace("me", "vqr1"))
    assert made["spec"]["section"]["settings"]["maxRuns"] == 50
    lines = [panel["config"] for panel in panels(made) if panel["viewType"] == "Run History Line Plot"]
    assert {(line["limit"], line["groupAgg"], line["groupArea"]) for line in lines} == {(50, "mean", "stddev")}


def test_the_view_reads_back_as_it_was_written():
    from wandb_workspaces.workspaces.interface import Workspace
    from wandb_workspaces.workspaces.internal import View

    made = workspace("me", "vqr1")
    text = made._to_model().model_dump_json(by_alias=True, exclude_none=True)
    assert spec(Workspace._from_model(View.model_validate_json(text))) == spec(made)


def test_printing_asks_nobody_and_repeats(capsys, monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    texts = []
    for _ in range(2):
        dashboard(["me/vqr1", "--print"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["entity"] == "me"


def test_drawing_names_leaves_the_random_state_alone():
    import random

    random.seed(3)
    expected = random.random()
    random.seed(3)
    workspace("me", "vqr1")
    assert random.random() == expected


def test_the_second_time_renews_what_the_first_has_made(server, capsys):
    dashboard(["me/vqr1"])
    assert capsys.readouterr().out.strip().endswith("/me/vqr1?nw=vqr1")
    first = dict(server.views["nw-vqr1-v"])
    dashboard(["me/vqr1", "--by", "rollout.k"])
    assert list(server.views) == ["nw-vqr1-v"]
    second = server.views["nw-vqr1-v"]
    assert (first["id"], first["type"], first["displayName"]) == (second["id"], "project-view", "vqr1")
    assert json.loads(first["spec"]) == spec(workspace("me", "vqr1"))["spec"]
    assert json.loads(second["spec"]) == spec(workspace("me", "vqr1", by=["rollout.k"]))["spec"]


def test_a_project_that_is_not_there_is_one_message(server):
    with pytest.raises(UserError, match=r"^wandb has no project me/vqr2, or does not show it to you; check both names"):
        dashboard(["me/vqr2"])
    assert server.views == {}


def test_a_wrong_key_is_one_message(server):
    server.key = "b" * 40
    with pytest.raises(UserError, match=r"^wandb did not take the workspace of me/vqr1 \(.*\); check the key"):
        dashboard(["me/vqr1"])


def test_a_missing_key_is_one_message(as_user_of, monkeypatch):
    as_user_of("http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match="^wandb has no key: run wandb login, or set WANDB_API_KEY"):
        dashboard(["me/vqr1"])


def test_a_server_that_is_no_address_is_one_message(as_user_of):
    as_user_of("api.wandb.ai")
    with pytest.raises(UserError, match=r"^WANDB_BASE_URL=api\.wandb\.ai is no address; give one such as https://"):
        dashboard(["me/vqr1"])


def test_a_server_that_never_answers_is_waited_for_briefly(as_user_of, monkeypatch):
    monkeypatch.setattr("vqr1.dashboard.SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        as_user_of(f"http://127.0.0.1:{hole.getsockname()[1]}")
        began = time.perf_counter()
        with pytest.raises(UserError, match=r"that the server \(WANDB_BASE_URL\) can be reached"):
            dashboard(["me/vqr1"])
        assert time.perf_counter() - began < 15


@pytest.mark.parametrize("text", ["vqr1", "me/", "/vqr1", "me/a/b", "me vqr1", "https://wandb.ai/me/vqr1", "me/v qr1"])
def test_what_is_no_entity_and_project_is_one_message(text):
    with pytest.raises(UserError, match="is no ENTITY/PROJECT: give your user or team at wandb"):
        dashboard([text, "--print"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rolout.k", r"--by rolout\.k: no setting of a run has this name; did you mean rollout\.k\?"),
        ("nothing.alike", r"--by nothing\.alike: .*vqr1 train --cfg job lists them"),
        (",", "--by names no setting"),
    ],
)
def test_settings_that_runs_do_not_have_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        dashboard(["me/vqr1", "--print", "--by", words])


def test_no_sets_is_refused():
    with pytest.raises(UserError, match="--sets names no set"):
        dashboard(["me/vqr1", "--print", "--sets", ","])


def test_defaults_are_what_the_demonstration_has():
    assert summary_key("eval/{set}/srcc", SETS[0]) == "eval/demo_five/srcc.max"
    assert set(BY) <= set(settings())
    assert as_regex("eval/{set}/srcc").fullmatch("eval/demo_five/srcc")

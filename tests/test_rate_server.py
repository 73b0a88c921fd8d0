"""A vLLM server that answers for ``vqr1 rate --server``: the same ratings, another model, garbage, a lost server."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.vllm_server import served
from vqr1.answer import build_prompt
from vqr1.answering import server as client
from vqr1.errors import UserError
from vqr1.exported import Exported, write_exported
from vqr1.policy.load import SHIPPED
from vqr1.rating import command
from vqr1.rating.rater import load_rater

BICUBIC = Image.Resampling.BICUBIC
DOCUMENT = Path(__file__).parents[1] / "docs" / "rating.md"
ASKED = str(build_prompt("paper")[0]["content"])
RNG = np.random.default_rng(0)
PICTURES = [
    Image.fromarray(RNG.integers(0, 256, (3 + i, 3 + i, 3), np.uint8)).resize((56 + 28 * i, 56), BICUBIC)
    for i in (0, 1)
]


@pytest.fixture(scope="module")
def local():
    return load_rater("tiny")


@pytest.fixture(scope="module")
def started(local):
    with served(local._answerer.policy, str(SHIPPED)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "PAUSE", 0.01)
        yield server


@pytest.fixture
def server(started):
    """It serves the tiny policy's own folder."""
    started.begin()
    return started


@pytest.fixture(scope="module")
def asking(started):
    started.begin()
    return load_rater(server=started.url + "/v1/")


def test_the_ratings_are_those_of_this_process(server, asking, local):
    assert asking.model.files() == []
    assert asking(PICTURES) == local(PICTURES)
    assert server.most == 2
    assert {request["temperature"] for request in server.asked} == {0.0}


def test_each_drawn_answer_has_its_seed(server):
    here = load_rater("tiny", k=2, seed=3, batch=1)(PICTURES[0])
    assert load_rater(server=server.url, k=2, seed=3)(PICTURES[0]) == here
    assert len({request["seed"] for request in server.asked}) == 2
    request = server.asked[0]
    assert (request["temperature"], request["n"], request["top_k"], request["top_p"]) == (1.0, 1, 0, 1.0)
    assert request["repetition_penalty"] == 1.0 and set(request["logit_bias"].values()) == {-100.0}


def without_weights(folder, prompt):
    """As an exported one that was copied without its weights."""
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    exported = Exported(prompt, 3136, 50176, 48, "float32", None, [0.6, 0.2, 0.2], 0, {})
    write_exported(folder, exported)
    return folder


def test_a_folder_without_weights_says_what_is_asked(server, tmp_path):
    folder = without_weights(tmp_path / "mine", ASKED)
    server.pages["/v1/models"]["data"][0]["root"] = "/models/mine"
    large = Image.new("RGB", (900, 700), "grey")
    rater = load_rater(folder, server=server.url)
    assert rater(large).answers == 1 and rater.shrunk == 1
    assert server.asked[0]["messages"][0]["content"][1]["text"] == ASKED
    with pytest.raises(UserError, match="holds no model"):
        load_rater(folder)


def test_the_commands_of_the_document_work(server, local, tmp_path, monkeypatch):
    words = re.findall(r"^    vqr1 rate (.*--server.*)$", DOCUMENT.read_text(), flags=re.MULTILINE)
    assert len(words) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    readable = next(each for each in PICTURES if local(each).status == "ok")
    readable.save("photos/one.png")
    server.pages["/v1/models"]["data"][0]["root"] = str(without_weights(tmp_path / "models" / "NAME", ASKED))
    for command_words in words:
        asked = re.sub(r"http://[a-z-]+:8000", server.url, command_words)
        assert command.run(shlex.split(asked)) == 0
    assert [request["temperature"] for request in server.asked] == [0.0] + [1.0] * 6
    assert (tmp_path / "scores.csv").is_file()


# Servers that are not asked


def change(served=None, **pages):
    def changed(server):
        server.pages["/v1/models"]["data"][0].update(served or {})
        server.pages |= {f"/{name.replace('_', '/')}": page for name, page in pages.items()}

    return changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change(v1_models=404), "/v1/models answers 404: is it vLLM's server.*vllm serve FOLDER"),
        (change(v1_models=401), "wants a key: set VLLM_API_KEY"),
        (change(v1_models="<html>"), "does not answer with JSON"),
        (change(v1_models={"data": []}), "is not what vLLM answers"),
        (change(v1_models=["x"]), "is not what vLLM answers"),
        (change(v1_models={"data": [{"id": "x"}]}), "is not what vLLM answers.*root"),
        (change(version=404), "/version answers 404"),
        (change({"root": "/models/other"}), "serves /models/other, and --model is"),
        (change({"max_model_len": 100}), "reads 100 tokens at most.*--max-model-len [0-9]+"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_before_the_first_picture(server, changed, message):
    changed(server)
    with pytest.raises(UserError, match=message):
        load_rater(SHIPPED, server=server.url)
    assert not server.asked


def test_another_folder_of_this_machine_is_another_model(server, policy_folder):
    with pytest.raises(UserError, match="--model is"):
        load_rater(policy_folder, server=server.url)


def test_a_server_elsewhere_needs_a_folder_here(server):
    server.pages["/v1/models"]["data"][0]["root"] = "/models/mine"
    with pytest.raises(UserError, match="serves /models/mine, which is no folder on this machine: give --model"):
        load_rater(server=server.url)


def test_addresses_settings_and_words(server):
    with pytest.raises(UserError, match="http://127.0.0.1:9 is not there .*refused"):
        load_rater(server="http://127.0.0.1:9")
    with pytest.raises(UserError, match="localhost:8000: give the address with http://"):
        load_rater(server="localhost:8000")
    with pytest.raises(UserError, match="engine has no effect with a server"):
        load_rater("tiny", server=server.url, engine="vllm")
    with pytest.raises(UserError, match="method=expected"):
        load_rater("tiny", server=server.url, method="expected")
    with pytest.raises(UserError, match="which model"):
        load_rater()
    with pytest.raises(UserError, match="which model.*--server"):
        command.run(["photo.jpg"])


def test_a_key_is_sent_along_and_a_proxy_is_not_asked_for_this_machine(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    load_rater(server=server.url)(PICTURES[0])
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    load_rater(server=server.url)(PICTURES[0])
    assert server.keys == [None, "Bearer secret"]


# Answers that are none


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"status": 400, "error": {"message": "too long"}}, "answers 400: too long"),
        ("no JSON", "answers what vLLM 0.26 and later do not.*no JSON"),
        ({"choices": []}, "prompt_token_ids"),
        ({"prompt_token_ids": [1, 2], "choices": [{"message": {"content": "5"}}]}, "token_ids"),
        ({"prompt_token_ids": [1, 2], "choices": [{"token_ids": [7]}]}, "vLLM read 2 tokens"),
        ({"prompt_token_ids": None, "choices": None}, "vLLM 0.26"),
    ],
)
def test_an_answer_that_is_none_is_an_error(server, asking, reply, message):
    server.fail = [dict(reply) if isinstance(reply, dict) else reply]
    with pytest.raises(UserError, match=message):
        asking(PICTURES[0])


def test_a_server_that_is_busy_is_asked_again(server, asking, local):
    server.fail = [503, 429, 500]
    assert asking(PICTURES[0]) == local(PICTURES[0])
    server.fail = [503] * 50
    with pytest.raises(UserError, match="answers 503"):
        asking(PICTURES[0])
    assert len(server.fail) == 50 - 1 - client.TRIES


def test_what_is_rated_before_a_server_is_lost_is_kept(server, local, tmp_path, capsys):
    for i in range(3):
        PICTURES[i % 2].rotate(180 * (i // 2)).save(tmp_path / f"{i}.png")
    target = tmp_path / "scores.csv"
    words = [str(tmp_path), "--server", server.url, "--csv", str(target), "--batch", "1"]
    server.fail = [None, *[503] * 50]
    with pytest.raises(UserError, match="answers 503"):
        command.run(words)
    assert len(server.asked) == 1 and not target.exists()
    server.fail = []
    expected = local([tmp_path / f"{i}.png" for i in range(3)])
    assert command.run(words) == (0 if all(each.status == "ok" for each in expected) else 1)
    assert len(server.asked) == 3
    said = capsys.readouterr().err
    assert f"asking {server.url}, which serves {SHIPPED}" in said and "going on: 1 of 3" in said
    with target.open() as file:
        written = [(row["score"], row["status"]) for row in csv.DictReader(file)]
    assert written == [("" if each.score is None else str(each.score), each.status) for each in expected]


def test_a_server_that_goes_away_between_answers_is_named_with_what_to_do(started, local):
    with served(local._answerer.policy, str(SHIPPED)) as server:
        rater = load_rater(server=server.url)
    with pytest.raises(UserError, match=f"{server.url} is lost .*refused.*, also after 5 tries.*same command"):
        rater(PICTURES)

"""A vLLM server that is down, late, another model's, another version's, or started without what training needs."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from vqr1.rollout import server
from vqr1.rollout.server import check_server

OURS = "0.31.0"


@pytest.fixture
def pages(tmp_path):
    """What a server that fits answers, by path; a test may take away or change."""
    return {
        "/health": "",
        "/version": {"version": OURS},
        "/v1/models": {"data": [{"id": "policy", "root": str(tmp_path)}]},
        "/server_info": {"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}}},
    }


@pytest.fixture
def address(pages, monkeypatch):
    monkeypatch.setattr(server, "installed_vllm", lambda: OURS)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path.partition("?")[0])
            self.send_response(404 if page is None else page if isinstance(page, int) else 200)
            self.end_headers()
            self.wfile.write(json.dumps(page).encode())

        def log_message(self, *_):
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def test_one_that_fits_passes(address, tmp_path):
    check_server(address, tmp_path, timeout=1)


def test_one_that_is_down_is_named_with_how_to_start_it(tmp_path):
    with pytest.raises(ValueError, match="http://127.0.0.1:9 is not there after 0 s.*launch/vllm_server.sh"):
        check_server("http://127.0.0.1:9", tmp_path, timeout=0.01)


def test_one_that_is_late_is_waited_for(address, pages, tmp_path):
    del pages["/health"]
    threading.Timer(0.5, lambda: pages.update({"/health": ""})).start()
    check_server(address, tmp_path, timeout=10)
    del pages["/health"]
    with pytest.raises(ValueError, match="it is not healthy yet"):
        check_server(address, tmp_path, timeout=0.1)


def test_one_that_serves_another_model_is_refused(address, pages, tmp_path):
    pages["/v1/models"]["data"][0]["root"] = "/models/other"
    with pytest.raises(ValueError, match=f"serves /models/other, and the policy is {tmp_path}"):
        check_server(address, tmp_path, timeout=1)


def hub_cache(root, name, revision="0123abc"):
    """A model as `hf download` leaves it in the hub's cache; gives its folder."""
    repository = root / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / revision
    folder.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return {name: hub_cache(tmp_path / "hub", name) for name in ("Maker/Rater-7B", "Maker/Rater-3B")}


def test_one_that_was_started_with_a_hub_id_serves_what_the_cache_has_of_it(address, pages, hub):
    from vqr1.policy.load import find_weights

    pages["/v1/models"]["data"][0]["root"] = "Maker/Rater-7B"
    check_server(address, find_weights("Maker/Rater-7B"), timeout=1, find=find_weights)
    check_server(address, hub["Maker/Rater-7B"], timeout=1, find=find_weights)  # policy.path is the folder


@pytest.mark.parametrize("root", ["Maker/Rater-3B", "Maker/Unknown", "tiny", "not a name/of a model"])
def test_a_hub_id_of_another_model_is_refused(address, pages, hub, root):
    from vqr1.policy.load import find_weights

    pages["/v1/models"]["data"][0]["root"] = root
    with pytest.raises(ValueError, match=f"serves {root}, and the policy is {hub['Maker/Rater-7B']}"):
        check_server(address, hub["Maker/Rater-7B"], timeout=1, find=find_weights)


def test_the_run_asks_for_the_policys_name(address, pages, hub, monkeypatch):
    from tests.support.choices import choices_for
    from vqr1.config import Config, PolicyConfig, RolloutConfig
    from vqr1.policy.load import find_weights
    from vqr1.rollout_settings import TrainingEngine, VllmSettings
    from vqr1.training import start_vllm

    pages["/v1/models"]["data"][0]["root"] = "Maker/Rater-7B"
    monkeypatch.setattr(start_vllm, "text_tokens", lambda *_: 100)
    served = RolloutConfig(engine=TrainingEngine.vllm_server, vllm=VllmSettings(server=address, server_timeout=1))

    def asked(policy: str) -> int | None:
        config = Config(policy=PolicyConfig(path=policy), rollout=served, trainer={})
        return start_vllm.check_engine(config, replace(choices_for(config), policy=find_weights(policy)), None)

    assert asked("Maker/Rater-7B")
    with pytest.raises(ValueError, match="serves Maker/Rater-7B"):
        asked("Maker/Rater-3B")


def test_another_version_is_refused_with_both(address, pages, tmp_path):
    pages["/version"]["version"] = "0.30.1"
    with pytest.raises(ValueError, match=r"runs vLLM 0\.30\.1, and here is 0\.31\.0"):
        check_server(address, tmp_path, timeout=1)


def test_one_without_development_pages_is_told_the_variable(address, pages, tmp_path):
    del pages["/server_info"]
    with pytest.raises(ValueError, match="with 404; start it with VLLM_SERVER_DEV_MODE=1"):
        check_server(address, tmp_path, timeout=1)


def test_one_that_fails_at_its_own_page_is_told_where_to_look(address, pages, tmp_path):
    """vLLM 0.31 answers /server_info with 500 where its environment has no pip."""
    pages["/server_info"] = 500
    with pytest.raises(ValueError, match="with 500; its own log says why; is pip installed in its environment"):
        check_server(address, tmp_path, timeout=1)


def test_probabilities_before_temperature_are_refused(address, pages, tmp_path):
    pages["/server_info"]["vllm_config"]["model_config"]["logprobs_mode"] = "raw_logprobs"
    with pytest.raises(ValueError, match="reports raw_logprobs: not the probabilities that it draws from"):
        check_server(address, tmp_path, timeout=1)

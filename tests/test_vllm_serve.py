"""``vqr1 rate --server`` and vLLM's own server, started on a CPU with an exported run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import requests
from PIL import Image

from tests.support.exports import lora_run
from vqr1.export.folder import Asked, export
from vqr1.rating.rater import load_rater

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]
SECONDS = 240  # for a start on a busy machine; 60 are usual

# As the card's line, where vLLM's package for CPUs has no command vllm, and with a cache as small as the policy.
WORDS = [
    *("-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32", "--max-model-len", "1024"),
    *("--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--host", "127.0.0.1", "--max-num-batched-tokens", "1024"),
    *("--max-num-seqs", "8", "--enforce-eager", "--no-enable-chunked-prefill"),
]
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture
def folder(tmp_path):
    run = lora_run(tmp_path / "runs" / "mine")
    export(Asked(str(run), tmp_path / "mine", max_tokens=48, check=False))
    return tmp_path / "mine"


@pytest.fixture
def url(folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, *WORDS, "--model", str(folder), "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            words, cwd=tmp_path, env={**os.environ, **SETTINGS}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + SECONDS
        while not ready(f"http://127.0.0.1:{port}/health"):
            said = (tmp_path / "server.log").read_text()[-3000:]
            assert server.poll() is None and time.monotonic() < until, said
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def ready(page: str) -> bool:
    try:
        return requests.get(page, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_the_server_answers_as_the_exported_weights_do_in_this_process(url, folder):
    rng = np.random.default_rng(0)
    sizes = [(56, 56), (84, 56), (56, 112), (900, 700)]  # the last one is over the limit
    pictures = [
        Image.fromarray(rng.integers(0, 256, (3 + i, 3 + i, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for i, size in enumerate(sizes)
    ]
    for asked in ({}, {"k": 2, "seed": 5}):
        here = load_rater(folder, engine="transformers", max_tokens=48, **asked)
        there = load_rater(server=url, max_tokens=48, **asked)
        ratings = there(pictures)
        assert there.shrunk == 1 and sum(each.tokens for each in ratings) > len(pictures)
        assert ratings == there(pictures[::-1])[::-1]
        assert ratings == here(pictures)  # float32, vLLM's noise of a seed on a CPU is this process's, and no tie

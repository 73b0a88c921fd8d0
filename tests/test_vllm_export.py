"""An exported run in vLLM alone, in a process that has no vqr1."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.exports import PROMPT, lora_run
from vqr1.answer import build_prompt
from vqr1.answering.model import find_model, load_model
from vqr1.answering.settings import AnswerSettings
from vqr1.export.check import WITHOUT, check_picture
from vqr1.export.folder import Asked, export
from vqr1.rollout.offline import Policy

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

# Without a GPU vLLM compiles nothing here, and has a cache as small as the policy.
ASK = """
import json
from PIL import Image
from vllm import LLM, SamplingParams
folder, prompt, reply, *photos = sys.argv[1:]
llm = LLM(folder, dtype="float32", max_model_len=1024, max_num_batched_tokens=1024, max_num_seqs=4,
          limit_mm_per_prompt={"image": 1, "video": 0}, enforce_eager=True, kv_cache_memory_bytes=1 << 28,
          enable_chunked_prefill=False)
asked = [[{"role": "user", "content": [{"type": "image_pil", "image_pil": Image.open(photo)},
                                       {"type": "text", "text": prompt}]}] for photo in photos]
said = llm.chat(asked, SamplingParams(temperature=0, max_tokens=48))
with open(reply, "w") as file:
    json.dump([[each.outputs[0].text, each.prompt_token_ids] for each in said], file)
"""


def test_it_answers_as_the_run_and_keeps_the_pixel_limits(tmp_path):
    run = lora_run(tmp_path / "runs" / "mine")
    export(Asked(str(run), tmp_path / "out", max_tokens=48, check=False))
    first = check_picture(3136, 50176)
    pictures = [first, first.rotate(180), first.resize((900, 700))]
    photos = []
    for i, picture in enumerate(pictures):
        photos.append(str(tmp_path / f"{i}.png"))
        picture.save(photos[-1])
    settings = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # fmt: skip
    words = [str(tmp_path / "out"), PROMPT, str(tmp_path / "reply.json"), *photos]
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT + ASK, *words],
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "reply.json").read_text())
    model, processor = load_model(find_model(AnswerSettings(model=str(run))))
    policy = Policy(model, processor, max_tokens=48, temperature=0.0)
    prompt = build_prompt(PROMPT)
    expected = policy.answer([{"prompt": prompt, "image": picture} for picture in pictures[:2]])
    assert [text for text, _ in said[:2]] == expected  # float32, and no tie in these answers
    places = said[2][1].count(processor.image_token_id)
    assert 40 < places <= 50176 // 28**2

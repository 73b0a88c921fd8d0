"""Which passes score answers: none that repeats what is known, and those without gradients in larger batches."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from PIL import Image
from trl import GRPOConfig

from tests.support.fake_engine import FakeEngine
from vqr1.answer import build_prompt
from vqr1.config import LoraSettings, PolicyConfig
from vqr1.policy import segments, windows
from vqr1.policy.load import TINY, drops_out, load_policy, load_processor, lora_config
from vqr1.policy.shared_prefix import Packing
from vqr1.rollout.engine import Drawn, RolloutError
from vqr1.rollout.synced import SyncedGeneration
from vqr1.training.build_trainer import scoring_answers, share_work
from vqr1.training.canary import LOGP_DIFFERENCE, RATIO, Canary, PassByPass, importance_ratio
from vqr1.training.run_log import LEFT_OUT
from vqr1.training.trainer import RankingTrainer

PICTURES, K = 4, 3
PASSES = 2  # of two pictures, to a generation and to an optimiser step
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


class Spoken(FakeEngine):
    """Says what a generator draws, about as probable as an untrained policy finds it, and counts what it is asked."""

    def __init__(self, off=0.0, after=0):
        self.off, self.after = off, after  # what it is wrong by, and after how many questions
        self.log, self.asked, self.settings = [], [], {}

    def load(self, weights):
        self.log.append("load")
        for _ in weights:
            pass

    def _answer(self, question, seed, sampling):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(60, 300, (int(torch.randint(2, 9, (), generator=generator)),), generator=generator)
        off = self.off if len(self.asked) > self.after else 0.0
        logps = (off - 6 + 0.3 * torch.randn(len(ids), generator=generator)).tolist()
        return Drawn(ids.tolist(), logps)


def letters(completions, **_):
    """A reward that tells answers apart."""
    return [float(sum(map(ord, completion[0]["content"])) % 7) for completion in completions]


def trainer_of(
    folder, policy_folder, engine=None, canary=None, dropout=None, packing=None, reference=False, **settings
):
    """A trainer whose answers an engine draws; with ``dropout``, of a LoRA adapter; one ``reference`` for all."""
    policy = PolicyConfig(path=str(policy_folder), **TINY)
    processor = load_processor(policy)
    rows = [
        {"image": Image.new("RGB", (56, 28 * (1 + i)), (60 * i, 90, 9)), "prompt": build_prompt("paper")}
        | {"image_id": f"p{i}"}
        for i in range(PICTURES)
    ]
    if reference:
        original = Image.new("RGB", (84, 56), (9, 99, 200))
        rows = [{**row, "images": [original, row["image"]], "prompt": build_prompt("reference")} for row in rows]
        rows = [{name: value for name, value in row.items() if name != "image"} for row in rows]
    fixed = {"per_device_train_batch_size": K * PICTURES // PASSES, "num_generations": K}
    asked = {"gradient_accumulation_steps": PASSES, "beta": 0.04, "loss_type": "grpo", "learning_rate": 1e-3}
    asked |= {"max_steps": 3, "vllm_importance_sampling_clip_max": 3.0, "max_completion_length": 12, **settings}
    trainer = RankingTrainer(
        model=load_policy(policy),
        reward_funcs=[letters],
        args=GRPOConfig(
            str(folder), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no", **fixed, **asked
        ),
        train_dataset=Dataset.from_list([{"row": i} for i in range(PICTURES)]).with_transform(
            lambda batch: {name: [rows[i][name] for i in batch["row"]] for name in rows[0]}
        ),
        processing_class=processor,
        peft_config=None if dropout is None else lora_config(LoraSettings(r=4, dropout=dropout)),
        cohorts=[i for _ in range(4 * PASSES) for i in range(PICTURES) for _ in range(K)],
        packing=packing or Packing(),
    )
    share_work(trainer, references=reference)
    generation = SyncedGeneration(
        model=trainer.model,
        accelerator=trainer.accelerator,
        processing_class=processor,
        start=lambda: engine or Spoken(),
        stop=[processor.tokenizer.eos_token_id],
        never=(),
        vision_trained=True,
        max_completion_length=12,
        temperature=1.0,
    )
    trainer.use(generation, canary or Canary(math.inf, stop=True, say=print))
    return trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, policy_folder):
    return trainer_of(tmp_path_factory.mktemp("run"), policy_folder)


def test_policy_and_reference_share_prompts_and_look_at_all_windows_at_once(trainer):
    for model in (trainer.model, trainer.ref_model):
        assert model.config.vision_config._attn_implementation == windows.NAME
        assert model.config.text_config._attn_implementation == segments.NAME


def examples(trainer):
    return [trainer.train_dataset[i] for i in range(PICTURES) for _ in range(K)]


def one_generation(trainer, known, monkeypatch):
    """Losses, gradients and figures of the passes over one generation, with or without TRL's pass of the old policy."""
    torch.manual_seed(3)
    trainer._step, trainer._buffered_inputs = 0, None
    trainer._metrics["train"].clear()
    trainer.current_gradient_accumulation_steps = PASSES
    trainer.model.zero_grad()
    with monkeypatch.context() as patch:
        patch.setattr(RankingTrainer, "old_policy_is_known", known)
        losses = [float(trainer.training_step(trainer.model, examples(trainer), None)) for _ in range(PASSES)]
    gradients = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}
    return losses, gradients, {name: list(values) for name, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("low", [None, 0.2])
def test_what_the_training_pass_knows_is_what_trls_pass_finds(trainer, monkeypatch, mode, low):
    monkeypatch.setattr(trainer, "vllm_importance_sampling_mode", mode)
    monkeypatch.setattr(trainer, "vllm_importance_sampling_clip_min", low)
    trls, trls_gradients, trls_figures = one_generation(trainer, False, monkeypatch)
    losses, gradients, figures = one_generation(trainer, True, monkeypatch)
    assert losses == pytest.approx(trls, rel=1e-5, abs=1e-7)
    norm = torch.cat([gradient.flatten() for gradient in trls_gradients.values()]).norm()
    assert norm > 0.01
    for name, gradient in trls_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * norm, name
    # The figures too, of the generation and of the passes; and the correction did something.
    assert not [name for name in set(trls_figures) - set(figures) if not LEFT_OUT.fullmatch(name)]
    for name in figures.keys() - {"step_time", "num_tokens"}:
        assert figures[name] == pytest.approx(trls_figures[name], rel=1e-5, abs=1e-6, nan_ok=True), name
    assert len(figures[RATIO]) == len(figures[LOGP_DIFFERENCE]) == 1
    assert abs(figures[RATIO][0] - 1) > 0.01 and figures[LOGP_DIFFERENCE][0] > 0.1


@pytest.mark.parametrize("packing", [Packing("mask"), Packing("segments"), None], ids=str)
def test_it_is_the_same_however_answers_are_laid_out(trainer, monkeypatch, packing):
    monkeypatch.setattr(trainer, "packing", packing)
    trls, _, trls_figures = one_generation(trainer, False, monkeypatch)
    losses, _, figures = one_generation(trainer, True, monkeypatch)
    assert losses == pytest.approx(trls, rel=1e-5, abs=1e-7)
    assert figures[RATIO] == pytest.approx(trls_figures[RATIO], rel=1e-5)


def test_beside_one_reference_it_is_what_trls_rows_give_and_the_reference_is_encoded_once(
    tmp_path, policy_folder, monkeypatch
):
    trainer, found, seen = trainer_of(tmp_path, policy_folder, reference=True), [], []
    trainer.model.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    rows = [trainer.train_dataset[i]["images"] for i in range(PICTURES)]
    cut = trainer.processor.image_processor
    reference, *patches = (len(cut([picture])["pixel_values"]) for picture in [rows[0][0], *(row[1] for row in rows)])
    for packing in (None, Packing("mask"), Packing("segments")):
        monkeypatch.setattr(trainer, "packing", packing)
        seen.clear()
        found.append(one_generation(trainer, False, monkeypatch))
        assert set(seen) <= {reference + sum(some) for n in range(1, 5) for some in combinations(patches, n)}
    questions = [question for asked in trainer.vllm_generation.engine.asked for question in asked]
    assert all(len(question.pictures) == 2 and question.k == K for question in questions)
    for losses, gradients, _ in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-5, abs=1e-7)
        norm = torch.cat([gradient.flatten() for gradient in found[0][1].values()]).norm()
        assert norm > 0.01
        assert all((gradients[name] - each).norm() <= 1e-5 * norm for name, each in found[0][1].items())


def passes_without_gradient(trainer, monkeypatch, **attributes):
    """Of policy and reference while a generation is scored, in answers."""
    seen = {"policy": [], "reference": []}
    score = RankingTrainer._score

    def counted(self, model, input_ids, *args, **kwargs):
        if not torch.is_grad_enabled():
            seen["policy" if model is trainer.model else "reference"].append(len(input_ids))
        return score(self, model, input_ids, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RankingTrainer, "_score", counted)
        for name, value in attributes.items():
            patch.setattr(trainer.args if hasattr(trainer.args, name) else trainer, name, value)
            patch.setattr(trainer, name, value, raising=False)
        torch.manual_seed(3)
        scored = trainer._generate_and_score_completions(examples(trainer))
    return seen, scored


def test_an_on_policy_generation_is_scored_by_the_reference_alone(trainer, monkeypatch):
    seen, scored = passes_without_gradient(trainer, monkeypatch)
    assert seen == {"policy": [], "reference": [PICTURES * K]}
    assert {"old_per_token_logps", "importance_sampling_ratio"}.isdisjoint(scored)
    assert "sampling_per_token_logps" in scored and trainer.vllm_importance_sampling_correction


@pytest.mark.parametrize(
    "settings",
    [{"num_iterations": 2}, {"steps_per_generation": 2 * PASSES}, {"gradient_accumulation_steps": 3}],
    ids=str,
)
def test_answers_that_are_used_twice_keep_trls_pass(trainer, monkeypatch, settings):
    """A later step than the first finds another policy than the one that drew them."""
    seen, scored = passes_without_gradient(trainer, monkeypatch, **settings)
    assert seen == {"policy": [PICTURES * K], "reference": [PICTURES * K]}
    assert {"old_per_token_logps", "importance_sampling_ratio"} <= set(scored)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_only_loras_dropout_keeps_trls_pass(tmp_path, policy_folder, monkeypatch, dropout):
    trainer = trainer_of(tmp_path, policy_folder, dropout=dropout, beta=0.0)
    seen, scored = passes_without_gradient(trainer, monkeypatch)
    assert len(seen["policy"]) == (dropout > 0) == ("importance_sampling_ratio" in scored)


def test_dropout_of_the_model_itself_is_seen(policy_folder):
    model = load_policy(PolicyConfig(path=str(policy_folder), **TINY))
    assert not drops_out(model)
    model.config.get_text_config().attention_dropout = 0.1
    assert drops_out(model)
    model.config.get_text_config().attention_dropout = 0.0
    assert not drops_out(get_peft_model(model, lora_config(LoraSettings(dropout=0.0))))


def weights_of(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("good", [0, 1])
def test_the_canary_stops_before_the_step_that_would_use_the_answers(tmp_path, policy_folder, monkeypatch, good):
    """After ``good`` steps the engine is wrong; the pass that shows it has no backward pass, the next step is none."""
    trainer = trainer_of(tmp_path, policy_folder, Spoken(off=9.0, after=good), Canary(3.0, stop=True, say=print))
    assert trainer.old_policy_is_known
    backward, kept = [], []

    def counted(loss, **kwargs):
        backward.append(trainer.state.global_step)
        kept[:] = [weights_of(trainer)]
        return backpropagate(loss, **kwargs)

    backpropagate = trainer.accelerator.backward
    monkeypatch.setattr(trainer.accelerator, "backward", counted)
    with pytest.raises(RolloutError, match=rf"after step {good}: canary/logp_difference is \d+\.\d+, over"):
        trainer.train()
    assert trainer.state.global_step == good
    assert backward == [0] * PASSES * good + [good] * (PASSES - 1)
    assert all(torch.equal(weight, kept[0][name]) for name, weight in weights_of(trainer).items())


def test_another_ranks_difference_stops_this_one(trainer, monkeypatch):
    """Every rank is told of the mean over all, and stops."""

    def with_another(rows):
        return torch.cat([rows, rows + torch.tensor([200.0, 0, 0, 0, 0])]) if rows.shape == (1, 5) else rows

    monkeypatch.setattr(trainer, "canary", Canary(1.0, stop=True, say=print))
    one_generation(trainer, True, monkeypatch)  # quiet alone
    monkeypatch.setattr(trainer.accelerator, "gather", with_another)
    with pytest.raises(RolloutError, match=r"canary/logp_difference is \d\.\d+, over"):
        one_generation(trainer, True, monkeypatch)
    trainer._compared = PassByPass()


def test_a_canary_that_may_only_warn_goes_on(trainer, monkeypatch):
    said = []
    monkeypatch.setattr(trainer, "canary", Canary(0.01, stop=False, say=said.append))
    for _ in range(2):
        one_generation(trainer, True, monkeypatch)
    assert len(said) == 1 and said[0].startswith("warning: after step 0")


def test_ratios_by_hand():
    drawn = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ours, theirs = torch.zeros(2, 3), torch.tensor([[-1.0, 1.0, 9.0], [math.nan, -2.0, -3.0]])
    batch = {"completion_mask": drawn, "sampling_per_token_logps": theirs}
    e = math.e

    def ratio(mode, low=None, high=4.0):
        return importance_ratio(ours, batch, mode, low, high).flatten().tolist()

    assert ratio("token_truncate") == pytest.approx([e, 1 / e, 1, 1, 4, 4])
    assert ratio("token_truncate", 0.5) == pytest.approx([e, 0.5, 1, 1, 4, 4])
    assert ratio("token_mask", 0.5) == pytest.approx([e, 0, 1, 1, 0, 0])
    assert ratio("sequence_truncate") == pytest.approx([1, 4])
    assert ratio("sequence_mask", None, None) == pytest.approx([1, e**5])


def test_parts_add_up_to_the_batch():
    """By hand: three of four tokens drawn in two passes; TRL's mean ratio is one of ranks' means."""
    watched = PassByPass()
    ours = torch.zeros(1, 2)
    for theirs, drawn, ratio in (([-1.0, -2.0], [1, 1], [2.0, 3.0]), ([-6.0, -9.0], [1, 0], [4.0, 1.0])):
        batch = {"completion_mask": torch.tensor([drawn]), "sampling_per_token_logps": torch.tensor([theirs])}
        watched.add(ours, batch, torch.tensor([ratio]))
    other = torch.tensor([[1.0, 1.0, 1.0, 5.0, 1.0]])
    difference, ratio = watched.take(lambda own: torch.cat([own, other]))
    assert difference == pytest.approx((10 / 4, 6)) and ratio == pytest.approx((9 / 3 + 5) / 2)
    batch = {"completion_mask": torch.zeros(1, 2), "sampling_per_token_logps": torch.zeros(1, 2)}
    watched.add(ours, batch, torch.ones(1, 2))
    assert watched.take(lambda own: own) == ((0, 0), 0)  # nothing of the batch before is left


@pytest.mark.parametrize("packing", [Packing("mask"), Packing("segments"), None], ids=str)
def test_the_reference_scores_alike_in_passes_of_any_size(trainer, monkeypatch, packing):
    monkeypatch.setattr(trainer, "packing", packing)
    calls, found = [], {}
    hook = trainer.ref_model.register_forward_pre_hook(lambda *_: calls.append(1))
    for size in (None, K, 2 * K, 100):
        _, scored = passes_without_gradient(trainer, monkeypatch, scoring_answers=size)
        found[size] = (len(calls), scored["ref_per_token_logps"])
        calls.clear()
    hook.remove()
    assert [count for count, _ in found.values()] == [PASSES, PICTURES, PICTURES // 2, 1]
    for _, logps in found.values():
        assert logps.abs().max() > 1 and torch.allclose(logps, found[100][1], rtol=0, atol=1e-5)


def test_by_default_a_scoring_pass_takes_no_more_memory_than_a_training_pass():
    """By hand, of Qwen2.5-VL 7B's sizes: W = 4 x 18944 + 6 x 3584 = 97280 numbers a token; 28 x 3584 = 100352."""
    text = SimpleNamespace(num_hidden_layers=28, hidden_size=3584, intermediate_size=18944)
    assert scoring_answers(8, text, checkpointing=True) == 24  # 8 x (100352 + 2 x 97280) / 97280 = 24.3
    assert scoring_answers(8, text, checkpointing=False) == 8 * 29

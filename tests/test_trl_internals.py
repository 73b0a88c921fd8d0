"""What vqr1 relies on of the private side of TRL and transformers, compared with the versions that are installed.

A failure here is no defect of the new version: it says which function of ours to read beside which of theirs. Once
ours is right again, record theirs anew, in this file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from trl import GRPOTrainer, SFTTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import utils

import vqr1
from vqr1.rollout.synced import SyncedGeneration
from vqr1.training.run_trainer import RunTrainer
from vqr1.training.supervised_trainer import LevelTrainer, SupervisedTrainer, WordTrainer
from vqr1.training.trainer import STEP_PARTS, RankingTrainer

PACKAGE = Path(vqr1.__file__).parent
TRAINER, RUN, SYNCED = "vqr1/training/trainer.py", "vqr1/training/run_trainer.py", "vqr1/rollout/synced.py"
SUPERVISED = "vqr1/training/supervised_trainer.py"
PRIVATE_SIDE = {PACKAGE.parent / file for file in (TRAINER, RUN, SUPERVISED, SYNCED)}


def parameters(function: Callable[..., Any]) -> str:
    """Names, stars and defaults, without annotations: those change nothing for a caller."""
    given = inspect.signature(function).parameters.values()
    return ", ".join(str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in given)


def code(function: Callable[..., Any]) -> str:
    """The source as Python reads it: comments, docstring, annotations and layout aside."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    tree.returns, tree.decorator_list = None, []
    for argument in ast.walk(tree.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if ast.get_docstring(tree) is not None:
        tree.body = tree.body[1:]
    return ast.unparse(tree)


def digest(function: Callable[..., Any]) -> str:
    """Of the source without blank lines and comment lines: the same for every version of Python."""
    lines = (line.strip() for line in inspect.getsource(function).splitlines())
    kept = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(kept.encode()).hexdigest()[:12]


def check_same(name: str, recorded: str, found: str, ours: str) -> None:
    assert found == recorded, (
        f"upstream's {name} is not what {ours} was written for. Read its new source beside ours, take over what "
        f"changed, run the tests of ours, and record it in {Path(__file__).name}.\nrecorded: {recorded}\nfound: {found}"
    )


# Upstream's function, its parameters, and what of ours calls or overrides it.
SIGNATURES: list[tuple[Callable[..., Any], str, str]] = [
    (GRPOTrainer._prepare_inputs, "self, generation_batch", "RankingTrainer._prepare_inputs"),
    (GRPOTrainer._compute_loss, "self, model, inputs", "RankingTrainer._compute_loss"),
    (GRPOTrainer._get_train_sampler, "self, dataset=None", "RunTrainer._get_train_sampler"),
    (
        GRPOTrainer._get_per_token_logps_and_entropies,
        "self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, "
        "compute_aux_loss=False, pixel_values=None, image_grid_thw=None, num_images=None, pixel_attention_mask=None, "
        "spatial_shapes=None, num_tiles=None, image_sizes=None, token_type_ids=None, mm_token_type_ids=None, "
        "image_position_ids=None",
        "RankingTrainer._get_per_token_logps_and_entropies and policy.shared_prefix.AnswerBatch.of_rows",
    ),
    (
        GRPOTrainer._generate_and_score_completions,
        "self, inputs",
        "RankingTrainer._generate_and_score_completions",
    ),
    (
        GRPOTrainer._generate_single_turn,
        "self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False",
        "RankingTrainer._generate_single_turn and .answer",
    ),
    (GRPOTrainer._tokenize_prompts, "self, prompts", "RankingTrainer.answer"),
    (GRPOTrainer._save_checkpoint, "self, model, trial", "RunTrainer._save_checkpoint"),
    (Trainer._get_output_dir, "self, trial", "RunTrainer._get_output_dir"),
    (
        GRPOTrainer._calculate_rewards,
        "self, inputs, prompts, completions, completion_ids_list",
        "RankingTrainer._calculate_rewards and training.trainer.STEP_PARTS",
    ),
    (SFTTrainer._save_checkpoint, "self, model, trial", "RunTrainer._save_checkpoint"),
    (
        SFTTrainer.compute_loss,
        "self, model, inputs, return_outputs=False, num_items_in_batch=None",
        "SupervisedTrainer.compute_loss",
    ),
    (Trainer._get_grad_norm, "self, model, grad_norm=None", "RunTrainer._get_grad_norm"),
    (Trainer.save_model, "self, output_dir=None, _internal_call=False", "RunTrainer.save_model"),
    (GRPOTrainer.training_step, "self, model, inputs, num_items_in_batch", "training.trainer.STEP_PARTS"),
    (Trainer.save_model, "self, output_dir=None, _internal_call=False", "RunTrainer.save_model"),
    (
        GRPOTrainer.create_model_card,
        "self, model_name=None, dataset_name=None, tags=None",
        "RunTrainer.create_model_card",
    ),
    (
        Trainer._load_from_checkpoint,
        "self, resume_from_checkpoint, model=None",
        "RunTrainer._load_from_checkpoint",
    ),
    (
        GRPOTrainer._load_optimizer_and_scheduler,
        "self, checkpoint",
        "RunTrainer._load_optimizer_and_scheduler",
    ),
    (
        Trainer._run_epoch,
        "self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch",
        "RunTrainer._run_epoch",
    ),
    (
        Trainer._get_dataloader,
        "self, dataset, description, batch_size, sampler_fn=None, is_training=False, dataloader_key=None",
        "RunTrainer._get_dataloader",
    ),
    (utils.split_tensor_dict, "tensor_dict, num_chunks", "RankingTrainer._prepare_inputs"),
    (prepare_multimodal_messages, "messages, images=None", "RankingTrainer.answer"),
    (VLLMGeneration._init_vllm, "self", "SyncedGeneration._init_vllm"),
    (VLLMGeneration._iter_named_params, "self", "SyncedGeneration._iter_named_params"),
    (VLLMGeneration._fix_param_name_to_vllm, "self, name, extra_prefixes=None", "SyncedGeneration._iter_named_params"),
    (VLLMGeneration._place_features, "self, features, prompt_ids", "SyncedGeneration._from_server"),
    (VLLMGeneration.sync_weights, "self", "SyncedGeneration.sync_weights"),
    (VLLMGeneration.generate, "self, prompts, images, num_generations, profiler=None", "SyncedGeneration.generate"),
    (
        Qwen2_5_VLModel.get_rope_index,
        "self, input_ids, mm_token_type_ids, image_grid_thw=None, video_grid_thw=None, second_per_grid_ts=None, "
        "attention_mask=None, **kwargs",
        "RankingTrainer._get_per_token_logps_and_entropies and policy.shared_prefix",
    ),
]


@pytest.mark.parametrize(("function", "recorded", "ours"), SIGNATURES, ids=lambda value: getattr(value, "__name__", ""))
def test_signatures_are_those_we_call_and_override(function, recorded, ours):
    check_same(f"{function.__qualname__}, its parameters,", recorded, parameters(function), ours)


def prepare_inputs(self, generation_batch):
    """TRL's, which RankingTrainer._prepare_inputs copies with another shuffle, and pictures that are split already."""
    mode = "train" if self.model.training else "eval"
    if mode == "train":
        generate_every = self.args.steps_per_generation * self.num_iterations
        if self._step % generate_every == 0 or self._buffered_inputs is None:
            generation_batch = self._generate_and_score_completions(generation_batch)
            generation_batch = split_pixel_values_by_grid(generation_batch)  # noqa: F821
            generation_batch = shuffle_sequence_dict(generation_batch)
            generation_batches = split_tensor_dict(generation_batch, self.args.steps_per_generation)  # noqa: F821
            self._buffered_inputs = [unsplit_pixel_values_by_grid(batch) for batch in generation_batches]  # noqa: F821
        inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]
    else:
        inputs = self._generate_and_score_completions(generation_batch)
    return inputs


def shuffle_sequence_dict(seq_dict):
    """TRL's, whose place groups.shuffled_groups takes."""
    batch_size = len(next(v for v in seq_dict.values() if v is not None))
    permutation = torch.randperm(batch_size)  # noqa: F821

    def permute(v: Sequence | None) -> Sequence | None:  # noqa: F821
        if v is None:
            return None
        if isinstance(v, torch.Tensor) and v.ndim == 0:  # noqa: F821
            return v
        if isinstance(v, torch.Tensor) and v.ndim >= 1:  # noqa: F821
            return v[permutation]
        return [v[i] for i in permutation]

    return {key: permute(val) for key, val in seq_dict.items()}


COPIED = [
    (GRPOTrainer._prepare_inputs, prepare_inputs, f"RankingTrainer._prepare_inputs ({TRAINER})"),
    (utils.shuffle_sequence_dict, shuffle_sequence_dict, "shuffled_groups (vqr1/training/groups.py)"),
]


@pytest.mark.parametrize(("function", "recorded", "ours"), COPIED, ids=lambda value: getattr(value, "__name__", ""))
def test_copied_bodies_are_the_ones_we_copied(function, recorded, ours):
    expected = code(recorded).replace(f"def {recorded.__name__}(", f"def {function.__name__}(", 1)
    check_same(function.__qualname__, expected, code(function), ours)


# Bodies that ours take the place of, in part or whole, without a copy.
REPLACED: list[tuple[Callable[..., Any], str, str]] = [
    (
        GRPOTrainer._get_per_token_logps_and_entropies,
        "ddcb878f6df4",
        f"RankingTrainer's ({TRAINER}) and policy/shared_prefix.py",
    ),
    (
        GRPOTrainer._generate_and_score_completions,
        "8ad618f3882b",
        f"RankingTrainer's ({TRAINER}) and canary.importance_ratio",
    ),
    (GRPOTrainer._compute_loss, "765e782ef258", f"RankingTrainer._compute_loss ({TRAINER})"),
    (SFTTrainer.compute_loss, "6f040d811203", f"SupervisedTrainer.compute_loss and .example_loss ({SUPERVISED})"),
    (GRPOTrainer._generate_single_turn, "e36de950c830", f"RankingTrainer.use, .answer and ._replay ({TRAINER})"),
    (GRPOTrainer._tokenize_prompts, "c5df2fec534b", f"RankingTrainer.answer ({TRAINER})"),
    (
        GRPOTrainer._get_train_sampler,
        "77de8ae531b5",
        f"RunTrainer._get_train_sampler ({RUN}) and CohortSampler",
    ),
    (Trainer._save_checkpoint, "31e1bf1ed595", f"RunTrainer._save_checkpoint ({RUN}), by where it writes"),
    (Trainer._load_from_checkpoint, "f636c6955d97", f"RunTrainer._load_from_checkpoint ({RUN})"),
    (VLLMGeneration.__init__, "e5eb87abe454", f"SyncedGeneration.__init__ ({SYNCED})"),
    (VLLMGeneration._init_vllm, "527bf43c37bf", f"SyncedGeneration._init_vllm ({SYNCED})"),
    (
        VLLMGeneration._iter_named_params,
        "519043b4d966",
        f"SyncedGeneration._iter_named_params and merged_weights ({SYNCED})",
    ),
    (VLLMGeneration.sync_weights, "34c6c4623d6f", f"SyncedGeneration.sync_weights ({SYNCED})"),
    (VLLMGeneration.generate, "48a5f77c578c", f"SyncedGeneration.generate, ._ask and ._from_server ({SYNCED})"),
]


@pytest.mark.parametrize(("function", "recorded", "ours"), REPLACED, ids=lambda value: getattr(value, "__name__", ""))
def test_replaced_bodies_are_the_ones_we_read(function, recorded, ours):
    check_same(f"{function.__qualname__}, by the hash of its source,", recorded, digest(function), ours)


@functools.cache
def names_in(*classes: type) -> set[str]:
    """Every attribute that the sources of these classes define or set on themselves."""
    found: set[str] = set()
    for each in classes:
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.add(node.name)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                found.add(node.attr)
    return found


# What is read or set, and where: no signature would say that it is gone.
TRAINER_ATTRIBUTES = {
    "model_accepts_loss_kwargs": "SupervisedTrainer.__init__",
    "_step": "_prepare_inputs",
    "_buffered_inputs": "_prepare_inputs",
    "_last_loaded_step": "use",
    "_metrics": "_generate_and_score_completions",
    "_tokenizer": "answer and _replay",
    "use_vllm": "use and answer",
    "vllm_mode": "use",
    "vllm_importance_sampling_correction": "_generate_and_score_completions and _compute_loss",
    "vllm_importance_sampling_mode": "_get_per_token_logps_and_entropies",
    "vllm_importance_sampling_clip_min": "_get_per_token_logps_and_entropies",
    "vllm_importance_sampling_clip_max": "_get_per_token_logps_and_entropies",
    "vllm_generation": "use and answer",
    "generation_config": "answer",
    "num_iterations": "_prepare_inputs and old_policy_is_known",
    "reward_weights": "_generate_and_score_completions",
    "multi_objective_aggregation": "_generate_and_score_completions",
    "model": "everywhere",
    "accelerator": "everywhere",
    "is_fsdp_enabled": "_load_from_checkpoint",
    "eos_token_ids": "start_vllm.use_vllm reads it",
    "ref_model": "build_trainer.share_work reads it",
    "current_gradient_accumulation_steps": "bench.train sets it",
}


@pytest.mark.parametrize("name", TRAINER_ATTRIBUTES)
def test_the_trainers_attributes_are_still_there(name):
    assert name in names_in(GRPOTrainer, Trainer), (
        f"the trainers of TRL and transformers set no {name} any more: find what took its place for "
        f"RankingTrainer ({TRAINER}), {TRAINER_ATTRIBUTES[name]}"
    )


@pytest.mark.parametrize("method", STEP_PARTS.values())
def test_the_parts_of_a_step_are_methods(method):
    assert callable(getattr(GRPOTrainer, method, None)), f"correct STEP_PARTS ({TRAINER}): no method {method} any more"


GENERATION_ATTRIBUTES = (
    "_dist",
    "_llm_weights_sleeping",
    "tp_group",
    "vllm_client",
    "model",
    "accelerator",
    "mode",
    "server_base_url",
    "tensor_parallel_size",
    "enable_sleep_mode",
    "temperature",
    "max_completion_length",
)


@pytest.mark.parametrize("name", GENERATION_ATTRIBUTES)
def test_vllm_generations_attributes_are_still_there(name):
    assert name in names_in(VLLMGeneration), (
        f"TRL's VLLMGeneration sets no {name} any more: find what took its place for SyncedGeneration ({SYNCED})"
    )


@pytest.mark.parametrize(
    ("ours", "upstream"),
    [
        (RunTrainer, (Trainer, GRPOTrainer, SFTTrainer)),
        (RankingTrainer, (GRPOTrainer, Trainer)),
        (SupervisedTrainer, (SFTTrainer, Trainer)),
        (WordTrainer, (SFTTrainer, Trainer)),
        (LevelTrainer, (SFTTrainer, Trainer)),
        (SyncedGeneration, (VLLMGeneration,)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_names_of_ours_are_not_upstreams(ours, upstream):
    """What we take an upstream name for on purpose is recorded above; any other name in common is a clash."""
    recorded = {function.__name__ for function, *_ in SIGNATURES} | {*TRAINER_ATTRIBUTES, *GENERATION_ATTRIBUTES}
    clash = (names_in(ours) & names_in(*upstream)) - recorded - {"__init__"}
    assert not clash, f"{ours.__name__} and {upstream} both have {clash}: rename ours, or record the override here"


def private_uses(source: str, theirs: set[str]) -> set[str]:
    """Private names among ``theirs`` that the source takes from something that is not its own ``self``, or quotes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in theirs:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.add(node.attr)
        elif isinstance(node, ast.Constant) and node.value in theirs:
            found.add(node.value)
    return found


def trls_private_names() -> set[str]:
    names = names_in(GRPOTrainer, SFTTrainer, Trainer, VLLMGeneration)
    names |= names_in(RunTrainer, RankingTrainer, SupervisedTrainer, WordTrainer, LevelTrainer, SyncedGeneration)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_only_these_files_touch_the_private_side():
    theirs = trls_private_names()
    found = {
        str(file.relative_to(PACKAGE)): uses
        for file in PACKAGE.rglob("*.py")
        if file not in PRIVATE_SIDE and (uses := private_uses(file.read_text(), theirs))
    }
    assert found == {}, (
        f"call a public method of a trainer of ours instead: {PRIVATE_SIDE} hold the private side of TRL"
    )


def test_a_private_use_would_be_found():
    theirs = trls_private_names()
    assert private_uses("trainer._save_checkpoint(m)", theirs) == {"_save_checkpoint"}
    assert private_uses("self._trainer._step + getattr(t, '_metrics')", theirs) == {"_step", "_metrics"}
    assert private_uses("self._step = 1", theirs) == set()


def test_a_changed_body_is_told_with_what_to_do():
    class Changed(GRPOTrainer):
        def _prepare_inputs(self, generation_batch):
            return self._generate_and_score_completions(generation_batch)

    with pytest.raises(AssertionError, match=r"Read its new source beside ours.*record it in test_trl_internals.py"):
        test_copied_bodies_are_the_ones_we_copied(Changed._prepare_inputs, prepare_inputs, "ours")
    with pytest.raises(AssertionError, match="ours was written for"):
        test_replaced_bodies_are_the_ones_we_read(Changed._prepare_inputs, digest(prepare_inputs), "ours")
    with pytest.raises(AssertionError, match="its parameters, is not what"):
        test_signatures_are_those_we_call_and_override(Changed.training_step, "self, model", "ours")


def test_the_recorded_texts_are_compared_without_layout():
    def one(a: int) -> int:
        """Words."""
        return a + 1  # a comment

    def other(a):
        return (
            a + 1
        )  # fmt: skip

    assert code(one).replace("one", "other") == code(other)

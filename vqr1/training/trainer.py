"""The trainer: GRPO over ranked pictures.

A step, as TRL's GRPOTrainer and this subclass of it run it; in brackets where each line is:

    pictures   = the next cohorts                                      # CohortSampler, by way of _get_train_sampler
    answers    = K answers of the policy to each picture               # _generate_single_turn
    reward     = quality of the answer among its rivals + its format   # vqr1.reward, by way of reward_funcs
    advantage  = (reward - mean of its K) / (std of its K + 1e-4), or  # _generate_and_score_completions
                 0 where all K rewards are equal
    for part in parts of the batch, whole pictures shuffled:           # _prepare_inputs
        logp, ref  = log-probabilities by policy and start policy      # _get_per_token_logps_and_entropies
        ratio      = exp(logp - logp when the answers were drawn)
        kl         = exp(ref - logp) - (ref - logp) - 1
        gain       = min(ratio * advantage, clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)
        loss       = mean over tokens, then answers, of beta * kl - gain   # _compute_loss
    the optimiser steps down the gradient of loss                      # transformers' Trainer

This subclass decides in which order pictures are visited, keeps the answers to a picture together and scores them
behind one copy of their prompt (vqr1.policy.shared_prefix), stops at a loss, gradient or weight that is no number
(vqr1.training.watches), replays answers from a script for tests, lets vLLM draw them (vqr1.rollout.synced), and answers
questions outside training with the current weights.

Upstream's private side. Every private method and attribute of TRL's and transformers' trainers that this package uses
is used here, and each use says what it relies on; other modules call the public methods of RankingTrainer. The only
other subclass of an upstream class with private methods is ``vqr1.rollout.synced.SyncedGeneration``, of TRL's
VLLMGeneration. ``tests/test_trl_internals.py`` compares all of it with the installed versions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate.utils import set_seed
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import split_tensor_dict

from vqr1.policy.load import base_model, drops_out
from vqr1.policy.read_once import OncePerPrompt, numbered, of_rows
from vqr1.policy.shared_prefix import AnswerBatch, Packing, log_probabilities
from vqr1.rollout.offline import pictures_of
from vqr1.rollout.synced import SyncedGeneration
from vqr1.training.canary import LARGEST, LOGP_DIFFERENCE, RATIO, Canary, PassByPass, importance_ratio, logp_difference
from vqr1.training.groups import FirstGroups, shuffled_groups
from vqr1.training.run_trainer import RunTrainer
from vqr1.training.watches import UnreadableWatch, equal_rewards

# What a step consists of, by the methods that it happens in, for measurements (vqr1.bench.step).
STEP_PARTS = {
    "pictures": "get_batch_samples",
    "training": "training_step",
    "preparation": "_prepare_inputs",
    "generation": "_generate_single_turn",
    "rewards": "_calculate_rewards",
    "scoring": "_get_per_token_logps_and_entropies",
}

# What a generation reports: the shares of answers that cannot be read (vqr1.reward) and that were cut (TRL).
UNREADABLE, CLIPPED = "rollout/unreadable", "completions/clipped_ratio"

# Answers as a pure function of (seed, image_id, k, step): what the k-th answer to a picture is at a step.
Script = Callable[[int, str, int, int], str]


class RankingTrainer(RunTrainer, GRPOTrainer):
    """GRPOTrainer over a :class:`vqr1.cohorts.CohortSampler`.

    ``packing`` says how prompts are shared; None leaves scoring to TRL, a whole row for each answer.
    ``skip_zero_advantages`` leaves out answers that no gradient comes from; the loss must have no other term.
    """

    canary: Canary | None = None  # of vLLM's probabilities
    scoring_answers: int | None = None  # in one pass without gradients; None: as many as in a training pass
    unreadable: UnreadableWatch | None = None
    groups: FirstGroups | None = None  # takes answers of every generation batch, to be looked at
    _buffered_inputs: Any  # TRL's: the parts of the generation batch in use, None before the first

    def __init__(
        self,
        *,
        processing_class: Any,
        cohorts: Iterable[int],
        script: Script | None = None,
        packing: Packing | None = None,
        skip_zero_advantages: bool = False,
        **kwargs: Any,
    ):
        self._script = script
        self.packing = packing
        self._skip_zero_advantages = skip_zero_advantages
        self._asked: Sequence[dict[str, Any]] = []
        self._compared = PassByPass()
        self._without_ratio: dict[str, Any] | None = None  # the micro-batch in a training pass that is to give it one
        self._rewards_RF: torch.Tensor | None = None  # of all ranks' answers, by function
        self.processor = OncePerPrompt.of(processing_class)
        super().__init__(order=cohorts, processing_class=self.processor, **kwargs)

    def use(self, generation: SyncedGeneration, canary: Canary | None) -> None:
        """Let vLLM draw the answers. TRL's own start of vLLM, which ``use_vllm`` would bring, is not used.

        Relies on: ``_generate_single_turn`` asks ``vllm_generation`` where ``use_vllm`` is set, and sends the weights
        first where the step is not ``_last_loaded_step``.
        """
        self.vllm_generation = generation
        self.vllm_mode = generation.mode
        self.use_vllm = True
        self._last_loaded_step = -1  # the weights go over before the first answer
        self.canary = canary
        set_seed(self.args.seed, device_specific=True)  # vLLM's start has set one of its own

    def answer(self, examples: Sequence[dict[str, Any]], temperature: float | None = None) -> list[str]:
        """One answer of the current policy to each example (``prompt``, ``image_id``, ``image`` or ``images``).

        Collective: every rank calls it, each with examples of its own. Draws from torch's global generator.

        Relies on: ``_tokenize_prompts`` gives what ``_generate_single_turn`` takes; the sampling temperature is read
        from ``vllm_generation`` or ``generation_config`` at every call.
        """
        self._asked = examples
        prompts = [prepare_multimodal_messages(e["prompt"], images=pictures_of(e)) for e in examples]
        prompt_ids, images, fields = self._tokenize_prompts(prompts)
        model = self.model
        assert model is not None
        sampler = self.vllm_generation if self.use_vllm else self.generation_config
        usual, was_training = sampler.temperature, model.training
        sampler.temperature = usual if temperature is None else temperature
        model.eval()
        try:
            completion_ids, _ = self._generate_single_turn(prompt_ids, images, fields, 1)
        finally:
            sampler.temperature = usual
            model.train(was_training)
        return self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)

    def score(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, (R, S) each, of the R answers of a micro-batch, as the loss takes them.

        ``batch`` has the fields of TRL's micro-batches: ``prompt_ids`` (R, P), ``completion_ids`` (R, S), their masks,
        and the pictures' ``pixel_values``, ``image_grid_thw``, ``num_images``, ``mm_token_type_ids``.
        """
        ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
        pictures = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
        logps, entropies, _ = self._get_per_token_logps_and_entropies(
            model, ids, mask, batch["completion_ids"].shape[1], compute_entropy=True, **pictures
        )
        assert entropies is not None
        return logps, entropies

    @property
    def old_policy_is_known(self) -> bool:
        """Whether a training pass gives an answer the log-probabilities of the policy that it was drawn from.

        It does where a generation batch is used for one optimiser step and no pass is random. TRL's separate pass of
        that policy, for the correction of vLLM's probabilities, would then repeat what is known a little later.
        """
        once = self.num_iterations == 1 and self.args.gradient_accumulation_steps % self.args.steps_per_generation == 0
        return once and not drops_out(self.accelerator.unwrap_model(self.model))

    # From here on: methods of TRL's and transformers' trainers, changed.

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's, but for the shuffle: it moves pictures with all their answers, however these are scored.

        A part's ``pixel_values`` is a list: for each answer its picture, one tensor for all answers to it.

        Relies on: TRL's body is the one that is copied here; ``_step`` counts micro-batches from 0, and
        ``_buffered_inputs`` is None until the first generation of a process.
        """
        assert self.model is not None
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        passes = self.args.steps_per_generation
        if self._step % (passes * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch: Any = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(shuffled_groups(batch, self.args.num_generations), passes)
        return self._buffered_inputs[self._step % passes]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's, of the answers that teach something where ``skip_zero_advantages`` asks for it.

        A batch without importance ratios (``old_policy_is_known``) gets them here; after its last pass the canary hears
        of it, before the backward pass: DeepSpeed's is its optimiser's step as well. Raises what the canary raises, and
        NonFiniteError on every rank where one has a loss that is infinite or NaN.
        Relies on: a token outside ``completion_mask`` enters no sum, and ``advantages`` is (R,); the log-probabilities
        are asked for once, before ``importance_sampling_ratio`` is read; without ``old_per_token_logps`` they stand for
        the old policy's too; ``_step`` counts micro-batches from 0.
        """
        pictures = inputs.get("image_id", [])
        if self._skip_zero_advantages:
            learnt_from = (inputs["advantages"] != 0)[:, None]
            inputs = {**inputs, "completion_mask": inputs["completion_mask"] * learnt_from}
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        compares = corrects and "importance_sampling_ratio" not in inputs
        if compares:
            inputs = self._without_ratio = {**inputs}
        loss = super()._compute_loss(model, inputs)
        if compares and (self._step + 1) % self.args.steps_per_generation == 0:
            difference, ratio = self._compared.take(self.accelerator.gather)
            self._metrics["train"][RATIO].append(ratio)
            self._watch(*difference)
        self.refuse_lost_loss(loss, pictures)
        return loss

    def _watch(self, difference: float, largest: float) -> None:
        """Log the mean and the largest difference from vLLM's log-probabilities, and tell the canary of the mean."""
        if self.canary is not None:
            self._metrics["train"][LARGEST].append(largest)
            self._metrics["train"][LOGP_DIFFERENCE].append(difference)
            self.canary(self.state.global_step, difference)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """What policy, old policy and reference give the answers; TRL's result by way of shared prompts.

        Relies on: TRL calls it for all three, the answers in the last ``logits_to_keep`` columns, and gives a
        ``batch_size`` in the passes without gradients alone; TRL's constructor has given the model the fused head that
        ``log_probabilities`` uses; the third result, a mixture-of-experts model's loss, is None for a Qwen2.5-VL.
        """
        if "picture" in fields:  # as the processor made them, before they are shuffled
            pictures, grid = fields["pixel_values"], fields["image_grid_thw"]
            fields["pixel_values"] = of_rows(pictures, grid, fields.pop("picture").tolist())
        unfinished, self._without_ratio = self._without_ratio, None
        size = batch_size and (self.scoring_answers or batch_size)
        found = self._score(model, input_ids, attention_mask, logits_to_keep, size, compute_entropy, **fields)
        if unfinished is not None:
            bounds = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
            ratio = importance_ratio(found[0].detach(), unfinished, self.vllm_importance_sampling_mode, *bounds)
            unfinished["importance_sampling_ratio"] = ratio
            self._compared.add(found[0].detach(), unfinished, ratio)
        return *found, None

    def _score(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int, size: int | None, entropy: bool, **more: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and entropies by TRL's rows or by shared prompts."""
        if self.packing is None:
            pixels = more["pixel_values"]
            more["pixel_values"] = pixels if isinstance(pixels, torch.Tensor) else torch.cat(pixels)
            more["image_grid_thw"] = more["image_grid_thw"].view(-1, 3)
            return super()._get_per_token_logps_and_entropies(model, ids, mask, kept, size, entropy, **more)[:2]
        batch = AnswerBatch.of_rows(ids, mask, kept, **more)
        positions = base_model(self.accelerator.unwrap_model(model)).model.get_rope_index
        # Passes of whole groups, as many on every rank: sharded models wait for each other.
        k = self.args.num_generations
        parts = batch.parts(math.ceil((size or len(ids)) / k) * k)
        with self.accelerator.autocast():
            found = [log_probabilities(model, part, positions, self.packing) for part in parts]
        logps, entropies = zip(*found, strict=True)
        return torch.cat(logps), torch.cat(entropies) if entropy else None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, watched, and without advantages where a picture's answers all earn the same.

        Without its pass of the old policy where the training passes give the same (``old_policy_is_known``).
        Relies on: ``_metrics["train"]`` is a list per name, averaged for the log; ``advantages`` (R,) are this rank's;
        lists beside the tensors are cut and shuffled with them; where an optimiser step uses up the batch, that pass
        and what is made of it depend on ``vllm_importance_sampling_correction``, ``sampling_per_token_logps`` does not.
        """
        assert self.model is not None
        self._asked = inputs
        if self.unreadable is not None:
            self.unreadable.before(self.state.global_step)
        correction = self.vllm_importance_sampling_correction
        if self.model.training and self.old_policy_is_known:
            self.vllm_importance_sampling_correction = False
        try:
            scored = super()._generate_and_score_completions(inputs)
        finally:
            self.vllm_importance_sampling_correction = correction
        assert self._rewards_RF is not None
        weights_F = self.reward_weights.to(self._rewards_RF.device)
        equal_R = equal_rewards(
            self._rewards_RF,
            weights_F,
            self.args.num_generations,
            one_by_one=self.multi_objective_aggregation == "normalize_then_sum",
        )
        first = self.accelerator.process_index * len(inputs)
        scored["advantages"] = scored["advantages"].masked_fill(equal_R[first : first + len(inputs)], 0.0)
        if self.groups is not None:
            reward_R = (self._rewards_RF * weights_F).nansum(1)[first:]
            self.groups.take(inputs, scored["completion_ids"], reward_R, scored["advantages"])
        scored["image_id"] = [example["image_id"] for example in inputs]
        _, number = numbered([tuple(map(id, pictures_of(example))) for example in inputs])
        scored["image_grid_thw"] = scored["image_grid_thw"].view(len(inputs), -1, 3)  # by answer, to be shuffled
        scored["pixel_values"] = of_rows(scored["pixel_values"], scored["image_grid_thw"], number)
        if self.unreadable is not None:
            unreadable, clipped = (self._metrics["train"][name][-1] for name in (UNREADABLE, CLIPPED))
            self.unreadable.after(self.state.global_step, unreadable, clipped, self.args.mask_truncated_completions)
        if "importance_sampling_ratio" in scored:  # else the training passes will give it
            self._watch(*logp_difference(scored, self.accelerator.gather))
        return scored

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's, kept. Relies on: of the answers of all ranks in their order, NaN where a function gives None."""
        self._rewards_RF = super()._calculate_rewards(*args, **kwargs)
        return self._rewards_RF

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, timed, or the script's answers. Relies on: returns token ids and their log-probabilities or None."""
        self.refuse_lost_weights()
        began = time.perf_counter()
        generated = self._replay() if self._script else super()._generate_single_turn(*args, **kwargs)
        self.generation_seconds += time.perf_counter() - began
        return generated

    def _replay(self) -> tuple[list[list[int]], None]:
        """The script's answers to the examples at hand, as TRL's generation would give them: cut where they are long.

        Relies on: ``_tokenizer`` is the text tokenizer of the processor.
        """
        assert self._script is not None
        texts: list[str] = []
        seen: dict[str, int] = {}
        for example in self._asked:
            name = example["image_id"]
            k = seen[name] = seen.get(name, -1) + 1
            texts.append(self._script(self.args.seed, name, k, self.state.global_step))
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        longest = self.args.max_completion_length
        return [[*answer[:longest], self._tokenizer.eos_token_id][:longest] for answer in ids], None

"""The trainer: GRPO with our order of pictures, and answers on request.

The algorithm is TRL's GRPOTrainer: K answers to each picture are drawn from the current policy, each is rewarded
(vqr1.reward), rewards are standardised within the K answers of a picture, and the policy climbs the clipped objective
under a KL penalty to the policy it started from. This subclass only decides in which order pictures are visited, lets
tests replay answers from a script, lets vLLM draw them (vqr1.rollout.synced), and answers questions outside training
with the current weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accelerate.utils import is_peft_model, set_seed
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from vqr1.rollout.synced import SyncedGeneration
from vqr1.training.canary import LOGP_DIFFERENCE, Canary

# Answers as a pure function of (seed, image_id, k, step): what the k-th answer to a picture is at a step.
Script = Callable[[int, str, int, int], str]


class RankingTrainer(GRPOTrainer):
    """GRPOTrainer over a :class:`vqr1.cohorts.CohortSampler`."""

    canary: Canary | None = None  # of vLLM's probabilities

    def __init__(self, *args: Any, cohorts: Iterable[int], script: Script | None = None, **kwargs: Any):
        self._cohorts = cohorts
        self._script = script
        self._asked: Sequence[dict[str, Any]] = []
        self.generation_seconds = 0.0  # spent so far
        super().__init__(*args, **kwargs)

    def use(self, generation: SyncedGeneration, canary: Canary | None) -> None:
        """Let vLLM draw the answers. TRL's own start of vLLM, which ``use_vllm`` would bring, is not used."""
        self.vllm_generation = generation
        self.vllm_mode = generation.mode
        self.use_vllm = True
        self._last_loaded_step = -1  # the weights go over before the first answer
        self.canary = canary
        set_seed(self.args.seed, device_specific=True)  # vLLM's start has set one of its own

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights of a checkpoint, by the way that reads what ``save_pretrained`` wrote.

        transformers 5.17 saves a Qwen2.5-VL under the hub's names and resumes with the module's: no name fits, it warns
        and trains on from the start policy's weights.
        """
        if is_peft_model(self.model) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        own: Any = self.model
        stored = type(own).from_pretrained(resume_from_checkpoint, dtype=own.dtype)
        own.load_state_dict(stored.state_dict())

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return self._cohorts

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._asked = inputs
        scored = super()._generate_and_score_completions(inputs)
        if self.canary is not None:
            self.canary(self.state.global_step, self._metrics["train"][LOGP_DIFFERENCE][-1])
        return scored

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        generated = self._replay() if self._script else super()._generate_single_turn(*args, **kwargs)
        self.generation_seconds += time.perf_counter() - began
        return generated

    def _replay(self) -> tuple[list[list[int]], None]:
        """The script's answers to the examples at hand, as TRL's generation would give them."""
        assert self._script is not None
        texts: list[str] = []
        seen: dict[str, int] = {}
        for example in self._asked:
            name = example["image_id"]
            k = seen[name] = seen.get(name, -1) + 1
            texts.append(self._script(self.args.seed, name, k, self.state.global_step))
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [[*answer, self._tokenizer.eos_token_id] for answer in ids], None

    def answer(self, examples: Sequence[dict[str, Any]], temperature: float | None = None) -> list[str]:
        """One answer of the current policy to each example (``image``, ``prompt``, ``image_id``), in order.

        Collective: every rank calls it, each with examples of its own. Draws from torch's global generator.
        """
        self._asked = examples
        prompts = [prepare_multimodal_messages(e["prompt"], images=[e["image"]]) for e in examples]
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

"""Trainers of answers that are shown, not drawn: TRL's SFTTrainer in a run.

A step, of prompts whose answers :mod:`vqr1.training.level_examples` or :mod:`vqr1.training.shown_examples` wrote:

    one answer    loss = -mean over the step's tokens of log P(token | prompt, tokens before)            # TRL's
    soft labels   log P(word) of all five words, behind one copy of picture and question                   # _soft_loss
                  loss = level_weight * cross-entropy of the soft label + text_weight * -log P(other words)
                         + pair_weight * fidelity loss of the pairs of pictures of one set
    the optimiser steps down the gradient of loss                                               # transformers' Trainer

Upstream's private side that both trainers of a run share is in :mod:`vqr1.training.run_trainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from trl import SFTTrainer

from vqr1.config import LevelsConfig
from vqr1.policy.level_scores import LevelAnswers, branched, level_log_probabilities
from vqr1.policy.load import base_model
from vqr1.policy.read_once import OncePerPrompt
from vqr1.policy.shared_prefix import Packing, log_probabilities
from vqr1.rollout.offline import encode_prompts
from vqr1.training.level_losses import expected_level, pair_loss, soft_label_loss
from vqr1.training.run_trainer import RunTrainer

# The parts of the loss of soft labels, as they are logged below "levels/"; in the order of their weights.
LEVEL_LOSSES = ("cross_entropy", "text", "pair")


def loss_weights(levels: LevelsConfig) -> dict[str, float]:
    """The weight of each part of the loss of soft labels that has one above 0."""
    weights = levels.level_weight, levels.text_weight, levels.pair_weight
    return {name: weight for name, weight in zip(LEVEL_LOSSES, weights, strict=True) if weight}


class SupervisedTrainer(RunTrainer, SFTTrainer):
    """SFTTrainer whose batches name their pictures (``image_id``), so that a loss that is no number does too."""

    def __init__(self, **kwargs: Any):
        """SFTTrainer's, with a step's tokens counted over all its passes, so that each counts alike.

        Relies on: where ``model_accepts_loss_kwargs`` Trainer counts the labels of a step's passes, and leaves dividing
        by their number to the loss, which is TRL's own. Qwen2.5-VL says it does not, of the loss of its own forward.
        """
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's, watched. Raises NonFiniteError on every rank where one has a loss that is infinite or NaN.

        Relies on: called once for every forward pass in training, before its backward pass; ``return_outputs`` is for
        TRL's own evaluation, which runs do not use.
        """
        assert not return_outputs
        pictures = inputs.pop("image_id")
        loss = self.example_loss(model, inputs, num_items_in_batch)
        self.refuse_lost_loss(loss, pictures)
        return loss

    def example_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        """TRL's: the mean over the step's tokens of their negative log-probability."""
        return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)


class WordTrainer(SupervisedTrainer):
    """Teaches answers, and reads the probabilities of the words that some of them hold.

    ``answers``: those with the words, in the policy's tokens; ``collator`` makes of the processor what makes batches.
    """

    def __init__(self, *, processing_class: Any, answers: LevelAnswers, collator: Callable[[Any], Any], **kwargs: Any):
        self._answers = answers
        self._packing = Packing()
        self.processor = OncePerPrompt.of(processing_class)
        super().__init__(processing_class=self.processor, data_collator=collator(self.processor), **kwargs)

    @torch.no_grad()
    def word_log_probabilities(self, examples: Sequence[dict[str, Any]]) -> list[list[float]]:
        """log P(word) of each word for each example, by the current weights. Collective.

        ``examples``: as vqr1.rollout.offline.encode_prompts takes them, each with as many pictures.
        """
        model = self.model
        assert model is not None
        inputs = encode_prompts(self.processor, examples).to(self.accelerator.device)
        was_training = model.training
        model.eval()
        try:
            with self.accelerator.autocast():
                found = level_log_probabilities(model, inputs, self._answers, self._positions, self._packing)
        finally:
            model.train(was_training)
        return found.double().tolist()

    @property
    def _positions(self) -> Any:
        return base_model(self.accelerator.unwrap_model(self.model)).model.get_rope_index


class LevelTrainer(WordTrainer):
    """Teaches the levels' words and reads them; batches are of vqr1.training.level_examples."""

    def __init__(self, *, levels: LevelsConfig, **kwargs: Any):
        self._levels = levels
        super().__init__(**kwargs)

    def level_log_probabilities(
        self, prompt: list[dict[str, str]], pictures: Sequence[Image.Image]
    ) -> list[list[float]]:
        """log P(word) of the five words for each picture, by the current weights. Collective."""
        return self.word_log_probabilities([{"image": picture, "prompt": prompt} for picture in pictures])

    def example_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        """Of hard labels TRL's, of soft ones as the module's docstring has it.

        Relies on: without ``labels`` in the batch ``num_items_in_batch`` is None, and Trainer divides the loss by the
        passes of a step; ``_metrics["train"]`` is a list per name, averaged for the log.
        """
        if "soft_label" not in inputs:
            return super().example_loss(model, inputs, num_items_in_batch)
        assert num_items_in_batch is None
        label_BW, mos_B, std_B, set_B = (inputs.pop(name) for name in ("soft_label", "mos", "mos_std", "dataset"))
        batch = branched(inputs, self._answers.answers)
        log_RS, _ = log_probabilities(model, batch, self._positions, self._packing)
        log_BW, text_B = self._split(log_RS, label_BW)
        settings = self._levels
        parts = {
            "cross_entropy": soft_label_loss(log_BW, label_BW, closed=settings.closed_set),
            "text": -text_B.mean(),
            "pair": pair_loss(expected_level(log_BW), mos_B, std_B, dataset_B=set_B),
        }
        weights = loss_weights(settings)
        self._note({f"levels/{name}": parts[name] for name in weights})
        return torch.stack([weight * parts[name] for name, weight in weights.items()]).sum()

    def _split(self, log_RS: torch.Tensor, label_BW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log P of each picture's words, (B, W), and the mean log-probability of the answer's other tokens, (B,).

        The others are those of the answer with the likeliest word of the label.
        """
        answers = self._answers
        begin = len(answers.opening)
        log_BWS = log_RS.view(len(label_BW), len(answers.words), -1)
        words = [log_BWS[:, w, begin : begin + len(word)].sum(1) for w, word in enumerate(answers.words)]
        texts = []
        for log_WS, likeliest in zip(log_BWS, label_BW.argmax(1).tolist(), strict=True):
            own, end = log_WS[likeliest, : len(answers.answers[likeliest])], begin + len(answers.words[likeliest])
            texts.append(torch.cat([own[:begin], own[end:]]).mean())
        return torch.stack(words, 1), torch.stack(texts)

    def _note(self, values: Mapping[str, torch.Tensor]) -> None:
        """Log the mean over ranks and passes."""
        for name, value in values.items():
            mean = self.accelerator.gather(value.detach().float().reshape(1)).mean().item()
            self._metrics["train"][name].append(mean)

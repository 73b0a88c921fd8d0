"""An engine that is not vLLM: a model of its own under transformers, with weights that are as old as the last sync."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from vqr1.rollout.engine import Drawn, Question, Sampling
from vqr1.rollout.vllm_engine import check_limits


class FakeEngine:
    """Keeps what was asked of it in ``log``, one word each, and the questions in ``asked``."""

    def __init__(self, path: Path, processor: Any = None, **settings: Any):
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(path), dtype="float32").eval()
        self.processor = processor or AutoProcessor.from_pretrained(str(path), padding_side="left")
        self.settings = settings
        self.log: list[str] = []
        self.asked: list[list[Question]] = []

    def ask(self, questions: Sequence[Question], sampling: Sampling) -> list[list[Drawn]]:
        self.log.append("ask")
        self.asked.append(list(questions))
        for question in questions:
            for picture in question.pictures if "limits" in self.settings else ():
                check_limits(picture, *self.settings["limits"])
            assert len(question.pictures) <= self.settings.get("pictures", len(question.pictures))
        return [self._answers(question, sampling) for question in questions]

    def _answers(self, question: Question, sampling: Sampling) -> list[Drawn]:
        return [self._answer(question, question.seed + k, sampling) for k in range(question.k)]

    @torch.inference_mode()
    def _answer(self, question: Question, seed: int, sampling: Sampling) -> Drawn:
        ids = torch.tensor([question.ids])
        sampled = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == self.processor.image_token_id).int(),
                **self.processor.image_processor(question.pictures, return_tensors="pt"),
                **(sampled if sampling.temperature else {"do_sample": False}),
                max_new_tokens=sampling.max_tokens,
                eos_token_id=list(sampling.stop),
                suppress_tokens=list(sampling.never),
                output_scores=True,
                return_dict_in_generate=True,
            )
        tokens = made.sequences[0, len(question.ids) :].tolist()
        logps = [scores[0].log_softmax(-1)[token] for scores, token in zip(made.scores, tokens, strict=True)]
        return Drawn(tokens, [float(logp) for logp in logps])

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.log.append("load")
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weight in weights:
                own[name].copy_(weight)

    def load_adapter(self, folder: Path) -> None:
        self.log.append("load adapter")
        self.adapter = {file.name for file in folder.iterdir()}

    def forget(self, pictures: bool) -> None:
        self.log.append("forget pictures" if pictures else "forget prompts")

    def sleep(self) -> None:
        self.log.append("sleep")

    def wake(self, part: str) -> None:
        self.log.append(f"wake {part}")

    def image_processor(self) -> Any:
        return self.processor.image_processor

"""An engine that is not vLLM: a model of its own under transformers, with weights that are as old as the last sync."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from vqr1.rollout.engine import Drawn, Question, Sampling


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
        return [self._answers(question, sampling) for question in questions]

    def _answers(self, question: Question, sampling: Sampling) -> list[Drawn]:
        pixels = self.processor.image_processor([question.picture], return_tensors="pt")
        ids = torch.tensor([question.ids])
        return [self._answer(ids, pixels, question.seed + k, sampling) for k in range(question.k)]

    @torch.inference_mode()
    def _answer(self, ids: torch.Tensor, pixels: Any, seed: int, sampling: Sampling) -> Drawn:
        generator = torch.Generator().manual_seed(seed)
        start, drawn, logps = ids.shape[1], [], []
        for _ in range(sampling.max_tokens):
            kinds = (ids == self.processor.image_token_id).int()
            logits = self.model(input_ids=ids, mm_token_type_ids=kinds, **pixels).logits[0, -1]
            logits[list(sampling.never)] = -100.0
            logp = torch.log_softmax(logits / (sampling.temperature or 1.0), dim=-1)
            greedy = sampling.temperature == 0
            token = logp.argmax() if greedy else torch.multinomial(logp.exp(), 1, generator=generator)[0]
            drawn.append(int(token))
            logps.append(float(logp[token]))
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
            if int(token) in sampling.stop:
                break
        assert ids.shape[1] == start + len(drawn)
        return Drawn(drawn, logps)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.log.append("load")
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weight in weights:
                own[name].copy_(weight)

    def forget(self, pictures: bool) -> None:
        self.log.append("forget pictures" if pictures else "forget prompts")

    def sleep(self) -> None:
        self.log.append("sleep")

    def wake(self, part: str) -> None:
        self.log.append(f"wake {part}")

    def image_processor(self) -> Any:
        return self.processor.image_processor

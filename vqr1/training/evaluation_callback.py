"""What is evaluated while a run trains, and what of it is kept: figures, probe answers, best weights, the summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vqr1.config import Config
from vqr1.data import Sample
from vqr1.policy.load import find_weights
from vqr1.training.evaluator import Evaluator, Ratings
from vqr1.training.run_data import RunData
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger
from vqr1.training.trainer import RankingTrainer


class Proof(Protocol):
    """What judges a run by its test sets at both ends."""

    temperature: float  # at which the start policy rates the test sets once more

    def name(self, test: str) -> str:
        """What those ratings of a test set are called among the metrics."""

    def make(
        self,
        start: dict[str, dict[str, float]],
        final: dict[str, dict[str, float]],
        tests: Mapping[str, Sequence[Sample]],
        *,
        answers: int,
        root: Path,
        policy: Path,
    ) -> dict[str, Any]:
        """``summary.json``'s "proof", from the figures of each evaluated set."""

    def text(self, proof: dict[str, Any]) -> str:
        """The proof as lines for the screen."""


class EvaluationCallback(TrainerCallback):
    """Evaluates at the start, every n steps and at the end, keeps the best weights, and sums the run up."""

    def __init__(
        self,
        config: Config,
        evaluator: Evaluator,
        trainer: RankingTrainer,
        folder: RunFolder,
        logger: Logger,
        data: RunData,
        proof: Proof | None = None,
    ):
        self._settings = config.evaluation
        self._config = config
        self._evaluator = evaluator
        self._trainer = trainer
        self._folder = folder
        self._logger = logger
        self._data = data
        self._proof = proof if config.evaluation.proof else None
        self.seconds = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self._evaluate(0, tests=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        last = state.global_step >= state.max_steps
        due = self._settings.every > 0 and state.global_step % self._settings.every == 0
        if due or last:
            self._evaluate(state.global_step, tests=last)

    def _evaluate(self, step: int, tests: bool) -> None:
        began = time.perf_counter()
        values: dict[str, float] = {}
        for name, samples, k, temperature in self._sets(step, tests):
            ratings = self._evaluator.rate(name, samples, k, temperature)
            figures = ratings.metrics() | (ratings.interval() if tests else {})
            values.update({f"eval/{name}/{key}": value for key, value in figures.items()})
            self._keep_probes(step, name, ratings)
            self._logger.say(
                f"  {name}: SRCC {figures['srcc']:.3f}  PLCC {figures['plcc']:.3f}  score std "
                f"{figures['score_std']:.3f}  unreadable {figures['unreadable']:.3f}  "
                f"({len(samples)} pictures, {k} answers)"
            )
        self._logger.metrics(step, values)
        if step > 0 and self.best_step() == step:
            self._trainer.save_model(str(self._folder.path / "best"))
        spent = time.perf_counter() - began
        self.seconds += spent
        self._logger.timings(step, {"speed/evaluation_seconds": spent})

    def _sets(self, step: int, tests: bool) -> Iterator[tuple[str, list[Sample], int, float | None]]:
        """What to rate: name, pictures, answers to each, temperature (None: as in training)."""
        for name, samples in self._data.validation.items():
            yield name, samples, self._settings.k, None
        if not tests:
            return
        for name, samples in self._test_sets().items():
            yield name, samples, self._settings.test_k, None
            if self._proof is not None and step == 0:
                yield self._proof.name(name), samples, self._settings.test_k, self._proof.temperature

    def _test_sets(self) -> dict[str, list[Sample]]:
        return {f"{name}_test": samples for name, samples in self._data.test.items()}

    def _keep_probes(self, step: int, name: str, ratings: Ratings) -> None:
        count = min(self._settings.probes, len(ratings.samples))
        chosen = [i * len(ratings.samples) // count for i in range(count)]
        for i in chosen:
            sample = ratings.samples[i]
            answers = {
                "step": step,
                "set": name,
                "image_id": sample.image_id,
                "image": sample.image,
                "mos": sample.mos,
            }
            self._folder.append("answers.jsonl", {**answers, "answers": ratings.texts[i][:4]})

    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self._folder.rows("metrics.jsonl") if any(key.startswith("eval/") for key in row)]

    def best_step(self) -> int | None:
        """The evaluated step with the best mean SRCC over the validation sets, the earliest of equals."""
        names = list(self._data.validation)
        scored = []
        for row in self._evaluations():
            values = [row[key] for name in names if row.get(key := f"eval/{name}/srcc") is not None]
            if values and len(values) == len(names):
                scored.append((-sum(values), row["step"]))
        best = [min(scored)[1] if scored else None]
        return broadcast_object_list(best)[0]

    def summary(self, seconds: dict[str, float]) -> dict[str, Any]:
        rows = self._evaluations()

        def per_set(row: dict[str, Any]) -> dict[str, dict[str, float]]:
            sets: dict[str, dict[str, float]] = {}
            for key, value in row.items():
                if key.startswith("eval/"):
                    _, name, figure = key.split("/")
                    sets.setdefault(name, {})[figure] = value
            return sets

        start, final = (per_set(rows[0]), per_set(rows[-1])) if rows else ({}, {})  # no sets to evaluate, no rows
        summary: dict[str, Any] = {
            "seed": self._config.seed,
            "steps": self._trainer.state.global_step,
            "seconds": seconds,
            "start": start,
            "final": final,
            "best_step": self.best_step(),
        }
        if self._proof is not None:
            summary["proof"] = self._proof.make(
                start,
                final,
                self._test_sets(),
                answers=self._settings.test_k,
                root=Path(self._config.data.root).expanduser(),
                policy=find_weights(self._config.policy.path),
            )
            self._logger.say(self._proof.text(summary["proof"]))
        return summary

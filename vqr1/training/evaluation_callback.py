"""What is evaluated while a run trains, and what of it is kept: figures, probe answers, best weights, the summary.

A step is evaluated after its lines and its checkpoint are written: before the next one begins, or when training ends.
So a run that is killed in an evaluation loses nothing else, and repeats it when it is resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vqr1.config import Config
from vqr1.data import Sample
from vqr1.folder_writer import NEW
from vqr1.policy.load import find_weights
from vqr1.provenance import finite
from vqr1.training.best_weights import BestWeights, best_step
from vqr1.training.evaluator import Rater, Ratings
from vqr1.training.reached import is_evaluation
from vqr1.training.run_data import RunData
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger
from vqr1.training.run_trainer import RunTrainer


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
        rater: Rater,
        trainer: RunTrainer,
        folder: RunFolder,
        logger: Logger,
        data: RunData,
        proof: Proof | None = None,
    ):
        self._settings = config.evaluation
        self._config = config
        self._rater = rater
        self._trainer = trainer
        self._folder = folder
        self._logger = logger
        self._data = data
        self._proof = proof if config.evaluation.proof else None
        self._best = BestWeights(folder.path)
        self._evaluated: dict[int, set[str]] = {}  # the sets, by step
        self.seconds = 0.0
        self._answers = 0  # drawn in these seconds
        self._probes: list[dict[str, Any]] = []  # of the newest evaluation, rows of answers.jsonl
        self._unwritten: dict[str, Any] | None = None  # the line of the evaluation that is about to be written

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if PartialState().is_main_process:
            self._restore_best()
        self._evaluated = self._shared({row["step"]: set(_per_set(row)) for row in self._evaluations()})
        if state.global_step == 0:
            self._evaluate(0, tests=True)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_evaluated(state.global_step):
            self._evaluate(state.global_step, tests=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # With logging_steps above 1 a line is a mean over steps, of which a resumed run would know only its own. It may
        # begin where an evaluation is left, too.
        if control.should_save or self._is_evaluated(state.global_step):
            control.should_log = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if PartialState().is_main_process:
            self._best.prune(self._kept())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._evaluate(state.global_step, tests=True)

    def _is_evaluated(self, step: int) -> bool:
        return step > 0 and self._settings.every > 0 and step % self._settings.every == 0

    def _evaluate(self, step: int, tests: bool) -> None:
        """Nothing where the step has been evaluated already, by the run that is resumed."""
        sets = list(self._sets(step, tests))
        if {name for name, *_ in sets} <= self._evaluated.get(step, set()):
            return
        began = time.perf_counter()
        pictures = sum(len(samples) for _, samples, *_ in sets)
        answers = sum(len(samples) * k for _, samples, k, _ in sets)
        unit = "answers" if self._config.draws_answers else "pictures"
        with self._logger.screen.count(f"evaluating {pictures} pictures at step {step}", answers, unit) as advance:
            values = self._rate(step, sets, advance)
        # The weights first: a line of the best step without its weights could not be made good.
        row = {"step": step, **finite(values)}
        if step > 0 and self._shared(best_step([*self._evaluations(), row], self._data.validation)) == step:
            self._unwritten = row
            self._save_best(step)
            self._unwritten = None
        self._logger.metrics(step, values)
        self._logger.probes(step, self._probes)
        self._evaluated[step] = {name for name, *_ in sets}
        spent = time.perf_counter() - began
        self.seconds += spent
        self._answers += answers
        self._logger.timings(step, {"speed/evaluation_seconds": spent})

    def _rate(
        self,
        step: int,
        sets: Sequence[tuple[str, list[Sample], int, float | None]],
        advance: Callable[[int], None],  # by answers
    ) -> dict[str, float]:
        """The figures of the sets, each said as it is there."""
        values: dict[str, float] = {}
        self._probes = []
        for name, samples, k, temperature in sets:
            ratings = self._rater.rate(name, samples, k, temperature, _each(advance, k))
            figures = ratings.metrics()
            values.update({f"eval/{name}/{key}": value for key, value in figures.items()})
            self._keep_probes(step, name, ratings)
            told = {"SRCC": "srcc", "PLCC": "plcc", "score std": "score_std", "unreadable": "unreadable"}
            said = "  ".join(f"{word} {figures[key]:.3f}" for word, key in told.items() if key in figures)
            drawn = f", {k} answers" if self._config.draws_answers else ""
            self._logger.screen.note(f"  step {step}  {name}: {said}  ({len(samples)} pictures{drawn})")
        return values

    def seconds_to_come(self, step: int, steps: int) -> float | None:
        """How long the evaluations after ``step`` will take, by the answers drawn so far; None where there were none.

        Of a step that was just made its own evaluation is still to come.
        """

        def answers(tests: bool) -> int:
            return sum(len(samples) * k for _, samples, k, _ in self._sets(steps, tests))

        every = self._settings.every
        between = (steps - 1) // every - (step - 1) // every if every > 0 else 0
        coming = between * answers(tests=False) + answers(tests=True)
        if not coming:
            return 0.0
        return self.seconds / self._answers * coming if self._answers else None

    def measured(self) -> list[dict[str, Any]]:
        """The evaluations so far, with the one whose weights are being saved."""
        return [*self._evaluations(), *([self._unwritten] if self._unwritten else [])]

    def _save_best(self, step: int) -> None:
        state = PartialState()
        self._trainer.save_model(f"{self._best.path}{NEW}")
        state.wait_for_everyone()  # some ways of sharding write from every rank
        if state.is_main_process:
            self._best.put(step, self._kept())

    def _restore_best(self) -> None:
        """Let ``best/`` be what it was at the step that the run is resumed from."""
        best = best_step(self._evaluations(), self._data.validation)
        if not self._best.restore(best or None, self._kept()) and best:
            self._logger.say(
                f"warning: the weights of step {best}, the best so far, are no longer in {self._folder.path}; "
                "best/ will be missing unless a later step is better"
            )

    def _kept(self) -> set[int]:
        """The steps of the weights that were the best ones at any checkpoint."""
        rows = self._evaluations()
        found = {best_step(rows, self._data.validation, checkpoint) for checkpoint in self._folder.checkpoints()}
        return {step for step in found if step}

    def _shared(self, value: Any) -> Any:
        """The first rank's, on every rank: the others may see its files late."""
        return broadcast_object_list([value])[0]

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
                "picture": self._folder.keep_picture(sample.image),
                "mos": sample.mos,
                "scores": ratings.scores_NK[i].tolist(),
                "answers": ratings.texts[i][:4],
            }
            self._folder.append("answers.jsonl", answers)
            self._probes.append(finite(answers))

    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self._folder.rows("metrics.jsonl") if is_evaluation(row)]

    def best_step(self) -> int | None:
        """The best evaluated step: that of ``best/``, or 0 where nothing was better than the start.

        None where no step can be compared, or where the best one's weights are lost.
        """
        best = best_step(self._evaluations(), self._data.validation)
        return best if best == (self._best.step() or 0) else None

    def summary(self, seconds: dict[str, float]) -> dict[str, Any]:
        rows = self._evaluations()
        start, final = (_per_set(rows[0]), _per_set(rows[-1])) if rows else ({}, {})  # no sets to evaluate, no rows
        summary: dict[str, Any] = {
            "seed": self._config.seed,
            "steps": self._trainer.state.global_step,
            "epochs": self._trainer.state.epoch,
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


def _each(advance: Callable[[int], None], k: int) -> Callable[[int], None]:
    """``advance``, which counts answers, told of pictures with ``k`` answers each."""
    return lambda pictures: advance(pictures * k)


def _per_set(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of an evaluation's line by set."""
    sets: dict[str, dict[str, float]] = {}
    for key, value in row.items():
        if key.startswith("eval/"):
            _, name, figure = key.split("/")
            sets.setdefault(name, {})[figure] = value
    return sets

"""From TRL's names to ours, where the figures go, and the line one sees per step."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vqr1.collapse import CollapseWatch, EqualAnswersWatch
from vqr1.config import ScreenKind
from vqr1.provenance import finite
from vqr1.report.style import QUALITY
from vqr1.screen import Screen, duration
from vqr1.training.reached import is_evaluation
from vqr1.training.run_folder import RunFolder
from vqr1.training.sinks import Sink, answer_table, captioned, final_table

# The one map from TRL's and transformers' names. Names of ours (reward/..., canary/...) pass through.
NAMES = {
    "reward": "train/reward",
    "reward_std": "train/reward_std",
    "loss": "train/loss",
    "learning_rate": "train/lr",
    "grad_norm": "train/grad_norm",
    "completions/mean_length": "rollout/length",
    "completions/max_length": "rollout/length_max",
    "completions/clipped_ratio": "rollout/clipped",
    "kl": "policy/kl",
    "entropy": "policy/entropy",
    "clip_ratio/region_mean": "policy/clip",
    "clip_ratio/low_mean": "policy/clip_low",
    "clip_ratio/high_mean": "policy/clip_high",
    "sampling/importance_sampling_ratio/mean": "canary/importance_ratio",
}
# Beside them where answers are shown; and all that TRL's SFTTrainer reports of every step.
OF_SHOWN = {"mean_token_accuracy": "train/token_accuracy"}
SUPERVISED = {"loss", "learning_rate", "grad_norm", "entropy", *OF_SHOWN}
OWN_PREFIXES = ("reward/", "rollout/", "canary/", "levels/")
# Names that are left out: they repeat these, or hold for other losses only.
LEFT_OUT = re.compile(
    r"rewards/\w+/(mean|std)|frac_reward_zero_std|num_tokens|num_input_tokens_seen|step_time|epoch|total_flos"
    r"|completions/min_length|completions/(mean|min|max)_terminated_length"
    r"|clip_ratio/low_min|clip_ratio/high_max|cispo_clip_ratio|vespo/phi_seq_mean"
    r"|sampling/sampling_logp_difference/(mean|max)|sampling/importance_sampling_ratio/(min|max)"
    r"|policy_loss|entropy_coef|aux_loss|train_runtime|train_\w+_per_second|profiling/.*"
)
LATELY = 20  # steps whose mean time tells how long the others will take
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")  # losses that report the share of clipped ratios


def expected_names(args: Any, vllm: bool) -> set[str]:
    """TRL's names of what every step of a run with GRPOConfig ``args`` reports."""
    found = set(NAMES)
    if not args.beta:
        found.remove("kl")
    if args.loss_type not in CLIPPED:
        found -= {key for key in found if key.startswith("clip_ratio/")}
    if not (vllm and args.vllm_importance_sampling_correction):
        found.remove("sampling/importance_sampling_ratio/mean")
    return found


DRAWN = partial(expected_names, vllm=False)


def strange_names(logs: dict[str, Any], expected: set[str]) -> str | None:
    """What to say where TRL reports other names than it is known to: a figure of ours would vanish without a word."""
    missing, known = sorted(expected - set(logs)), {*NAMES, *OF_SHOWN}
    unknown = sorted(
        key for key in logs if key not in known and not key.startswith(OWN_PREFIXES) and not LEFT_OUT.fullmatch(key)
    )
    if not missing and not unknown:
        return None
    return (
        f"warning: of TRL's figures, missing: {', '.join(missing) or 'none'}; not known: "
        f"{', '.join(unknown) or 'none'}. Another TRL than pyproject.toml names? NAMES in vqr1/training maps them"
    )


def renamed(logs: dict[str, Any]) -> dict[str, float]:
    """What is logged of ``logs``, under our names, without what could not be measured in this step."""
    known = NAMES | OF_SHOWN
    named = {known.get(key, key if key.startswith(OWN_PREFIXES) else ""): value for key, value in logs.items()}
    named.pop("", None)
    return {key: value for key, value in named.items() if isinstance(value, (int, float)) and math.isfinite(value)}


class Logger:
    """Sends what is logged to the run folder and to the sinks. On ranks other than the first it does nothing.

    ``pictures``: whether the sinks get any. ``seconds`` counts what this has taken.
    """

    def __init__(
        self,
        folder: RunFolder,
        sinks: Sequence[Sink] = (),
        main: bool = True,
        screen: Screen | None = None,
        pictures: bool = False,
    ):
        self._folder = folder
        self._sinks = sinks
        self._pictures = pictures
        self.screen = screen or Screen(ScreenKind.lines, main)
        self.seconds = 0.0

    def metrics(self, step: int, values: dict[str, float]) -> None:
        with self._timed():
            self._folder.append("metrics.jsonl", {"step": step, **values})
            self._figures(step, values)

    def timings(self, step: int, values: dict[str, float]) -> None:
        with self._timed():
            self._folder.append("timings.jsonl", {"step": step, **values})
            self._figures(step, values)

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Rows of samples.jsonl, of one step."""
        with self._timed():
            self._folder.append("samples.jsonl", *rows)
            self._samples(step, rows)

    def probes(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Rows of answers.jsonl, of one step, that are in the folder already."""
        with self._timed():
            self._probes(step, rows)

    def end(self, step: int, summary: dict[str, Any]) -> None:
        """The figures of the whole run: pictures that are in the folder, summary.json, the last probe answers."""
        figures = {"curves": True, "reasoning": self._pictures}
        for sink in self._sinks:
            for name, wanted in figures.items():
                path = self._folder.path / f"{name}.png"
                if wanted and path.is_file():
                    sink.pictures(step, f"figures/{name}", [(path, path.name)])
            sink.table(step, "tables/final", final_table(summary))
            rows = [row for row in self._folder.rows("answers.jsonl") if row["step"] == step and "picture" in row]
            if rows and self._pictures:
                sink.pictures(step, "probes/pictures", captioned(self._folder.path, rows))

    def replay(self) -> None:
        """Send the sinks what the folder holds of a run that is resumed."""
        if not self._sinks:
            return
        kept: dict[tuple[int, bool], list[Callable[[], None]]] = {}
        for name in ("metrics.jsonl", "timings.jsonl"):
            for row in self._folder.rows(name):
                step, values = row["step"], {key: value for key, value in row.items() if key != "step"}
                late = is_evaluation(row) or "speed/evaluation_seconds" in row
                kept.setdefault((step, late), []).append(partial(self._figures, step, values))
        for name, send, late in (("samples.jsonl", self._samples, False), ("answers.jsonl", self._probes, True)):
            by_step: dict[int, list[dict[str, Any]]] = {}
            for row in self._folder.rows(name):
                by_step.setdefault(row["step"], []).append(row)
            for step, rows in by_step.items():
                kept.setdefault((step, late), []).append(partial(send, step, rows))
        for _, sends in sorted(kept.items(), key=lambda item: item[0]):
            for send_one in sends:
                send_one()

    def _figures(self, step: int, values: dict[str, Any]) -> None:
        known = {key: value for key, value in finite(values).items() if value is not None}
        for sink in self._sinks:
            sink.figures(step, known)

    def _samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        for sink in self._sinks if rows else ():
            sink.table(step, "samples/answers", answer_table(rows))
            if self._pictures:
                sink.pictures(step, "samples/pictures", captioned(self._folder.path, rows))

    def _probes(self, step: int, rows: list[dict[str, Any]]) -> None:
        for sink in self._sinks if rows else ():
            sink.table(step, "probes/answers", answer_table(rows))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def say(self, line: str) -> None:
        self.screen.say(line)


class StepCallback(TrainerCallback):
    """Logs every step: one row of metrics, one of timings, one line on the screen.

    ``reported`` says of TRL's settings which names of TRL's every step reports; ``generates``: whether a step draws
    answers. ``evaluation_seconds`` says of a step and the number of steps how long the
    evaluations to come will take; None where that is not known yet.
    """

    def __init__(
        self,
        logger: Logger,
        generation_seconds: Callable[[], float],
        answers_per_step: int,
        reported: Callable[[Any], set[str]] = DRAWN,
        generates: bool = True,
        evaluation_seconds: Callable[[int, int], float | None] = lambda step, steps: 0.0,
    ):
        self._evaluation_seconds = evaluation_seconds
        self._recent: deque[float] = deque(maxlen=LATELY)
        self._reported = reported
        self._generates = generates
        self._looked = False  # at the names
        self._logger = logger
        self._watches = (CollapseWatch(), EqualAnswersWatch())
        self._generation_seconds = generation_seconds
        self._answers_per_step = answers_per_step
        self._began = self._generated = self._tokens = self._seconds = self._logged = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began = time.perf_counter()
        self._generated = self._generation_seconds()
        self._tokens = state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._seconds = time.perf_counter() - self._began  # an evaluation after the step does not count
        self._recent.append(self._seconds)
        self._generated = self._generation_seconds() - self._generated

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "train_loss" in logs:  # the summary at the very end
            return
        if not self._looked:
            self._looked = True
            strange = strange_names(logs, self._reported(args))
            if strange:
                self._logger.say(strange)
        values = renamed(logs)
        seconds = self._seconds
        logged, self._logged = self._logged, self._logger.seconds
        self._logger.metrics(state.global_step, values)
        self._logger.timings(
            state.global_step,
            {
                "speed/step_seconds": seconds,
                "speed/answers_per_second": self._answers_per_step / seconds,
                "speed/tokens_per_second": (state.num_input_tokens_seen - self._tokens) / seconds,
                **({"speed/generate_share": self._generated / seconds} if self._generates else {}),
                "speed/logging_share": (self._logged - logged) / seconds,
            },
        )
        step, steps = state.global_step, state.max_steps
        training, evaluating = (steps - step) * fmean(self._recent), self._evaluation_seconds(step, steps)
        left = f"about {duration(training + (evaluating or 0))} left" + (
            "" if evaluating is not None else " without evaluations"
        )
        self._logger.screen.step(step, steps, progress_line(step, steps, values, seconds, left))
        for watch in self._watches:
            if warning := watch(values):
                self._logger.say(warning)


def progress_line(step: int, steps: int, values: dict[str, float], seconds: float, left: str) -> str:
    shown = {
        "reward": values.get("train/reward"),
        "reward std": values.get("train/reward_std"),
        **{key.removeprefix("reward/"): values.get(key) for key in QUALITY},
        "score std": values.get("rollout/score_std"),
        "unreadable": values.get("rollout/unreadable"),
        "kl": values.get("policy/kl"),
        "token accuracy": values.get("train/token_accuracy"),
        **{key.removeprefix("levels/"): value for key, value in values.items() if key.startswith("levels/")},
    }
    figures = "  ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
    return f"step {step:>{len(str(steps))}}/{steps}  {figures}  {seconds:.1f} s  {left}"

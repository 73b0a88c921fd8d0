"""What must be said beside a run's figures: how it ended, what is missing, what went wrong while it learnt."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from vqr1.collapse import CollapseWatch
from vqr1.report.runs import Run, State, number

UNREADABLE = 0.05  # share of the answers
ZERO_SPREAD = 0.5  # share of the pictures
LATELY = 0.1  # the share of the steps, at the end, that the two are measured over
FEWEST = 10  # of these steps

ENDS = {
    State.stopped: "stopped by a signal at step {step}; its figures are not those of a finished run",
    State.running: "still running, at step {step}: its figures are not final",
    State.endless: "without an end: it was killed, failed, or runs on another machine; its last step is {step}",
}


def remarks(run: Run) -> list[str]:
    """What a reader of the run's figures has to know."""
    return list(_remarks(run))


def _remarks(run: Run) -> Iterator[str]:
    if run.state in ENDS:
        yield ENDS[run.state].format(step=run.steps)
    for name, count in run.torn.items():
        yield f"{name}: {count} unreadable {'line is' if count == 1 else 'lines are'} left out"
    if run.resumed:
        yield f"resumed from step {', '.join(map(str, run.resumed))}"
    damaged = sorted(path.name for path in run.folder.glob("damaged-checkpoint-*"))
    if damaged:
        yield f"{', '.join(damaged)} could not be read when it was resumed, and the steps after it were made again"
    for metric, limit, words in (
        ("rollout/unreadable", UNREADABLE, "of the answers could not be read"),
        (
            "reward/zero_spread",
            ZERO_SPREAD,
            "of the pictures got one score in all their answers, which teaches nothing",
        ),
    ):
        late = _late(run, metric)
        if late and fmean(late) > limit:
            yield f"{fmean(late):.0%} {words} in the last {len(late)} steps ({metric})"
    watch = CollapseWatch()
    for step, value in zip(*run.series(CollapseWatch.METRIC), strict=True):
        said = watch({} if value is None else {CollapseWatch.METRIC: value})
        if said:
            yield f"step {step}: {said.removeprefix('warning: ').partition('. ')[0]}"
    yield from _canary(run)
    yield from _undefined(run)


def _late(run: Run, metric: str) -> list[float]:
    _, values = run.series(metric)
    known = [value for value in values if value is not None]
    return known[-max(FEWEST, round(LATELY * len(known))) :]


def _canary(run: Run) -> Iterator[str]:
    limit = number(run.settings.get("rollout.vllm.canary_limit"))
    steps, values = run.series("canary/logp_difference")
    over = [step for step, value in zip(steps, values, strict=True) if value is None or (limit and value > limit)]
    if over:
        yield (
            f"canary/logp_difference is over rollout.vllm.canary_limit={limit} in {len(over)} of {len(steps)} steps, "
            f"step {over[0]} first: vLLM answered as another policy than the trained one"
        )


def _undefined(run: Run) -> Iterator[str]:
    """Figures of evaluations that have no value, as a correlation of equal scores has none."""
    for name in run.sets():
        for figure in ("srcc", "plcc"):
            steps, values = run.series(f"eval/{name}/{figure}")
            missing = [step for step, value in zip(steps, values, strict=True) if value is None]
            if missing:
                yield f"{figure.upper()} on {name} is undefined at step {', '.join(map(str, missing[:5]))}" + (
                    f" and {len(missing) - 5} others" if len(missing) > 5 else ""
                )

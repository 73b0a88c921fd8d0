"""``vqr1 dashboard``: a wandb workspace of the figures that runs log, made or renewed by wandb-workspaces.

The spec is made without a network. A project has one such workspace, whose name is :data:`VIEW`: so nothing has to be
kept here for the next call to renew it, on this machine or on another.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_type_hints
from urllib.parse import urlsplit

import yaml

from vqr1.config import Config, StepSettings
from vqr1.errors import UserError, show
from vqr1.metric_names import METRICS
from vqr1.packaged import packaged
from vqr1.prerequisites import has_wandb_key

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

VIEW = "nw-vqr1-v"  # as wandb writes a view's name; ?nw=vqr1 in its address
TITLE = "vqr1"
SECONDS = 10  # to wait for each answer of the server
MOST_RUNS = 50
STEP = "step"  # the metric that all others are drawn over
SETS = ("demo_five", "demo_hundred")  # the demonstration's
BY = ("rollout.k", "trainer.beta")
QUALITY = ("reward/fidelity", "reward/binary", "reward/regression")  # a run has one of them
SRCC = "eval/{set}/srcc"
MEDIA_PANELS = {
    "answers of training": "samples/answers",
    "pictures of training": "samples/pictures",
    "answers to the probe pictures": "probes/answers",
    "probe pictures": "probes/pictures",
}

FIND = """
query VqrView($entity: String, $project: String, $view: String) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: "project-view", viewName: $view) { edges { node { id } } }
  }
}
"""


def dashboard(words: Sequence[str]) -> None:
    """The command with the words after its name. Raises UserError for what the user can put right."""
    from vqr1.command_options import Parser

    parser = Parser(
        "vqr1 dashboard",
        description="Makes the wandb workspace of a project, or renews the one that it made: reward and spread, SRCC "
        "of each set, policy, answers and sweep, as bands over the runs that differ in their seed alone. Needs "
        "wandb's key (wandb login, or WANDB_API_KEY).",
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="a user or team of wandb, and its logger.project")
    parser.add_argument(
        "--sets",
        default=",".join(SETS),
        help="evaluated sets whose best SRCC is drawn over the settings (%(default)s)",
    )
    parser.add_argument("--by", default=",".join(BY), help="settings that set runs apart, seed left out (%(default)s)")
    parser.add_argument("--print", action="store_true", help="write the workspace as JSON; asks no server")
    asked = parser.parse_args(words)
    entity, project = entity_and_project(asked.project)
    sets = [name for name in asked.sets.split(",") if name]
    if not sets:
        raise UserError(f"--sets names no set; leave it out for {','.join(SETS)}")
    board = workspace(entity, project, sets, check_settings([word for word in asked.by.split(",") if word]))
    if asked.print:
        show(json.dumps(spec(board), indent=2))
        return
    show(push(board))


def entity_and_project(text: str) -> tuple[str, str]:
    """Raises UserError where ``text`` is not ENTITY/PROJECT."""
    found = re.fullmatch(r"([\w.-]+)/([^/\\#?%:\s]+)", text, flags=re.ASCII)
    if found is None:
        raise UserError(
            f"{text!r} is no ENTITY/PROJECT: give your user or team at wandb, a slash and the project "
            "(logger.project, vqr1 by default), as in vqr1 dashboard my-team/vqr1"
        )
    return found[1], found[2]


def check_settings(words: Sequence[str]) -> list[str]:
    """The settings as they are. Raises UserError for one that runs do not have, or for none."""
    if not words:
        raise UserError(f"--by names no setting; leave it out for {','.join(BY)}")
    known = settings()
    for word in words:
        if word not in known and not _of_trl(word):
            near = get_close_matches(word, known, n=1)
            raise UserError(
                f"--by {word}: no setting of a run has this name"
                f"{f'; did you mean {near[0]}?' if near else '; vqr1 train --cfg job lists them'}"
            )
    return list(words)


def settings() -> list[str]:
    """The dotted names of all settings in :class:`Config`; of TRL's those that conf/trainer/grpo.yaml sets."""
    of_trl = yaml.safe_load((packaged("conf") / "trainer" / "grpo.yaml").read_text())
    of_trainer = [*_fields(StepSettings), *of_trl]
    return [*(name for name in _fields(Config) if name != "trainer"), *(f"trainer.{name}" for name in of_trainer)]


def _fields(schema: type, section: str = "") -> list[str]:
    hints = get_type_hints(schema)
    found: list[str] = []
    for name in (each.name for each in fields(schema)):
        kind = hints[name]
        found += (
            _fields(kind, f"{section}{name}.")
            if isinstance(kind, type) and is_dataclass(kind)
            else [f"{section}{name}"]
        )
    return found


def _of_trl(word: str) -> bool:
    """Whether a setting that conf/trainer does not list is one of GRPOConfig's, which take seconds to load."""
    section, _, name = word.partition(".")
    if section != "trainer":
        return False
    from trl import GRPOConfig

    return name in {each.name for each in fields(GRPOConfig)}


def workspace(entity: str, project: str, sets: Sequence[str] = SETS, by: Sequence[str] = BY) -> Workspace:
    """The workspace, made without a network, and the same each time.

    Lines are means over the runs that agree in ``by``, with their standard deviation as a band. ``sets`` are those
    whose best SRCC is drawn over the settings; the curves show all sets.
    """
    _quiet()
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.expr import Config

    with _same_names():
        return ws.Workspace(
            entity=entity,
            project=project,
            name=TITLE,
            sections=[
                ws.Section(name=name, panels=panels, is_open=True)
                for name, panels in (
                    ("Does it learn?", _learning(wr)),
                    ("Policy", _policy(wr)),
                    ("Answers and speed", _answers_and_speed(wr)),
                    ("Sweep", _sweep(wr, sets, by)),
                )
            ],
            settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MOST_RUNS),
            runset_settings=ws.RunsetSettings(
                groupby=[Config(word) for word in by],
                pinned_columns=[
                    "run:displayName",
                    "run:state",
                    *(f"config:{_config_key(word)}" for word in (*by, "seed")),
                    *(f"summary:{summary_key(SRCC, name)}" for name in sets),
                ],
            ),
        )


def _learning(wr: Any) -> list[Any]:
    return [
        _lines(wr, "SRCC of each set (best 1)", regex=r"^eval/.+/srcc$", range_y=(None, 1)),
        _lines(wr, "reward", "train/reward"),
        _lines(wr, "reward's quality part (best 1)", *QUALITY),
        _lines(wr, "reward: std over a step's answers", "train/reward_std"),
        _lines(wr, "pictures whose answers all give one score (share)", "reward/zero_spread"),
        _lines(wr, "score std within pictures", "rollout/score_std"),
        _lines(wr, "score std between pictures", "rollout/score_std_between"),
        _lines(wr, "score std within the pictures of each set", regex=r"^eval/.+/score_std$"),
    ]


def _policy(wr: Any) -> list[Any]:
    return [
        _lines(wr, "KL to the start policy (nats)", "policy/kl"),
        _lines(wr, "reward against KL", "train/reward", x="policy/kl"),
        _lines(wr, "entropy (nats)", "policy/entropy"),
        _lines(wr, "clipped ratios (share of tokens)", "policy/clip", "policy/clip_low", "policy/clip_high"),
        _lines(wr, "length (tokens)", "rollout/length", "rollout/length_max"),
        _lines(wr, "answers cut off or unreadable (share)", "rollout/clipped", "rollout/unreadable"),
        _lines(wr, "format (share)", "reward/format"),
        _lines(wr, "gradient norm", "train/grad_norm"),
        _lines(wr, "canary: mean difference (nats)", "canary/logp_difference"),
        _lines(wr, "canary: largest difference (nats)", "canary/logp_difference_max"),
    ]


def _answers_and_speed(wr: Any) -> list[Any]:
    return [
        wr.MediaBrowser(title=title, media_keys=[key], mode="gallery", gallery_axis="step", num_columns=2)
        for title, key in MEDIA_PANELS.items()
    ] + [
        _lines(wr, "answers a second", "speed/answers_per_second"),
        _lines(wr, "seconds a step", "speed/step_seconds"),
        _lines(wr, "generation (share of a step)", "speed/generate_share"),
    ]


def _sweep(wr: Any, sets: Sequence[str], by: Sequence[str]) -> list[Any]:
    """Best SRCC over the settings. With two settings one is the axis and the other the colour."""
    scores = [wr.SummaryMetric(summary_key(SRCC, name)) for name in sets]
    across, *others = [wr.Config(word) for word in reversed(by)]
    return [
        *(
            wr.ScatterPlot(title=f"best SRCC of {name}", x=across, y=score, **({"z": others[0]} if others else {}))
            for name, score in zip(sets, scores, strict=True)
        ),
        wr.ParallelCoordinatesPlot(
            title="settings and best SRCC",
            columns=[
                *(wr.ParallelCoordinatesPlotColumn(wr.Config(word), display_name=word) for word in by),
                *(
                    wr.ParallelCoordinatesPlotColumn(score, display_name=f"SRCC {name}")
                    for name, score in zip(sets, scores, strict=True)
                ),
            ],
        ),
        wr.ScatterPlot(
            title="reward against KL, last step",
            x=wr.SummaryMetric(summary_key("policy/kl")),
            y=wr.SummaryMetric(summary_key("train/reward")),
        ),
        wr.RunComparer(diff_only="split"),
    ]


def _lines(
    wr: Any, title: str, *names: str, x: str = STEP, regex: str | None = None, range_y: tuple[Any, Any] = (None, None)
) -> Any:
    return wr.LinePlot(
        title=title,
        x=x,
        y=list(names),
        metric_regex=regex,
        range_y=range_y,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=MOST_RUNS,
    )


def summary_key(pattern: str, name: str = "") -> str:
    """Where wandb's summary of a run has the figure: a best value is below ``max`` or ``min``, a last one is not."""
    key, best = pattern.replace("{set}", name), METRICS[pattern].best
    return f"{key}.{best}" if best else key


def _config_key(word: str) -> str:
    """As the columns of wandb's table name a nested setting: the first word, ``value``, the others."""
    first, _, others = word.partition(".")
    return f"{first}.value{f'.{others}' if others else ''}"


def spec(board: Workspace) -> dict[str, Any]:
    """The workspace as plain values, as the server is sent it."""
    return board._to_model().model_dump(by_alias=True, exclude_none=True)


def _quiet() -> None:
    """Before wandb is imported: it waits for its server briefly."""
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(SECONDS))


@contextmanager
def _same_names() -> Iterator[None]:
    """Panels get the same random names each time: they are drawn from ``random``, whose state is kept."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def push(board: Workspace) -> str:
    """Make the project's workspace, or renew it; its address. Raises UserError where the server does not take it."""
    where = f"{board.entity}/{board.project}"
    server = os.environ.get("WANDB_BASE_URL", "https://")
    if urlsplit(server).scheme not in ("http", "https"):
        raise UserError(f"WANDB_BASE_URL={server} is no address; give one such as https://api.wandb.ai, or unset it")
    if not has_wandb_key():
        raise UserError("wandb has no key: run wandb login, or set WANDB_API_KEY; --print needs none")
    _quiet()
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    from wandb_workspaces._graphql import execute_graphql

    try:
        api = wandb.Api(timeout=SECONDS)  # asks whether the key is right
        asked = {"entity": board.entity, "project": board.project, "view": VIEW}
        found = execute_graphql(api, FIND, asked)["project"]
        if found is None:
            raise UserError(
                f"wandb has no project {where}, or does not show it to you; check both names (a run with logger=online "
                "logger.project=NAME makes one)"
            )
        views = found["allViews"]["edges"]
        board._internal_name = VIEW
        board._internal_id = views[0]["node"]["id"] if views else ""
        board.save()
        return str(board.url)
    except (wandb.Error, WandbApiFailedError) as error:
        raise UserError(
            f"wandb did not take the workspace of {where} ({error}); check the key (wandb login, or WANDB_API_KEY), "
            "the name of the entity, and that the server (WANDB_BASE_URL) can be reached; --print writes it without one"
        ) from error

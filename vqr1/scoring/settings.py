"""The schema of conf/evaluate: every setting of ``vqr1 evaluate``, its type, its default, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from omegaconf import DictConfig, OmegaConf

from vqr1.answering.settings import AnswerSettings, Method, check_answers
from vqr1.config import as_object
from vqr1.config_checks import expanded
from vqr1.errors import UserError
from vqr1.packaged import data_root


class Part(Enum):
    """A split of a set that may be evaluated by itself: none that weights are trained on."""

    validation = "validation"
    test = "test"


class Orders(Enum):
    """In which orders two pictures are compared."""

    both = "both"
    one = "one"  # comparison: the anchor first; votes: a drawn one


@dataclass
class EvaluateConfig(AnswerSettings):
    """An evaluation. Where a default is null, a run folder says what it was trained with.

    The table calls the model ``name``, and runs of one name are put together; sets that the weights have seen
    (``trained_on``) are evaluated on their test split.
    """

    data: list[str] = field(default_factory=list)  # names of vqr1.data.DATASETS, each looked for in root/<name>
    root: str = field(default_factory=data_root)  # VQR1_DATA, else data
    partial: bool = False  # true: a published set may have other than its published number of pictures
    limit: int | None = None  # pictures of each set, spread over it; null = all
    # validation or test: that split of every set; null: the test split of sets that the weights have seen, else all
    part: Part | None = None
    folder: str | None = None  # where the results go; null = evaluations/<name>, method, K, seed, and part
    gpus: int | None = None  # that share the pictures; null = all
    orders: Orders = Orders.both  # comparison, votes: both or one
    # comparison: the set whose training part has the anchors; null: each set's own, of which only other parts are rated
    anchors: str | None = None
    intervals: int = 5  # comparison: of the MOS of that part, with an anchor in each
    limit_per_reference: int | None = None  # votes: pictures of each reference at most, drawn over them; null: all
    yes: bool = False  # true: over 100,000 questions are asked


def register() -> None:
    """Make :class:`EvaluateConfig` the schema that conf/evaluate/evaluate.yaml builds on."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


def from_hydra(composed: DictConfig) -> EvaluateConfig:
    """The composed configuration as a dataclass, checked."""
    if OmegaConf.is_missing(composed, "model"):
        raise UserError("model= is missing; give tiny, a hub id, a folder of weights, or a run folder")
    config = as_object(composed, EvaluateConfig)
    folder = config.folder
    config = replace(
        config,
        model=expanded(config.model, "model"),
        root=expanded(config.root, "root"),
        folder=folder and expanded(folder, "folder"),
    )
    check(config)
    return config


def check(config: EvaluateConfig) -> None:
    """Raises UserError naming the setting and the remedy."""
    if not config.data:
        raise UserError("data= names no dataset; give data=[bid,clive,...], see vqr1 data list")
    if len(set(config.data)) < len(config.data):
        raise UserError(f"data={config.data} names a dataset twice; name each once")
    if config.limit is not None and config.limit < 3:
        raise UserError(f"limit={config.limit}: a correlation needs three pictures")
    if config.gpus is not None and config.gpus < 1:
        raise UserError(f"gpus={config.gpus}: set it to 1 or more, or leave it out to use all")
    check_answers(config)
    _check_comparing(config)


# Which methods read a setting, its default aside.
READ_BY = {
    "orders": (Method.comparison, Method.votes),
    "anchors": (Method.comparison,),
    "intervals": (Method.comparison,),
    "limit_per_reference": (Method.votes,),
}


def _check_comparing(config: EvaluateConfig) -> None:
    for name, methods in READ_BY.items():
        value, usual = getattr(config, name), getattr(EvaluateConfig, name)
        if value != usual and config.method not in methods:
            known = " or ".join(method.value for method in methods)
            shown = value.value if isinstance(value, Enum) else value
            raise UserError(f"{name}={shown} has no effect with method={config.method.value}, but with {known} alone")
    if config.intervals < 2:
        raise UserError(f"intervals={config.intervals}: a picture is compared with two anchors or more")
    if config.limit_per_reference is not None and config.limit_per_reference < 2:
        raise UserError(
            f"limit_per_reference={config.limit_per_reference}: a vote is between two pictures of a reference"
        )

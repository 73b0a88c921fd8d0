"""The one schema of conf/: every setting, its type and its default.

Hydra composes the YAML files of conf/ into these dataclasses, so an unknown key or a value of the wrong type stops the
run as the command line is read. What only several settings together can get wrong is checked in
:mod:`vqr1.config_checks`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vqr1.errors import UserError
from vqr1.packaged import data_root
from vqr1.ranking_options import Agreement, Opponent, Variance
from vqr1.rollout_settings import TrainingEngine, VllmSettings

SharedPrefixAttention = Literal["auto", "mask", "segments"]


class Rivals(Enum):
    batch = "batch"
    cohort = "cohort"


class Preference(Enum):
    hard = "hard"
    thurstone = "thurstone"


class Objective(Enum):
    """What a policy learns from."""

    rl2r = "rl2r"  # rewards for its own answers (VisualQuality-R1), by TRL's GRPOTrainer
    levels = "levels"  # words for the quality, shown with every picture (Q-Align, DeQA-Score), by TRL's SFTTrainer
    comparison = "comparison"  # words for the second of two pictures (Compare2Score), by TRL's SFTTrainer
    depict = "depict"  # answers on pictures named by tags (DepictQA), by TRL's SFTTrainer


class LevelLabels(Enum):
    hard = "hard"
    soft = "soft"


class Wandb(Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


class ScreenKind(Enum):
    """How a run shows what it does, on stderr."""

    auto = "auto"
    bar = "bar"
    lines = "lines"
    quiet = "quiet"


class RewardKind(Enum):
    ranking = "ranking"
    regression = "regression"


class Tuning(Enum):
    auto = "auto"
    full = "full"
    lora = "lora"


class Launcher(Enum):
    auto = "auto"
    none = "none"
    ddp = "ddp"
    zero2 = "zero2"
    zero3 = "zero3"
    fsdp2 = "fsdp2"

    @property
    def of_deepspeed(self) -> bool:
        return self in (Launcher.zero2, Launcher.zero3)

    @property
    def shards_weights(self) -> bool:
        return self in (Launcher.zero3, Launcher.fsdp2)


@dataclass
class DataConfig:
    """Which pictures. A dataset is one of ``vqr1.data.DATASETS``, or declared by ``root/<name>/dataset.yaml``."""

    root: str = field(default_factory=data_root)  # VQR1_DATA, else data
    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)  # the best checkpoint is chosen by these sets' mean SRCC
    test: list[str] = field(default_factory=list)  # read at the start and at the end only
    reference: bool = False  # show the undistorted picture before each: sets that have one, rollout.prompt=reference
    shuffle_mos: bool = False  # a control: training pictures get the opinion scores of others of their set
    mix_temperature: float = 1.0  # 1 mixes training sets by size, larger values more evenly
    split_ratio: list[float] = field(default_factory=lambda: [6.0, 2.0, 2.0])  # of sets without an official split
    split_seed: int = 0
    partial: bool = False  # true: a published set may have other than its published number of pictures
    cache: str | None = None  # a folder that keeps resized pictures for the next run; None = in memory only

    @property
    def pictures(self) -> int:
        """Pictures in a prompt."""
        return 2 if self.reference else 1


@dataclass
class LoraSettings:
    r: int = 64
    alpha: int = 128
    dropout: float = 0.0  # above 0, the passes that a ratio of probabilities compares would differ by it
    # Every linear layer of the language model; the vision tower stays as it is. A regular expression.
    target_modules: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class PolicyConfig:
    """Which Qwen2.5-VL, and what of it is trained."""

    path: str = MISSING  # a hub id or a folder in the same format; "tiny" is the policy shipped with the package
    dtype: str = "auto"  # auto: bfloat16 on a GPU that has it, else float32; what each does: docs/configuration.md
    attention: str = "auto"  # auto: flash_attention_2 on a GPU where it is installed, else sdpa
    tuning: Tuning = Tuning.full  # auto: LoRA on one GPU, all weights on several that they fit, or without one
    train_vision: bool = True
    lora: LoraSettings = field(default_factory=LoraSettings)
    min_pixels: int = 3136
    max_pixels: int = 786432
    gradient_checkpointing: bool = True


@dataclass
class RolloutConfig:
    """What is asked and how answers are drawn."""

    k: int = 6  # answers to each picture
    prompt: str = "paper"  # paper, published, no_thinking, reference, or a text of your own
    temperature: float = 1.0
    max_tokens: int = 256
    stop_unreadable: int | None = 20  # steps in a row without a readable answer that end a run; null or 0: never
    engine: TrainingEngine = TrainingEngine.auto
    vllm: VllmSettings = field(default_factory=VllmSettings)


@dataclass
class RewardConfig:
    """How answers are rewarded; see docs/method.md."""

    kind: RewardKind = RewardKind.ranking
    rivals: Rivals = Rivals.batch
    cohort_size: int = 8
    opponent: Opponent = Opponent.mean
    variance: Variance = Variance.sample
    agreement: Agreement = Agreement.fidelity
    preference: Preference = Preference.hard
    gamma: float = 1e-6
    root_epsilon: float = 0.0
    unreadable_reward: float | None = 0.0  # None: left to the format reward, see vqr1/reward.py
    regression_threshold: float = 0.35
    fidelity_weight: float = 1.0
    format_weight: float = 1.0


@dataclass
class LevelsConfig:
    """How the levels' words are taught; with objective=levels only."""

    question: str = "How would you rate the quality of this image?"  # before the answer that holds the word
    labels: LevelLabels = LevelLabels.hard  # hard: the picture's own word; soft: a probability for each of the five
    closed_set: bool = False  # beside soft labels: their cross-entropy is over the five words, else over all tokens
    level_weight: float = 1.0  # of the cross-entropy of soft labels
    text_weight: float = 1.0  # beside soft labels: of the answer's other words
    pair_weight: float = 0.0  # beside soft labels: of the fidelity of pairs of pictures of one set (DeQA-Score)


@dataclass
class PairsConfig:
    """Which pictures of a set are compared, in training and for a score."""

    pairs: int = 30_000  # to learn from, of each set, or all that it has
    same_reference: bool = False  # these are of one reference each; else where scores compare within one only
    spread: dict[str, float] = field(default_factory=dict)  # of a set without std of its ratings, on its scale
    anchors: int = 5  # a score comes of comparisons with so many training pictures, spread over their scores
    both_orders: bool = True  # each of these with either picture first; false: the anchor first


@dataclass
class ComparisonConfig(PairsConfig):
    """How comparisons are taught; with objective=comparison only."""

    balanced: bool = False  # each of the five words as often, or as often as there are pairs of it


@dataclass
class DepictConfig(PairsConfig):
    """What is taught of pictures named by tags; with objective=depict only."""

    short: float = 0.5  # share of the questions that ask for a short answer
    reference: bool = True  # the undistorted picture is shown too, in half of the questions on pictures that have one
    content: str | None = None  # a file of rows on what pictures show, against forgetting: docs/configuration.md
    content_share: float = 0.0  # of the examples that are such rows


@dataclass
class EvaluationConfig:
    """Evaluation while training."""

    every: int = 50  # steps between evaluations of the validation sets; 0 = at start and end only
    k: int = 4  # answers to each validation picture
    max_pictures: int | None = None  # of each set; None = all
    test_k: int = 16  # answers to each test picture, at the start and at the end
    batch: int = 192  # answers generated at once
    probes: int = 4  # pictures whose answers are kept at every evaluation (the paper's Figure 4)
    proof: bool = False  # judge both ends of the run as vqr1.demo.proof says


@dataclass
class LoggerConfig:
    """Where figures go beside the run folder. See docs/logging.md."""

    wandb: Wandb = Wandb.disabled
    tensorboard: bool = False
    project: str = "vqr1"  # wandb's
    group: str | None = None  # wandb's; a sweep's jobs have its name
    tags: list[str] = field(default_factory=list)  # wandb's; of a sweep's job: the words that set it apart
    pictures: bool | None = None  # log samples' and probes' pictures; None: unless wandb sends them to its server
    samples: int = 4  # training pictures whose answers are logged at each evaluation, at most 100 times a run
    screen: ScreenKind = ScreenKind.auto  # auto: bars on a terminal, else lines; quiet: warnings and the end only


@dataclass(frozen=True)
class StepSettings:
    """Settings of ours under ``trainer``, beside those of TRL's GRPOConfig. Their defaults stand here alone."""

    images_per_step: int = 128  # pictures an optimiser step learns from, over all devices
    answers_per_device: int | None = None  # at most so many in one forward and backward pass; None: what fits
    scoring_answers_per_device: int | None = None  # in a pass without gradients; None: what takes no more memory
    steps_per_generation: int | None = None  # passes to a generation batch; None: those of an optimiser step
    shared_prefix: bool = True  # a prompt goes through the policy once for its answers; false: TRL's own path
    shared_prefix_attention: SharedPrefixAttention = "auto"  # auto: whichever is faster
    shared_prefix_tokens: int | None = None  # under a mask, at most so many in a row; None: of the longest group
    dataloader_timeout: int = 300  # seconds to wait for a batch from dataloader_num_workers processes
    skip_zero_advantages: bool = False  # with beta 0: score no answer that teaches nothing


@dataclass
class Config:
    """A run."""

    objective: Objective = Objective.rl2r
    data: DataConfig = field(default_factory=DataConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    levels: LevelsConfig = field(default_factory=LevelsConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    depict: DepictConfig = field(default_factory=DepictConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    # StepSettings, and anything of TRL's GRPOConfig
    trainer: dict[str, Any] = field(default_factory=lambda: asdict(StepSettings()))
    experiment_name: str = "run"
    seed: int = 0
    name: str | None = None  # the run's folder below runs; None = experiment, date and time
    runs: str = "runs"
    resume: bool | str = (
        False  # true: go on with the run called name; auto: begin it, go on with it or leave it finished
    )
    launcher: Launcher = Launcher.auto
    threads: int | None = None  # torch threads; 1 is fastest for the tiny policy

    @property
    def draws_answers(self) -> bool:
        """Whether the policy answers while it trains; else it is shown answers, one to a picture."""
        return self.objective is Objective.rl2r

    @property
    def answers_to_each(self) -> int:
        """Answers to a picture that a step learns from."""
        return self.rollout.k if self.draws_answers else 1

    @property
    def together(self) -> int:
        """Pictures of one set, or pairs, that stay together in a step."""
        if self.draws_answers:
            return self.reward.cohort_size
        return 2 if self.levels.pair_weight > 0 else 1

    @property
    def pictures_in_prompt(self) -> int:
        """At most; what rows of depict.content show is known by the file alone."""
        if self.objective is Objective.depict:
            return 3 if self.depict.reference else 2
        return 2 if self.objective is Objective.comparison else self.data.pictures


# What earlier versions did not have, and what it was then.
ADDED: dict[str, Any] = {
    "objective": Objective.rl2r,
    "levels": LevelsConfig(),
    "comparison": ComparisonConfig(),
    "depict": DepictConfig(),
    "data": {"reference": False},
}


def check_known(node: DictConfig, schema: type, section: str) -> None:
    """Hydra lets ``+key=value`` add what the schema does not have; only ``trainer`` is open."""
    for key in map(str, node):
        if key not in {f.name for f in fields(schema)}:
            raise UserError(f"{section}{key} is no setting; see {schema.__name__} in {schema.__module__}")
        inner = OmegaConf.get_type(node, key)
        if is_dataclass(inner):
            check_known(node[key], inner, f"{section}{key}.")


T = TypeVar("T")


def as_object(composed: DictConfig, schema: type[T]) -> T:
    """The composed configuration as the dataclass ``schema``. Raises UserError for what does not fit into it."""
    try:
        check_known(composed, schema, "")
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:  # a value that is missing, or refers to one that is
        raise UserError(str(error)) from error
    assert isinstance(config, schema)
    return config


def register() -> None:
    """Make :class:`Config` the schema that conf/train.yaml builds on."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)
    # ${home:PATH} in conf: with the home folder in place of ~.
    OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)


def as_dict(value: Any) -> Any:
    """Dataclasses and enums as plain values, for the run folder."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_dict(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: as_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_dict(v) for v in value]
    return value

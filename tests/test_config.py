"""Every shipped configuration composes and is accepted; what is wrong with one is refused by its name."""

import copy
import dataclasses
import itertools
import re
import shutil
import typing
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, SFTConfig

from tests.support.choices import choices_for
from vqr1.batches import plan_batches
from vqr1.command_words import train_words
from vqr1.config import Config, Objective, RewardKind, Rivals, StepSettings, Tuning, as_dict, register
from vqr1.config_checks import (
    OURS,
    OWNED,
    OWNED_BY_SUPERVISED,
    check,
    check_name,
    from_hydra,
    step_settings,
    trainer_settings,
)
from vqr1.data import DATASETS
from vqr1.data.sample import some_of
from vqr1.errors import UserError
from vqr1.packaged import packaged
from vqr1.policy.shared_prefix import Packing
from vqr1.ranking_options import Agreement, Opponent, Variance
from vqr1.training.build_trainer import packing, reward_functions
from vqr1.training.grpo_settings import check_boundaries, grpo_config
from vqr1.training.objectives import recipe_of

CONF = packaged("conf").resolve()
# Found, not listed: a new file of conf/ is a new test. conf/local belongs to the machine, conf/evaluate
# to another command.
NO_GROUPS = ("local", "evaluate")
SHIPPED = sorted(f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml") if f.parent.name not in NO_GROUPS)
WITHOUT_LOCAL = ["~local"] if (CONF / "local" / "default.yaml").is_file() else []
DEMO = {"data": "demo", "policy": "tiny"}
GRPO_TYPES = typing.get_type_hints(GRPOConfig)


def complete(words: Sequence[str]) -> list[str]:
    """With pictures and a policy, where ``words`` name none."""
    keys = {word.partition("=")[0] for word in words}
    left_out = [] if "experiment" in keys else [f"{key}={value}" for key, value in DEMO.items() if key not in keys]
    return [*left_out, *words]


def composed(*overrides: str, conf: Path = CONF) -> Config:
    register()
    words = train_words([*complete(overrides), *(WITHOUT_LOCAL if conf == CONF else [])])
    with initialize_config_dir(str(conf), version_base="1.3"):
        return from_hydra(compose("train", words))


def grpo_defaults() -> dict[str, typing.Any]:
    """Every setting of GRPOConfig that is nobody's but the trainer's, at its default."""
    return defaults_of(GRPOConfig, OWNED)


def defaults_of(kind: type, owned: typing.Collection[str]) -> dict[str, typing.Any]:
    return {
        f.name: f.default if f.default is not dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(kind)
        if f.name not in owned and f.name not in OURS
    }


@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False), ("auto", "auto")])
def test_resume_is_true_false_or_auto(word, value):
    assert composed(f"resume={word}").resume == value
    assert composed("resume=auto", "name=a", "resume=false").resume is False


@pytest.mark.parametrize("key", ["save_only_model", "ignore_data_skip"])
def test_what_no_run_could_be_resumed_with_is_refused(key):
    with pytest.raises(UserError, match=f"trainer.{key}=true: .*; leave it out"):
        composed(f"+trainer.{key}=true")
    composed(f"+trainer.{key}=false")


@pytest.mark.parametrize("word", ["always", "1", "null", "''"])
def test_resume_is_nothing_else(word):
    with pytest.raises((UserError, HydraException), match="resume"):
        composed(f"resume={word}")


HOME = "/home/somebody"


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", HOME)
    words = ["runs=~/runs", "data.root=~/data", "data.cache=~/cache", "policy.path=~/policy"]
    config = composed(*train_words(words))
    found = (config.runs, config.data.root, config.data.cache, config.policy.path)
    assert found == tuple(f"{HOME}/{name}" for name in ("runs", "data", "cache", "policy"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("train", train_words(complete(["runs=~/runs"])), return_hydra_config=True).hydra
        assert hydra.sweep.dir.startswith(f"{HOME}/runs/")  # Hydra's own file of a sweep
    with pytest.raises(UserError, match="runs=~nobody_here/x: there is no home folder ~nobody_here"):
        composed(*train_words(["runs=~nobody_here/x"]))


@pytest.mark.parametrize("name", ["a", "sweep/a-1", "1e3", "a b", ".hidden", "ä" * 127])
def test_a_name_is_a_path_below_runs(name):
    check_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *(("../a", "lead out"), ("a/../../b", "lead out"), (".", "lead out"), ("/abs", "absolute"), ("a//b", "empty")),
        *(("a/", "empty"), ("", "empty"), ("a\nb", "not seen"), ("\x1b]0;x", "not seen"), ("a ", "not seen")),
        *(("ä" * 128, "longer than the 255 bytes"), ("~/a", "runs=~/FOLDER")),
    ],
)
def test_a_name_that_leads_elsewhere_or_cannot_be_seen_is_refused(name, why):
    with pytest.raises(UserError, match=why) as refused:
        check_name(name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("option", [None, *SHIPPED])
def test_a_shipped_configuration_composes_and_makes_trls_configuration(option, tmp_path):
    config = composed(*([option] if option else []))
    assert set(config.data.train) <= set(DATASETS)
    choices = choices_for(config)
    assert choices.batches.images_per_generation == config.trainer["images_per_step"]
    if config.objective is not Objective.rl2r:
        args = recipe_of(config, choices, tmp_path).args
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps == config.trainer["images_per_step"]
        return
    grpo = grpo_config(config, choices, tmp_path)
    assert grpo.num_generations == config.rollout.k
    assert len(reward_functions(config)) == len(grpo.reward_weights) == 2


@pytest.fixture
def gpu(monkeypatch):
    """As on a GPU that has bfloat16, as far as settings look."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)


@pytest.mark.parametrize("launched", [None, "bf16"])
@pytest.mark.parametrize(("dtype", "half"), [("auto", True), ("bfloat16", True), ("float32", False)])
def test_on_a_gpu_the_policys_dtype_decides_the_autocast(gpu, monkeypatch, tmp_path, dtype, half, launched):
    if launched:  # accelerate's launcher hands its file's mixed_precision on in this way
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    config = composed(f"policy.dtype={dtype}", "policy.tuning=lora")
    grpo = grpo_config(config, choices_for(config), tmp_path)
    assert (grpo.bf16, grpo.fp16, grpo.mixed_precision) == (half, False, "bf16" if half else "no")


def test_without_a_gpu_nothing_is_cast(tmp_path):
    for dtype in ("auto", "float32", "bfloat16"):
        config = composed(f"policy.dtype={dtype}", "policy.tuning=lora")
        grpo = grpo_config(config, choices_for(config), tmp_path)
        assert (grpo.bf16, grpo.mixed_precision) == (False, "no")


def test_launchers_leave_the_precision_to_the_policy():
    files = list((packaged("launch") / "accelerate").glob("*.yaml"))
    assert files
    assert {yaml.safe_load(file.read_text())["mixed_precision"] for file in files} == {"no"}


def test_all_groups_are_found():
    assert {option.split("=")[0] for option in SHIPPED} == {
        folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in NO_GROUPS
    }
    assert {"experiment=demo", "experiment=kadid10k", "reward=published"} <= set(SHIPPED)
    assert {"experiment=kadid10k_spaq", "experiment=koniq10k", "experiment=demo_short"} <= set(SHIPPED)


def test_every_dataset_is_data_for_a_run_without_a_file_of_its_own():
    files = {option.partition("=")[2] for option in SHIPPED if option.startswith("data=")}
    assert files == {"demo", "kadid10k_spaq", "compare2score"}
    for name in DATASETS:
        data = composed(f"data={name}").data
        assert (data.train, data.validation, data.test) == ([name], [name], [name])


@pytest.mark.parametrize(("name", "sets"), [("kadid10k_spaq", ["kadid10k", "spaq"]), ("koniq10k", ["koniq10k"])])
def test_the_other_experiments_are_the_papers_run_on_other_sets(name, sets):
    paper, config = composed("experiment=kadid10k"), composed(f"experiment={name}")
    assert (config.data.train, config.experiment_name) == (sets, name)
    for group in ("policy", "rollout", "reward", "trainer"):
        assert getattr(config, group) == getattr(paper, group)


STUDIES = [option for option in SHIPPED if option.startswith("experiment=study_")]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_sweeps_its_experiment_and_every_job_of_it_composes(study, monkeypatch):
    monkeypatch.setenv("BASE", "demo_short")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("train", [*train_words([study]), *WITHOUT_LOCAL], return_hydra_config=True)
    assert whole.hydra.mode is RunMode.MULTIRUN
    ((key, values),) = whole.hydra.sweeper.params.items()
    jobs = [composed(study, f"{key}={value}") for value in values.split(",")]
    assert len({repr(job) for job in jobs}) == len(jobs)
    for job in jobs:
        choices_for(job)  # steps divide into passes
    monkeypatch.delenv("BASE")
    assert composed(study) == composed("experiment=kadid10k")  # nothing but what is swept is its own


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("experiment=study_k", "experiment=[demo,study_k]"),
        ("experiment=[study_k,study_beta]", "experiment=[demo,study_k,study_beta]"),
        ("experiment=[koniq10k,study_k]", "experiment=[koniq10k,study_k]"),
        ("experiment=kadid10k", "experiment=kadid10k"),
        ("experiment=koniq10k,kadid10k", "experiment=koniq10k,kadid10k"),
    ],
)
def test_a_study_is_put_on_the_experiment_that_base_names(word, made, monkeypatch):
    monkeypatch.setenv("BASE", "demo")
    assert train_words([word]) == [made]


@pytest.mark.parametrize("base", ["nosuch", "study_k", "../demo"])
def test_what_cannot_be_studied_is_refused(base, monkeypatch):
    monkeypatch.setenv("BASE", base)
    with pytest.raises(UserError, match=f"BASE={base} in the environment is no.*from .*demo, .*demo_short"):
        train_words(["experiment=study_k"])
    with pytest.raises(UserError, match=re.escape("experiment=[study_k,study_beta] crosses what they sweep")):
        train_words(["experiment=study_k,study_beta"])


def test_one_setting_moves_the_root(monkeypatch):
    monkeypatch.setenv("VQR1_DATA", "/scratch/pictures")
    for option in SHIPPED:
        if option.startswith("data="):
            assert composed(option).data.root == "/scratch/pictures"
    assert composed("experiment=koniq10k", "data.root=/elsewhere").data.root == "/elsewhere"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("ranking", (RewardKind.ranking, Rivals.batch, Opponent.mean, Variance.sample, Agreement.fidelity, 0.0)),
        ("published", (RewardKind.ranking, Rivals.cohort, Opponent.mean, Variance.sample, Agreement.fidelity, 1e-6)),
        (
            "probability_average",
            (RewardKind.ranking, Rivals.batch, Opponent.each, Variance.sample, Agreement.fidelity, 0),
        ),
        ("fixed_variance", (RewardKind.ranking, Rivals.batch, Opponent.each, Variance.unit, Agreement.fidelity, 0)),
        ("binary", (RewardKind.ranking, Rivals.batch, Opponent.mean, Variance.sample, Agreement.binary, 0.0)),
        ("regression", (RewardKind.regression, Rivals.batch, Opponent.mean, Variance.sample, Agreement.fidelity, 0.0)),
    ],
)
def test_each_reward_is_its_row_of_table_4(option, expected):
    reward = composed(f"reward={option}").reward
    fields = ("kind", "rivals", "opponent", "variance", "agreement", "root_epsilon")
    assert tuple(getattr(reward, name) for name in fields) == expected
    assert (reward.gamma, reward.cohort_size, reward.regression_threshold) == (1e-6, 8, 0.35)


def test_kadid10k_holds_the_papers_values(tmp_path):
    config = composed("experiment=kadid10k")
    assert config.policy.path == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert config.policy.train_vision
    assert (config.data.train, config.rollout.prompt) == (["kadid10k"], "paper")
    choices = choices_for(config, processes=16, gpus=1)
    assert (choices.tuning, choices.batches.images_per_generation) == (Tuning.full, 128)
    grpo = grpo_config(config, choices, tmp_path)
    expected = {
        "num_generations": 6,
        "beta": 0.04,
        "epsilon": 0.2,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "num_train_epochs": 10,
        "max_steps": -1,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "multi_objective_aggregation": "sum_then_normalize",
        "max_completion_length": 256,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "use_bias_correction_kl": False,
        "reward_weights": [1.0, 1.0],
        "num_iterations": 1,
    }
    assert {key: getattr(grpo, key) for key in expected} == expected
    alone = choices_for(config, gpus=1)
    assert alone.tuning is Tuning.lora
    assert grpo_config(config, alone, tmp_path).learning_rate == 1e-5


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("reward.gamma=abc", "reward.gamma"),
        ("rollout.k=six", "rollout.k"),
        ("seed=1.5", "seed"),
        ("reward.rivals=world", "reward.rivals"),
        ("policy.train_vision=perhaps", "policy.train_vision"),
        ("reward.gama=1", "reward.gama"),
        ("trainer.learning_rte=1", "trainer.learning_rte"),
        ("reward=rank", "reward/rank"),
        ("rewards=ranking", "rewards"),
        ("experiment=kadid", "experiment/kadid"),
    ],
)
def test_wrong_types_and_names_do_not_compose(override, named):
    with pytest.raises(HydraException) as error:
        composed(override)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+reward.gama=1", "reward.gama is no setting; see RewardConfig"),
        ("+policy.lora.rank=8", "policy.lora.rank is no setting; see LoraSettings"),
        ("+gamma=1", "gamma is no setting; see Config"),
        ("+trainer.bf16=true", "trainer.bf16 follows from another setting: use policy.dtype"),
        ("trainer.images_per_step=many", "trainer.images_per_step='many': Input should be a valid integer"),
        ("data.train=[]", "data.train names no dataset; choose an experiment, or data=NAME"),
        ("data.test=[demo_five,demo_five]", r"data.test=\['demo_five', 'demo_five'\] names a dataset twice"),
        ("rollout.k=1", "rollout.k=1: .* set rollout.k to 2 or more"),
        ("rollout.temperature=0", "rollout.temperature=0.0: set it above 0"),
        ("rollout.temperature=nan", "rollout.temperature=nan: set it above 0"),
        ("rollout.max_tokens=0", "rollout.max_tokens=0: set it above 0"),
        ("reward.cohort_size=1", "reward.cohort_size=1: .* set it to 2 or more"),
        ("reward.gamma=-1", "reward.gamma=-1.0: set it to 0 or more"),
        ("reward.regression_threshold=0", "reward.regression_threshold=0.0: set it above 0"),
        ("reward.format_weight=-1", "reward.format_weight=-1.0: set it to 0 or more"),
        ("evaluation.every=-1", "evaluation.every=-1: set it to 0 or more"),
        ("policy.lora.r=0", "policy.lora.r=0: set it above 0"),
        ("threads=0", "threads=0: set it to 1 or more, or null"),
        ("trainer.ddp_timeout=0", "trainer.ddp_timeout=0: set it to 1 second or more"),
        ("trainer.ddp_timeout=long", "trainer.ddp_timeout='long': Input should be a valid integer"),
        ("evaluation.k=0", "evaluation.k=0: set it above 0"),
        ("seed=-1", "seed=-1: set it to 0 or more"),
        ("policy.min_pixels=999999", "policy.min_pixels is above policy.max_pixels"),
    ],
)
def test_what_cannot_be_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message):
        composed(override)


def test_settings_and_maths_have_the_same_variants():
    from vqr1 import config, ranking

    for name in ("Opponent", "Variance", "Agreement"):
        assert getattr(config, name) is getattr(ranking, name)


def test_a_reward_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"reward.fidelity_weight and reward.format_weight are both 0"):
        composed("reward.fidelity_weight=0", "reward.format_weight=0")
    assert composed("reward.format_weight=0").reward.format_weight == 0


@pytest.mark.parametrize(
    ("cause", "idle"),
    [
        *itertools.product(
            ["kind=regression"],
            ["rivals=cohort", "opponent=each", "agreement=binary", "variance=unit", "gamma=0.1", "root_epsilon=0.1"],
        ),
        ("kind=regression", "preference=thurstone"),
        *itertools.product(
            ["agreement=binary"], ["variance=unit", "gamma=0.1", "root_epsilon=0.1", "preference=thurstone"]
        ),
        ("kind=ranking", "regression_threshold=0.5"),
    ],
)
def test_a_reward_setting_without_effect_is_refused(cause, idle):
    with pytest.raises(ValueError, match=rf"reward.{idle} has no effect with reward.{cause}; leave it out"):
        composed(f"reward.{cause}", f"reward.{idle}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.k=4", "rollout.k=4 has no effect with objective=levels; leave it out"),
        ("rollout.temperature=0.7", "rollout.temperature=0.7 has no effect with objective=levels"),
        ("rollout.vllm.sleep=true", "rollout.vllm.sleep=true has no effect with objective=levels"),
        ("rollout=vllm_colocate", "rollout=vllm_colocate has no effect with objective=levels"),
        ("reward.cohort_size=4", "reward.cohort_size=4 has no effect with objective=levels"),
        ("reward=binary", "reward.agreement=binary has no effect with objective=levels"),
        ("logger.samples=2", "logger.samples=2 has no effect with objective=levels"),
        ("evaluation.k=2", "evaluation.k=2 has no effect with objective=levels"),
        ("evaluation.proof=true", "evaluation.proof=true has no effect with objective=levels"),
        ("trainer.shared_prefix=false", "trainer.shared_prefix=false has no effect with objective=levels"),
        ("+trainer.loss_type=dft", "trainer.loss_type follows from another setting: use objective"),
        ("+trainer.packing=true", "trainer.packing follows from another setting"),
        ("levels.pair_weight=1", "levels.pair_weight=1.0 has no effect with levels.labels=hard"),
        ("levels.question=' '", "levels.question is empty"),
    ],
)
def test_what_an_objective_does_not_read_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        composed("experiment=demo_levels", override)


@pytest.mark.parametrize("override", ["levels.labels=soft", "levels.pair_weight=0.5", "levels.question=Well?"])
def test_levels_are_refused_where_answers_are_drawn(override):
    with pytest.raises(UserError, match=re.escape(override.split("=")[0]) + ".* has no effect with objective=rl2r"):
        composed(override)


@pytest.mark.parametrize("other", ["rl2r", "levels", "depict"])
def test_comparisons_are_refused_with_another_objective(other):
    experiment = {"levels": ["experiment=demo_levels"], "depict": ["experiment=demo_depict"]}.get(other, [])
    with pytest.raises(UserError, match=f"comparison.anchors=7 has no effect with objective={other}; leave it out"):
        composed(*experiment, "comparison.anchors=7")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.k=4", "rollout.k=4 has no effect with objective=comparison; leave it out"),
        ("reward.cohort_size=4", "reward.cohort_size=4 has no effect with objective=comparison"),
        ("levels.question=Well?", "levels.question=Well. has no effect with objective=comparison"),
        ("depict.short=0", "depict.short=0.0 has no effect with objective=comparison"),
        ("evaluation.k=2", "evaluation.k=2 has no effect with objective=comparison"),
        ("comparison.pairs=0", "comparison.pairs=0: set it to 1 or more"),
        ("comparison.anchors=1", "comparison.anchors=1: a score comes of two comparisons or more"),
        ("+comparison.spread.koniq10k=1", "comparison.spread names koniq10k, which is not in data.train"),
        ("+comparison.spread.demo_five=0", "comparison.spread of demo_five is 0.0: give a positive number"),
    ],
)
def test_what_comparisons_do_not_read_or_cannot_use_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        composed("experiment=demo_comparison", override)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reward=binary"], "reward.agreement=binary has no effect with objective=depict"),
        (["comparison.balanced=true"], "comparison.balanced=true has no effect with objective=depict"),
        (["depict.short=1.5"], "depict.short=1.5: it is a share, 0 to 1"),
        (["depict.content=rows.jsonl"], "depict.content=rows.jsonl and depict.content_share=0.0: name a file"),
        (["depict.content_share=0.2"], "depict.content=None and depict.content_share=0.2: name a file"),
        (
            ["depict.content=rows.jsonl", "depict.content_share=1"],
            "depict.content_share=1.0: it is a share, 0 to under 1",
        ),
        (["depict.anchors=1"], "depict.anchors=1: a score comes of two comparisons or more"),
    ],
)
def test_what_depict_does_not_read_or_cannot_use_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        composed("experiment=demo_depict", *words)


def test_depict_trains_lora_on_the_attention_layers():
    config = composed("experiment=depict")
    assert config.policy.tuning is Tuning.lora
    names = [
        f"model.language_model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
    ]
    assert [bool(re.fullmatch(config.policy.lora.target_modules, name)) for name in names] == [True, True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["levels.level_weight=0"], "levels.level_weight and levels.pair_weight are both 0"),
        (
            ["levels.level_weight=0", "levels.pair_weight=1", "levels.closed_set=true"],
            "levels.closed_set=true has no effect with levels.level_weight=0",
        ),
        (["levels.text_weight=-1"], "levels.text_weight=-1.0: set it to 0 or more"),
    ],
)
def test_soft_labels_need_something_to_learn(words, message):
    with pytest.raises(UserError, match=message):
        composed("experiment=demo_levels", "levels.labels=soft", *words)


def test_pairs_need_two_pictures_in_a_pass(tmp_path):
    soft = ["experiment=demo_levels", "levels.labels=soft", "levels.pair_weight=1"]
    config = composed(*soft, "trainer.answers_per_device=1")
    with pytest.raises(UserError, match="compares the pictures of a forward pass, which holds 1"):
        recipe_of(config, choices_for(config), tmp_path)


def test_trainer_settings_of_another_objective_are_refused(tmp_path):
    config = composed("experiment=demo_levels", "+trainer.beta=0.1")
    with pytest.raises(UserError, match="trainer.beta is no setting of SFTConfig .*objective=levels"):
        recipe_of(config, choices_for(config), tmp_path)


def test_every_other_setting_of_sft_can_be_given_at_once(tmp_path):
    config = composed("experiment=demo_levels")
    free = defaults_of(SFTConfig, {*OWNED, *OWNED_BY_SUPERVISED})
    config.trainer = {"images_per_step": 16, **free, "learning_rate": 3e-6}
    check(config)
    assert recipe_of(config, choices_for(config), tmp_path).args.learning_rate == 3e-6


def test_owned_settings_are_all_trls():
    assert set(OWNED_BY_SUPERVISED) <= {f.name for f in dataclasses.fields(SFTConfig)}
    assert set(OWNED) <= {f.name for f in dataclasses.fields(GRPOConfig)}


@pytest.fixture(scope="module")
def default() -> Config:
    """What no word changes; composing takes longer than to look at it."""
    return composed()


@pytest.mark.parametrize("key", sorted(OWNED))
def test_an_owned_setting_is_refused_and_its_owner_named(default, key):
    config = copy.deepcopy(default)
    config.trainer[key] = grpo_defaults().get(key)
    with pytest.raises(ValueError, match=re.escape(f"trainer.{key} follows from another setting: use {OWNED[key]}")):
        check(config)


@pytest.mark.parametrize("owner", sorted({o for o in OWNED.values() if re.fullmatch(r"[a-z_.]+\.[a-z_]+", o)}))
def test_the_named_owner_exists(default, owner):
    *sections, key = owner.split(".")
    settings = as_dict(default)
    for section in sections:
        settings = settings[section]
    known = {*settings, *(grpo_defaults() if sections == ["trainer"] else ())}
    assert key in known


@pytest.mark.parametrize("key", sorted(grpo_defaults()))
def test_every_other_setting_of_trl_is_accepted_at_its_default(key):
    default = grpo_defaults()[key]
    assert trainer_settings({key: default}, GRPO_TYPES) == {key: default}


def test_every_other_setting_of_trl_can_be_given_at_once(tmp_path):
    # grpo_config sets some of GRPOConfig itself; one of those that OWNED forgot would collide here.
    config = composed()
    config.trainer = {"images_per_step": 16, **grpo_defaults(), "learning_rate": 3e-6}
    check(config)
    assert grpo_config(config, choices_for(config), tmp_path).learning_rate == 3e-6


def test_what_trl_refuses_is_the_users_error(tmp_path):
    config = composed("trainer.lr_scheduler_type=straight")
    with pytest.raises(UserError, match="trainer: .*straight"):
        grpo_config(config, choices_for(config), tmp_path)


def test_our_trainer_settings_have_their_defaults_in_one_place():
    assert step_settings({}) == step_settings(composed().trainer) == StepSettings()
    listed = yaml.safe_load((CONF / "trainer" / "grpo.yaml").read_text())
    assert set(listed).isdisjoint(OURS)
    assert packing(StepSettings()) == Packing("auto", None)
    assert packing(StepSettings(shared_prefix=False)) is None


@pytest.mark.parametrize(
    ("rollout", "setting"),
    [
        ("transformers", "vllm_importance_sampling_clip_min=0.5"),
        ("vllm_colocate", "generation_kwargs={top_p:0.9}"),
        ("vllm_server", "vllm_structured_outputs_regex=a+"),
    ],
)
def test_a_setting_of_trl_that_the_rollout_does_not_read_is_refused(rollout, setting, tmp_path):
    config = composed(f"rollout={rollout}", f"+trainer.{setting}", "policy.tuning=full")
    with pytest.raises(
        ValueError, match=rf"trainer.{setting.partition('=')[0]}=.* has no effect with rollout={rollout}"
    ):
        grpo_config(config, choices_for(config), tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"loss_type": "gpro"}, "trainer.loss_type='gpro': choose from grpo,"),
        ({"multi_objective_aggregation": "sum"}, "choose from sum_then_normalize, normalize_then_sum"),
        ({"learning_rate": "abc"}, r"trainer.learning_rate='abc': Input should be a valid number"),
        ({"beta": [1]}, r"trainer.beta=\[1\]: Input should be a valid number"),
        ({"max_steps": 1.5}, r"trainer.max_steps=1.5: Input should be a valid integer"),
        ({"learning_rte": 1e-6}, r"trainer.learning_rte is no setting of GRPOConfig; see conf/trainer"),
    ],
)
def test_trainer_settings_of_the_wrong_type_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        trainer_settings(setting, GRPO_TYPES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"images_per_step": "many"}, r"trainer.images_per_step='many': Input should be a valid integer"),
        ({"images_per_step": "16"}, r"trainer.images_per_step='16': Input should be a valid integer"),
        ({"images_per_step": None}, r"trainer.images_per_step=None: Input should be a valid integer"),
        ({"shared_prefix": "yes"}, r"trainer.shared_prefix='yes': Input should be a valid boolean"),
        ({"shared_prefix_attention": "flash"}, r"trainer.shared_prefix_attention='flash': Input should be 'auto'"),
        ({"steps_per_generation": 1.5}, r"trainer.steps_per_generation=1.5: Input should be a valid integer"),
    ],
)
def test_our_trainer_settings_of_the_wrong_type_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        step_settings(setting)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"skip_zero_advantages=true would change the gradient with trainer.beta=0.04; leave one of them out"),
        (("trainer.beta=0", "trainer.loss_type=bnpo"), "with trainer.loss_type=bnpo"),
        (("trainer.beta=0", "+trainer.entropy_coef=0.1"), "with trainer.entropy_coef=0.1"),
        (("trainer.beta=0", "+trainer.top_entropy_quantile=0.2"), "with trainer.top_entropy_quantile=0.2"),
        (("trainer.shared_prefix=false",), "needs trainer.shared_prefix=true"),
        (("trainer.shared_prefix_tokens=0",), "trainer.shared_prefix_tokens=0: set it to 1 or more, or null"),
        (("trainer.scoring_answers_per_device=0",), "scoring_answers_per_device=0: set it to 1 or more, or null"),
    ],
)
def test_nothing_is_skipped_that_has_a_gradient(words, message):
    with pytest.raises(ValueError, match=message):
        composed("experiment=kadid10k", "trainer.skip_zero_advantages=true", *words)


def test_answers_without_advantage_may_be_skipped_where_only_advantages_teach():
    composed("experiment=kadid10k", "trainer.skip_zero_advantages=true", "trainer.beta=0")


def test_trainer_settings_keeps_ours_from_trl():
    given_ = {"images_per_step": 16, "answers_per_device": None, "beta": 0.1, "shared_prefix": False}
    assert trainer_settings(given_, GRPO_TYPES) == {"beta": 0.1}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((128, 6, 16, 8), (6, 8, 8, 128)),  # the paper's: 16 GPUs with eight pictures each; a picture to a pass
        ((128, 6, 1, 13), (12, 64, 64, 128)),  # two pictures to a pass, not 16 answers
        ((128, 4, 1, 8), (8, 64, 64, 128)),
        ((128, 16, 1, 8), (8, 256, 256, 128)),  # half a picture
        ((16, 6, 1, 48), (48, 2, 2, 16)),  # experiment=demo
        ((16, 6, 1, None), (96, 1, 1, 16)),
        ((10, 6, 2, 7), (6, 5, 5, 10)),  # 30 answers to a device
        ((4, 3, 4, 100), (3, 1, 1, 4)),
        ((2, 7, 1, 1), (1, 14, 14, 2)),
    ],
)
def test_plans(sizes, expected):
    assert dataclasses.astuple(plan_batches(*sizes)) == expected


def test_a_generation_batch_may_span_steps_or_a_part_of_one():
    assert dataclasses.astuple(plan_batches(16, 6, 1, 48, 4)) == (48, 2, 4, 32)
    assert dataclasses.astuple(plan_batches(16, 6, 1, 48, 1)) == (48, 2, 1, 8)


@given(
    per_rank=st.integers(1, 40),
    k=st.integers(2, 12),
    world=st.integers(1, 16),
    answers_per_device=st.none() | st.integers(1, 200),
)
def test_a_plan_holds_all_answers_and_no_more(per_rank, k, world, answers_per_device):
    images = per_rank * world
    plan = plan_batches(images, k, world, answers_per_device)
    assert plan.per_device * plan.accumulation * world == images * k
    assert plan.images_per_generation == images
    share = per_rank * k
    limit = min(answers_per_device or share, share)
    dividing = [n for n in range(1, limit + 1) if share % n == 0]
    assert plan.per_device == max([n for n in dividing if n % k == 0] or dividing)


@given(
    per_rank=st.integers(1, 24),
    k=st.integers(2, 8),
    world=st.integers(1, 8),
    answers_per_device=st.integers(1, 64),
    passes=st.integers(1, 48),
)
def test_a_generation_batch_keeps_a_pictures_answers_together(per_rank, k, world, answers_per_device, passes):
    accumulation = plan_batches(per_rank * world, k, world, answers_per_device).accumulation
    try:
        plan = plan_batches(per_rank * world, k, world, answers_per_device, passes)
    except ValueError as error:
        assert "trainer.steps_per_generation" in str(error)
        fitting = re.search(r"multiple of (\d+)$", str(error))
        if fitting:  # the remedy is one
            assert (per_rank * k // accumulation * int(fitting[1])) % k == 0
        return
    assert (plan.per_device * plan.steps_per_generation) % k == 0
    assert plan.steps_per_generation == passes
    assert plan.images_per_generation * k == plan.per_device * passes * world


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((10, 6, 4), "trainer.images_per_step=10 cannot be shared by 4 devices; set it to 8 or 12"),
        ((3, 6, 4), "trainer.images_per_step=3 cannot be shared by 4 devices; set it to 4"),
        ((0, 6, 1), "trainer.images_per_step=0: set it to 1 or more"),
        ((8, 6, 1, 0), "trainer.answers_per_device=0: set it to 1 or more"),
        ((8, 6, 1, 8, -6), "trainer.steps_per_generation=-6: set it to 1 or more"),
        ((8, 6, 1, 4, 2), "trainer.steps_per_generation=2 .* set it to a multiple of 3"),
        ((8, 6, 1, 6, 3), "trainer.steps_per_generation=3 and 8 passes .* set one to a multiple of the other"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_some_that_do(sizes, message):
    with pytest.raises(ValueError, match=message):
        plan_batches(*sizes)
    suggested = [int(n) for n in re.findall(r"\d+", message.partition("devices; set it to")[2])]
    for images in suggested:
        assert plan_batches(images, *sizes[1:]).images_per_generation == images


@pytest.mark.parametrize(
    ("passes", "iterations", "save_steps", "multiple"),
    [(2, 1, 7, None), (4, 1, 7, 2), (4, 3, 9, 6), (1, 3, 7, 3), (1, 2, 7, None), (4, 1, 8, None)],
)
def test_checkpoints_lie_where_generation_batches_end(passes, iterations, save_steps, multiple):
    plan = plan_batches(16, 6, 1, 48, passes)  # two passes to a step
    settings = {"num_iterations": iterations, "save_steps": save_steps}
    if multiple is None:
        check_boundaries(settings, plan)
        return
    with pytest.raises(ValueError, match=f"trainer.save_steps={save_steps} .* set it to a multiple of {multiple}$"):
        check_boundaries(settings, plan)
    check_boundaries({**settings, "save_steps": multiple}, plan)


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match=r"trainer.num_iterations=0: set it to 1 or more"):
        check_boundaries({"num_iterations": 0}, plan_batches(16, 6, 1))


def test_a_limited_set_is_drawn_over_the_whole_of_it():
    samples = list(range(2000))  # KADID-10k's order: 125 rows to a reference, five levels to a type
    chosen = some_of(samples, 400)
    assert chosen == some_of(samples, 400) == sorted(set(chosen))
    assert len(chosen) == 400
    assert len({i // 125 for i in chosen}) == 16
    assert min(sum(i % 5 == level for i in chosen) for level in range(5)) > 50
    assert some_of(samples, None) is some_of(samples, 2000) is samples


def test_local_settings_come_after_the_experiment(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "conf" / "local").mkdir()
    local = tmp_path / "conf" / "local" / "default.yaml"
    local.write_text("# @package _global_\nruns: /scratch/runs\nthreads: 3\n")
    config = composed("experiment=demo", conf=tmp_path / "conf")
    assert (config.runs, config.threads, config.experiment_name) == ("/scratch/runs", 3, "demo")
    assert composed("experiment=demo", "threads=2", conf=tmp_path / "conf").threads == 2
    local.write_text("# @package _global_\ndata:\n  rot: /data\n")
    with pytest.raises(HydraException, match="rot"):
        composed(conf=tmp_path / "conf")
    local.write_text("runs: /scratch/runs\n")  # without its first line
    with pytest.raises(HydraException, match="local"):
        composed(conf=tmp_path / "conf")


def test_plain_values_survive_yaml():
    plain = as_dict(composed("experiment=kadid10k", "reward=published", "trainer.learning_rate=1e-6"))
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert plain["reward"]["rivals"] == "cohort"

"""Whose answers are asked for: weights as they are, what a run left behind, or what was exported of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from vqr1.answer import build_prompt, check_pictures, prompt_warning
from vqr1.answering.settings import (
    USUAL_PROMPTS,
    AnswerSettings,
    Method,
    conversation,
    objective_of,
    pictures_shown,
)
from vqr1.config import PolicyConfig
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.data.splits import Seen, SplitRule
from vqr1.errors import MissingFileError, UserError
from vqr1.exported import Exported, read_exported
from vqr1.folder_reader import read_yaml
from vqr1.policy.comparison_scores import pair_form
from vqr1.policy.expected import NumberTokens
from vqr1.policy.level_scores import LevelAnswers
from vqr1.policy.load import (
    SHIPPED,
    TINY,
    add_adapter,
    files_hash,
    find_folder,
    find_weights,
    load_policy,
    load_processor,
    resolve_attention,
    resolve_dtype,
)
from vqr1.policy.read_once import OncePerPrompt, encode_each_picture_once, read_each_prompt_once, take_bytes
from vqr1.policy.weight_files import check_adapter_files, check_folder, read_json
from vqr1.policy.windows import attend_at_once
from vqr1.rollout.prompt_checks import check_message
from vqr1.rollout_settings import ScoringEngine


@dataclass(frozen=True)
class Served:
    """What a server of vLLM says that it serves."""

    url: str
    id: str  # that requests name
    root: str  # the folder or hub id that it was started with
    length: int  # tokens of prompt and answer, at most
    version: str  # of vLLM


@dataclass(frozen=True)
class Model:
    """A policy that is not loaded yet."""

    name: str
    policy: PolicyConfig  # the weights, or what an adapter is laid on
    adapter: Path | None  # LoRA weights of a run
    prompt: str  # a name of vqr1.answer.PROMPTS or a text, of the objective; find_model: of the method
    trained_on: list[str] | None  # sets it learnt from or was chosen by; None: not stated
    seen: Seen = field(default_factory=Seen)  # how those sets were divided
    objective: str | None = None  # of vqr1.config.Objective, that it learnt by; None: not stated
    names_prompt: bool = True  # False: nothing says what it was trained to be asked, and prompt is the usual one
    reference: bool = False  # whether each picture's reference is shown before it
    served: Served | None = None  # whoever answers for it; its weights need not be here

    @property
    def pictures(self) -> int:
        """Pictures in a prompt."""
        return 2 if self.reference else 1

    def files(self) -> list[Path]:
        """The files that hold its weights; none where a server answers for it."""
        if self.served:
            return []
        folders = [find_weights(self.policy.path), *([self.adapter] if self.adapter else [])]
        return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def find_model(config: AnswerSettings, weights: bool = True) -> Model:
    """The model that the settings name; settings that are given win over a run's own.

    Without ``weights`` a folder may lack them: a server answers.

    Raises MissingFileError, saying what to fetch, where weights are not here, UserError for a run without weights.
    """
    path = Path(config.model).expanduser()
    run = _run_folder(path)
    model = _of_run(*run) if run else _of_adapter(path) if _is_adapter(path) else _plain(config.model)
    given = {name: getattr(config, name) for name in ("min_pixels", "max_pixels")}
    given |= {name: value for name in ("dtype", "attention") if (value := getattr(config, name)) != "auto"}
    policy = replace(model.policy, **{name: value for name, value in given.items() if value is not None})
    _check_limits(policy)
    try:
        find_weights(policy.path) if weights else find_folder(policy.path)
    except MissingFileError as error:
        if model.adapter is None:
            raise
        raise MissingFileError(f"{model.adapter} holds LoRA weights over a policy that is missing: {error}") from error
    asks = objective_of(config.method, model.objective)
    return replace(
        model,
        policy=policy,
        name=config.name or model.name,
        prompt=config.prompt or (model.prompt if model.objective == asks else USUAL_PROMPTS[asks]),
        names_prompt=model.names_prompt or config.prompt is not None,
        reference=config.method.draws and (model.reference if config.reference is None else config.reference),
        trained_on=model.trained_on if config.trained_on is None else config.trained_on,
    )


def _check_limits(policy: PolicyConfig) -> None:
    """Raises UserError for limits between which no picture is."""
    for name, least, why in (("min_pixels", 1, ""), ("max_pixels", TOKEN_PIXELS**2, ", the pixels of one token")):
        if (value := getattr(policy, name)) < least:
            raise UserError(f"{name}={value}: set it to {least} or more{why}")
    if policy.min_pixels > policy.max_pixels:
        raise UserError(
            f"min_pixels={policy.min_pixels} is above max_pixels={policy.max_pixels}; lower the one or raise the other"
        )


def usual_method(model: str) -> Method | None:
    """The method that reads what a run or an exported folder was trained for, where that is not a drawn answer."""
    path = Path(model).expanduser()
    if _is_adapter(path) and not _run_folder(path):
        return None
    found = _of_run(*run) if (run := _run_folder(path)) else _plain(model)
    return Method.levels if found.objective == "levels" else None


def check_model(model: Model, method: Method = Method.greedy) -> str | None:
    """Look at files, prompt and chat template before anything is loaded. Returns what to warn of.

    Raises UserError for weights that do not fit, and for what vqr1 does not read or run.
    """
    if model.served is None:
        check_folder(find_weights(model.policy.path))
        if model.adapter:
            check_adapter_files(model.adapter)
    if method.draws:
        check_pictures(model.prompt, model.reference, "reference")
    pictures = model.pictures if method.draws else pictures_shown(method)
    asked = conversation(method, model.prompt, model.objective)
    check_message(load_processor(model.policy), asked, pictures=pictures)
    warnings = [prompt_warning(model.prompt)] if method.draws else []
    if model.objective and model.objective != objective_of(method, model.objective):
        warnings.append(
            f"warning: {model.name} has learnt by objective={model.objective}, and method={method.value} reads what "
            f"objective={objective_of(method)} trains"
        )
    return "\n".join(warning for warning in warnings if warning) or None


def check_method(method: Method, model: Model) -> None:
    """Raises UserError for a model whose scores cannot be read as the method does, before it is loaded."""
    read: dict[Method, Callable[[Any], object]] = {
        Method.expected: NumberTokens.of,
        Method.levels: LevelAnswers.of,
        Method.comparison: pair_form(model.objective).answers,
        Method.votes: pair_form(model.objective).answers,
    }
    if method in read:
        read[method](load_processor(model.policy).tokenizer)


def prompt_text(method: Method, prompt: str) -> str:
    """What is asked, in full, without the pictures. Raises as :func:`vqr1.answering.settings.conversation`."""
    return str(build_prompt(prompt)[0]["content"]) if method.draws else prompt


def answer_facts(settings: AnswerSettings, model: Model) -> dict[str, Any]:
    """What decides the answers but the batches they come in, settled (:func:`vqr1.answering.settings.settle`)."""
    if model.served:
        by = {"model": model.served.root, "engine": f"a server of vLLM {model.served.version}"}
        return {**by, **_asked_facts(settings, model)}
    by_vllm, dtype = settings.engine is ScoringEngine.vllm, resolve_dtype(model.policy.dtype)
    return {
        "weights_sha256": files_hash(model.files()),
        "engine": settings.engine.value,
        **_asked_facts(settings, model),
        "dtype": str(dtype).removeprefix("torch."),
        "attention": None if by_vllm else resolve_attention(model.policy.attention, dtype),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _asked_facts(settings: AnswerSettings, model: Model) -> dict[str, Any]:
    method, greedy = settings.method, settings.method is Method.greedy
    if not method.draws:
        limits = {"min_pixels": model.policy.min_pixels, "max_pixels": model.policy.max_pixels}
        return {"method": method.value, "prompt": prompt_text(method, model.prompt), **limits}
    return {
        "method": method.value,
        "k": settings.answers if settings.until is None else None,
        "until": settings.until,
        "max_k": rule.most if (rule := settings.stopping_rule()) else None,
        "temperature": 0.0 if greedy else settings.temperature,
        "seed": None if greedy else settings.seed,
        "prompt": prompt_text(method, model.prompt),
        **({"reference": True} if model.reference else {}),
        "max_tokens": settings.max_tokens,
        "min_pixels": model.policy.min_pixels,
        "max_pixels": model.policy.max_pixels,
    }


def load_model(model: Model) -> tuple[Any, Any]:
    """Model and processor, ready to answer on the GPU where there is one."""
    loaded = load_weights(model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    attend_at_once(loaded)
    encode_each_picture_once(loaded.model.visual)
    processor = OncePerPrompt.of(load_processor(model.policy))
    take_bytes(loaded.model.visual, processor.image_processor)
    read_each_prompt_once(loaded)
    return loaded, processor


def load_weights(model: Model) -> Any:
    """The policy on the CPU, with the adapter added to the weights it was trained over."""
    loaded: Any = load_policy(model.policy)
    if not model.adapter:
        return loaded
    return add_adapter(loaded, model.adapter).merge_and_unload()


def _plain(path: str) -> Model:
    tiny = path == "tiny" or Path(path).expanduser().resolve() == SHIPPED.resolve()
    if not tiny and (exported := _exported(path)):
        return _of_export(path, exported)
    policy = PolicyConfig(path=path, **(TINY if tiny else {}))
    return Model("tiny" if tiny else Path(path).name, policy, None, "paper", None, names_prompt=tiny)


def _of_adapter(folder: Path) -> Model:
    """LoRA weights as PEFT saves them, which name the policy that they are laid on."""
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / 'adapter_config.json'} has no base_model_name_or_path: which policy is it laid on?")
    return replace(_plain(base), name=folder.name, adapter=folder, names_prompt=False)


def _exported(path: str) -> Exported | None:
    try:
        return read_exported(find_folder(path))
    except MissingFileError:
        return None  # find_model says what is missing, and for whom


def _of_export(path: str, exported: Exported) -> Model:
    limits = {name: getattr(exported, name) for name in ("dtype", "min_pixels", "max_pixels")}
    try:
        rule = SplitRule(tuple(exported.split_ratio), exported.split_seed)
    except UserError as error:
        raise UserError(f"{find_folder(path) / 'rating.json'}: {error}; export the run again") from error
    seen = Seen(rule, exported.splits)
    policy = PolicyConfig(path=path, **limits)
    asked: dict[str, Any] = {"objective": exported.objective, "reference": exported.reference}
    return Model(Path(path).name, policy, None, exported.prompt, exported.trained_on, seen, **asked)


def weights_of_run(path: str) -> Path:
    """The folder of weights of a run, where ``path`` is the run or the folder. Raises UserError where it is neither."""
    run = _run_folder(Path(path).expanduser())
    if run is None:
        raise UserError(f"{path} is no run of vqr1 train, nor a folder of weights in one; give runs/NAME")
    return run[1]


def _run_folder(path: Path) -> tuple[Path, Path] | None:
    """A run folder and its folder of weights, where ``path`` is the one or the other; else None."""
    if (path.parent / "config.yaml").is_file() and (path / "config.json").is_file() | _has_adapter(path):
        return path.parent, path
    if not (path / "config.yaml").is_file():
        return None
    weights = next((path / part for part in ("best", "final") if (path / part).is_dir()), None)
    if weights is None:
        raise UserError(f"model={path} is a run without best/ or final/; let it end, or give one of its checkpoints")
    return path, weights


def _has_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds LoRA weights and no policy."""
    return _has_adapter(folder) and not (folder / "config.json").is_file()


class _Data(BaseModel):
    """What is read of a run's config.yaml."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    train: list[str]
    validation: list[str]
    split_ratio: list[float]
    split_seed: int
    reference: bool = False  # runs from before it was a setting show none


class _Policy(BaseModel):
    """Likewise."""

    model_config = ConfigDict(strict=True)
    path: str
    dtype: str
    attention: str
    min_pixels: int
    max_pixels: int


def _of_run(run: Path, weights: Path) -> Model:
    try:
        settings = read_yaml(run / "config.yaml")
        data, policy = _Data.model_validate(settings["data"]), _Policy.model_validate(settings["policy"])
        kept = policy.model_dump()
        seen = list(dict.fromkeys([*data.train, *data.validation]))
        objective = settings.get("objective", "rl2r")  # the only one of runs from before it was a setting
        prompt = _asked(objective, settings)
        rule = SplitRule(tuple(data.split_ratio), data.split_seed)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{run / 'config.yaml'}: not a run of vqr1 train ({why}); restore the file") from error
    adapter = weights if _has_adapter(weights) else None
    base = PolicyConfig(**kept) if adapter else PolicyConfig(**{**kept, "path": str(weights)})
    asked: dict[str, Any] = {"objective": objective, "reference": data.reference}
    return Model(run.name, base, adapter, prompt, seen, Seen(rule, _hashes(run / "splits.json")), **asked)


def _asked(objective: str, settings: dict[str, Any]) -> str:
    """What a run's policy was asked. Raises KeyError for an objective that is not known.

    That of objective=depict learnt many questions, of which one is asked.
    """
    if objective in ("comparison", "depict"):
        return USUAL_PROMPTS[objective]  # no setting changes it
    section, name = {"rl2r": ("rollout", "prompt"), "levels": ("levels", "question")}[objective]
    return str(settings[section][name])


def _hashes(path: Path) -> dict[str, str]:
    """The hashes of a run's splits, by set."""
    splits = read_json(path) if path.is_file() else {}
    for name, split in splits.items():
        if not isinstance(split, dict) or not isinstance(split.get("hash"), str):
            raise UserError(f"{path}: {name} has no hash, so these are not the splits of a run; restore the file")
    return {name: split["hash"] for name, split in splits.items()}

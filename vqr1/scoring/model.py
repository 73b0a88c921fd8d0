"""Whose answers are evaluated: weights as they are, or what a run left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from vqr1.answer import prompt_warning
from vqr1.config import PolicyConfig
from vqr1.data.splits import SplitRule
from vqr1.errors import UserError
from vqr1.policy.load import SHIPPED, TINY, add_adapter, find_weights, load_policy, load_processor
from vqr1.policy.read_once import OncePerPrompt, encode_each_picture_once, read_each_prompt_once, take_bytes
from vqr1.policy.weight_files import check_adapter_files, check_folder
from vqr1.policy.windows import attend_at_once
from vqr1.rollout.prompt_checks import check_prompt
from vqr1.scoring.sets import Seen
from vqr1.scoring.settings import EvaluateConfig


@dataclass(frozen=True)
class Model:
    """A policy that is not loaded yet."""

    name: str
    policy: PolicyConfig  # the weights, or what an adapter is laid on
    adapter: Path | None  # LoRA weights of a run
    prompt: str  # a name of vqr1.answer.PROMPTS or a text
    trained_on: list[str] | None  # sets it learnt from or was chosen by; None: not stated
    seen: Seen = field(default_factory=Seen)  # how those sets were divided

    def files(self) -> list[Path]:
        """The files that hold its weights."""
        folders = [find_weights(self.policy.path), *([self.adapter] if self.adapter else [])]
        return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def find_model(config: EvaluateConfig) -> Model:
    """The model that the settings name; settings that are given win over a run's own.

    Raises MissingFileError, saying what to fetch, where weights are not here, UserError for a run without weights.
    """
    run = _run_folder(Path(config.model).expanduser())
    model = _of_run(*run) if run else _plain(config.model)
    given = {name: getattr(config, name) for name in ("min_pixels", "max_pixels")}
    given |= {name: value for name in ("dtype", "attention") if (value := getattr(config, name)) != "auto"}
    policy = replace(model.policy, **{name: value for name, value in given.items() if value is not None})
    find_weights(policy.path)
    return replace(
        model,
        policy=policy,
        name=config.name or model.name,
        prompt=config.prompt or model.prompt,
        trained_on=model.trained_on if config.trained_on is None else config.trained_on,
    )


def check_model(model: Model) -> str | None:
    """Look at files, prompt and chat template before anything is loaded. Returns what to warn of.

    Raises UserError for weights that do not fit, and for what vqr1 does not read or run.
    """
    check_folder(find_weights(model.policy.path))
    if model.adapter:
        check_adapter_files(model.adapter)
    check_prompt(load_processor(model.policy), model.prompt)
    return prompt_warning(model.prompt)


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
    policy = PolicyConfig(path=path, **(TINY if tiny else {}))
    return Model(Path(path).name if not tiny else "tiny", policy, None, "paper", None)


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


def _of_run(run: Path, weights: Path) -> Model:
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text())
        data, policy = settings["data"], settings["policy"]
        kept = {name: policy[name] for name in ("path", "dtype", "attention", "min_pixels", "max_pixels")}
        seen = list(dict.fromkeys([*data["train"], *data["validation"]]))
        prompt = settings["rollout"]["prompt"]
        rule = SplitRule(tuple(data["split_ratio"]), data["split_seed"])
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{run / 'config.yaml'}: not a run of vqr1 train ({error!r})") from error
    adapter = weights if _has_adapter(weights) else None
    base = PolicyConfig(**kept) if adapter else PolicyConfig(**{**kept, "path": str(weights)})
    return Model(run.name, base, adapter, prompt, seen, Seen(rule, _hashes(run / "splits.json")))


def _hashes(path: Path) -> dict[str, str]:
    """The hashes of a run's splits, by set."""
    try:
        return {name: split["hash"] for name, split in json.loads(path.read_text()).items()} if path.is_file() else {}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the splits of a run ({error!r}); restore the file") from error

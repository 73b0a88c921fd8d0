"""What a command needs from outside of its settings and data: packages, compilers, keys, folders that can be written.

All of it is looked at before a run folder is made, and nothing is asked of a network.
"""

from __future__ import annotations

import netrc
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from vqr1.config import Config, Launcher, Tuning, Wandb
from vqr1.errors import UserError
from vqr1.machine_choices import MachineChoices
from vqr1.rollout_settings import TrainingEngine

# What trainer.optim needs, by a part of its name: transformers' question, and the package.
OPTIMISERS = {
    "bnb": ("is_bitsandbytes_available", "bitsandbytes"),
    "torch_4bit": ("is_torchao_available", "torchao"),
    "torch_8bit": ("is_torchao_available", "torchao"),
    "galore": ("is_galore_torch_available", "galore-torch"),
    "apollo": ("is_apollo_torch_available", "apollo-torch"),
    "lomo": ("is_lomo_available", "lomo-optim"),
    "grokadamw": ("is_grokadamw_available", "grokadamw"),
    "schedule_free": ("is_schedulefree_available", "schedulefree"),
    "stable_adamw": ("is_torch_optimi_available", "torch-optimi"),
    "anyprecision": ("is_torchdistx_available", "torchdistx"),
    "8bit": ("is_bitsandbytes_available", "bitsandbytes"),
    "paged": ("is_bitsandbytes_available", "bitsandbytes"),
    "lion": ("is_bitsandbytes_available", "bitsandbytes"),
    "ademamix": ("is_bitsandbytes_available", "bitsandbytes"),
    "rmsprop_bnb": ("is_bitsandbytes_available", "bitsandbytes"),
}
WITHOUT_COMPILER = ("eager", "aot_eager")  # of torch_compile_backend
CACHES = (
    *("MPLCONFIGDIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"),
    *("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"),
)
PROXIES = ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY")


def check_settings(config: Config) -> None:
    """What the settings alone need. Imports no torch. Raises UserError naming the setting and the remedy."""
    if config.logger.wandb is not Wandb.disabled and find_spec("wandb") is None:
        raise UserError(f"logger={config.logger.wandb.value} needs wandb: pip install wandb, or set logger=disabled")
    if config.logger.wandb is Wandb.online and not _wandb_key():
        raise UserError("logger=online needs a key: run wandb login, or set WANDB_API_KEY; or set logger=offline")


def check_chosen(config: Config, choices: MachineChoices, gpus: int) -> None:
    """What the choices for this machine, and the libraries' settings, need. Raises UserError as above."""
    from transformers.utils import import_utils

    if choices.tuning is Tuning.lora and not import_utils.is_peft_available():
        raise UserError("policy.tuning=lora needs peft: pip install peft, or set policy.tuning=full")
    if choices.launcher is Launcher.zero3 and find_spec("deepspeed") is None:
        raise UserError("launcher=zero3 needs deepspeed: pip install 'vqr1[gpu]', or set policy.tuning=lora")
    trainer = config.trainer
    optimiser = str(trainer.get("optim", ""))
    for part, (available, package) in OPTIMISERS.items():
        if part in optimiser:
            if not getattr(import_utils, available)():
                raise UserError(f"trainer.optim={optimiser} needs {package}: pip install {package}, or leave it out")
            break
    if trainer.get("use_liger_kernel") and not import_utils.is_liger_kernel_available():
        raise UserError("trainer.use_liger_kernel=true needs liger-kernel: pip install liger-kernel, or leave it out")
    compiled = [key for key in ("torch_compile", "torch_compile_backend", "torch_compile_mode") if trainer.get(key)]
    if compiled and trainer.get("torch_compile_backend") not in WITHOUT_COMPILER:
        _check_compiler(f"trainer.{compiled[0]}={str(trainer[compiled[0]]).lower()}", gpus)
    if choices.engine is TrainingEngine.vllm_server:
        ask_directly(config.rollout.vllm.server)


def _check_compiler(setting: str, gpus: int) -> None:
    """torch.compile builds Triton's launchers with a C compiler, its loops for CPUs with a C++ compiler."""
    variable, usual = ("CC", ("gcc", "clang", "cc")) if gpus else ("CXX", ("g++", "clang++", "c++"))
    asked = os.environ.get(variable)
    if not any(map(shutil.which, [asked.split()[0]] if asked and asked.strip() else usual)):
        raise UserError(f"{setting} needs a compiler ({' or '.join(usual[:2])}, or {variable}=...): install one, or "
                        "leave it out")  # fmt: skip
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise UserError(f"{setting} needs Python's headers, and {header} is missing: install python3-dev, or leave it "
                        "out")  # fmt: skip


def _wandb_key() -> bool:
    """Whether wandb will find a key: in the environment, in netrc, or in its own settings."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file in map(os.path.expanduser, files):
        try:
            found = netrc.netrc(file).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue  # wandb leaves out what it cannot read, too
        if found and found[2]:
            return True
    import wandb

    return bool(wandb.setup().settings.api_key)


def ask_directly(server: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep requests to a server on this machine away from a proxy, which has another loopback."""
    host = urlsplit(server).hostname or ""
    if not (host == "localhost" or host == "::1" or host.startswith("127.")):
        return
    if any(environment.get(name) for name in PROXIES):
        without = [environment.get("no_proxy") or environment.get("NO_PROXY"), host]
        environment["no_proxy"] = environment["NO_PROXY"] = ",".join(filter(None, without))


def place_caches(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Where there is no home that can be written, let libraries keep what they make in a temporary folder.

    Called before they are imported. What is read there, such as the hub's cache of weights, stays where it is. Returns
    what to tell the user.
    """
    home = Path(environment.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises without one
    if home.is_dir() and os.access(home, os.W_OK | os.X_OK):
        return None
    left = [name for name in CACHES if not environment.get(name)]
    if not left:
        return None
    folder = Path(tempfile.gettempdir()) / f"vqr1-caches-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # another's
        folder = Path(tempfile.mkdtemp(prefix="vqr1-caches-"))
    for name in left:
        environment[name] = str(folder / name.lower())
    return f"the home folder {home} cannot be written: caches of matplotlib, Triton, vLLM and wandb are in {folder}"


def say_where_caches_are() -> None:
    told = place_caches()
    if told:
        print(told, file=sys.stderr)

"""What a command needs from outside of its settings and data: packages, compilers, keys, folders that can be written.

All of it is looked at before a run folder is made, and nothing is asked of a network.
"""

from __future__ import annotations

import math
import netrc
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, MutableMapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from vqr1.config import Config, Tuning, Wandb
from vqr1.errors import UserError, show
from vqr1.estimate.memory import checkpoint_bytes, saved_weights
from vqr1.estimate.sizes import read_sizes
from vqr1.fitting import Devices, question, training
from vqr1.gpus import MIB, ask_driver, why_unusable
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
SHARED_MEMORY = 1 << 30  # bytes: what NCCL's documentation has containers started with (--shm-size=1g)
WITHOUT_COMPILER = ("eager", "aot_eager")  # of torch_compile_backend
CACHES = (
    *("MPLCONFIGDIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"),
    *("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"),
)
PROXIES = ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY")


def check_settings(config: Config) -> None:
    """What the settings alone need. Imports no torch. Raises UserError naming the setting and the remedy."""
    for check in OF_SETTINGS.values():
        check(config)


def check_chosen(config: Config, choices: MachineChoices, gpus: int) -> None:
    """What the choices for this machine, and the libraries' settings, need. Raises UserError as above."""
    for check in OF_CHOICES.values():
        check(config, choices, gpus)
    if choices.engine is TrainingEngine.vllm_server:
        ask_directly(config.rollout.vllm.server)


# Each returns what it found, None where nothing is asked; raises UserError naming the setting and the remedy.


def _check_wandb(config: Config) -> str | None:
    asked = f"logger={config.logger.wandb.value}"
    if config.logger.wandb is Wandb.disabled:
        return None
    if find_spec("wandb") is None:
        raise UserError(f"{asked} needs wandb: pip install wandb, or set logger=disabled")
    if config.logger.wandb is not Wandb.online:
        return f"{asked}: no key is needed"
    if not has_wandb_key():
        raise UserError("logger=online needs a key: run wandb login, or set WANDB_API_KEY; or set logger=offline")
    return f"{asked}: a key is there"


def _check_tensorboard(config: Config) -> str | None:
    if not config.logger.tensorboard:
        return None
    if find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard needs tensorboard: pip install tensorboard, or leave it out of logger=")
    return "logger=tensorboard"


def _check_number_of_gpus(config: Config, environment: Mapping[str, str] = os.environ) -> str | None:
    """GPUS, which launch/slurm.sbatch reads and ``make train-kadid GPUS=...`` hands on."""
    asked = environment.get("GPUS")
    if asked is not None and not (asked.isdecimal() and int(asked)):
        raise UserError(
            f"GPUS={asked}: set the number of GPUs of each node, 1 or more, or unset GPUS for all that are visible; "
            "without a GPU only small policies can be trained (policy=tiny), and CUDA_VISIBLE_DEVICES= hides all GPUs"
        )
    return asked


def _check_tuning(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    from transformers.utils import import_utils

    if choices.tuning is Tuning.lora and not import_utils.is_peft_available():
        raise UserError("policy.tuning=lora needs peft: pip install peft, or set policy.tuning=full")
    return choices.tuning.value


def _check_launcher(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    if choices.launcher.of_deepspeed and find_spec("deepspeed") is None:
        raise UserError(
            f"launcher={choices.launcher.value} needs deepspeed: pip install 'vqr1[gpu]', or set policy.tuning=lora"
        )
    return f"{choices.launcher.value}, processes: {choices.processes}"


def _check_attention(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    from vqr1.policy.load import resolve_attention, resolve_dtype

    attention = resolve_attention(config.policy.attention, resolve_dtype(config.policy.dtype))
    if attention == "flash_attention_2":
        asked = f"policy.attention={config.policy.attention}"
        if not gpus:
            raise UserError(f"{asked} would use flash-attn, which needs a GPU; set policy.attention=sdpa")
        try:
            import_module("flash_attn")
        except ImportError as error:
            raise UserError(
                f"{asked}: flash-attn does not load ({error}). It is built for one version of torch: build it again "
                "with uv pip install --reinstall --no-build-isolation flash-attn, or set policy.attention=sdpa"
            ) from error
    return attention


def _check_optimiser(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    from transformers.utils import import_utils

    optimiser = str(config.trainer.get("optim", ""))
    for part, (available, package) in OPTIMISERS.items():
        if part in optimiser:
            if not getattr(import_utils, available)():
                raise UserError(f"trainer.optim={optimiser} needs {package}: pip install {package}, or leave it out")
            break
    return optimiser or None


def _check_liger(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    from transformers.utils import import_utils

    if not config.trainer.get("use_liger_kernel"):
        return None
    if not import_utils.is_liger_kernel_available():
        raise UserError("trainer.use_liger_kernel=true needs liger-kernel: pip install liger-kernel, or leave it out")
    return "use_liger_kernel"


def _check_compilation(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    """vLLM's own kernels, too, are compiled when they are first used on a GPU."""
    trainer = config.trainer
    asked = [key for key in ("torch_compile", "torch_compile_backend", "torch_compile_mode") if trainer.get(key)]
    if asked and trainer.get("torch_compile_backend") not in WITHOUT_COMPILER:
        return check_compiler(f"trainer.{asked[0]}={str(trainer[asked[0]]).lower()}", gpus, "leave it out")
    if gpus and choices.engine is TrainingEngine.vllm_colocate:
        return check_compiler("rollout=vllm_colocate", gpus, "set rollout=transformers")
    return None


def _check_shared_memory(config: Config, choices: MachineChoices, gpus: int) -> str | None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or min(choices.processes, gpus))  # ranks of this machine
    if not gpus or here < 2:
        return None
    return check_shared_memory(shared_memory_free())


OF_SETTINGS: dict[str, Callable[[Config], str | None]] = {
    "wandb": _check_wandb,
    "tensorboard": _check_tensorboard,
    "GPUS": _check_number_of_gpus,
}
OF_CHOICES: dict[str, Callable[[Config, MachineChoices, int], str | None]] = {
    "tuning": _check_tuning,
    "launcher": _check_launcher,
    "attention": _check_attention,
    "optimiser": _check_optimiser,
    "liger": _check_liger,
    "compiler": _check_compilation,
    "shared memory": _check_shared_memory,
}


def check_disk(config: Config, choices: MachineChoices, devices: Devices) -> None:
    """Raises UserError where the disk of ``runs`` cannot hold the checkpoints and weights that the run will keep.

    What an earlier part of the run has written there already counts as free: it is written over.
    """
    sizes = read_sizes(choices.policy)
    how = training(config, sizes, choices.method, devices, question(config, sizes))
    trainer = config.trainer
    limit, steps, every = (trainer.get(key) for key in ("save_total_limit", "max_steps", "save_steps"))
    checkpoints = (limit or 0) + 1  # one is written before another is removed
    if steps and steps > 0 and every:
        ever = math.ceil(steps / every)
        checkpoints = min(checkpoints, ever) if limit else ever
    # best/, as it was at each checkpoint, one that is being written, and final/.
    weights = checkpoints + 3 if config.data.validation else 1
    each, alone = checkpoint_bytes(how), saved_weights(how)
    needed = checkpoints * each + weights * alone
    place = Path(config.runs) / choices.name
    there = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free + there
    if needed > free:
        raise UserError(
            f"runs={config.runs}: the run keeps up to {checkpoints} checkpoints of {each / 1e9:.1f} GB and {weights} "
            f"times its weights of {alone / 1e9:.1f} GB (best/, final/), {needed / 1e9:.1f} GB in all, and {place} has "
            f"{free / 1e9:.1f} GB for it; free some space, set runs= to a larger disk, or keep fewer with "
            "trainer.save_total_limit=1"
        )


def check_driver() -> None:
    """Raises UserError where there are GPUs that torch cannot use.

    torch counts them by the driver's own library, which an old driver answers as well, and fails when it uses one.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError(why_unusable(ask_driver(), torch.__version__, torch.version.cuda))


def shared_memory_free(folder: str = "/dev/shm") -> int:  # noqa: S108 - it is only looked at
    """Free bytes; 0 where there is none."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def check_shared_memory(free: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """What several ranks on a machine need for NCCL, with ``free`` bytes in /dev/shm. Raises UserError for too few."""
    told = f"{free / MIB:,.0f} MiB free in /dev/shm"
    if free < SHARED_MEMORY and environment.get("NCCL_SHM_DISABLE") != "1":
        raise UserError(
            f"{told}, and NCCL needs {SHARED_MEMORY / MIB:,.0f} for several GPUs: start the container with "
            "--shm-size=1g or more (Kubernetes: a volume emptyDir with medium: Memory at /dev/shm), remove what others "
            "left there, or do without (slower): NCCL_SHM_DISABLE=1"
        )
    return told


def check_compiler(setting: str, gpus: int, instead: str) -> str:
    """torch.compile builds Triton's launchers with a C compiler, its loops for CPUs with a C++ compiler.

    Returns the compiler. Raises UserError, saying what to do ``instead``, where it or Python's headers are missing.
    """
    variable, usual = ("CC", ("gcc", "clang", "cc")) if gpus else ("CXX", ("g++", "clang++", "c++"))
    asked = os.environ.get(variable)
    found = next(filter(None, map(shutil.which, [asked.split()[0]] if asked and asked.strip() else usual)), None)
    if found is None:
        raise UserError(f"{setting} needs a compiler ({' or '.join(usual[:2])}, or {variable}=...): install one, or "
                        f"{instead}")  # fmt: skip
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise UserError(f"{setting} needs Python's headers, and {header} is missing: install python3-dev, or {instead}")
    return f"{found}, {header}"


def has_wandb_key() -> bool:
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
        show(told, file=sys.stderr)

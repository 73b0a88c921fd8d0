"""What a machine has: packages, driver, GPUs, kernels, compilers, memory, disk, data, weights."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from vqr1.data import DATASETS
from vqr1.doctor.finding import Finding, State, found_by
from vqr1.gpus import Driver, why_unusable
from vqr1.prerequisites import check_compiler, check_shared_memory

GB = 1e9
LITTLE_DISK = 5 * GB  # under which a folder for runs or weights is warned of
TAKEN = 0.1  # the share of a card's memory above which another program has it
ALONE = ("torch", "trl", "transformers", "vllm", "deepspeed")  # packages with a line of their own
EXTRAS = {"vllm": "gpu", "deepspeed": "gpu", "flash-attn": "flash"}  # of pyproject.toml: not needed everywhere
SHARED_PATH = (8, 0)  # the compute capability from which torch's varlen kernel, as flash-attn, runs: Ampere


@dataclass(frozen=True)
class Facts:
    """What was asked of the driver, and by :mod:`vqr1.doctor.probe` of the libraries that are installed."""

    driver: Driver
    probes: Mapping[str, Mapping[str, Any]]
    shared_memory: int  # free bytes
    home: str | None  # what is to be said of a home that cannot be written
    environment: Mapping[str, str]

    @property
    def torch(self) -> Mapping[str, Any]:
        """Empty where torch does not load."""
        found = self.probes.get("torch", {})
        return {} if "trouble" in found else found

    @property
    def gpus(self) -> int:
        return self.torch["counted"] if self.torch.get("usable") else 0


def machine_findings(facts: Facts, root: Path, runs: Path, installed: Callable[[str], str | None]) -> Iterator[Finding]:
    """``installed`` says the version of a package, None where it is missing."""
    system = f"{platform.system()} {platform.machine()}"
    python = f"Python {platform.python_version()} in {sys.prefix}"
    yield Finding("machine", "ok", f"{socket.gethostname()}, {system}, {python}")
    yield from packages(facts, installed)
    yield from driver_and_torch(facts)
    yield from attention(facts, installed)
    yield from several_gpus(facts)
    yield from compilers(facts, installed)
    yield from memory(facts)
    yield from disks(facts, runs)
    yield data(root)
    yield from policies(facts)
    yield wandb(facts)
    found = shutil.which("sbatch")
    yield Finding("Slurm", "ok", f"{found}: launch/slurm.sbatch" if found else "not here; needed to submit jobs alone")


def installed_version(package: str) -> str | None:
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def ranges() -> dict[str, tuple[Requirement, str]]:
    """What vqr1 requires, by the name of the package, with the extra that it belongs to, empty for none."""
    found: dict[str, tuple[Requirement, str]] = {}
    for requirement in map(Requirement, requires("vqr1") or []):
        extra = EXTRAS.get(requirement.name, "")
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found.setdefault(requirement.name, (requirement, extra))
    return found


def packages(facts: Facts, installed: Callable[[str], str | None]) -> Iterator[Finding]:
    try:
        wanted = ranges()
    except PackageNotFoundError:
        yield Finding("packages", "missing", "vqr1 is not installed in this environment", "make env")
        return
    others = 0
    for name, (requirement, extra) in wanted.items():
        version = installed(name)
        what = name if name in ALONE else "packages"
        if version is None and extra:
            if extra == "gpu" and (facts.gpus or facts.driver.cards):
                lost = "transformers draws the answers" if name == "vllm" else "launcher=zero3 is not possible"
                yield Finding(what, "warning", f"not installed: {lost}", "make env EXTRAS=dev,gpu")
        elif version is None:
            yield Finding(what, "missing", f"{name} is not installed", f"make env, or uv pip install '{requirement}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{name} {version} is not among the tested versions {requirement.specifier}"
            yield Finding(what, "missing", text, f"make env, or uv pip install '{requirement}'")
        elif trouble := facts.probes.get(name, {}).get("trouble"):
            state: State = "warning" if extra else "missing"  # run_findings knows whether it is needed
            yield Finding(what, state, f"{name} {version} does not load: {trouble}", _again(name, extra))
        elif name in ALONE and name != "torch":
            yield Finding(what, "ok", f"{version} ({requirement.specifier})")
        else:
            others += 1
    if others:
        yield Finding("packages", "ok", f"{others} more of vqr1's within their ranges")


def _again(name: str, extra: str) -> str:
    return f"install it again: uv pip install --reinstall {name}" + (", or remove it" if extra else " torchvision")


def driver_and_torch(facts: Facts) -> Iterator[Finding]:
    driver, torch = facts.driver, facts.torch
    if driver.version:
        cards = [card.name for card in driver.cards]
        told = ", ".join(f"{cards.count(name)} x {name}" for name in dict.fromkeys(cards))
        yield Finding("driver", "ok", f"{driver.version}; {told}")
    elif driver.trouble:
        yield Finding("driver", "warning", driver.trouble, "ask the administrator, or run on another node")
    if not torch:
        return  # told with the packages
    built = f"{torch['version']} (CUDA {torch['cuda']})" if torch["cuda"] else torch["version"]
    if torch["usable"]:
        yield Finding("torch", "ok", f"{built} sees {torch['counted']} GPUs")
    elif torch["counted"]:
        yield Finding("torch", "missing", why_unusable(driver, torch["version"], torch["cuda"]))
    elif driver.cards and facts.environment.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        yield Finding("torch", "warning", f"{built}: CUDA_VISIBLE_DEVICES hides the GPUs", "unset it")
    elif driver.cards:
        yield Finding("torch", "warning", why_unusable(driver, torch["version"], torch["cuda"]))
    else:
        text = f"{built}; no GPU here: only small policies can be trained (make train)"
        yield Finding("torch", "warning", text, "for others log in to a GPU node, or submit launch/slurm.sbatch there")


def attention(facts: Facts, installed: Callable[[str], str | None]) -> Iterator[Finding]:
    """One line for what is always there, one for flash-attn."""
    if not facts.torch:
        return
    kernel = facts.gpus and facts.torch["varlen"] and all(tuple(c) >= SHARED_PATH for c in facts.torch["capabilities"])
    text = "sdpa and torch's varlen kernel" if kernel else "sdpa (torch's varlen kernel needs a GPU from Ampere on)"
    yield Finding("attention", "ok", text)
    version, nvcc = installed("flash-attn"), shutil.which("nvcc")
    make = "make env EXTRAS=dev,gpu,flash"
    if version is None:
        how = f"{make} builds it with {nvcc}" if nvcc else "building it needs nvcc, which is not here"
        yield Finding("flash-attn", "ok", f"not installed, and not needed; {how}")
    elif trouble := facts.probes.get("flash_attn", {}).get("trouble"):
        text = f"{version} does not load: {trouble}. It is built for one version of torch"
        remedy = "build it again with nvcc (uv pip install --reinstall --no-build-isolation flash-attn), or remove it"
        yield Finding("flash-attn", "warning", text, remedy)
    else:
        yield Finding("flash-attn", "ok", f"{version}: policy.attention=auto uses it on a GPU")


def several_gpus(facts: Facts) -> Iterator[Finding]:
    if not facts.torch:
        return
    several = facts.gpus > 1
    if facts.torch["nccl"]:
        yield Finding("NCCL", "ok", facts.torch["nccl"])
    elif several:
        yield Finding("NCCL", "missing", "torch has none, which several GPUs need", _again("torch", ""))
    for finding in found_by("shared memory", lambda: check_shared_memory(facts.shared_memory, facts.environment)):
        yield finding if several or finding.state == "ok" else _milder(finding)


def _milder(finding: Finding) -> Finding:
    return Finding(finding.what, "warning", finding.text, finding.remedy)


def compilers(facts: Facts, installed: Callable[[str], str | None]) -> Iterator[Finding]:
    """vLLM on a GPU cannot do without; else nothing usual needs one."""
    needed = facts.gpus and installed("vllm")
    asked = "vLLM on a GPU (Triton)"
    for finding in found_by("compiler", lambda: check_compiler(asked, 1, "set rollout=transformers")):
        yield finding if needed or finding.state == "ok" else _milder(finding)
    tools = [f"{name}: {shutil.which(name) or 'not here'}" for name in ("nvcc", "ninja")]
    yield Finding("build tools", "ok", f"{', '.join(tools)} (for flash-attn, and DeepSpeed's own optimisers)")


def memory(facts: Facts) -> Iterator[Finding]:
    for i, card in enumerate(facts.driver.cards):
        told = f"{card.free / GB:.1f} of {card.total / GB:.1f} GB free"
        taken = card.total - card.free > TAKEN * card.total
        remedy = "nvidia-smi shows which program has it; end it, or choose others with CUDA_VISIBLE_DEVICES"
        yield Finding(f"GPU {i} memory", "warning" if taken else "ok", told, remedy if taken else "")
    if facts.torch:
        yield Finding("memory", "ok", f"{facts.torch['memory'] / GB:.1f} GB for this process and its ranks")


def disks(facts: Facts, runs: Path) -> Iterator[Finding]:
    yield _disk("runs", runs.expanduser(), "missing", "runs=FOLDER is another place")
    if facts.home:
        yield Finding("home", "warning", facts.home, "give HOME a folder that can be written")
    else:
        weights = facts.environment.get("HF_HOME") or "~/.cache"
        where = Path(os.path.expanduser(weights))  # noqa: PTH111 - Path.expanduser raises where there is no home
        yield _disk("home", where, "warning", "HF_HOME is another place for weights")


def _disk(what: str, folder: Path, unwritable: State, remedy: str) -> Finding:
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    told = f"{folder.absolute()}: {free / GB:.1f} GB free"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Finding(what, unwritable, f"{folder.absolute()} cannot be written", remedy)
    if free < LITTLE_DISK:
        return Finding(what, "warning", told, f"free some space; {remedy}")
    return Finding(what, "ok", told)


def data(root: Path) -> Finding:
    """The published sets whose folder is there, and those of one's own; whether they are whole is vqr1 data check's."""
    here: list[str] = []
    lost: list[str] = []
    for name in (name for name, spec in DATASETS.items() if not spec.made_at_first_use):
        (here if (root / name).is_dir() else lost).append(name)
    own = [folder.parent.name for folder in sorted(root.glob("*/dataset.yaml"))] if root.is_dir() else []
    text = f"{root.absolute()}: " + (", ".join([*here, *own]) or "nothing")
    if not lost:
        return Finding("data", "ok", text)
    remedy = "vqr1 data list says where to get them and where to put them (--root FOLDER or VQR1_DATA: another root)"
    return Finding("data", "ok" if here or own else "warning", f"{text}; not here: {', '.join(lost)}", remedy)


def policies(facts: Facts) -> Iterator[Finding]:
    for path, trouble in facts.torch.get("policies", {}).items():
        if trouble is None:
            yield Finding("policy", "ok", f"{path} is here")
        else:
            yield Finding("policy", "missing" if path == "tiny" else "warning", trouble)


def wandb(facts: Facts) -> Finding:
    found = facts.probes.get("wandb")
    if found is None:
        return Finding("wandb", "warning", "not installed", "make env, or logger=disabled")
    if "trouble" in found:
        return Finding("wandb", "warning", f"does not load: {found['trouble']}", "logger=disabled does without")
    text = "a key is there" if found["key"] else "no key, and logger=offline needs none; for logger=online: wandb login"
    return Finding("wandb", "ok", text)

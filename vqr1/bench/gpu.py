"""Everything that requires a GPU, in one command for a machine that is available for minutes.

    python -m vqr1.bench.gpu [--minutes 10] [--out runs/gpu] [--only PART ...] [--done gpu.jsonl]      (make gpu)
    python -m vqr1.bench.gpu --device cpu --shape tiny          the same parts on the CPU: a rehearsal

The parts in their order, what matters most first:

    machine     card, driver, versions, free memory and disk; a matrix product and a copy as ceilings
    tests       pytest -m gpu: kernels, shared prompts, rewards, a LoRA step in bfloat16
    vision      the vision tower's windows in one call of torch's kernel beside sdpa window by window
    train       passes that score answers, shared prompts beside TRL's own path, at three geometries
    train-7b    the same without an optimiser for the 7B shape
    rollout     vLLM beside transformers, answers and tokens per second, answers that change with the batch
    step        a real run: the seconds of each part of a step, canary, peak memory, answers per second
    demo        the demonstration for some steps: SRCC beside the CPU's
    resume      that run killed and resumed
    zero3       two steps under ZeRO-3 with one process beside the same without

Each part has its own process and time limit; gpu.jsonl, gpu.md and logs.tar.gz in the output folder are up to date
after each (:mod:`vqr1.bench.parts`). The same command again goes on with what is missing: what failed is tried again,
what is finished is not. Delete the state folder to start again. Nothing needs a network or wandb.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqr1.bench.parts import Part, free_gb, run_parts
from vqr1.errors import UserError

SHAPES = ("3b", "tiny")
TESTS = Path("tests/test_gpu.py")
POLICY_GB = 8.0  # random weights of the 3B shape, in bfloat16
RUNS_GB = 2.0  # of the demonstration, with checkpoints

Result = dict[str, Any]


def gpu_parts(device: str, shape: str, state: Path) -> list[Part]:
    """The parts for a device and the size of random policies; on a CPU without ZeRO-3, which needs a GPU here."""
    on_gpu = device == "cuda"
    tiny = shape == "tiny"

    def seconds(full: float, rehearsed: float) -> tuple[float, float]:
        """About how long a part takes, and when it is stopped."""
        return (rehearsed, 6 * rehearsed) if tiny else (full, 2 * full)

    def missing(memory: float = 0.0, disk: float = 0.0, module: str | None = None) -> Callable[[], str | None]:
        return lambda: _missing(0.0 if tiny or not on_gpu else memory, 0.0 if tiny else disk, module, state)

    geometries = ["demo"] if tiny else ["kadid", "kadid-k16", "spaq"]
    spaq = [] if tiny else ["spaq"]
    train = ["-m", "vqr1.bench.train", "--output", "{result}", "--rounds", "1" if tiny else "2"]
    passes = ["--passes", "forward", "forward_backward"]
    rollout = ["-m", "vqr1.bench.rollout", "--policy", shape, "--keep", "{state}", "--out", "{result}"]
    rehearsed = ["--k", "2", "--rounds", "1", "--pictures", "2", "--alone", "2", "--max-tokens", "8"]
    rollout += rehearsed if tiny else ["--k", "6", "--rounds", "2", "--alone", "16"]
    a_step = ["-m", "vqr1.bench.step", "{result}", "--folder", "{state}", "--shape", shape]
    a_step += ["--steps", "2" if tiny else "8"]
    demonstration = ["{result}", "--folder", "{state}"]
    demonstration += ["--steps", "6", "--answers", "2", "--pictures", "4"] if tiny else []

    def runs(what: str) -> list[str]:
        return ["-m", "vqr1.bench.demonstration", what, *demonstration]

    parts = [
        Part("machine", ["-m", "vqr1.bench.machine", "{result}", "--device", device], *seconds(30, 10), machine),
        Part(
            "tests",
            ["-m", "vqr1.bench.gpu_tests", "{result}", "--device", device],
            *seconds(60, 25),
            tests,
            missing(module=str(TESTS)),
        ),
        Part(
            "vision",
            ["-m", "vqr1.bench.vision", "{result}", "--shape", shape, "--geometries", *geometries[:1], *spaq],
            *seconds(25, 15),
            vision,
            missing(memory=10),
        ),
        Part(
            "train",
            [*train, "--model", shape, "--geometries", *geometries],
            *seconds(140, 15),
            training,
            missing(memory=60),
        ),
        Part(
            "train-7b",
            [*train, "--model", "tiny" if tiny else "7b", "--geometries", geometries[0], *passes],
            *seconds(60, 15),
            training,
            missing(memory=70),
        ),
        Part("rollout", rollout, *seconds(200, 15), rollouts, missing(memory=30, disk=POLICY_GB)),
        Part("step", a_step, *seconds(150, 20), step, missing(memory=40, disk=POLICY_GB)),
        Part("demo", runs("run"), *seconds(150, 45), demo, missing(memory=10, disk=RUNS_GB)),
        Part("resume", runs("resume"), *seconds(200, 35), resume, missing(memory=10, disk=RUNS_GB)),
    ]
    if on_gpu:
        parts.append(Part("zero3", runs("zero3"), *seconds(90, 60), zero3, missing(memory=10, module="deepspeed")))
    return parts


def _missing(memory: float, disk: float, module: str | None, state: Path) -> str | None:
    """Why a part cannot run here: GB of GPU memory or disk, a module that is not installed, a file that is not here."""
    if module and module.endswith(".py"):
        if not Path(module).is_file():
            return f"{module} is not here: start from the root of a checkout"
    elif module and importlib.util.find_spec(module) is None:
        return f"{module} is not installed"
    if free_gb(state) < disk:
        return f"needs {disk:.0f} GB of disk, {free_gb(state):.1f} GB are free at {state}"
    if memory:
        import torch

        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        if total < memory:
            return f"needs a GPU of {memory:.0f} GB, this one has {total:.0f} GB"
    return None


# What the table shows of each part's result.


def machine(found: Result) -> dict[str, str]:
    versions = found["versions"]
    packages = ("torch", "transformers", "trl", "vllm")
    return {
        "card": found["card"] or "none",
        "driver": found["driver"] or "none",
        "free": f"{found['gpu_free_gb']:.0f} of {found['gpu_total_gb']:.0f} GB, disk {found['disk_free_gb']:.0f} GB",
        "matrix product": f"{found['matrix_tflops']:.1f} TFLOP/s",
        "copy": f"{found['copy_gb_per_s']:.0f} GB/s",
        **{package: versions[package] or "none" for package in packages},
    }


def tests(found: Result) -> dict[str, str]:
    return {"passed": str(found["passed"]), "failed": ", ".join(found["failed"]) or "none"}


def vision(found: Result) -> dict[str, str]:
    shown = {"kernel": "torch's" if found["kernel"] else "none here: sdpa both times"}
    for name, row in found["results"].items():
        seconds, error = row["seconds"], row["error"]
        shown[f"{found['shape']} {name}, one by one over at once"] = (
            f"{seconds['one_by_one'] / seconds['at_once']:.2f}, at once {seconds['at_once']:.4f} s; "
            f"error {error['one_by_one']:.1e} and {error['at_once']:.1e}"
        )
    return shown


def training(found: Result) -> dict[str, str]:
    shown = {}
    for name, row in found["results"].items():
        ratios = ", ".join(
            f"{key} {row['trl'][key] / row['shared'][key]:.2f}"
            for key in ("forward", "forward_backward", "step", "peak_bytes")
            if key in row["shared"]
        )
        used = row["shared"]["utilisation"]
        shown[f"{row['model']} {name}, TRL over ours:"] = (
            f"{ratios}, ours {row['shared']['forward_backward']:.3f} s and {row['shared']['peak_bytes'] / 1e9:.1f} GB"
            + ("" if used is None else f", utilisation {used:.2f} (TRL {row['trl']['utilisation']:.2f})")
        )
    return shown


def rollouts(found: Result) -> dict[str, str]:
    shown = {
        f"{row['way']} K {row['k']}": (
            f"{row['answers_per_second']:.1f} answers/s, {row['tokens_per_second']:.0f} tokens/s"
        )
        for row in found["rows"]
    }
    for way, (differ, answers) in found["answers_that_differ_when_asked_alone"].items():
        shown[f"differing alone, {way}"] = f"{differ} of {answers}"
    return shown


def step(found: Result) -> dict[str, str]:
    engine = found["engine"] + ("" if found["vllm"] else " (vLLM is not installed)")
    canary, peak = found["canary_mean"], found["peak_gb"]
    parts = ", ".join(f"{name} {spent:.2f}" for name, spent in found["seconds_by_part"].items())
    return {
        "answers by": engine,
        "step": f"{found['step_seconds']:.2f} s ({parts})",
        "answers/s": f"{found['answers_per_second']:.1f}",
        "canary": "none" if canary is None else f"mean {canary:.4f}, max {found['canary_max']:.4f}",
        "peak": ("not measured" if peak is None else f"{peak:.1f} GB") + f", estimated {found['estimated_gb']:.1f} GB",
    }


def demo(found: Result) -> dict[str, str]:
    shown = {
        f"{name} after {found['steps']} steps": f"{found['srcc']['start'][name]:.3f} to {value:.3f}"
        for name, value in found["srcc"]["final"].items()
    }
    reference = found["cpu"]
    if reference and (reference["steps"], reference["answers"]) == (found["steps"], found["answers"]):
        there = ", ".join(f"{value:.3f}" for value in reference["srcc"]["final"].values())
        shown["the same on a CPU"] = f"{there} ({reference['machine']}, {reference['date']})"
    return shown | {"by": "vLLM" if found["vllm"] else "transformers (vLLM is not installed)"}


def resume(found: Result) -> dict[str, str]:
    after, before = found["after"], found["before"]
    where = "" if after["metric"] is None else f" ({after['metric']} at step {after['step']})"
    return {
        "killed after step": f"{found['killed_after_step']}, checkpoint {found['checkpoint']}",
        "metrics": "equal" if found["equal"] else f"apart by {after['largest']:.1e}{where}",
        "two runs before that": f"apart by {before['largest']:.1e}",
    }


def zero3(found: Result) -> dict[str, str]:
    def losses(name: str) -> str:
        return ", ".join(f"{row['train/loss']:.6g}" for row in found[name])

    return {"loss": f"{losses('zero3')}, single {losses('single')}", "apart": f"{found['apart']['largest']:.1e}"}


def check_device(device: str) -> None:
    """Raises UserError where there is no GPU to be used, with what torch says of it."""
    if device == "cpu":
        return
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        reason = "; ".join(str(one.message).splitlines()[0] for one in said) or "torch sees none"
        raise UserError(
            f"no GPU can be used: {reason}. --device cpu --shape tiny (make gpu DEVICE=cpu SHAPE=tiny) rehearses it"
        )


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=SHAPES, help="size of the random policies (default: 3b, on a CPU tiny)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="for gpu.jsonl, gpu.md and logs.tar.gz")
    parser.add_argument("--state", type=Path, help="what parts share and a second start goes on from")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    parser.add_argument("--done", type=Path, metavar="FILE", help="gpu.jsonl of another start: skip what it finished")
    parser.add_argument("--minutes", type=float, default=60.0, help="the budget; parts that do not fit are not begun")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Returns 0 where every part is finished, 1 where one is not, 2 for a start that cannot be."""
    asked = arguments(words)
    shape = asked.shape or ("3b" if asked.device == "cuda" else "tiny")
    state = asked.state or Path("runs") / f"gpu-state-{asked.device}-{shape}"
    try:
        if asked.device == "cpu" and shape != "tiny":
            raise UserError(f"--shape {shape} needs a GPU; --device cpu takes --shape tiny")
        check_device(asked.device)
        parts = gpu_parts(asked.device, shape, state)
        names = [part.name for part in parts]
        unknown = [name for name in asked.only or () if name not in names]
        if unknown:
            raise UserError(f"--only {unknown[0]}: choose from {', '.join(names)}")
        chosen = [part for part in parts if not asked.only or part.name in asked.only]
        finished = run_parts(chosen, asked.out, state, minutes=asked.minutes, done=asked.done)
    except (ValueError, OSError) as error:
        print(f"vqr1.bench.gpu: {error}", file=sys.stderr)
        return 2
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())

"""Run folders without a run: figures from closed forms, for what reads them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SETS = ("demo_five", "demo_hundred")


def make_run(
    folder: Path,
    *,
    k: int = 4,
    beta: float = 0.04,
    seed: int = 0,
    steps: int = 30,
    evaluations: int = 6,
    kind: str = "fidelity",
    experiment: str = "demo",
    answer: str = "<think>A bright picture, blurred.</think><answer>{score:.2f}</answer>",
    image_id: str = "demo/picture_{i}.png",
    probes: int = 2,
    canary: bool = False,
    ended: bool = True,
    answers: int = 4,
    name: str | None = None,
) -> Path:
    """Its final SRCC on demo_five is 0.6 + 0.02 k - beta + 0.01 seed."""
    folder.mkdir(parents=True)
    settings = {
        "data": {"train": list(SETS), "root": "data", "validation": list(SETS), "test": list(SETS)},
        "policy": {"path": "tiny", "dtype": "float32"},
        "rollout": {"k": k, "temperature": 1.0, "vllm": {"canary_limit": 0.1}},
        "reward": {"kind": "ranking", "agreement": kind},
        "evaluation": {"every": steps // evaluations},
        "trainer": {"beta": beta, "max_steps": steps},
        "experiment_name": experiment,
        "seed": seed,
        "name": name or folder.name,
        "runs": str(folder.parent),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "versions.json").write_text(json.dumps({"format": 2, "vqr1": "0.2.0", "machine": "x86_64", "vllm": None}))
    random = np.random.default_rng(100 * seed + k)
    best = 0.6 + 0.02 * k - beta + 0.01 * seed
    metrics, timings, said = [], [], []
    places = pictures(folder, probes)
    for step in range(steps + 1):
        share = step / steps
        if step:
            metrics.append({"step": step} | stepwise(share, k, beta, kind, random, canary))
            timings.append({"step": step, "speed/step_seconds": 1.5, "speed/answers_per_second": 60.0})
        if step % (steps // evaluations) == 0:
            at = {name: evaluated(0.2 + (best - 0.2) * share - 0.1 * i, share) for i, name in enumerate(SETS)}
            if step in (0, steps):
                tests = {
                    f"{name}_test": evaluated(0.25 + (best - 0.25) * share - 0.1 * i, share)
                    for i, name in enumerate(SETS)
                }
                at = {name: values | ends(values["srcc"]) for name, values in (at | tests).items()}
            metrics.append(
                {"step": step} | {f"eval/{n}/{key}": v for n, values in at.items() for key, v in values.items()}
            )
            timings.append({"step": step, "speed/evaluation_seconds": 12.0})
            for name in SETS:
                for i, place in enumerate(places):
                    scores = [round(1.5 + i + 1.5 * share + 0.2 * (j - 1) * (1 - share), 2) for j in range(answers)]
                    said.append(
                        {
                            "step": step,
                            "set": name,
                            "image_id": image_id.format(i=i),
                            "image": "/nowhere/picture.png",
                            "picture": place,
                            "mos": 2.0 + i,
                            "scores": scores,
                            "answers": [answer.format(score=score) for score in scores],
                        }
                    )
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "timings.jsonl", timings)
    write_lines(folder / "answers.jsonl", said)
    if ended:
        start, end = (
            {n: {k: r[f"eval/{n}/{k}"] for k in keys(r, n)} for n in sets(r)} for r in evaluations_of(metrics)
        )
        summary = {"seed": seed, "steps": steps, "start": start, "final": end, "best_step": steps}
        ceiling = {"label_ceiling": 0.97, "supervised_ceiling": 0.82}
        (folder / "summary.json").write_text(
            json.dumps(summary | {"proof": {f"{name}_test": ceiling for name in SETS}})
        )
    return folder


def make_sweep(
    folder: Path, ks: tuple[int, ...], betas: tuple[float, ...], seeds: tuple[int, ...], **more: Any
) -> Path:
    for k in ks:
        for beta in betas:
            for seed in seeds:
                make_run(folder / f"rollout.k-{k}_trainer.beta-{beta}_seed-{seed}", k=k, beta=beta, seed=seed, **more)
    (folder / "multirun.yaml").write_text("{}\n")
    return folder


def stepwise(share: float, k: int, beta: float, kind: str, random: Any, canary: bool) -> dict[str, float]:
    noise = random.normal(0, 0.02, 8).tolist()
    learnt = 1 - math.exp(-4 * share)
    return {
        "train/loss": 0.01 + noise[0] / 10,
        "train/reward": 1.55 + 0.25 * learnt + noise[1],
        "train/reward_std": 0.3 - 0.02 * k * learnt + noise[2],
        f"reward/{kind}": 0.55 + 0.25 * learnt + noise[1],
        "reward/format": min(1.0, 0.97 + noise[3] / 10),
        "reward/zero_spread": max(0.0, noise[4]),
        "rollout/score_std": 0.5 - 0.3 * learnt + noise[5],
        "rollout/score_std_between": 0.6 + 0.3 * learnt + noise[6],
        "rollout/unreadable": max(0.0, 0.02 - 0.02 * learnt),
        "rollout/length": 17.0,
        "policy/kl": (0.5 - 4 * beta) * learnt + abs(noise[7]),
        "policy/entropy": 0.6 - 0.3 * learnt,
        **({"canary/logp_difference": 0.02 + abs(noise[0]), "canary/logp_difference_max": 0.4} if canary else {}),
    }


def evaluated(srcc: float, share: float) -> dict[str, float]:
    return {"srcc": srcc, "plcc": srcc + 0.01, "score_std": 0.5 - 0.3 * share, "unreadable": 0.01, "n": 140}


def ends(srcc: float) -> dict[str, float]:
    return {"srcc_low": srcc - 0.08, "srcc_high": srcc + 0.06}


def pictures(folder: Path, count: int) -> list[str]:
    (folder / "pictures").mkdir()
    made = []
    for i in range(count):
        made.append(f"pictures/{i}.jpg")
        ramp = np.linspace(0, 255, 96 * 128, dtype=np.uint8).reshape(96, 128)
        Image.fromarray(np.roll(np.stack([ramp, ramp[::-1], np.full_like(ramp, 80 * i % 256)], 2), 9 * i, 1)).save(
            folder / made[-1]
        )
    return made


def evaluations_of(metrics: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = [row for row in metrics if "eval/demo_five/srcc" in row]
    return found[0], found[-1]


def sets(row: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(key.split("/")[1] for key in row if key.startswith("eval/")))


def keys(row: dict[str, Any], name: str) -> list[str]:
    return [key.split("/")[2] for key in row if key.startswith(f"eval/{name}/")]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

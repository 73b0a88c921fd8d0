"""What vLLM sees with and without the work-arounds of :mod:`vqr1.rollout.engine`, measured on the demonstration.

    python -m vqr1.bench.vllm_workarounds

Prints how many image tokens vLLM reads for a prompt that has N, and the canary (the mean difference of
log-probabilities between vLLM and the trained model) while the tiny policy, vision tower included, is trained on the
same 16 pictures again and again: once keeping encoded pictures over a sync, as TRL does, and once forgetting them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed

from vqr1.config import Config, DataConfig, PolicyConfig, RolloutConfig
from vqr1.data.pictures import picture_loader
from vqr1.demo.datasets import DEMO_DATASETS
from vqr1.demo.specs import register_demonstration
from vqr1.machine_choices import choose
from vqr1.packaged import data_root
from vqr1.policy.load import TINY, load_processor
from vqr1.rollout.offline import encode_prompts
from vqr1.rollout.synced import SyncedGeneration
from vqr1.rollout.vllm_engine import VllmEngine, collapse_placeholders
from vqr1.rollout_settings import TrainingEngine, VllmSettings
from vqr1.training.build_trainer import cohort_sampler, make_trainer, reward_functions
from vqr1.training.canary import LOGP_DIFFERENCE
from vqr1.training.grpo_settings import grpo_config
from vqr1.training.run_data import read_data
from vqr1.training.start_vllm import check_engine, use_vllm
from vqr1.training.trainer import RankingTrainer

PICTURES = 16
LIMIT = 0.05  # of the canary's mean with both work-arounds


class KeepsPictures(VllmEngine):
    """As TRL leaves it: encoded pictures outlive the weights that encoded them (huggingface/trl issue 7198)."""

    def forget(self, pictures: bool) -> None:
        super().forget(False)


def settings(root: Path, rate: float, steps: int) -> Config:
    """The demonstration's pictures and policy with its vision tower trained; the canary watches and never stops."""
    return Config(
        data=DataConfig(root=str(root), train=list(DEMO_DATASETS)),
        policy=PolicyConfig(path="tiny", gradient_checkpointing=False, **TINY),
        rollout=RolloutConfig(max_tokens=48, engine=TrainingEngine.vllm_colocate, vllm=VllmSettings(canary_stop=False)),
        trainer={
            "images_per_step": PICTURES,
            "answers_per_device": 48,
            "learning_rate": rate,
            "lr_scheduler_type": "constant",
            "beta": 0.01,
            "loss_type": "grpo",
            "use_bias_correction_kl": False,
            "max_steps": steps,
            "save_steps": steps,
            "logging_steps": 1,
            "disable_tqdm": True,
            "log_multimodal": False,
        },
    )


def trained(config: Config, folder: Path, engine: type[VllmEngine]) -> tuple[RankingTrainer, list[float]]:
    """A run on the first PICTURES training pictures, all of them in every step; the canary of every step."""
    choices = choose(config, min(1, torch.cuda.device_count()))
    grpo = grpo_config(config, choices, folder)
    samples = read_data(config).train[:PICTURES]
    load = picture_loader(config.policy.min_pixels, config.policy.max_pixels)
    processor = load_processor(config.policy)
    length = check_engine(config, choices, processor)
    assert length is not None
    set_seed(config.seed)
    sampler = cohort_sampler(config, samples, choices.batches, grpo.num_iterations)
    trainer = make_trainer(config, choices, grpo, reward_functions(config), sampler, samples, load, processor)
    use_vllm(trainer, config, choices, processor, length, [load(sample.image) for sample in samples], print, engine)
    trainer.train()
    return trainer, [row[LOGP_DIFFERENCE] for row in trainer.state.log_history if LOGP_DIFFERENCE in row]


def placeholders(engine: VllmEngine, processor: Any, example: dict[str, Any]) -> dict[str, int]:
    """Image tokens of one prompt: as training has it, as vLLM reads what we send, and as it would read TRL's prompt."""
    (ids,) = encode_prompts(processor, [example], padding=False)["input_ids"]
    picture, token = example["image"], processor.image_token_id

    def read(prompt: list[int]) -> int:
        asked: Any = {"prompt_token_ids": prompt, "multi_modal_data": {"image": picture}}
        (reply,) = engine.llm.generate([asked], use_tqdm=False)
        return list(reply.prompt_token_ids).count(token)

    return {
        "training": ids.count(token),
        "collapsed": read(collapse_placeholders(ids, token)),
        "expanded": read(list(ids)),
    }


def measure(root: Path, rate: float, steps: int) -> dict[str, Any]:
    """Both runs. Canaries leave the first step out: it is before any update."""
    torch.set_num_threads(1)
    register_demonstration()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(root, rate, steps)
        _, kept = trained(config, Path(folder) / "kept", KeepsPictures)
        trainer, forgotten = trained(config, Path(folder) / "forgotten", VllmEngine)
        generation, dataset = trainer.vllm_generation, trainer.train_dataset
        assert isinstance(generation, SyncedGeneration) and isinstance(generation.engine, VllmEngine)
        assert isinstance(dataset, Dataset)
        return {
            "learning_rate": rate,
            "steps": steps,
            "image_tokens": placeholders(generation.engine, trainer.processing_class, dataset[0]),
            "canary_pictures_kept": kept[1:],
            "canary_pictures_forgotten": forgotten[1:],
        }


def as_text(found: dict[str, Any]) -> str:
    tokens, kept, forgotten = (
        found[key] for key in ("image_tokens", "canary_pictures_kept", "canary_pictures_forgotten")
    )
    verdict = "holds" if fmean(forgotten) < LIMIT else "DOES NOT HOLD"
    return "\n".join(
        [
            f"demonstration, tiny policy with its vision tower trained, learning rate {found['learning_rate']:g},",
            f"{found['steps']} steps on the same {PICTURES} pictures, K 6, float32",
            f"image tokens of a prompt: {tokens['training']} in training; vLLM reads {tokens['collapsed']} where each "
            f"run of them is sent as one, {tokens['expanded']} where they are sent as they are",
            f"canary, encoded pictures kept over a sync:      {_row(kept)}",
            f"canary, encoded pictures forgotten after a sync: {_row(forgotten)}",
            f"canary mean with both work-arounds under {LIMIT}: {verdict}",
        ]
    )


def _row(canary: Sequence[float]) -> str:
    return f"mean {fmean(canary):.5f}, largest {max(canary):.5f}, last {canary[-1]:.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(data_root()), help="where the demonstration data are")
    parser.add_argument("--rate", type=float, default=2.5e-4, help="learning rate; the demonstration's by default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there")
    asked = parser.parse_args()
    found = measure(asked.root, asked.rate, asked.steps)
    print(as_text(found))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

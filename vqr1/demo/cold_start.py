"""How the tiny policy is made: it learns to see, then to answer, and answers with a bias.

A stand-in for what a pretrained vision-language model brings to reinforcement learning: it knows the format, names the
distortion and its strength in its reasoning, and has an opinion on quality that is mostly wrong. Its score follows the
picture's brightness and a made-up order of the distortions more than the quality, so that averaging many answers does
not help: what is to be learnt is a bias, not less noise.

1. Sight: the vision tower alone, with linear heads for type and strength, on varied training contents
   (vqr1.demo.practice). Its first layer starts as a whitened cosine transform, so that fine detail, in which
   distortions lie and which natural pictures have little of, is heard from the first step.
2. Speech: the whole model, supervised on answers that name brightness, type and strength and give a biased score.

``vqr1 tiny-policy`` runs both and writes the folder that ships with the package.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vqr1.answer import OF_TWO_PICTURES, PROMPTS, build_prompt
from vqr1.demo.datasets import CROP, TYPES, true_mos
from vqr1.demo.practice import CHUNK, practice
from vqr1.demo.tiny_policy import MERGE, PATCH, TEMPORAL_PATCH, build_model, build_processor
from vqr1.policy.load import SHIPPED, files_hash
from vqr1.rollout.offline import encode_prompts

BRIGHTNESS = ("very dark", "dark", "medium", "bright", "very bright")
BRIGHTNESS_EDGES = (60.0, 95.0, 130.0, 165.0)  # mean pixel values between them
# Which distortions the biased score likes (+1) and dislikes (-1), whatever their strength: a made-up order.
LIKED = {kind: (1.0 if i % 2 else -1.0) for i, kind in enumerate(TYPES)}

HEAD_SIZES = (len(TYPES), 5 * len(TYPES))


@dataclass(frozen=True)
class ColdStart:
    """Everything that decides the weights."""

    seed: int = 0
    chunks: int = 144  # of 500 pictures
    sight_steps: int = 7000
    sight_batch: int = 64
    sight_lr: float = 1e-3
    speech_steps: int = 800
    speech_batch: int = 64
    speech_lr: float = 1e-3
    bias_brightness: float = 0.6  # weights of the score's parts, each of about unit variance
    bias_type: float = 0.5
    quality: float = 0.42
    noise: float = 0.5


def make_tiny_policy(folder: Path, settings: ColdStart, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Make the tiny policy in ``folder``, in the format of a Qwen2.5-VL, and return its record (also written there)."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    pictures = draw_practice(settings)
    processor = build_processor(corpus())
    model = build_model(processor.tokenizer, settings.seed)
    log = [*learn_to_see(model, pictures, settings, say), *learn_to_answer(model, processor, pictures, settings, say)]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    record = {
        "command": "make tiny-policy",
        "recipe": asdict(settings),
        "seconds": round(time.perf_counter() - began),
        "machine": f"{platform.machine()}, torch {torch.__version__}, one thread",
        "sha256": weights_hash(folder),
        "log": log,
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def weights_hash(folder: Path) -> str:
    return files_hash([folder / "model.safetensors"])


@dataclass(frozen=True)
class PracticePictures:
    """Practice pictures. N of them."""

    pixels: torch.Tensor  # (N, CROP, CROP, 3) uint8
    kind: torch.Tensor  # (N,) index into TYPES
    level: torch.Tensor  # (N,) 0..4

    def __len__(self) -> int:
        return len(self.kind)

    def brightness(self) -> np.ndarray:
        """Mean pixel value, 0..255."""
        return np.array([float(p.float().mean()) for p in self.pixels])


def draw_practice(settings: ColdStart) -> PracticePictures:
    rows = practice(settings.chunks, settings.seed)
    pixels, kinds, levels = zip(
        *tqdm(rows, total=settings.chunks * CHUNK, desc="drawing practice", disable=None), strict=True
    )
    return PracticePictures(torch.from_numpy(np.stack(pixels)), torch.tensor(kinds), torch.tensor(levels) - 1)


# 1. Sight


def to_patches(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """What Qwen2.5-VL's image processor makes of square pictures that need no resizing, for a whole batch at once."""
    count, side = pixels.shape[:2]
    grid = side // PATCH
    x = (pixels.permute(0, 3, 1, 2).float() / 255 - mean[:, None, None]) / std[:, None, None]
    x = x.view(count, 3, grid // MERGE, MERGE, PATCH, grid // MERGE, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], TEMPORAL_PATCH, *x.shape[6:])
    return x.reshape(count * grid**2, -1)


def cosine_filters(count: int) -> torch.Tensor:
    """``count`` filters (count, 3, PATCH, PATCH): cosines of all frequencies, of luminance and a few of colour."""
    n = torch.arange(PATCH)
    basis = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / PATCH)
    frequencies = sorted(((u, v) for u in range(PATCH) for v in range(PATCH)), key=lambda f: f[0] ** 2 + f[1] ** 2)

    def spread(number: int) -> list[tuple[int, int]]:
        return [frequencies[round(i)] for i in np.linspace(0, len(frequencies) - 1, number)]

    luma, blue, red = (0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081)
    chosen = [(luma, f) for f in spread(count - 32)] + [(colour, f) for colour in (blue, red) for f in spread(16)]
    return torch.stack([torch.einsum("c,h,w->chw", torch.tensor(c), basis[u], basis[v]) for c, (u, v) in chosen])


def learn_to_see(
    model: Any, pictures: PracticePictures, settings: ColdStart, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train the vision tower to tell type and strength from the mean of its output tokens."""
    visual = model.model.visual
    width = visual.config.out_hidden_size
    tokens = (CROP // PATCH // MERGE) ** 2
    grid = torch.tensor([[1, CROP // PATCH, CROP // PATCH]])
    generator = torch.Generator().manual_seed(settings.seed)
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)  # the image processor's own
    with torch.no_grad():
        filters = cosine_filters(visual.config.hidden_size)[:, :, None].expand(-1, -1, TEMPORAL_PATCH, -1, -1)
        sample = to_patches(pictures.pixels[:: max(1, len(pictures) // 600)], mean, std)
        spread = (sample @ filters.reshape(len(filters), -1).T).std(0)
        visual.patch_embed.proj.weight.copy_(filters / spread[:, None, None, None, None])
    heads = torch.nn.Linear(width, sum(HEAD_SIZES))
    torch.nn.init.normal_(heads.weight, std=0.02, generator=generator)
    torch.nn.init.zeros_(heads.bias)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        pixels = pictures.pixels[batch]
        for side in (1, 2):
            if torch.rand((), generator=generator) < 0.5:
                pixels = pixels.flip(side)
        encoded = visual(to_patches(pixels, mean, std), grid_thw=grid.expand(len(batch), 3)).pooler_output
        kinds, levels = heads(encoded.view(len(batch), tokens, width).mean(1)).split(HEAD_SIZES, dim=1)
        levels_of_kind = levels.view(len(batch), len(TYPES), 5)[torch.arange(len(batch)), pictures.kind[batch]]
        return F.cross_entropy(kinds, pictures.kind[batch]) + F.cross_entropy(levels_of_kind, pictures.level[batch])

    parameters = [*visual.parameters(), *heads.parameters()]
    sizes = (settings.sight_steps, settings.sight_batch, settings.sight_lr)
    return list(_descend("sight", parameters, loss, len(pictures), sizes, generator, say))


# 2. Speech


def corpus() -> list[str]:
    """What the tokenizer learns its phrases from: the prompts of one picture, and every phrase of an answer."""
    texts = [text for name, text in PROMPTS.items() if name not in OF_TWO_PICTURES]
    prompts = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts]
    answers = [
        answer_text(tone, kind, level, level + 0.5) for tone in BRIGHTNESS for kind in TYPES for level in range(1, 6)
    ]
    return prompts + answers


def answer_text(brightness: str, kind: str, level: int, score: float) -> str:
    """One answer in the format, as the tiny policy gives it."""
    name = kind.replace("_", " ")
    return f"<think>A {brightness} picture, {name}, strength {level}.</think><answer>{score:.2f}</answer>"


def biased_scores(
    pictures: PracticePictures, brightness_N: np.ndarray, settings: ColdStart, rng: np.random.Generator
) -> np.ndarray:
    """What the policy is taught to answer, (N,): brightness, liked types, some quality, noise.

    From 1.00 to 4.99: with 5.00 among them it would learn to mix digits into unreadable scores above 5.
    """
    quality = np.array([true_mos(TYPES[k], n + 1) for k, n in zip(pictures.kind, pictures.level, strict=True)])
    liked = np.array([LIKED[TYPES[k]] for k in pictures.kind])
    score = (
        3.0
        + settings.bias_brightness * standardised(brightness_N)
        + settings.bias_type * liked
        + settings.quality * standardised(quality)
        + settings.noise * rng.standard_normal(len(pictures))
    )
    return np.clip(score, 1.0, 4.99)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def learn_to_answer(
    model: Any,
    processor: Any,
    pictures: PracticePictures,
    settings: ColdStart,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Supervised answers: the format, what is seen, and a biased score. The vision tower learns on, slower."""
    tokenizer = processor.tokenizer
    image = processor.image_processor
    rng = np.random.default_rng([settings.seed, 1])
    generator = torch.Generator().manual_seed(settings.seed + 1)
    brightness_N = pictures.brightness()
    tones = np.digitize(brightness_N, BRIGHTNESS_EDGES)
    scores = biased_scores(pictures, brightness_N, settings, rng)
    mean, std = torch.tensor(image.image_mean), torch.tensor(image.image_std)
    blank = Image.new("RGB", (CROP, CROP))
    asked = encode_prompts(processor, [{"image": blank, "prompt": build_prompt("paper")}])
    prompt, types = asked["input_ids"], asked["mm_token_type_ids"]
    grid = asked["image_grid_thw"]

    def loss(batch: torch.Tensor) -> torch.Tensor:
        rows = [
            answer_text(BRIGHTNESS[tones[i]], TYPES[pictures.kind[i]], int(pictures.level[i]) + 1, scores[i])
            for i in batch.tolist()
        ]
        target = tokenizer(
            [row + tokenizer.eos_token for row in rows], return_tensors="pt", padding=True, padding_side="right"
        )
        count = len(batch)
        input_ids = torch.cat([prompt.expand(count, -1), target["input_ids"]], dim=1)
        labels = input_ids.clone()
        labels[:, : prompt.shape[1]] = -100
        labels[:, prompt.shape[1] :][target["attention_mask"] == 0] = -100
        return model(
            input_ids=input_ids,
            attention_mask=torch.cat([torch.ones(count, prompt.shape[1]), target["attention_mask"]], dim=1).long(),
            mm_token_type_ids=torch.cat([types.expand(count, -1), torch.zeros_like(target["input_ids"])], dim=1),
            pixel_values=to_patches(pictures.pixels[batch], mean, std),
            image_grid_thw=grid.expand(count, 3),
            labels=labels,
        ).loss

    sight = list(model.model.visual.parameters())
    seen = {id(p) for p in sight}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in seen], "scale": 1.0},
        {"params": sight, "scale": 0.3},
    ]
    sizes = (settings.speech_steps, settings.speech_batch, settings.speech_lr)
    return list(_descend("speech", groups, loss, len(pictures), sizes, generator, say))


def _descend(
    stage: str,
    parameters: list,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    sizes: tuple[int, int, float],
    generator: torch.Generator,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """AdamW with warm-up and a cosine down to zero; yields the smoothed loss now and then."""
    steps, batch_size, peak = sizes
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.05, betas=(0.9, 0.95))
    smooth = None
    for step in tqdm(range(steps), desc=stage, disable=None):
        rate = peak * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        value = loss_of(torch.randint(count, (batch_size,), generator=generator))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        smooth = value.item() if smooth is None else 0.98 * smooth + 0.02 * value.item()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            say(f"{stage} step {step + 1}/{steps}  loss {smooth:.3f}")
            yield {"stage": stage, "step": step + 1, "loss": round(smooth, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description="make the tiny policy that ships with the package")
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="where to write it")
    make_tiny_policy(parser.parse_args().folder, ColdStart())


if __name__ == "__main__":
    main()

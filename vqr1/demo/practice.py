"""Pictures to practise seeing on: the training contents in endless variation, each under one distortion.

They teach the tiny policy to see, before anything is learnt about quality. Only training photographs and drawn
pictures of seeds of their own take part, so that no validation or test content is ever seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

import numpy as np
from PIL import Image
from scipy import ndimage

from vqr1.demo.datasets import TYPES, Content, drawn_contents, photograph_contents, render

SIDE = 160  # pixels of a pristine picture before it is distorted and cropped
WINDOW = (70, 320)  # pixels of a content that fill it: enlarged up to 2.3 times, reduced down to half
DRAWN_SEED = 7000
CHUNK = 500  # pictures
DRAWN = 25  # contents of our own in a chunk


def practice(chunks: int, seed: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """``chunks`` times 500 distorted crops (112, 112, 3) uint8, each with its type as an index into ``TYPES`` and its
    level 1..5. Drawn by as many processes as there are cores; the same on any number.
    """
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for rows in pool.map(_chunk, range(chunks), repeat(seed)):
            yield from rows


def _chunk(chunk: int, seed: int) -> list[tuple[np.ndarray, int, int]]:
    rng = np.random.default_rng([DRAWN_SEED, seed, chunk])
    photographs = photograph_contents("train")
    drawn = list(drawn_contents(DRAWN, DRAWN_SEED + 1000 * seed + chunk))
    rows = []
    for _ in range(CHUNK):
        source = photographs if rng.random() < 0.5 else drawn
        pristine = vary(source[int(rng.integers(len(source)))], rng)
        kind, level = int(rng.integers(len(TYPES))), int(rng.integers(1, 6))
        rows.append((render(pristine, TYPES[kind], level, rng), kind, level))
    return rows


def vary(content: Content, rng: np.random.Generator) -> Content:
    """Another pristine picture out of a content: a window, zoomed, mirrored, recoloured, partly out of focus."""
    height, width = content.pixels.shape[:2]
    size = int(rng.integers(WINDOW[0], min(WINDOW[1], height, width) + 1))
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    window = content.pixels[top : top + size, left : left + size]
    picture = Image.fromarray(np.ascontiguousarray(window)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.rot90(np.asarray(picture), int(rng.integers(4)))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    shaded = _focus(_recolour(pixels.astype(np.float32) / 255, rng), rng)
    return Content(content.name, np.round(shaded * 255).astype(np.uint8), content.drawn)


def _recolour(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Channels mixed and bent, so that colour and brightness say little about the content."""
    grey = x.mean(axis=-1, keepdims=True)
    x = grey + (x[..., rng.permutation(3)] - grey) * rng.uniform(0.3, 1.2)
    x = np.clip(x * rng.uniform(0.6, 1.15) + rng.uniform(-0.05, 0.1), 0, 1)
    return x ** rng.uniform(0.6, 1.6)


def _focus(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In half the pictures a smooth region is out of focus, as behind the subject of a photograph."""
    if rng.random() < 0.5:
        return x
    field = ndimage.gaussian_filter(rng.standard_normal(x.shape[:2]), 24)
    near = ndimage.gaussian_filter((field > np.quantile(field, rng.uniform(0.2, 0.7))).astype(float), 3)[..., None]
    far = ndimage.gaussian_filter(x, (rng.uniform(1, 5),) * 2 + (0,))
    return np.clip(near * x + (1 - near) * far, 0, 1)

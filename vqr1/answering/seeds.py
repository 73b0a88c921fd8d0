"""The seed of an answer: a function of the rater's seed, the picture that the policy sees and the answer's number."""

from __future__ import annotations

import hashlib

from PIL import Image

from vqr1.rollout.engine import MAX_SEED


def picture_digest(picture: Image.Image) -> str:
    """Of the pixels and their shape, in 32 hexadecimal digits; a file's name and format do not enter."""
    pixels = hashlib.blake2b(f"{picture.mode} {picture.size}".encode(), digest_size=16)
    pixels.update(picture.tobytes())
    return pixels.hexdigest()


def answer_seed(seed: int, digest: str, k: int) -> int:
    """Of answer ``k``, from 0, to the picture of ``digest``: the same in any batch and order."""
    drawn = hashlib.blake2b(f"{seed}/{digest}/{k}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) % MAX_SEED

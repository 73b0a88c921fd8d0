"""``python tests/support/scripted.py train ...`` is ``vqr1 train ...`` whose answers come from a script.

What is said depends on nothing that a rank or a random state could change. What the command starts again, on every
device or for every job of a sweep, is this file too.
"""

from __future__ import annotations

import hashlib
from functools import partial

from vqr1 import cli
from vqr1.launching import Hooks, start


def answer(seed: int, image_id: str, k: int, step: int) -> str:
    """The k-th answer to a picture at a step: well formed, but for one in sixteen, with scores spread over 1 to 5."""
    digest = hashlib.sha256(f"{seed}/{image_id}/{k}/{step}".encode()).digest()
    leaning = hashlib.sha256(image_id.encode()).digest()[0] / 255  # each picture has a score it tends to
    score = 1 + 4 * (0.6 * leaning + 0.4 * digest[0] / 255)
    if digest[1] % 16 == 0:
        return f"<think>no answer</think><answer>{score + 10:.2f}</answer>"
    return f"<think>a picture</think><answer>{score:.2f}</answer>"


def main() -> None:
    cli.main(partial(start, hooks=Hooks(program=(__file__,), script=answer)))


if __name__ == "__main__":
    main()

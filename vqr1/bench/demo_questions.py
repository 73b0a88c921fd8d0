"""Multiple choice about the demonstration's test pictures, a file as Q-Bench2's, for ``vqr1 ask mcq``.

    python -m vqr1.bench.demo_questions --out questions.json [--data demo_five] [--rounds 1]

Each row shows two pictures and asks Compare2Score's question; its options are three of that method's words, and the
right one follows from both MOS and the spread of their ratings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from vqr1.comparison.words import QUESTION, SIMILAR, compare_mos, pair_spread
from vqr1.data import Sample, read_dataset
from vqr1.demo.specs import SPECS, register_demonstration
from vqr1.errors import UserError
from vqr1.packaged import data_root
from vqr1.pairing import round_pairs

OPTIONS = ("Worse", "Similar", "Better")


def rows(samples: Sequence[Sample], rounds: int, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each pair of so many rounds of disjoint random pairs of rated pictures, whose ratings have a spread."""
    pairs = round_pairs(len(samples), rounds, seed)
    mos = np.array([sample.mos for sample in samples])[pairs]
    std = np.array([sample.mos_std for sample in samples], dtype=float)[pairs]
    words = compare_mos(mos[:, 0], mos[:, 1], pair_spread(std[:, 0], std[:, 1]))
    found = []
    for number, ((i, j), word) in enumerate(zip(pairs.tolist(), words.tolist(), strict=True)):
        options = {f"option{place}": option for place, option in enumerate((*OPTIONS, "N/A"))}
        right = ascii_uppercase[1 + (word > SIMILAR) - (word < SIMILAR)]
        pictures = {"image1": str(Path(samples[i].image).resolve()), "image2": str(Path(samples[j].image).resolve())}
        found.append({"id": number, **pictures, "question": QUESTION, **options, "correct_choice": right})
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 for what the user can put right, with one message."""
    parser = argparse.ArgumentParser("python -m vqr1.bench.demo_questions", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--data", choices=[spec.name for spec in SPECS], default="demo_five")
    parser.add_argument("--root", type=Path, default=data_root(), help="that holds the set (VQR1_DATA)")
    parser.add_argument("--rounds", type=int, default=1, help="of disjoint random pairs")
    asked = parser.parse_args(words)
    register_demonstration()
    try:
        made = rows(read_dataset(asked.data, asked.root.expanduser()).test, asked.rounds)
        asked.out.write_text(json.dumps(made, indent=1) + "\n")
    except (UserError, OSError) as error:
        print(f"vqr1.bench.demo_questions: {error}", file=sys.stderr)
        return 2
    print(f"{asked.out}: {len(made)} questions about {asked.data}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``vqr1 export``: its words."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vqr1.command_options import Parser, count, path
from vqr1.errors import show

PUBLISH = "hf upload OWNER/NAME"


def run(words: Sequence[str]) -> None:
    """Raises what :func:`vqr1.export.folder.export` raises."""
    parser = Parser(
        "vqr1 export",
        description="A run's weights as a folder that transformers and vLLM load without vqr1: adapters merged, with "
        "processor and pixel limits, prompt, chat template, generation settings and a card. It is asked once in a "
        "process that has no vqr1, and has to answer as the run's weights do.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder (its best/, else its final/), or one of its folders")
    parser.add_argument("folder", type=path, metavar="FOLDER", help="to be made")
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the weights (auto: the run's)"
    )
    parser.add_argument("--prompt", help="paper, published, no_thinking or a text (default: the run's)")
    parser.add_argument("--max-tokens", type=count, default=256, metavar="N", help="of an answer (default: 256)")
    parser.add_argument(
        "--results", action="append", type=path, default=[], metavar="RESULT",
        help="a folder of vqr1 evaluate on these weights, for the card: figures with intervals; once for each",
    )  # fmt: skip
    parser.add_argument(
        "--mos-map", action="append", type=path, default=[], metavar="RESULT",
        help="a folder of vqr1 evaluate part=validation on these weights: by the curve that fits it, scores are read "
        "as MOS of its sets (vqr1 rate --scale SET); on other pictures than --results; once for each",
    )  # fmt: skip
    parser.add_argument("--unchecked", action="store_true", help="do not ask the folder, which loads it once more")
    asked = parser.parse_args(words)

    from vqr1.export.folder import Asked, export

    done = export(
        Asked(
            asked.run,
            asked.folder,
            prompt=asked.prompt,
            dtype=asked.dtype,
            max_tokens=asked.max_tokens,
            results=asked.results,
            mos_maps=asked.mos_map,
            check=not asked.unchecked,
        )
    )
    for note in done.notes:
        show(note, file=sys.stderr)
    how = "not asked" if done.answer is None else "asked without vqr1, it answers"
    show(f"{asked.folder}: {done.bytes / 1e6:.1f} MB, {how}; to publish it: {PUBLISH} {asked.folder}", file=sys.stderr)

"""The command line: ``vqr1 train key=value ...``. Each command imports what it needs and no more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

USAGE = """usage: vqr1 COMMAND ...

  train     train a policy by reinforcement learning to rank: vqr1 train experiment=demo seed=0
            (-m sweeps: vqr1 train -m rollout.k=4,6 trainer.beta=0.01,0.04; --cfg job shows the configuration)
"""


def packaged(name: str) -> Path:
    """A top-level folder of the project (conf, launch): inside the package once installed, beside it in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else inside.parent.parent / name


def quiet_environment() -> None:
    """Nothing leaves the machine unasked, and the tokenizers do not fork threads."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def train() -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from vqr1 import config as schema
    from vqr1.launching import start

    schema.register()

    os.environ.setdefault("VQR1_SWEEP", f"sweep-{datetime.now():%Y-%m-%d-%H%M%S}")

    @hydra.main(config_path=str(packaged("conf").resolve()), config_name="train", version_base="1.3")
    def main(composed: DictConfig) -> None:
        try:
            start(schema.from_hydra(composed))
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            # Hydra would print its own stack. In a sweep the other jobs go on, and Hydra reports this one at the end.
            if HydraConfig.get().mode is RunMode.MULTIRUN or os.environ.get("VQR1_TRACEBACK"):
                raise
            print(f"vqr1 train: {error}\n(VQR1_TRACEBACK=1 shows where)", file=sys.stderr)
            sys.exit(2)

    main()


COMMANDS: dict[str, Callable[[], None]] = {"train": train}


def main() -> None:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked = sys.argv[1:] in ([], ["-h"], ["--help"])
        print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    quiet_environment()
    COMMANDS[sys.argv.pop(1)]()

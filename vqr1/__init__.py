"""Reinforcement learning to rank for image quality."""

import os

__version__ = "0.2.0"

# wandb reports its own errors to its vendor, offline too, unless it is told not to before it is imported.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

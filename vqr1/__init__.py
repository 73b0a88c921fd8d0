"""Reinforcement learning to rank for image quality."""

import os

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading typing costs
if TYPE_CHECKING:
    from vqr1.rating.generator_reward import reward_model as reward_model
    from vqr1.rating.rater import Rater as Rater
    from vqr1.rating.rater import load_rater as load_rater
    from vqr1.rating.rating import Rating as Rating

__version__ = "0.2.0"

# wandb reports its own errors to its vendor, offline too, unless it is told not to before it is imported.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

# Modules of vqr1.rating.
_LOADED_WHEN_ASKED = {
    "load_rater": "rater",
    "Rater": "rater",
    "Rating": "rating",
    "reward_model": "generator_reward",
}


def __getattr__(name: str) -> object:
    if name not in _LOADED_WHEN_ASKED:
        raise AttributeError(f"module 'vqr1' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vqr1.rating.{_LOADED_WHEN_ASKED[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_WHEN_ASKED})

"""Where things are that no setting names: the folders conf and launch, and the datasets."""

import os
from pathlib import Path


def packaged(name: str) -> Path:
    """A top-level folder of the project (conf, launch): inside the package once installed, beside it in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else inside.parent.parent / name


def data_root() -> str:
    """The folder of the datasets where no command says another: VQR1_DATA, else data."""
    return os.environ.get("VQR1_DATA") or "data"

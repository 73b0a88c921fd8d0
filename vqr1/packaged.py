"""Where the folders conf and launch are, installed or in a checkout."""

from pathlib import Path


def packaged(name: str) -> Path:
    """A top-level folder of the project (conf, launch): inside the package once installed, beside it in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else inside.parent.parent / name

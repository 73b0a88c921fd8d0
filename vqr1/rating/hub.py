"""A model of the hub, fetched where it is not on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from vqr1.errors import MissingFileError, UserError, show
from vqr1.policy.load import find_weights

FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.md")  # no code and no pickled weights


def fetch(model: str) -> None:
    """Fetch ``model`` if it is a hub id that is not here, unless HF_HUB_OFFLINE is set.

    ``a/b`` is a path where a folder ``a`` is. Raises UserError where the hub does not give it.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError

    named = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    if not named or Path(model).parent.is_dir() or constants.HF_HUB_OFFLINE:
        return
    try:
        find_weights(model)
    except MissingFileError:
        show(f"fetching {model} from the hub (HF_HUB_OFFLINE=1 fetches nothing)", file=sys.stderr)
        try:
            snapshot_download(model, allow_patterns=list(FILES))
        except (HTTPError, OSError, ValueError) as error:
            raise UserError(f"{model} is no folder here, and the hub did not give it: {error}") from error

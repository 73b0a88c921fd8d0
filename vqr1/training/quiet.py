"""What libraries say of their own on an ordinary run, and nobody can act on."""

from __future__ import annotations

import logging
import sys
import warnings


def quiet_libraries() -> None:
    """No bars of theirs for loading and saving, no warnings to developers, and of other warnings the text alone.

    ``python -W`` and PYTHONWARNINGS leave Python's warnings as they are.
    """
    import huggingface_hub.utils
    import transformers

    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    # That the stop and padding tokens are those of the tokenizer, and what they are: vqr1.policy sees to both.
    logging.getLogger("transformers.trainer_utils").addFilter(_not_of_tokens)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.formatwarning = _text_alone


def _not_of_tokens(record: logging.LogRecord) -> bool:
    return "PAD/BOS/EOS" not in record.getMessage()


def _text_alone(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"

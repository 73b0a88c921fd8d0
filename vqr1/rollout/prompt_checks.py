"""What a policy's tokenizer and chat template make of a prompt, looked at before the policy is loaded.

A chat template is a program (jinja, in a sandbox) that comes with a model's folder: it may raise, never end, or print
gigabytes. So it is rendered once under a limit of time and memory.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from vqr1.answer import TAGS, build_prompt
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError

SECONDS = 10.0
BYTES = 1 << 30  # beside what the process has already
CHARACTERS = 200_000  # of a rendered prompt


def check_prompt(processor: Any, prompt: str, template: dict[str, Any] | None = None, pictures: int = 1) -> None:
    """Raises UserError where a prompt holds tokens of the model's own, or its template has no place for each picture.

    ``prompt`` is a name of vqr1.answer.PROMPTS or a text; ``template`` is what the chat template is given besides.
    """
    check_message(processor, build_prompt(prompt), template, pictures)


def check_message(
    processor: Any, message: list[dict[str, Any]], template: dict[str, Any] | None = None, pictures: int = 1
) -> None:
    """As :func:`check_prompt`, of a conversation of one message that shows so many pictures."""
    content = message[0]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    tokenizer = processor.tokenizer
    own = {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    found = sorted(token for token in own - set(TAGS) if token in text)
    if found:
        raise UserError(
            f"the prompt holds {', '.join(found)}: to this policy that is a token of its own and no text; take it out. "
            "The picture is put before the text without it"
        )
    rendered = _rendered(processor, message, template, pictures)
    places = rendered.count(processor.image_token)
    if places != pictures:
        shown, wanted = ("the picture", "one") if pictures == 1 else (f"{pictures} pictures", str(pictures))
        raise UserError(
            f"the policy's chat template makes {places} places for {shown} ({processor.image_token}) in place of "
            f"{wanted}; look at chat_template.jinja, or the template in its processor or tokenizer files"
        )


def _rendered(processor: Any, message: list[dict[str, Any]], template: dict[str, Any] | None, pictures: int) -> str:
    blank = Image.new("RGB", (2 * TOKEN_PIXELS, 2 * TOKEN_PIXELS))
    prompts = [prepare_multimodal_messages(message, images=[blank] * pictures)]
    where = "the policy's chat template (chat_template.jinja, or in its processor or tokenizer files)"
    try:
        with bounded(SECONDS, BYTES):
            (rendered,) = processor.apply_chat_template(
                prompts, add_generation_prompt=True, tokenize=False, **(template or {})
            )
    except MemoryError as error:
        raise UserError(f"{where} needs more than {BYTES >> 20} MB for one prompt; take it out or mend it") from error
    except Exception as error:  # a template is a program: whatever it raises, it does not render
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{where} does not render the prompt: {reason}") from error
    if len(rendered) > CHARACTERS:
        raise UserError(f"{where} makes {len(rendered)} characters of one prompt, over {CHARACTERS}; mend it")
    return str(rendered)


@contextmanager
def bounded(seconds: float, more: int) -> Iterator[None]:
    """Raises TimeoutError after ``seconds`` (in the main thread alone), MemoryError for ``more`` bytes than now.

    Where there is no /proc, memory is not bounded.
    """

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:g} seconds")

    timed = threading.current_thread() is threading.main_thread()
    sizes = Path("/proc/self/statm")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late) if timed else None
    try:
        if sizes.is_file():
            room = int(sizes.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + more
            fits = [limit for limit in limits if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_AS, (min([room, *fits]), limits[1]))
        if timed:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)

"""Prompts in, the policy's likeliest answers out, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from PIL import Image

from vqr1.answering.answerer import Answerer
from vqr1.answering.letters import likeliest_letters
from vqr1.asking.prompts import Prompt
from vqr1.data.ahead import opened
from vqr1.data.pictures import load_fitted
from vqr1.errors import UserError


def answers(
    prompts: Sequence[Prompt], answerer: Answerer, at_once: int, likeliest: bool = False
) -> Iterator[list[tuple[Prompt, str]]]:
    """The answers as they come, the next batch's pictures being opened meanwhile.

    ``likeliest``: the likeliest of the letters of a prompt's options, in place of what the policy writes.

    A picture that comes several times in a batch is opened, cut and encoded once. Raises UserError, naming it, for a
    picture that cannot be opened.
    """
    policy = answerer.model.policy
    batches = [prompts[i : i + at_once] for i in range(0, len(prompts), at_once)]
    paths = [list(dict.fromkeys(path for prompt in batch for path in prompt.pictures)) for batch in batches]
    load = partial(load_fitted, min_pixels=policy.min_pixels, max_pixels=policy.max_pixels)
    checked = False
    for batch, names, loaded in zip(batches, paths, opened(paths, load), strict=True):
        pictures: dict[str, Image.Image] = {}
        for name, picture in zip(names, loaded, strict=True):
            if isinstance(picture, str):
                raise UserError(picture)
            pictures[name] = picture
        if not checked:
            answerer.check(list(pictures.values()))
            checked = True
        examples = [
            {"images": [pictures[path] for path in prompt.pictures], "prompt": prompt.messages, "image_id": prompt.key}
            for prompt in batch
        ]
        if likeliest:
            given = likeliest_letters(answerer, examples, [prompt.options for prompt in batch])
        else:
            given = answerer.policy.answer(examples)
        yield list(zip(batch, given, strict=True))

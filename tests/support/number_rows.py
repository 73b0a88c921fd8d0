"""The scores that may follow a reasoning, the long way: an ordinary row of the policy for each string of digits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch

from vqr1.answer import read_score

DIGITS = "0123456789"
CLOSING = "</answer>"


def number_rows(
    model: Any,
    tokenizer: Any,
    prompt: Mapping[str, Any],
    before: Sequence[int],
    never: Sequence[int],
    temperature: float,
) -> dict[float, float]:
    """The probability of each score with up to two decimals, behind one prompt's row and the tokens ``before``."""
    stems = ["", *DIGITS, *(f"{d}." for d in DIGITS), *(f"{d}.{e}" for d, e in product(DIGITS, DIGITS))]
    character = {c: tokenizer.convert_tokens_to_ids(c) for c in DIGITS + "."}
    width = max(map(len, stems))
    ids = torch.tensor([[*before, *(character[c] for c in stem.ljust(width, "0"))] for stem in stems])
    whole = torch.tensor([[1] * (len(before) + len(stem)) + [0] * (width - len(stem)) for stem in stems])
    last = whole.sum(1) - 1 + prompt["input_ids"].shape[1]
    n = len(stems)
    rows = {
        "input_ids": torch.cat([prompt["input_ids"].expand(n, -1), ids], 1),
        "attention_mask": torch.cat([prompt["attention_mask"].expand(n, -1), whole], 1),
        "mm_token_type_ids": torch.cat([prompt["mm_token_type_ids"].expand(n, -1), torch.zeros_like(ids)], 1),
        "pixel_values": prompt["pixel_values"].repeat(n, 1),
        "image_grid_thw": prompt["image_grid_thw"].repeat(n, 1),
    }
    with torch.no_grad():
        hidden = model.model(**rows, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[torch.arange(n), last]) / temperature
    allowed = sorted(set(range(len(tokenizer))) - set(never))
    texts = {token: tokenizer.decode([token], skip_special_tokens=True) for token in allowed}
    blank = [token for token in allowed if texts[token].isspace()]
    logits[:, list(never)] = -torch.inf
    logits[0, blank] = -torch.inf
    of_stem = dict(zip(stems, logits.double().softmax(-1), strict=True))
    begun = tuple(CLOSING[:n] for n in range(1, len(CLOSING) + 1))
    end = [token for token in allowed if token in blank or texts[token].lstrip() in begun or CLOSING in texts[token]]

    def spelt(text: str) -> float:
        found = 1.0
        for i, c in enumerate(text):
            found *= float(of_stem[text[:i]][character[c]])
        return found

    found: dict[float, float] = defaultdict(float)
    for stem in stems:
        if (score := read_score(f"<answer>{stem}</answer>")) is not None:
            found[score] += spelt(stem) * float(of_stem[stem][end].sum())
    for parts in product(DIGITS, DIGITS, DIGITS):
        text = "{}.{}{}".format(*parts)
        if (score := read_score(f"<answer>{text}</answer>")) is not None:
            found[score] += spelt(text)
    return dict(found)

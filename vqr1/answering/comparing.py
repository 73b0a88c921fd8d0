"""Two pictures in, the probability that the second is the better one out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vqr1.answering.answerer import Answerer
from vqr1.answering.settings import Method, conversation
from vqr1.policy.comparison_scores import preferences
from vqr1.rollout.offline import Policy, encode_prompts


def prefer_second(
    answerer: Answerer, pairs: Sequence[tuple[Image.Image, Image.Image]], at_once: int | None = None
) -> np.ndarray:
    """P(second better) of M pairs of pictures that fit the policy's grid, (M,) float64, each asked in its own order
    and answered as the policy has learnt to.

    ``at_once``: pairs of one pass, None: all. A picture of several of them, the same object, is cut and encoded once.
    The attention of the policy is another during the call, so no other thread may use it then.
    """
    policy = answerer.policy
    assert isinstance(policy, Policy), "the probabilities are read off the policy under transformers"
    learnt = answerer.model.objective
    prompt = conversation(Method.comparison, answerer.model.prompt, learnt)
    step = at_once or max(1, len(pairs))
    found = [np.empty(0)]
    for first in range(0, len(pairs), step):
        examples = [{"images": list(pair), "prompt": prompt} for pair in pairs[first : first + step]]
        inputs = encode_prompts(answerer.processor, examples).to(policy.model.device)
        found.append(preferences(policy.model, answerer.processor.tokenizer, inputs, learnt))
    return np.concatenate(found)

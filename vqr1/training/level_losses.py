"""The training losses of levels: the soft label's cross-entropy, and DeQA-Score's loss of pairs.

Shapes stand in names: B pictures, W = 5 words in the order of `vqr1.levels.LEVELS`, V tokens of the vocabulary. All
are computed in float32 at least, and have finite gradients however extreme the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqr1.levels import WEIGHTS

CERTAIN = 100.0  # standard deviations beyond which Phi and its root are 0 or 1 in float64, and their gradients 0
# DeQA-Score's training: 1.0 pair + 0.05 (next token + 1.0 soft label)
PAIR_WEIGHT, NEXT_TOKEN_WEIGHT, SOFT_LABEL_WEIGHT = 1.0, 0.05, 1.0


def word_log_probabilities(logits_BV: Tensor, words_W: Tensor) -> Tensor:
    """log P(word) over the whole vocabulary, for words of one token each.

    Of a word of several tokens log P is the sum over its tokens (vqr1.levels.word_log_probabilities), which the caller
    adds up from as many positions.

    Args:
        logits_BV: at the position where the word comes.
        words_W: the id of each word's token, int64.

    Returns:
        log_BW, at most 0.

    Raises:
        ValueError: two words with the same token.
    """
    if len(words_W.unique()) < len(words_W):
        raise ValueError("two words have the same token: give the tokens of vqr1.levels.word_tokens")
    return _full(logits_BV).log_softmax(-1)[:, words_W]


def soft_label_loss(log_BW: Tensor, label_BW: Tensor, *, closed: bool = True) -> Tensor:
    """Cross-entropy of the soft label at the word's position, averaged over pictures.

        L = 1/B sum_b -sum_w p_w log q_w

    with q the probabilities of the five words among themselves (closed set) or in the whole vocabulary (open). Only
    the open one teaches that a word is to come at all. A hard level is the label with 1 at one word: then this is
    Q-Align's (arXiv 2312.17090) loss at this position. DeQA-Score (arXiv 2501.11561) states KL(p || q) over the whole
    vocabulary: less by the label's entropy (`label_entropy`), and of the same gradient.

    Args:
        log_BW: log-probabilities of the words over the vocabulary (`word_log_probabilities`). With ``closed``, logits
            serve as well: a constant added to all five changes nothing.
        label_BW: probabilities, of vqr1.levels.soft_label.
        closed: see above.

    Returns:
        A scalar. A word of label 0 adds nothing, not even where its log-probability is -inf.

    Raises:
        ValueError: shapes that differ; closed=False with numbers above 0, which are no log-probabilities.
    """
    if log_BW.shape != label_BW.shape or log_BW.ndim != 2:
        raise ValueError(f"log_BW {tuple(log_BW.shape)} and label_BW {tuple(label_BW.shape)} must both be (B, W)")
    log_BW = _full(log_BW)
    if closed:
        log_BW = log_BW.log_softmax(-1)
    elif (log_BW > 1e-3).any():
        raise ValueError("open: log_BW holds logits; give log-probabilities over the vocabulary")
    label_BW = label_BW.to(log_BW)
    # 0 * -inf would be NaN, and so would its gradient.
    return -(label_BW * log_BW.masked_fill(label_BW == 0, 0)).sum(-1).mean()


def label_entropy(label_BW: Tensor) -> Tensor:
    """-1/B sum_b sum_w p_w log p_w: the lowest value of `soft_label_loss`, which less this is KL(p || q)."""
    return torch.special.entr(_full(label_BW)).sum(-1).mean()


def expected_level(log_BW: Tensor) -> Tensor:
    """The score of the five words, sum_w p_w w in the closed set: score_B on [1, 5] (vqr1.levels.level_score)."""
    probability_BW = _full(log_BW).softmax(-1)
    return probability_BW @ torch.tensor(WEIGHTS).to(probability_BW)


def pair_loss(score_B: Tensor, mos_B: Tensor, mos_std_B: Tensor, *, dataset_B: Tensor | None = None) -> Tensor:
    """DeQA-Score's fidelity loss, averaged over the pairs of pictures i < j of one dataset.

        L(i,j) = 1 - sqrt(P G) - sqrt((1 - P) (1 - G))
        P = Phi((score_i - score_j) / sqrt 2),   G = Phi((MOS_i - MOS_j) / sqrt(std_i^2 + std_j^2))

    Its code adds 1e-8 under the roots, without which their gradient is infinite once P is rounded to 0; here roots are
    halved logarithms, of which nothing is rounded to 0 before its gradient is. It draws one rival for each picture,
    where here every pair of the batch counts.

    Args:
        score_B: of `expected_level`; gradients flow through it.
        mos_B, mos_std_B: people's, each on its dataset's own scale. Where both of a pair have no spread G is 1, 1/2 or
            0 by the order of the MOS.
        dataset_B: integers; only pictures of one dataset are a pair. None: all are of one.

    Returns:
        A scalar in [0, 1] but for rounding; 0, with a gradient of 0, where there is no pair.

    Raises:
        ValueError: shapes that differ, a std that is negative or no number, a MOS that is not finite.
    """
    if not score_B.ndim == 1 or not score_B.shape == mos_B.shape == mos_std_B.shape:
        raise ValueError("score_B, mos_B and mos_std_B must hold one number for each picture")
    if not mos_B.isfinite().all() or not (mos_std_B >= 0).all() or not mos_std_B.isfinite().all():
        raise ValueError("mos_B must be finite and mos_std_B standard deviations: leave out pictures without")
    score_B = _full(score_B)
    first, second = torch.triu_indices(len(score_B), len(score_B), offset=1, device=score_B.device)
    if dataset_B is not None:
        same = dataset_B[first] == dataset_B[second]
        first, second = first[same], second[same]
    if not len(first):
        return score_B.sum() * 0
    z = (score_B[first] - score_B[second]) / 2**0.5
    mos_B, mos_std_B = mos_B.double(), mos_std_B.double()
    gap, spread = mos_B[first] - mos_B[second], torch.hypot(mos_std_B[first], mos_std_B[second])
    certain = spread == 0
    people = torch.where(certain, gap.sign() * CERTAIN, gap / spread.masked_fill(certain, 1))
    agreement = _root_phi(z) * _root_phi(people).to(z) + _root_phi(-z) * _root_phi(-people).to(z)
    return (1 - agreement).mean()


def deqa_loss(pair: Tensor, next_token: Tensor, soft: Tensor) -> Tensor:
    """DeQA-Score's training loss: 1.0 pair + 0.05 (next_token + 1.0 soft).

    Args:
        pair: `pair_loss`.
        next_token: the cross-entropy of the answer's tokens without the word.
        soft: `soft_label_loss` (DeQA-Score: open, less `label_entropy`).
    """
    return PAIR_WEIGHT * pair + NEXT_TOKEN_WEIGHT * (next_token + SOFT_LABEL_WEIGHT * soft)


def _full(values: Tensor) -> Tensor:
    """In float32 at least: half precision has three digits."""
    return values if values.dtype == torch.float64 else values.float()


def _root_phi(z: Tensor) -> Tensor:
    """sqrt(Phi(z))."""
    return (torch.special.log_ndtr(z.clamp(-CERTAIN, CERTAIN)) / 2).exp()

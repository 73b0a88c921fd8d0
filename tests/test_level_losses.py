"""The losses of levels: values by hand, against torch's own and numpy's road, and gradients that stay finite."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn import functional

from vqr1.levels import level_score, soft_label
from vqr1.training.level_losses import (
    deqa_loss,
    expected_level,
    label_entropy,
    pair_loss,
    soft_label_loss,
    word_log_probabilities,
)

DOUBLE = torch.float64


def tensor(*values, **options):
    return torch.tensor(values, dtype=DOUBLE, **options)


def pair_by_hand(a, b, mos_a, mos_b, s):
    p, g = norm.cdf((a - b) / math.sqrt(2)), norm.cdf((mos_a - mos_b) / s)
    return 1 - math.sqrt(p * g) - math.sqrt((1 - p) * (1 - g))


def finite_gradient(loss, values):
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss.isfinite() and gradient.isfinite().all()
    return gradient


# The soft label's cross-entropy


def test_cross_entropy_by_hand():
    log = tensor([0.1, 0.2, 0.1, 0.05, 0.05]).log()  # half of the vocabulary's mass
    label = tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    assert soft_label_loss(log, label).item() == pytest.approx(-0.5 * math.log(0.4) - 0.5 * math.log(0.2))
    assert soft_label_loss(log, label, closed=False).item() == pytest.approx(-0.5 * math.log(0.2) - 0.5 * math.log(0.1))
    assert label_entropy(label).item() == pytest.approx(math.log(2))


def test_it_is_torchs_cross_entropy():
    torch.manual_seed(0)
    logits, words = torch.randn(7, 40, dtype=DOUBLE), torch.tensor([3, 9, 1, 39, 20])
    label = torch.from_numpy(soft_label(np.linspace(1, 5, 7), 0.6))
    log = word_log_probabilities(logits, words)
    closed = functional.cross_entropy(logits[:, words], label)
    assert torch.allclose(soft_label_loss(log, label), closed, rtol=0, atol=1e-12)
    assert torch.allclose(soft_label_loss(logits[:, words], label), closed, rtol=0, atol=1e-12)
    whole = torch.zeros_like(logits).index_copy(1, words, label)
    opened = soft_label_loss(log, label, closed=False)
    assert torch.allclose(opened, functional.cross_entropy(logits, whole), rtol=0, atol=1e-12)
    # and less the entropy torch's KL, which DeQA-Score states
    kl = functional.kl_div(logits.log_softmax(-1), whole, reduction="batchmean")
    assert torch.allclose(opened - label_entropy(label), kl, rtol=0, atol=1e-12)


def test_a_hard_level_is_the_next_tokens_loss():
    logits, words = torch.randn(3, 11, dtype=DOUBLE), torch.arange(5)
    level = torch.tensor([0, 4, 2])
    log = word_log_probabilities(logits, words)
    loss = soft_label_loss(log, functional.one_hot(level, 5), closed=False)
    assert torch.allclose(loss, functional.cross_entropy(logits, words[level]), rtol=0, atol=1e-12)


def test_only_the_open_loss_asks_for_the_words_at_all():
    logits, label = torch.zeros(1, 10, dtype=DOUBLE, requires_grad=True), tensor([0.2] * 5)
    log = word_log_probabilities(logits, torch.arange(5))
    assert finite_gradient(soft_label_loss(log, label), logits).abs().max() < 1e-12
    gradient = finite_gradient(
        soft_label_loss(word_log_probabilities(logits, torch.arange(5)), label, closed=False), logits
    )
    assert gradient[0].tolist() == pytest.approx([-0.1] * 5 + [0.1] * 5)


@pytest.mark.parametrize("closed", [True, False])
def test_gradients_are_those_of_differences(closed):
    logits = torch.randn(2, 8, dtype=DOUBLE, requires_grad=True)
    label = torch.from_numpy(soft_label([1.3, 4.0], 0.5))

    def loss(logits):
        return soft_label_loss(word_log_probabilities(logits, torch.tensor([1, 3, 5, 6, 7])), label, closed=closed)

    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("height", [60.0, 3e4])
def test_gradients_stay_finite_at_extreme_logits(closed, dtype, height):
    logits = torch.tensor([[height, -height, 0, 0, height, 0.0]], dtype=dtype, requires_grad=True)
    log = word_log_probabilities(logits, torch.arange(5))
    for label in (tensor([0.0, 1, 0, 0, 0]), torch.from_numpy(soft_label([3.2], 0.4))):
        loss = soft_label_loss(log, label.reshape(1, 5), closed=closed)
        assert loss.dtype == torch.float32 and loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().max() > 0.5


@pytest.mark.parametrize("closed", [True, False])
def test_a_word_that_cannot_come_and_need_not_adds_nothing(closed):
    log = tensor([math.log(0.5)] * 2 + [-math.inf] * 3, requires_grad=True)
    loss = soft_label_loss(log, tensor([0.5, 0.5, 0, 0, 0]), closed=closed)
    assert loss.item() == pytest.approx(math.log(2))
    finite_gradient(loss, log)


def test_what_is_no_label_or_log_probability_is_refused():
    label = torch.full((2, 5), 0.2)
    with pytest.raises(ValueError, match="must both be"):
        soft_label_loss(torch.zeros(2, 4), label)
    with pytest.raises(ValueError, match="holds logits"):
        soft_label_loss(torch.ones(2, 5), label, closed=False)
    with pytest.raises(ValueError, match="two words have the same token"):
        word_log_probabilities(torch.zeros(2, 9), torch.tensor([1, 2, 3, 4, 1]))


# Scores and pairs


def test_the_score_is_that_of_levels():
    logits = np.random.default_rng(0).normal(size=(6, 5)) * 4
    assert expected_level(torch.from_numpy(logits)).numpy() == pytest.approx(level_score(logits).score, abs=1e-12)
    assert expected_level(torch.tensor([[0, 0, 0, 0, 100.0]], dtype=torch.bfloat16)).item() == 5


def test_pair_loss_by_hand():
    loss = pair_loss(tensor(3.0, 2.0), tensor(60.0, 50.0), tensor(6.0, 8.0))
    assert loss.item() == pytest.approx(pair_by_hand(3, 2, 60, 50, 10), abs=1e-12)
    # sqrt(1/2 * 1) for equal scores and people who are sure
    assert pair_loss(tensor(3, 3), tensor(2.0, 1.0), tensor(0, 0)).item() == pytest.approx(1 - math.sqrt(0.5))
    assert pair_loss(tensor(3, 3), tensor(2.0, 2.0), tensor(0, 0)).item() == pytest.approx(0, abs=1e-12)


def test_pair_loss_is_the_mean_over_pairs_of_one_dataset():
    scores, mos, std = tensor(1.5, 2.5, 4.0, 3.0), tensor(10, 30, 20, 4.0), tensor(5, 8, 3, 0.2)
    by_hand = [pair_by_hand(1.5, 2.5, 10, 30, math.hypot(5, 8)), pair_by_hand(1.5, 4, 10, 20, math.hypot(5, 3))]
    by_hand.append(pair_by_hand(2.5, 4, 30, 20, math.hypot(8, 3)))
    dataset = torch.tensor([0, 0, 0, 1])
    assert pair_loss(scores, mos, std, dataset_B=dataset).item() == pytest.approx(np.mean(by_hand), abs=1e-12)
    shuffled = torch.tensor([2, 3, 0, 1])
    loss = pair_loss(scores[shuffled], mos[shuffled], std[shuffled], dataset_B=dataset[shuffled])
    assert loss.item() == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_symmetries_of_the_pair_loss():
    scores, mos, std = tensor(1.5, 2.5, 4.0), tensor(10, 30, 20), tensor(5, 8, 3)
    loss = pair_loss(scores, mos, std).item()
    assert pair_loss(scores + 7, mos - 3, std).item() == pytest.approx(loss, abs=1e-12)
    assert pair_loss(6 - scores, -mos, std).item() == pytest.approx(loss, abs=1e-12)
    assert pair_loss(scores, 10 * mos, 10 * std).item() == pytest.approx(loss, abs=1e-12)


def test_it_is_least_where_the_probabilities_agree():
    mos, std = tensor(3.0, 2.2), tensor(math.sqrt(0.5), math.sqrt(1.5))  # together sqrt 2, as between the scores
    scores = tensor(2.9, 2.1, requires_grad=True)
    loss = pair_loss(scores, mos, std)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert finite_gradient(loss, scores).abs().max() < 1e-7
    assert pair_loss(tensor(2.9, 2.0), mos, std) > 1e-4


def test_gradients_of_the_pair_loss_are_those_of_differences():
    mos, std = tensor(10, 30, 20), tensor(5, 8, 0.3)
    scores = tensor(1.5, 2.5, 4.0, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scores: pair_loss(scores, mos, std), scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 4.0, 10.0, 40.0, 1e4, 1e30])
@pytest.mark.parametrize("std", [0.0, 1e-6, 0.5])
def test_gradients_of_the_pair_loss_stay_finite(dtype, gap, std):
    scores = torch.tensor([gap, -gap], dtype=dtype, requires_grad=True)
    for mos in ([4.0, 2.0], [2.0, 4.0], [3.0, 3.0]):
        loss = pair_loss(scores, torch.tensor(mos), torch.full((2,), std))
        gradient = finite_gradient(loss, scores)
        assert -1e-6 <= loss.item() <= 1 + 1e-6
        if gap == 4 and mos[0] < mos[1]:  # wrong and sure of it, and yet it learns
            assert gradient[0] > 1e-6


def test_a_batch_without_a_pair_adds_nothing():
    scores = tensor(1.0, 2.0, requires_grad=True)
    loss = pair_loss(scores, tensor(1, 2), tensor(0, 0), dataset_B=torch.tensor([0, 1]))
    assert loss.item() == 0 and finite_gradient(loss, scores).tolist() == [0, 0]
    assert pair_loss(scores[:1], tensor(1), tensor(0)).item() == 0


@pytest.mark.parametrize(
    ("mos", "std", "words"),
    [
        (tensor(1, 2, 3), tensor(1, 2, 3), "one number for each picture"),
        (tensor(1, math.nan), tensor(1, 1), "mos_B must be finite"),
        (tensor(1, 2), tensor(1, -1), "standard deviations"),
        (tensor(1, 2), tensor(1, math.nan), "standard deviations"),
        (tensor(1, 2), tensor(1, math.inf), "standard deviations"),
    ],
)
def test_pairs_without_opinions_are_refused(mos, std, words):
    with pytest.raises(ValueError, match=words):
        pair_loss(tensor(1, 2), mos, std)


def test_deqas_weights():
    assert deqa_loss(tensor(0.5), tensor(2.0), tensor(3.0)).item() == pytest.approx(0.5 + 0.05 * (2 + 3))

"""The parts that make the tiny policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqr1.answer import follows_format, read_score
from vqr1.demo.cold_start import (
    BRIGHTNESS,
    ColdStart,
    PracticePictures,
    answer_text,
    biased_scores,
    cosine_filters,
    learn_to_answer,
    learn_to_see,
    to_patches,
)
from vqr1.demo.datasets import PHOTOGRAPHS, TYPES
from vqr1.demo.practice import _chunk


@pytest.fixture(scope="module")
def pictures():
    rows = _chunk(0, seed=0)
    pixels, kinds, levels = zip(*rows, strict=True)
    return PracticePictures(torch.from_numpy(np.stack(pixels)), torch.tensor(kinds), torch.tensor(levels) - 1)


@pytest.mark.full
def test_practice_is_decided_by_seed_and_chunk_and_varies(pictures):
    again = _chunk(0, seed=0)[17]
    assert np.array_equal(again[0], pictures.pixels[17].numpy())
    assert not np.array_equal(_chunk(1, seed=0)[17][0], again[0])
    assert len(set(pictures.kind.tolist())) == len(TYPES)
    assert np.std(pictures.brightness()) > 20


@pytest.mark.full
def test_practice_never_sees_held_out_photographs(monkeypatch):
    from vqr1.demo import practice

    asked = []
    real = practice.photograph_contents
    monkeypatch.setattr(practice, "photograph_contents", lambda part: asked.append(part) or real(part))
    _chunk(0, seed=1)
    assert asked == ["train"]
    assert not set(PHOTOGRAPHS["train"]) & {*PHOTOGRAPHS["validation"], *PHOTOGRAPHS["test"]}


def test_answers_have_the_format():
    text = answer_text(BRIGHTNESS[0], TYPES[0], 5, 4.0)
    assert follows_format(text, thinking=True)
    assert read_score(text) == 4.0


def test_the_biased_score_follows_brightness_and_type_more_than_quality(pictures):
    rng = np.random.default_rng(0)
    brightness = pictures.brightness()
    score = biased_scores(pictures, brightness, ColdStart(noise=0.0), rng)
    assert score.min() >= 1 and score.max() <= 5
    quality_alone = biased_scores(pictures, brightness, ColdStart(noise=0.0, bias_brightness=0.0, bias_type=0.0), rng)
    assert np.corrcoef(score, brightness)[0, 1] > 0.5
    assert 0.2 < np.corrcoef(score, quality_alone)[0, 1] < 0.6


def test_cosine_filters_are_distinct_and_all_frequencies_take_part():
    filters = cosine_filters(128)
    assert filters.shape == (128, 3, 14, 14)
    flat = filters.flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True)
    overlap = unit @ unit.T - torch.eye(128)
    assert overlap.abs().max() < 0.6  # luminance and colour filters of one frequency overlap a little
    assert (filters[95].diff(dim=-1).sign().diff(dim=-1) != 0).float().mean() > 0.9  # the last one flips at every pixel


@pytest.mark.full
def test_a_few_steps_learn(pictures, policy_folder):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    torch.set_num_threads(1)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_folder)
    processor = AutoProcessor.from_pretrained(policy_folder)
    settings = ColdStart(sight_steps=60, sight_batch=32, speech_steps=60, speech_batch=16)
    seen = learn_to_see(model, pictures, settings, say=lambda line: None)
    assert seen[-1]["loss"] < np.log(len(TYPES)) + np.log(5)  # better than chance
    log = learn_to_answer(model, processor, pictures, settings, say=lambda line: None)
    assert log[-1]["loss"] < 5.0  # smoothed, from ln(vocabulary) = 6.3


def test_patches_of_a_constant_picture_are_constant():
    mean, std = torch.zeros(3), torch.ones(3)
    patches = to_patches(torch.full((2, 112, 112, 3), 51, dtype=torch.uint8), mean, std)
    assert patches.shape == (2 * 64, 3 * 2 * 14 * 14)
    assert torch.allclose(patches, torch.tensor(0.2))

"""A picture that is sent as its path."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from vqr1.answer import build_prompt
from vqr1.data.file_picture import FilePicture
from vqr1.data.pictures import picture_loader


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(3):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (384, 512, 3), dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def load():
    return picture_loader(3136, 786432)


def test_it_travels_as_a_path_and_arrives_as_the_same_picture(files, load):
    sent = [load(path) for path in files]
    wire = pickle.dumps(sent)
    assert len(wire) < 200 * len(sent)
    for picture, arrived in zip(sent, pickle.loads(wire), strict=True):
        assert (arrived.mode, arrived.size) == (picture.mode, picture.size) == ("RGB", (504, 392))
        assert arrived._im is None  # nothing is opened before somebody looks
        assert np.array_equal(np.asarray(arrived), np.asarray(picture))
        assert arrived == picture


def test_different_pictures_differ(files, load):
    assert load(files[0]) != load(files[1])


def test_what_arrives_is_opened_once_in_a_process(files, load):
    first, second = (pickle.loads(pickle.dumps(load(files[0]))) for _ in range(2))
    assert first.im is second.im


@pytest.mark.parametrize(
    "look", [lambda p: p.load()[0, 0], lambda p: p.getpixel((0, 0)), lambda p: p.crop().getpixel((0, 0))]
)
def test_any_way_to_look_opens_it(files, load, look):
    arrived = pickle.loads(pickle.dumps(load(files[0])))
    assert look(arrived) == load(files[0]).getpixel((0, 0))


def test_what_is_made_of_it_is_a_plain_picture(files, load):
    picture = load(files[0])
    assert type(picture) is FilePicture
    for made in (picture.copy(), picture.resize((28, 28)), picture.convert("L")):
        assert type(made) is Image.Image
        made.putpixel((0, 0), 0)  # and may be changed
    assert np.array_equal(np.asarray(picture), np.asarray(load(files[0])))


def test_a_deep_copy_copies_no_pixels(files, load):
    picture = load(files[0])
    assert copy.deepcopy([picture])[0] is picture


def test_a_resized_picture_keeps_its_cache_folder_on_the_way(files, tmp_path):
    folder = tmp_path / "cache"
    picture = picture_loader(3136, 50176, str(folder))(files[0])
    assert len(list(folder.rglob("*.png"))) == 1
    arrived = pickle.loads(pickle.dumps(picture))
    assert np.array_equal(np.asarray(arrived), np.asarray(picture))


def test_the_prompts_of_a_generation_batch_are_small(files, load):
    """What TRL gathers of one rank: 16 pictures of 512 x 384, six prompts each."""
    prompts = [
        prepare_multimodal_messages(build_prompt("paper"), images=[load(files[i % 3])])
        for i in range(16)
        for _ in range(6)
    ]
    plain = [prepare_multimodal_messages(build_prompt("paper"), images=[load(file).copy()]) for file in files]
    assert len(pickle.dumps(prompts)) < 100_000
    assert len(pickle.dumps(plain)) > 3 * 504 * 392 * 3

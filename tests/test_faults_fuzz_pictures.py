"""Picture files of every usual format, whole and spoilt: read right, or refused by name, within seconds."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from tests.support.faults_fuzz import GENERATED, READ_OR_REFUSED, SPOILT, Tally, counts, limits, spoilt, tried_on
from tests.support.faults_pictures import FIELDS, H, Made, W, bombs, png_of, whole
from vqr1.data.pictures import TOKEN_PIXELS, grid_size, load_with_size, open_picture
from vqr1.picture_errors import MAX_PIXELS
from vqr1.report.pictures import read_picture

pytestmark = pytest.mark.faults


def far(picture: Image.Image, made: Made) -> float:
    """The largest difference of a value; infinite for another size."""
    read = np.asarray(picture).astype(float)
    return float(np.abs(read - made.pixels).max()) if read.shape == made.pixels.shape else np.inf


@counts(200, 3000)
def test_whole_pictures(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    tally, file = Tally(), tmp_path / "picture"

    @tried_on(count, whole)
    def each(made: Made) -> None:
        file.write_bytes(made.content)
        picture = tally.tried(lambda: open_picture(file), file)
        assert picture is not None and picture.mode == "RGB" and far(picture, made) <= made.error + 0.51

    assert not tally.refused
    fault("pictures of 19 formats and modes", how=GENERATED, happens="read right", lost="nothing", tally=tally)


@counts(150, 1500)
def test_pictures_that_were_cut_short(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    """Refused, or what was cut off holds no pixel."""
    tally, file = Tally(), tmp_path / "picture"

    @tried_on(count, st.tuples(whole, st.floats(0, 1)))
    def each(example: tuple[Made, float]) -> None:
        made, share = example
        file.write_bytes(made.content[: int(share * len(made.content))])
        picture = tally.tried(lambda: open_picture(file), file)
        assert picture is None or far(picture, made) <= made.error + 0.51

    assert tally.refused
    fault("pictures of 19 formats and modes", how="cut", happens=READ_OR_REFUSED, lost="nothing", tally=tally)


@counts(300, 6000)
def test_spoilt_pictures(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    tally, file = Tally(), tmp_path / "picture"
    grid_size(W, H, 28 * 28, 40 * 28 * 28)  # imports torch, which takes its time

    @tried_on(count, whole.flatmap(lambda made: spoilt(made.content, FIELDS)))
    def each(content: bytes) -> None:
        file.write_bytes(content)
        read = tally.tried(lambda: load_with_size(file, 28 * 28, 40 * 28 * 28), file)
        with limits():
            read_picture(file, W)  # as vqr1 report does; it raises nothing
        if read is not None:
            picture, (width, height) = read
            assert picture.mode == "RGB" and min(width, height) >= TOKEN_PIXELS and width * height <= MAX_PIXELS

    assert tally.read and tally.refused
    fault("pictures of 19 formats and modes", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


@pytest.mark.parametrize("name", bombs())
def test_a_file_that_claims_gigapixels_or_would_run_is_refused_at_once(name: str, tmp_path: Path) -> None:
    file, tally = tmp_path / name, Tally()
    file.write_bytes(bombs()[name])
    assert tally.tried(lambda: open_picture(file), file) is None
    assert tally.refused and tally.slowest < 1


def test_a_profile_and_texts_that_swell_are_left_out(tmp_path: Path) -> None:
    """400 MB of zeros in what no pixel needs."""
    zeros = zlib.compress(b"\0" * 100_000_000)
    pixels = zlib.compress((b"\0" + b"\1\2\3" * W) * H)
    swelling = [(b"iCCP", b"a\0\0" + zeros), *((b"zTXt", b"%d\0\0" % i + zeros) for i in range(3))]
    (tmp_path / "a.png").write_bytes(png_of(W, H, pixels, 2, *swelling))
    picture = Tally().tried(lambda: open_picture(tmp_path / "a.png"), tmp_path)
    assert picture is not None and picture.getcolors() == [(W * H, (1, 2, 3))]

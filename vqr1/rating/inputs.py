"""What a rater is given, as pictures: files, PIL's, arrays and tensors, one or many."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vqr1.data.pictures import fit_to_grid, load_with_size, upright_rgb
from vqr1.errors import UserError
from vqr1.rating.files import refuse_unread

Picture = str | Path | Image.Image | np.ndarray | torch.Tensor
FORMS = "give a path, a PIL picture, an array (H, W, 3) of uint8, a tensor (3, H, W) in [0, 1], or several of these"


def as_list(given: Picture | Iterable[Picture]) -> tuple[list[Picture], bool]:
    """One entry for each picture, and whether ``given`` was one picture and no list.

    A tensor (N, 3, H, W) and an array (N, H, W, 3) are N pictures. Raises UserError for what is no picture, and for
    tensors and arrays of another shape, type or range.
    """
    if isinstance(given, (np.ndarray, torch.Tensor)):
        many = given.ndim == 4
        _check(given, many)
        return list(given) if many else [given], not many
    if isinstance(given, (str, Path, Image.Image)):
        return [given], True
    if not isinstance(given, Iterable):
        raise UserError(f"{type(given).__name__} is no picture; {FORMS}")
    listed = list(given)
    for each in listed:
        _check(each, many=False)
    return listed, False


def load(picture: Picture, min_pixels: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """The picture that the policy sees, and width and height of what was given.

    Raises what :func:`vqr1.data.pictures.open_picture` raises.
    """
    if isinstance(picture, (str, Path)):
        refuse_unread(str(picture))
        return load_with_size(picture, min_pixels, max_pixels)
    if isinstance(picture, torch.Tensor):
        picture = (picture.detach().float() * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    upright = upright_rgb(picture, "the picture")
    return fit_to_grid(upright, min_pixels, max_pixels), upright.size


def _check(given: Picture, many: bool) -> None:
    if isinstance(given, torch.Tensor):
        _check_tensor(given, many)
    elif isinstance(given, np.ndarray):
        _check_array(given, many)
    elif not isinstance(given, (str, Path, Image.Image)):
        raise UserError(f"{type(given).__name__} is no picture; {FORMS}")


def _check_tensor(tensor: torch.Tensor, many: bool) -> None:
    _check_shape("a tensor", tensor, ("N", 3, "H", "W") if many else (3, "H", "W"))
    if not tensor.is_floating_point():
        raise UserError(f"a tensor of {tensor.dtype}: give floating-point values in [0, 1], such as x / 255")
    if not tensor.numel():
        return
    low, high = (value.item() for value in torch.aminmax(tensor.detach().float()))
    if math.isnan(low):  # of one NaN both ends become NaN
        raise UserError("a tensor with NaN among its values: give values in [0, 1]; what made them has gone wrong")
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"a tensor with values from {low:g} to {high:g}: give values in [0, 1]; x.clamp(0, 1) where a generator "
            "overshoots, (x + 1) / 2 where it means [-1, 1]"
        )


def _check_array(array: np.ndarray, many: bool) -> None:
    _check_shape("an array", array, ("N", "H", "W", 3) if many else ("H", "W", 3))
    if array.dtype != np.uint8:
        raise UserError(f"an array of {array.dtype}: give uint8, such as (x * 255).round().astype('uint8')")


def _check_shape(what: str, values: Any, shape: tuple[int | str, ...]) -> None:
    """Letters in ``shape`` are any number."""
    found = tuple(values.shape)
    if len(found) != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, found, strict=True)):
        wanted = f"({', '.join(map(str, shape))})"
        raise UserError(f"{what} of shape {found}: {wanted} is read; {FORMS}")

"""A picture that remembers its file, so that sending it to another process costs a path and not its pixels.

TRL gathers the prompts of a generation batch over all ranks, pictures included. At 128 pictures of 512 x 384 with six
answers each that is up to 450 MB of pixels; as paths it is some tens of kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image


class FilePicture(Image.Image):
    """RGB pixels that ``load`` makes of the file at ``path``; pickled, it is these two and its size.

    The file is opened when pixels are first asked for. What is made of it (a copy, a crop) is a plain picture. Not to
    be changed in place: others share it, and its pickle would not know.
    """

    def __init__(self, load: Callable[[str], Image.Image], path: str, size: tuple[int, int]):
        super().__init__()
        self._source = load, path
        self._mode = "RGB"
        self._size = size

    @classmethod
    def of(cls, load: Callable[[str], Image.Image], path: str, picture: Image.Image) -> FilePicture:
        """``picture``, which is what ``load`` gives for ``path``, with its source."""
        kept = cls(load, path, picture.size)
        kept._im = picture.im
        return kept

    @property  # type: ignore[misc]  # a plain picture's can be set
    def im(self) -> Any:
        if self._im is None:
            load, path = self._source
            self._im = load(path).im
        return self._im

    def load(self) -> Any:
        assert self.im is not None  # opened now: the base class looks for pixels behind this property
        return super().load()

    def __reduce__(self) -> Any:
        return FilePicture, (*self._source, self._size)

    def __deepcopy__(self, memo: Any) -> FilePicture:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

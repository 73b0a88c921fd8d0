"""Batches of pictures that are opened while the batch before them is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vqr1.errors import UserError

READERS = 4  # threads that open the next batch's pictures

Given = TypeVar("Given")  # a path, or what else a picture is made of
Opened = TypeVar("Opened")


def opened(batches: Sequence[Sequence[Given]], load: Callable[[Given], Opened]) -> Iterator[list[Opened | str]]:
    """What ``load`` gives for each entry of each batch, the next batch's being opened meanwhile.

    In place of one for which it raises UserError: why.
    """
    with ThreadPoolExecutor(READERS) as readers:

        def start(batch: Sequence[Given]) -> list[Future[Opened]]:
            return [readers.submit(load, each) for each in batch]

        def result(future: Future[Opened]) -> Opened | str:
            try:
                return future.result()
            except UserError as error:
                return str(error)

        coming = start(batches[0]) if batches else []
        for i in range(len(batches)):
            current, coming = coming, start(batches[i + 1]) if i + 1 < len(batches) else []
            yield [result(future) for future in current]

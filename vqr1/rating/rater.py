"""A policy that rates pictures, for programs: ``rater = vqr1.load_rater("runs/NAME")``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image

from vqr1.answering.answerer import Answerer, check_adapter, load_answerer
from vqr1.answering.methods import Answered, Asked, answer_pictures
from vqr1.answering.model import Model, check_method, check_model, find_model, usual_method
from vqr1.answering.server import BATCH, find_served
from vqr1.answering.settings import OF_ONE_PICTURE, AnswerSettings, Method, check_answers, settle
from vqr1.data.ahead import opened
from vqr1.errors import UserError, show
from vqr1.rating.hub import fetch
from vqr1.rating.inputs import Picture, as_list, load
from vqr1.rating.rating import Rating, failed, rating_of
from vqr1.rating_statistics import FEWEST_DRAWN, FEWEST_EXPECTED, Moments, probability_better
from vqr1.rollout_settings import ScoringEngine


class Rater:
    """Pictures in, ratings out: the same for the same picture in any batch and order, but for rounding on a GPU.

    ``lower_better``, ``metric_mode`` and ``score_range`` are what pyiqa's metrics call them. Safe to call from several
    threads, which wait for each other. Nothing it returns has a gradient.
    """

    lower_better = False
    metric_mode = "NR"  # no reference picture; FR where one is given
    score_range = "1, 5"

    def __init__(self, answerer: Answerer, settings: AnswerSettings, reference: Picture | None = None):
        """``settings`` are settled (:func:`find`). ``reference``: the undistorted picture of all that will be rated.

        Raises UserError for a reference that cannot be opened.
        """
        assert settings.batch
        policy = answerer.model.policy
        self._reference = None if reference is None else load(reference, policy.min_pixels, policy.max_pixels)[0]
        if self._reference is not None:
            self.metric_mode = "FR"
        self.method = settings.method
        self.model = answerer.model
        self.shrunk = 0  # pictures so far that had more pixels than the policy reads
        self._answerer = answerer
        self._asked = Asked.of(settings)
        self._batch = settings.batch  # answers
        self.at_once = max(1, settings.batch // settings.answers)  # pictures of a batch
        self._checked = False
        self._lock = threading.Lock()

    @overload
    def __call__(self, pictures: str | Path | Image.Image) -> Rating: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, pictures: np.ndarray | torch.Tensor) -> Rating | list[Rating]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, pictures: Iterable[Picture]) -> list[Rating]: ...

    def __call__(self, pictures: Picture | Iterable[Picture]) -> Rating | list[Rating]:
        """The rating of one picture, or the ratings of many in order.

        Args:
            pictures: a path, a PIL picture, an array (H, W, 3) of uint8 or a tensor (3, H, W) in [0, 1]; or many: a
                list of these, an array (N, H, W, 3) or a tensor (N, 3, H, W).

        A file that is no picture is a rating of status failed, and the others go on. Raises UserError for tensors and
        arrays of another shape, type or range.
        """
        listed, alone = as_list(pictures)
        ratings = [rating for batch in self.in_batches(listed) for rating in batch]
        return ratings[0] if alone else ratings

    def score(self, pictures: Picture | Iterable[Picture]) -> torch.Tensor:
        """The scores (N,) of pictures as :meth:`__call__` takes them, on the device of a tensor that is given.

        NaN where no answer could be read. Raises UserError for a picture that cannot be opened.
        """
        known = self._moments(as_list(pictures)[0])
        return torch.tensor([each.mean for each in known], dtype=torch.float32, device=_device(pictures))

    @overload
    def compare(self, a: str | Path | Image.Image, b: Picture) -> float: ...  # type: ignore[overload-overlap]

    @overload
    def compare(self, a: np.ndarray | torch.Tensor, b: Picture) -> float | torch.Tensor: ...  # type: ignore[overload-overlap]

    @overload
    def compare(self, a: Iterable[Picture], b: Iterable[Picture]) -> torch.Tensor: ...

    def compare(self, a: Picture | Iterable[Picture], b: Picture | Iterable[Picture]) -> float | torch.Tensor:
        """How probable it is that ``a`` looks better than ``b``, from means and spreads of the answers to both.

        Thurstone's model (:func:`vqr1.rating_statistics.probability_better`). One picture each, as :meth:`__call__`
        takes them: a float. As many on both sides: the first with the first and so on, float64 (N,), on the device of
        ``a`` if that is a tensor. NaN where fewer than two answers to one of both can be read.

        Raises UserError for a rater with too few answers, sides of different length, a picture that cannot be opened.
        """
        self._check_enough()
        (first, alone), (second, other_alone) = as_list(a), as_list(b)
        if alone != other_alone or len(first) != len(second):
            sides = [
                "one picture" if one else f"a list of {len(side)}"
                for side, one in ((first, alone), (second, other_alone))
            ]
            raise UserError(f"{' and '.join(sides)}: they are compared one by one; give one on each side, or as many")
        known = self._moments([*first, *second])
        means, stds = ([getattr(each, of) for each in known] for of in ("mean", "std"))
        n = len(first)
        better = probability_better(means[:n], stds[:n], means[n:], stds[n:])
        return float(better[0]) if alone else torch.from_numpy(better).to(_device(a))

    def in_batches(self, pictures: Sequence[Picture]) -> Iterator[list[Rating]]:
        """The ratings as they come, the next pictures being opened meanwhile."""
        return self.of_batches(self._cut(pictures))

    def of_batches(self, batches: Sequence[Sequence[Picture]]) -> Iterator[list[Rating]]:
        """The ratings of each batch as they come, the next one's pictures being opened meanwhile."""
        for batch in self._answered(batches):
            yield [failed(each) if isinstance(each, str) else rating_of(each) for each in batch]

    def _check_enough(self) -> None:
        """Raises UserError where a picture gets too few answers for a spread that can be relied on."""
        asked = self._asked
        if asked.method is Method.levels:
            raise UserError(
                "pictures are compared by what several answers to each differ by, and method=levels reads one "
                "distribution: load_rater(..., method='mean')"
            )
        fewest = FEWEST_EXPECTED if asked.method is Method.expected else FEWEST_DRAWN
        has = 1 if asked.method is Method.greedy else asked.k
        if asked.until is None and has < fewest:
            raise UserError(
                f"pictures are compared by {fewest} answers each or more, with method={asked.method.value} this rater "
                f"asks for {has}: load_rater(..., k=6)"
            )

    def _moments(self, pictures: Sequence[Picture]) -> list[Moments]:
        """Raises UserError for a picture that cannot be opened."""
        moments = []
        for batch in self._answered(self._cut(pictures)):
            for each in batch:
                if isinstance(each, str):
                    raise UserError(each)
                moments.append(each.moments)
        return moments

    def _cut(self, pictures: Sequence[Picture]) -> list[Sequence[Picture]]:
        return [pictures[i : i + self.at_once] for i in range(0, len(pictures), self.at_once)]

    def _answered(self, batches: Sequence[Sequence[Picture]]) -> Iterator[list[Answered | str]]:
        """In place of a picture that could not be opened: why."""
        policy = self.model.policy
        for batch in opened(batches, partial(load, min_pixels=policy.min_pixels, max_pixels=policy.max_pixels)):
            sizes = [each[1] for each in batch if not isinstance(each, str)]
            whole = [each[0] for each in batch if not isinstance(each, str)]
            answered = iter(self._answer(whole, sum(width * height > policy.max_pixels for width, height in sizes)))
            yield [each if isinstance(each, str) else next(answered) for each in batch]

    def _answer(self, whole: Sequence[Image.Image], shrunk: int) -> list[Answered]:
        """Of fitted pictures, some of them shrunk; computed as ever also inside somebody's autocast."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with self._lock, torch.autocast(device, enabled=False):
            self.shrunk += shrunk
            if whole and not self._checked:
                self._answerer.check(whole)
                self._checked = True
            first = [] if self._reference is None else [self._reference]
            return answer_pictures(self._answerer, [[*first, each] for each in whole], self._asked, self._batch)


def _device(given: Picture | Iterable[Picture]) -> torch.device | None:
    return given.device if isinstance(given, torch.Tensor) else None


def load_rater(
    model: str | Path | None = None,
    *,
    server: str | None = None,
    method: str | None = None,
    k: int | None = None,
    until: float | None = None,
    max_k: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    prompt: str | None = None,
    reference: Picture | None = None,
    max_tokens: int = 256,
    engine: str = "auto",
    batch: int | None = None,
    memory_share: float = 0.9,
    tensor_parallel: int = 1,
    dtype: str = "auto",
    attention: str = "auto",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Rater:
    """A rater with its policy loaded, on the GPU where there is one.

    Args:
        model: a run's folder, a folder of weights, a hub id, or tiny. With ``server`` the folder that it serves, whose
            weights need not be here, or nothing where it is on this machine.
        server: address of a vLLM server that answers in place of this process, such as http://localhost:8000.
        method: greedy, one answer and the usual; mean, of ``k`` drawn answers (the usual where ``k`` or ``until`` is
            given); expected, the mean of the score's exact distributions after ``k`` drawn reasonings; or levels,
            the expected level of the five words' probabilities, the usual of a policy that was trained to say them.
        k: answers to each picture; unless given 6 for a mean, and 1 for expected.
        until: in place of ``k``: answers are drawn, 6 at least and ``max_k`` (48) at most, until the standard error of
            the picture's mean is at most this.
        prompt: paper, published, no_thinking, reference, or a text of your own; what the model was trained with unless
            given.
        reference: the undistorted picture of all that will be rated, for a model that was trained beside references.
        engine, batch, memory_share and on: as the settings of vqr1 evaluate of these names.

    Raises UserError for settings and models that do not fit.

        rater = vqr1.load_rater("runs/NAME")
        rater("photo.jpg").score
    """
    engines = {each.value: each for each in ScoringEngine}
    if engine not in engines:
        raise UserError(f"engine={engine}: choose {', '.join(engines)}")
    settings = AnswerSettings(
        model="" if model is None else str(model),
        k=k,
        until=until,
        max_k=max_k,
        seed=seed,
        temperature=temperature,
        prompt=prompt,
        reference=None if reference is None else True,
        max_tokens=max_tokens,
        engine=engines[engine],
        batch=batch,
        memory_share=memory_share,
        tensor_parallel=tensor_parallel,
        dtype=dtype,
        attention=attention,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    return load_found(*find(settings, method, server), reference)


def find(settings: AnswerSettings, method: str | None, server: str | None = None) -> tuple[AnswerSettings, Model]:
    """Settled settings with the method, and the model, checked, with nothing loaded yet; a hub's model is fetched.

    Raises UserError for settings, files and prompts that do not fit.
    """
    one_answer = settings.k is None and settings.until is None
    chosen = method or (Method.greedy if one_answer else Method.mean).value
    known = [each.value for each in OF_ONE_PICTURE]
    if chosen in Method.__members__ and chosen not in known:
        raise UserError(f"method={chosen} compares pictures of a set with each other: vqr1 evaluate method={chosen}")
    if chosen not in known:
        raise UserError(f"method={chosen}: choose {', '.join(known)}")
    settings = replace(settings, method=Method[chosen])
    check_answers(settings)
    if server:
        for name in ("engine", "memory_share", "tensor_parallel", "dtype", "attention"):
            if getattr(settings, name) != getattr(AnswerSettings, name):
                raise UserError(f"{name} has no effect with a server, which was started with its own; leave it out")
        if settings.method not in (Method.greedy, Method.mean):
            raise UserError(f"method={chosen} reads probabilities that a server does not give; take method=mean")
        model = find_served(server, settings)
        settings = replace(settings, engine=ScoringEngine.vllm, batch=settings.batch or BATCH)
    elif settings.model:
        gpus = torch.cuda.device_count()
        settle(settings, gpus)  # what it refuses is told before anything is fetched
        fetch(settings.model)
        if method is None and one_answer and (own := usual_method(settings.model)):
            settings = replace(settings, method=own)
            check_answers(settings)
        settings = settle(settings, gpus)
        model = find_model(settings)
        check_adapter(settings, model)
    else:
        raise UserError(
            "which model? Give a run's folder, one of weights, a hub id or tiny, or a server that serves one"
        )
    if model.reference and not settings.reference:
        raise UserError(
            f"{model.name} was trained beside references: give the undistorted picture of those that are rated, with "
            "--reference FILE or reference=FILE; vqr1 evaluate rates sets that name theirs"
        )
    if warning := check_model(model, settings.method):
        show(warning, file=sys.stderr)
    check_method(settings.method, model)
    return settings, model


def load_found(settings: AnswerSettings, model: Model, reference: Picture | None = None) -> Rater:
    """What :func:`find` found, loaded. ``reference``: of all that will be rated, where the settings ask for one."""
    return Rater(load_answerer(settings, model), settings, reference)

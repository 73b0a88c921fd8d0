"""Which rank the others wait for, from what they have said."""

import os
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from torch.distributed import DistBackendError, DistNetworkError, HashStore

from vqr1.errors import OtherRankError, StoppedError, UserError
from vqr1.training import rank_watch
from vqr1.training.rank_watch import Heard, RankWatch, awaited, lost_connection, operations_timeout, period

NOW, WAIT = 100.0, 20.0


def heard(begun: int, lived: float = NOW, moved: float = 70.0) -> Heard:
    return Heard({"begun": begun}, lived, moved)


@pytest.mark.parametrize(
    ("ranks", "found"),
    [
        ([heard(5), heard(4), heard(5)], [1]),
        ([heard(5), heard(4), heard(4)], [1, 2]),
        ([heard(5), heard(5), heard(5)], []),  # all compute
        ([heard(5), heard(4, moved=81.0)], []),  # not for so long
        ([heard(5, moved=81.0), heard(4)], []),  # nobody waits that long
        ([heard(5), heard(5, lived=80.0)], [1]),  # says nothing: wherever it stopped
        ([heard(5, moved=99.0), heard(9, lived=79.0)], [1]),
        ([heard(4), heard(5, lived=80.0)], [1]),  # the other might yet go on
    ],
)
def test_the_one_that_all_wait_for_has_begun_the_fewest_operations_or_says_nothing(ranks, found):
    assert awaited(ranks, NOW, WAIT) == found


@pytest.mark.parametrize("seconds", [1, 5, 20, 600, 1800])
def test_the_watch_speaks_before_the_library_below(seconds):
    assert 0.1 <= period(seconds) <= 5
    told = seconds + 2 * period(seconds)  # once a look has found it
    others = told + 3 * period(seconds) + 1  # have let it speak
    assert timedelta(seconds=others) < operations_timeout(seconds)


def caused(outer, inner):
    outer.__cause__ = inner
    return outer


GLOO = RuntimeError("[/__w/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:9")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (GLOO, True),
        (caused(ValueError("a step failed"), GLOO), True),
        (DistNetworkError("the client socket has failed"), True),
        (DistBackendError("ncclRemoteError: A call failed possibly due to a network error"), True),
        (
            DistBackendError("ncclUnhandledCudaError: Call to CUDA function failed. Cuda failure 2 'out of memory'"),
            False,
        ),
        (RuntimeError("[enforce fail at gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_a_lost_rank_looks_like_from_another(error, lost):
    assert lost_connection(error) is lost


@pytest.fixture
def watch(monkeypatch):
    """That of rank 1 of two, by itself: a sleep takes no time, and an end is noted."""
    monkeypatch.setattr(rank_watch, "time", SimpleNamespace(monotonic=lambda: NOW, sleep=lambda seconds: None))
    made = RankWatch(WAIT, "go on so")
    made._several, made._rank, made._world, made._talked = True, 1, 2, NOW
    made._store = HashStore()
    made._own = {"host": "here", "process": os.getpid(), "parent": os.getppid()}
    made._beats, made._heard, made._timed, made._main = 0, {}, set(), None
    made.ended = []
    made._end = lambda *words, **how: made.ended.append(words)
    return made


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_rank_that_lets_another_speak_looks_again_before_it_ends(watch, monkeypatch, late, goes_on):
    ranks = [heard(4 if rank == late else 5) for rank in range(2)]

    def sleep(seconds):
        ranks[late].moved = NOW if goes_on else 70.0

    monkeypatch.setattr(rank_watch.time, "sleep", sleep)
    watch._rank = 1 if late else 2  # never the first that waits
    watch._world = 3
    watch._end_for(awaited(ranks, NOW, WAIT), [*ranks, heard(5)])
    assert len(watch.ended) == (not goes_on)


@pytest.mark.parametrize("answers", [False, True])
def test_a_store_that_answers_again_ends_nobody(watch, monkeypatch, answers):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    watch._talked = NOW - WAIT - 1

    def sleep(seconds):
        watch._talked = NOW if answers else watch._talked

    monkeypatch.setattr(rank_watch.time, "sleep", sleep)
    watch._end_without_store([heard(5), heard(5)], WAIT + 1)
    assert len(watch.ended) == (not answers)


class Breaking:
    """A connection that is lost after so many words."""

    def __init__(self, store, words):
        self._store, self._words = store, words

    def __getattr__(self, name):
        self._words -= 1
        if self._words < 0:
            raise DistNetworkError("failed to recv, got 0 bytes")
        return getattr(self._store, name)


@pytest.mark.parametrize(("words", "connections"), [([0], 0), ([40, 40, 0], 2)])
def test_a_connection_that_breaks_is_made_again_where_it_had_been_well(watch, monkeypatch, words, connections):
    monkeypatch.setattr(rank_watch, "time", time)
    store, made = HashStore(), []
    watch._store, watch._seconds = Breaking(store, words[0]), 2

    def connected():
        made.append(len(made) + 1)
        return Breaking(store, words[made[-1]] if made[-1] < len(words) else 0)

    monkeypatch.setattr(rank_watch, "_connected", connected)
    monkeypatch.setattr(watch, "_begun", lambda: 0)
    talk = threading.Thread(target=watch._talk)
    talk.start()
    talk.join(20)
    assert not talk.is_alive() and len(made) == connections + 1


def test_a_stop_of_another_rank_alone_is_told_as_one(watch):
    stopped = StoppedError("stopped by SIGUSR1", "SIGUSR1")
    assert watch.instead(stopped) is stopped  # on the one that it reached
    told = watch.instead(GLOO)  # on one that waited for it
    assert isinstance(told, StoppedError) and str(told) == "stopped by SIGUSR1 on another rank; go on so"


def test_a_launchers_signal_after_a_failure_is_no_stop(watch):
    watch._put("failed", "0 no memory")
    assert isinstance(watch.instead(StoppedError("stopped by SIGTERM", "SIGTERM")), OtherRankError)
    watch._put("stopped", "SIGTERM")
    assert isinstance(watch.instead(GLOO), OtherRankError)


def test_without_a_stop_a_lost_rank_is_told_by_the_first_that_sees_it(watch):
    told = watch.instead(GLOO)
    assert isinstance(told, UserError) and "another rank has ended without a message" in str(told)
    watch._rank = 0
    assert isinstance(watch.instead(GLOO), OtherRankError)

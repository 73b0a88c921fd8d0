"""Which rank the others wait for, from what they have said."""

from datetime import timedelta

import pytest
from torch.distributed import DistBackendError, DistNetworkError

from vqr1.training.rank_watch import Heard, awaited, lost_connection, operations_timeout, period

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

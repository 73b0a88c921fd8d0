"""A logger that fails ends no run: it is said once, and the run folder has all of it."""

from contextlib import ExitStack

import pytest

from vqr1.config import Config, PolicyConfig, Wandb
from vqr1.errors import UserError
from vqr1.training.run_folder import RunFolder
from vqr1.training.sinks import LastingSink, Table, open_sinks


class Full:
    """A sink that fails from its second figures on, and at its end."""

    def __init__(self):
        self.steps = []

    def figures(self, step, *what):
        if self.steps:
            raise OSError(28, "No space left on device")
        self.steps.append(step)

    table = pictures = figures


def opened(said, ends=()):
    sink, full = LastingSink("TensorBoard", said.append), Full()

    def opener(config, folder, say, ending):
        for end in ends:
            ending.callback(end)
        return full

    sink.open(opener, None, None)
    return sink, full


def test_a_sink_that_fails_is_told_once_and_gets_nothing_more():
    said = []
    sink, full = opened(said)
    for step in (1, 2, 3):
        sink.figures(step, {"train/loss": 1.0})
        sink.table(step, "samples/answers", Table(("a",), []))
        sink.pictures(step, "samples/pictures", [])
    assert full.steps == [1]
    assert said == [
        "warning: TensorBoard failed and gets nothing more; the run folder has all of it (OSError: [Errno 28] No space "
        "left on device)"
    ]


def test_a_sink_that_has_failed_and_fails_again_at_its_end_is_told_once():
    def fails():
        raise OSError(28, "No space left on device")

    said = []
    sink, _ = opened(said, [fails])
    for step in (1, 2):
        sink.figures(step, {"train/loss": 1.0})
    sink.end(None, None, None)
    assert len(said) == 1


def test_an_end_that_fails_ends_no_run_and_hides_no_failure_of_it():
    def fails():
        raise RuntimeError("the file\ncannot be closed")

    for failure in (None, ZeroDivisionError("the run's own")):
        said, ended = [], []
        sink, _ = opened(said, [lambda ended=ended: ended.append(True), fails])
        with ExitStack() as expected:
            if failure:
                expected.enter_context(pytest.raises(ZeroDivisionError, match="the run's own"))
            with ExitStack() as ending:
                ending.push(sink.end)
                if failure:
                    raise failure
        assert ended == [True]  # what is left of its end is done
        assert len(said) == 1 and "(RuntimeError: the file cannot be closed)" in said[0]


def test_a_sink_that_does_not_start_is_the_users_error(tmp_path, monkeypatch):
    def refuses(config, folder, say, ending):
        ending.callback(lambda: ended.append(True))
        raise UserError("no key")

    ended = []
    monkeypatch.setattr("vqr1.training.tensorboard_sink.open_tensorboard", refuses)
    config = Config(policy=PolicyConfig(path="tiny"))
    config.logger.wandb, config.logger.tensorboard = Wandb.disabled, True
    with pytest.raises(UserError, match="no key"), ExitStack() as ending:
        open_sinks(config, RunFolder(tmp_path, writes=True), print, ending)
    assert ended == [True]

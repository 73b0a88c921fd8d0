"""TensorBoard's files have what wandb has under the same names, each line of a resumed run once."""

from __future__ import annotations

import io
from contextlib import ExitStack

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.test_wandb import EVALUATED, SAMPLED, TRAINED, configuration, everything, steps
from vqr1.config import Wandb
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger
from vqr1.training.sinks import Table, open_sinks
from vqr1.training.tensorboard_sink import as_markdown


def logged(path, do, resume=False):
    """With all sinks at once."""
    config = configuration(Wandb.offline, resume)
    config.logger.tensorboard = True
    folder = RunFolder(path, writes=True)
    folder.open(config)
    with ExitStack() as ending:
        ending.callback(folder.close)
        logger = Logger(folder, open_sinks(config, folder, print, ending), pictures=True)
        logger.replay()
        do(logger, folder)


def found(path):
    """What the files hold, as they are written: without what TensorBoard would leave out of it."""
    events = EventAccumulator(str(path / "tensorboard"), purge_orphaned_data=False)
    events.Reload()
    tags = events.Tags()
    steps_of = {tag: [event.step for event in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = [tag for tag in tags["tensors"] if not tag.startswith("run/")]
    steps_of |= {tag.removesuffix("/text_summary"): [event.step for event in events.Tensors(tag)] for tag in texts}
    assert {tag for tag in tags["tensors"] if tag.startswith("run/")} == {
        "run/config/text_summary", "run/versions/text_summary"
    }  # fmt: skip
    pictures = {tag: [event.step for event in events.Images(tag)] for tag in tags["images"]}
    for tag in pictures:
        for event in events.Images(tag):
            decoded = Image.open(io.BytesIO(event.encoded_image_string))
            assert (event.width, event.height) == decoded.size == (60, 40)
    return steps_of, pictures


def expected(last):
    names = (*TRAINED, *EVALUATED, *SAMPLED)
    return {name: [step for step in range(last + 1) if everything(last)[name, step]] for name in names}


def test_a_resumed_run_has_each_step_once_in_one_folder(tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (60, 40), "red").save(picture)
    path = tmp_path / "run"
    logged(path, steps(0, 5, picture))
    assert found(path)[0] == expected(5)
    logged(path, steps(3, 6, picture), resume=True)
    lines, pictures = found(path)
    assert lines == expected(6)
    assert pictures == {"samples/pictures/0": [2, 4, 6]}
    assert len(list((path / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.parametrize(
    ("text", "cell"), [("a|b", "a&#124;b"), ("a\nb", "a<br>b"), ("<b>&", "&lt;b&gt;&amp;"), (None, "")]
)
def test_an_answer_is_a_cell_whatever_it_looks_like(text, cell):
    assert as_markdown(Table(("x", "y"), [[1, text]])) == f"| x | y |\n| --- | --- |\n| 1 | {cell} |"

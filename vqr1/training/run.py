"""A run from its configuration to its folder.

Everything that can be wrong with settings, labels, pictures or sizes is found before the first step: the data are
read and every picture is opened before the policy is loaded, and the policy's token grid is checked on a picture.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import set_seed

from vqr1.config import Config, Tuning
from vqr1.config_checks import step_settings
from vqr1.data.pictures import picture_loader
from vqr1.errors import OtherRankError, StoppedError, UserError, file_trouble
from vqr1.folder_writer import NEW
from vqr1.machine_choices import MachineChoices
from vqr1.next_steps import going_on, next_words
from vqr1.policy.load import check_grid, check_precision, load_processor, policy_hashes
from vqr1.report.curves import draw_curves
from vqr1.report.reasoning import draw_reasoning
from vqr1.rollout.engine import RolloutError
from vqr1.screen import Screen
from vqr1.standard_streams import outlast_stderr
from vqr1.training.checkpoints import checkpoint_fault
from vqr1.training.evaluation_callback import EvaluationCallback, Proof
from vqr1.training.model_card import card_facts, model_card
from vqr1.training.objectives import recipe_of
from vqr1.training.quiet import quiet_libraries
from vqr1.training.rank_watch import RankWatch
from vqr1.training.ranks import check_same, digests, join, waiting_seconds
from vqr1.training.run_data import check_pictures, picture_rows, read_data, set_names
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger, StepCallback
from vqr1.training.run_trainer import RunTrainer
from vqr1.training.sinks import Sink, open_sinks, pictures_logged
from vqr1.training.stopping import StopCallback, StopNow, StopSignals
from vqr1.training.trainer import Script
from vqr1.training.watches import UnreadableError

T = TypeVar("T")


def train(config: Config, choices: MachineChoices, proof: Proof | None = None, script: Script | None = None) -> Path:
    """Train as ``config`` and ``choices`` say and leave the run folder. Returns the folder's path.

    ``proof`` judges both ends of the run, where evaluation.proof asks for it; ``script`` gives the answers in place of
    the policy.

    Raises UserError before the first step for anything that is wrong with the configuration,
    the data or the policy's files; StoppedError, on all ranks, where a signal has ended the run.
    """
    began = time.perf_counter()
    outlast_stderr()
    quiet_libraries()
    if config.threads:
        torch.set_num_threads(config.threads)
    name = choices.name
    with StopSignals() as signals, told_of_stops(config, name), told_of_files(config, name), ExitStack() as ending:
        state = join(config)
        assert state.num_processes == choices.processes, (state.num_processes, choices)
        folder = RunFolder(Path(config.runs) / name, writes=state.is_main_process)
        ending.callback(folder.close)
        screen = Screen(config.logger.screen, state.is_main_process)
        ending.callback(screen.close)
        watch = RankWatch(waiting_seconds(config), going_on(config, name))
        # Not while what is in ``ending`` ends, which may take the first rank long.
        with watch, told_once(watch, signals), told_of_stops(config, name):
            try:
                return _train(config, choices, folder, state, began, proof, script, signals, ending, screen, watch)
            except StopNow as stop:
                if state.num_processes == 1:  # a launcher ends all ranks where one has failed: no stop of the run's
                    folder.stopped(stop.signal.name)
                raise


def _train(
    config: Config,
    choices: MachineChoices,
    folder: RunFolder,
    state: PartialState,
    began: float,
    proof: Proof | None,
    script: Script | None,
    signals: StopSignals,
    ending: ExitStack,
    screen: Screen,
    watch: RankWatch,
) -> Path:
    settled = choices.written_into(config)
    recipe = recipe_of(config, choices, folder.path, script)  # checks settings before anything is read
    if config.evaluation.proof and proof is None:
        raise UserError("evaluation.proof=true, and nothing was given that judges the run; set it to false")

    if on_first_rank(lambda: folder.finished(settled)):
        screen.say(f"{folder.path} holds a run that has all its steps; nothing is trained")
        if state.is_main_process:
            draw_figures(folder.path, screen.say, if_older=folder.path / "summary.json")
        state.wait_for_everyone()
        return folder.path
    screen.note(f"reading labels of {', '.join(set_names(config))}")
    with state.main_process_first():
        data = read_data(config)
    order = recipe.order(data.train)
    for note in recipe.notes:
        screen.note(note)
    load = picture_loader(config.policy.min_pixels, config.policy.max_pixels, config.data.cache)
    check_pictures(data, load, screen, recipe.pictures())
    screen.note(f"loading the policy {config.policy.path}")
    check_precision(config.policy, choices.tuning, choices.launcher)
    processor = load_processor(config.policy)
    check_grid(processor, load(data.train[0].image), config.policy)
    for warning in recipe.check_policy(processor, load(data.train[0].image)):
        screen.say(warning)

    pictures, taught = picture_rows(data, load), recipe.taught(load)
    # Each node's own files, read by one of its ranks.
    hashes = policy_hashes(choices.policy) if state.is_local_main_process else {}
    if state.num_processes > 1:
        check_same(digests(data.splits, pictures, hashes, taught))
    fault = partial(checkpoint_fault, processes=state.num_processes, launcher=choices.launcher)

    def opened() -> list[str]:
        return folder.open(settled, data.splits, fault, pictures, hashes, taught)

    for note in on_first_rank(opened):
        screen.say(note)
    watch.go_on = going_on(config, choices.name)

    if getattr(recipe.args, "sync_ref_model", False):
        screen.say(
            "warning: with trainer.sync_ref_model=true this run cannot be resumed: no checkpoint has the reference"
        )
    # Before anything that takes long, for it may have to log in. What is started is kept from the broadcast.
    sinks: list[Sink] = []
    on_first_rank(lambda: sinks.extend(open_sinks(settled, folder, screen.say, ending)))
    set_seed(config.seed)
    trainer = recipe.trainer(order, data.train, load, processor)
    trainer.dataloader_timeout = step_settings(config.trainer).dataloader_timeout
    watch.step = lambda: min(trainer.state.global_step + 1, trainer.state.max_steps)
    logger = Logger(folder, sinks, state.is_main_process, screen, pictures_logged(config))
    logger.replay()
    recipe.begin(order, data.train, load, logger)
    stop = StopCallback(signals, recipe.updates_per_draw)
    rater = recipe.rater(load, stop.before_batch)
    evaluations = EvaluationCallback(
        replace(config, evaluation=recipe.evaluation), rater, trainer, folder, logger, data, proof
    )
    answers_per_step = step_settings(config.trainer).images_per_step * config.answers_to_each
    trainer.add_callback(stop)
    for callback in recipe.callbacks(data, folder, logger):
        trainer.add_callback(callback)
    trainer.add_callback(evaluations)  # before the next, for what it does before a step is not the step's time
    trainer.add_callback(
        StepCallback(
            logger,
            lambda: trainer.generation_seconds,
            answers_per_step,
            reported=recipe.reported,
            generates=recipe.generates,
            evaluation_seconds=evaluations.seconds_to_come,
        )
    )
    facts = card_facts(
        settled, folder.path.name, data, lora=choices.tuning is Tuning.lora, rate=recipe.args.learning_rate
    )
    trainer.card = lambda step: model_card(facts, step, evaluations.measured())
    prepared = time.perf_counter()

    checkpoint = on_first_rank(folder.last_checkpoint) if config.resume else None
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (RolloutError, UnreadableError) as failure:
        raise type(failure)(f"{failure}\n{saved(trainer, config, choices.name)}") from failure
    except StoppedError as failure:
        told = f"{failure}; {saved(trainer, config, choices.name)}"
        folder.stopped(failure.signal)
        state.wait_for_everyone()  # a launcher ends all ranks as soon as one has ended
        raise StoppedError(told, failure.signal) from None
    signals.at_once()
    screen.close()
    screen.note("saving the weights and drawing the figures")
    trainer.save_model(f"{folder.path / 'final'}{NEW}")
    state.wait_for_everyone()
    folder.put_in_place("final")
    finished = time.perf_counter()

    seconds = {
        "prepare": prepared - began,
        "train": finished - prepared - evaluations.seconds,
        "evaluate": evaluations.seconds,
    }
    summary = evaluations.summary(seconds)
    folder.write("summary.json", summary)
    if state.is_main_process:
        draw_figures(folder.path, logger.say)
        logger.end(trainer.state.global_step, summary)
    logger.say(
        f"{folder.path}: summary.json, curves.png, reasoning.png, metrics.jsonl, answers.jsonl, final/\n"
        + next_words(config, folder.path, trainer.state.max_steps)
    )
    state.wait_for_everyone()
    return folder.path


@contextmanager
def told_once(watch: RankWatch, signals: StopSignals) -> Iterator[None]:
    """Let the rank that a failure is of tell it, and the others that it has."""
    try:
        yield
    except Exception as error:
        signals.defer()  # a launcher ends all ranks by SIGTERM once one has failed
        told = watch.instead(error)
        if told is error:
            raise
        raise told from error


@contextmanager
def told_of_stops(config: Config, name: str) -> Iterator[None]:
    """Make a signal that comes where nothing can be lost the end of the run ``name``."""
    try:
        yield
    except StopNow as stop:
        told = f"stopped by {stop.signal.name}; {going_on(config, name)}"
        raise StoppedError(told, stop.signal.name) from None


@contextmanager
def told_of_files(config: Config, name: str) -> Iterator[None]:
    """Make what goes wrong with a file or a disk in the run ``name`` one message, that says how to go on."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        trouble = file_trouble(error, Path(config.runs) / name)
        if trouble is None:
            raise
        raise UserError(f"{trouble}; {going_on(config, name)}") from error


def on_first_rank(ask: Callable[[], T]) -> T:
    """What ``ask`` answers on the first rank, on every rank. Collective.

    What it raises there is raised there, and OtherRankError on the others.
    """
    answer: T | None = None
    failure: Exception | None = None
    if PartialState().is_main_process:
        try:
            answer = ask()
        except (ValueError, OSError) as error:
            failure = error
    answer, failed = broadcast_object_list([answer, failure is not None])
    if failure is not None:
        raise failure
    if failed:
        raise OtherRankError()
    return cast("T", answer)


def draw_figures(folder: Path, say: Callable[[str], None], if_older: Path | None = None) -> None:
    """Draw what can be drawn: a figure is no reason for a run to fail at its end.

    ``if_older``: only what is missing or older than this file, of an end with fewer steps.
    """
    for draw, name in ((draw_curves, "curves.png"), (draw_reasoning, "reasoning.png")):
        drawn = folder / name
        if if_older is not None and drawn.is_file() and drawn.stat().st_mtime_ns >= if_older.stat().st_mtime_ns:
            continue
        try:
            with warnings.catch_warnings(record=True) as told:
                draw(folder)
            for each in told:
                say(f"warning: {each.message}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the run's results are there without the figure
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            say(f"warning: {draw.__name__} failed, and {folder} lacks its figure: {reason}")


def saved(trainer: RunTrainer, config: Config, name: str) -> str:
    """Save what has been learnt since the last checkpoint, and say how to go on. Collective."""
    path = Path(config.runs) / name / f"checkpoint-{trainer.state.global_step}"
    if trainer.state.global_step == 0:
        return "nothing was learnt yet"
    if not on_first_rank(path.is_dir):  # the others may see it late
        trainer.save_checkpoint()
    return f"saved {path}; {going_on(config, name)}"

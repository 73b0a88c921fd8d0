"""What every trainer of a run does whatever it learns from: weights, checkpoints and resuming, numbers that are none.

Beside :mod:`vqr1.training.trainer` and :mod:`vqr1.training.supervised_trainer`, which are this with TRL's trainers, the
only user of the private side of transformers' Trainer. Each use says what it relies on, and
``tests/test_trl_internals.py`` compares it with the installed version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vqr1.errors import UserError
from vqr1.folder_writer import sync
from vqr1.policy.load import load_folder
from vqr1.policy.weight_files import check_adapter
from vqr1.training.checkpoint_folders import PREFIX, UNFINISHED, put_checkpoint
from vqr1.training.checkpoints import map_numbered_cpus
from vqr1.training.model_card import write_card
from vqr1.training.stopping import begin_worker, end_workers
from vqr1.training.watches import NonFiniteError, all_finite


class StepEnd(TrainerCallback):
    """The last step that has ended, and torch's random state then: what its checkpoint has, saved at once or later.

    The loader draws a seed where an epoch begins, and vLLM's engines one for each prompt, before a run can be stopped.
    """

    step: int | None = None
    random: torch.Tensor

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.step, self.random = state.global_step, torch.get_rng_state()


class RunTrainer(Trainer):
    """The first base of a trainer of a run, before one of TRL's.

    ``order`` gives the indices of the training set, epoch by epoch; a ``set_epoch`` of it is told which.
    """

    args: Any  # TRL's configurations' types say None where TRL has long filled in a number
    generation_seconds = 0.0  # spent so far on answers of the policy
    dataloader_timeout = 0  # seconds to wait for a batch that other processes load, 0 for ever
    card: Callable[[int], str] | None = None  # the text of README.md beside weights of a step

    def __init__(self, *, order: Iterable[int], **kwargs: Any):
        self._order = order
        self._pictures: list[str] = []  # that the next update is of
        self._unfinished: Path | None = None  # where a checkpoint is being written
        self._ended = StepEnd()
        super().__init__(**kwargs)
        self.add_callback(self._ended)

    def save_checkpoint(self) -> Path:
        """Save ``checkpoint-STEP`` in the output folder, weights and optimiser, and return its path. Collective.

        For a run that ends after its last step: what has been drawn since then, a resumed run draws again.
        Relies on: ``_save_checkpoint`` needs no ``trial`` outside a parameter search.
        """
        assert self.model is not None
        if self._ended.step == self.state.global_step:
            torch.set_rng_state(self._ended.random)
        self._save_checkpoint(self.model, trial=None)
        return Path(str(self.args.output_dir)) / f"{PREFIX}{self.state.global_step}"

    def refuse_lost_weights(self) -> None:
        """Raises NonFiniteError where a trained weight is infinite or NaN: an update was too large for its precision.

        Collective: raised on every rank.
        """
        assert self.model is not None
        if not all_finite(self.model, self.accelerator.gather):
            raise NonFiniteError(self.state.global_step, "a weight is not finite after its update")

    def refuse_lost_loss(self, loss: torch.Tensor, pictures: Sequence[str]) -> None:
        """Raises NonFiniteError, on every rank, where one has a loss that is infinite or NaN; ``pictures`` are its own.

        Collective, for every loss before its backward pass.
        """
        losses = self.accelerator.gather(loss.detach().reshape(1))
        lost = losses[~losses.isfinite()]
        if len(lost):
            theirs = gather_object([] if loss.isfinite() else list(pictures))
            ranks = [str(rank) for rank, each in enumerate(losses.isfinite().tolist()) if not each]
            where = f" on rank {', '.join(ranks)} of {len(losses)}" if len(losses) > 1 else ""
            raise NonFiniteError(self.state.global_step + 1, f"the loss is {lost[0].item()}{where}", theirs)
        self._pictures += pictures

    # From here on: methods of transformers' Trainer, changed.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's, of weights that are numbers, with our card beside them, in place of peft's.

        Relies on: ``_save_checkpoint`` writes weights by it, first.
        """
        self.refuse_lost_weights()
        super().save_model(output_dir, _internal_call)
        if self.card is not None and self.args.should_save:
            write_card(Path(output_dir or self.args.output_dir), self.card(self.state.global_step))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's, into a folder of its own, and from there to its place when all ranks have written. Collective.

        Relies on: it writes below ``_get_output_dir`` alone, and deletes earlier checkpoints nowhere else.
        """
        run, step = Path(str(self.args.output_dir)), self.state.global_step
        self._unfinished = run / UNFINISHED
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._unfinished = None
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero():  # of each machine, whose memory may hold what its ranks have written
            sync(run / UNFINISHED)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            put_checkpoint(run, step, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        """Trainer's, or where a checkpoint is being written."""
        return str(self._unfinished) if self._unfinished else super()._get_output_dir(trial)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL's own card, in the run folder, would know neither base model nor data."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights of a checkpoint, by the way that reads what ``save_pretrained`` wrote.

        transformers 5.17 saves a Qwen2.5-VL under the hub's names and resumes with the module's: no name fits, it warns
        and trains on from the start policy's weights. Relies on: called before the model is wrapped, so that
        ``self.model`` is the module to fill.
        """
        if is_peft_model(self.model) or self.is_fsdp_enabled:
            if is_peft_model(self.model):
                check_adapter(self.model, Path(resume_from_checkpoint))
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        own: Any = self.model
        own.load_state_dict(load_folder(Path(resume_from_checkpoint), own.dtype).state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """TRL's, on ranks without a GPU too: accelerate calls their device cpu:0, which torch maps nothing to.

        Relies on: the device that torch.load maps to is ``args.device`` where there are several ranks.
        """
        map_numbered_cpus()
        super()._load_optimizer_and_scheduler(checkpoint)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where a resumed run has all its steps already: transformers would take one more before it looks.

        Relies on: Trainer calls it once an epoch and then looks at ``control.should_training_stop``.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        try:
            super()._run_epoch(*args, **kwargs)
        except BaseException as error:
            if self.args.dataloader_num_workers:
                end_workers()
            if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader "):
                raise
            raise UserError(
                f"a process that loads pictures has been lost (trainer.dataloader_timeout={self.dataloader_timeout}): "
                f"{error}. It was stopped or killed, for want of memory or of processes (ulimit -u) perhaps, or the "
                "file system of the pictures hangs; trainer.dataloader_num_workers=0 loads them without such processes"
            ) from error

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, with a limit to how long a batch is waited for, which its settings lack, by workers of ours.

        Relies on: called for every loader; what is returned is accelerate's, around torch's.
        """
        loader = super()._get_dataloader(*args, **kwargs)
        if self.args.dataloader_num_workers:
            plain = getattr(loader, "base_dataloader", loader)
            plain.timeout = self.dataloader_timeout
            plain.worker_init_fn = partial(begin_worker, plain.worker_init_fn)
        return loader

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Our order of pictures. Relies on: TRL's sampler too gives single indices, GRPO's each K times in a row."""
        return self._order

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's. Raises NonFiniteError where it is infinite or NaN: the optimiser would spread it to all weights.

        Relies on: called once before each of the optimiser's steps, with the norm of the gradients of all ranks (under
        DeepSpeed after the step); what is returned is that norm, or None.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        pictures, self._pictures = self._pictures, []
        if norm is not None and not math.isfinite(norm):
            raise NonFiniteError(
                self.state.global_step + 1, f"the gradient's norm is {float(norm)}", gather_object(pictures)
            )
        return norm

"""vLLM with the weights that are being trained: TRL's engine, made right for Qwen2.5-VL.

TRL's :class:`VLLMGeneration` walks the weights under every kind of sharding, talks to a server and decides when to
sync; that is kept. What differs from it:

- the K copies of a prompt that TRL sends become one question for K answers: its picture is sent and encoded once;
- image placeholders are sent once, and encoded pictures are forgotten when the vision tower has changed (see
  :mod:`vqr1.rollout.engine`);
- noise comes from torch's generator by way of a seed per prompt, so a seed gives the same run, and an evaluation in
  between changes nothing;
- an adapter is added to a copy of each weight: the frozen weights stay as they are to the last bit;
- a server that is lost is lost for all ranks at once, so that they can save and stop together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, is_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import ensure_master_addr_port

from vqr1.errors import UserError
from vqr1.rollout.engine import MAX_SEED, Drawn, Engine, Question, RolloutError, Sampling

REQUESTS = 64  # to a server at once: the connections that TRL's client keeps


class UnmetError(RuntimeError):
    """This rank has left a collective that the others are in. It must not enter another one, which would be theirs."""


class Walk(Iterator[tuple[str, torch.Tensor]]):
    """Weights, one after another, which can be walked to their end after their reader has failed."""

    def __init__(self, weights: Iterator[tuple[str, torch.Tensor]]):
        self._weights = weights
        self._failed = False

    def __next__(self) -> tuple[str, torch.Tensor]:
        try:
            return next(self._weights)
        except StopIteration:
            raise
        except BaseException:
            self._failed = True
            raise

    def to_the_end(self) -> bool:
        """Take part in what is left. Whether all weights could be had, by the reader and now."""
        with suppress(Exception):
            for _ in self:
                pass
        return not self._failed


class SyncedGeneration(VLLMGeneration):
    """vLLM with the current weights of ``model``, as GRPOTrainer uses it.

    ``start``: starts the engine (colocate). ``vision_trained``: whether updates change what encodes pictures.
    ``adapter_alone``: of a model with LoRA only the adapter is sent, by way of a temporary folder (colocate). Other
    arguments are VLLMGeneration's.
    """

    engine: Engine

    def __init__(
        self,
        *args: Any,
        stop: Sequence[int],
        never: Sequence[int],
        vision_trained: bool,
        start: Callable[[], Engine] | None = None,
        adapter_alone: bool = False,
        **kwargs: Any,
    ):
        self._adapter_alone = adapter_alone
        self._start = start
        self._stop = tuple(stop)
        self._never = tuple(never)
        self._vision_trained = vision_trained
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            self._on_server(self._connect)
            return
        assert self._start is not None
        world, parallel = self.accelerator.num_processes, self.tensor_parallel_size
        if world % parallel:
            raise UserError(f"rollout.vllm.tensor_parallel={parallel} does not divide {world} processes")
        if parallel > 1:
            ranks = [list(range(first, first + parallel)) for first in range(0, world, parallel)]
            self.tp_group, _ = torch.distributed.new_subgroups_by_enumeration(ranks)
        # vLLM's external launcher reads where it is from these, and finds the processes that accelerate started.
        place = {
            "RANK": str(self.accelerator.process_index),
            "LOCAL_RANK": str(self.accelerator.local_process_index),
            "WORLD_SIZE": str(world),
        }
        # No later process shall believe them. What vLLM's start sets for this process (engine.prepare) stays.
        with environment(place, "MASTER_ADDR", "MASTER_PORT"):
            ensure_master_addr_port()
            self.engine = self._start()
        if self.enable_sleep_mode:
            self.engine.sleep()
        self._llm_weights_sleeping = self.enable_sleep_mode
        self.accelerator.wait_for_everyone()

    def _connect(self) -> None:
        try:
            super()._init_vllm()
        except Exception:
            # The other ranks wait where VLLMGeneration's start ends, which a rank that failed has not reached.
            self.accelerator.wait_for_everyone()
            raise

    def _iter_named_params(self) -> Walk:
        """As VLLMGeneration's; the walk is kept, so that it can be ended where what reads it fails."""
        self._walk = Walk(self._weights())
        return self._walk

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not is_peft_model(self.model) or self._dist.is_fsdp:  # under FSDP: TRL's merge, undone afterwards
            yield from super()._iter_named_params()
            return
        with self._dist.gather_params(list(self.model.parameters())):
            for name, weight in merged_weights(self.model):
                yield self._fix_param_name_to_vllm(name, extra_prefixes=["modules_to_save.default."]), weight

    def sync_weights(self) -> None:
        """Give vLLM the current weights and let it forget what the old ones computed. Collective."""
        if self.mode == "server":
            self._on_server(self._send_weights)
            if self._vision_trained:
                self._on_server(self._forget_pictures_on_server)
            return
        if self.enable_sleep_mode:
            torch.cuda.empty_cache()
            self.engine.wake("weights")
            self._llm_weights_sleeping = False
        if self._adapter_alone:
            self._send_adapter()
        else:
            self.engine.load(self._iter_named_params())
        self.engine.forget(pictures=self._vision_trained)

    def _send_weights(self) -> None:
        """TRL's sync. Where the server is lost in the middle of it, the first rank walks on to the end.

        Under ZeRO-3 and FSDP every weight is a collective, and the others are in it.
        """
        try:
            super().sync_weights()
        except Exception as error:
            sharded = self._dist.is_zero3 or self._dist.is_fsdp
            if sharded and not self._walk.to_the_end():
                raise UnmetError(
                    f"rank {self.accelerator.process_index} could not gather its weights: {error!r}. The other ranks "
                    "wait for it and are ended by the launcher; the last checkpoint is what is left"
                ) from error
            raise

    def _send_adapter(self) -> None:
        model: Any = self.model
        adapter = [weight for name, weight in model.named_parameters() if model.prefix in name]
        with tempfile.TemporaryDirectory() as folder:  # each rank's own: vLLM reads adapters from files alone
            with self._dist.gather_params(adapter):
                model.save_pretrained(folder)
            self.engine.load_adapter(Path(folder))

    def generate(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        num_generations: int,
        profiler: Any = None,
    ) -> tuple[list[list[int]], list[list[int]], list[list[list[float]]], None]:
        """As VLLMGeneration's: one answer to each prompt. Equal neighbours are asked as one question. Collective."""
        assert images is not None and all(images), "every prompt has a picture"
        if self.mode == "colocate" and self._llm_weights_sleeping:
            self.sync_weights()
        sampling = Sampling(self.temperature, self.max_completion_length, self._stop, self._never)
        questions = as_questions(prompts, [of_prompt or [] for of_prompt in images])
        with profiler or nullcontext():
            answers = self._ask_server(questions) if self.mode == "server" else self._ask(questions, sampling)
        flat = [answer for of_one in answers for answer in of_one]
        logps = [[[logp] for logp in answer.logps] for answer in flat]
        return prompts, [answer.ids for answer in flat], logps, None

    def _ask(self, questions: list[Question], sampling: Sampling) -> list[list[Drawn]]:
        if self.enable_sleep_mode:
            self.engine.wake("kv_cache")
        everyones, mine = questions, slice(None)
        if self.tensor_parallel_size > 1:
            # These ranks hold one copy of the weights together: each asks the questions of all.
            of_rank: list[list[Question]] = [[] for _ in range(self.tensor_parallel_size)]
            torch.distributed.all_gather_object(of_rank, questions, group=self.tp_group)
            place = torch.distributed.get_rank(group=self.tp_group)
            before = sum(len(other) for other in of_rank[:place])
            everyones, mine = [q for other in of_rank for q in other], slice(before, before + len(questions))
            if is_peft_model(self.model):
                # Let the gradients' exchange end first: beside vLLM's own it can hang (huggingface/trl issue 3671).
                torch.distributed.barrier(device_ids=[self.accelerator.local_process_index])
        answers = self.engine.ask(everyones, sampling)[mine]
        if self.enable_sleep_mode:
            self.engine.sleep()
            self._llm_weights_sleeping = True
        return answers

    def _ask_server(self, questions: list[Question]) -> list[list[Drawn]]:
        """All ranks' questions from the first rank, which sends each picture once."""
        of_rank = gather_object([questions])
        everyones = [question for other in of_rank for question in other]
        before = sum(len(other) for other in of_rank[: self.accelerator.process_index])
        answers = self._on_server(lambda: self._from_server(everyones))
        return answers[before : before + len(questions)]

    def _from_server(self, questions: list[Question]) -> list[list[Drawn]] | None:
        if not self.accelerator.is_main_process:
            return None
        features = self.vllm_client.image_features([list(question.pictures) for question in questions])
        placed = [self._place_features(each, q.ids) for each, q in zip(features, questions, strict=True)]

        def ask(question: Question, features: Any) -> list[Drawn]:
            reply = self.vllm_client.generate(
                prompts=[question.ids],
                features=[features],
                n=question.k,
                temperature=self.temperature,
                max_tokens=self.max_completion_length,
                logprobs=0,
                generation_kwargs={
                    "seed": question.seed,  # the server gives the k-th answer seed + k, as vLLM in this process does
                    "stop_token_ids": list(self._stop),
                    "logit_bias": {str(token): -100.0 for token in self._never},
                },
            )
            answers: Any = zip(reply["completion_ids"], reply["logprobs"], strict=True)
            return [Drawn(ids, [of_token[0] for of_token in logps]) for ids, logps in answers]

        # A call has one seed for all its prompts: a call for each question. TRL's client makes a request of every
        # prompt in any case, from as many threads of its own, over one session that has as many connections.
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(ask, questions, placed))

    def _forget_pictures_on_server(self) -> None:
        if self.accelerator.is_main_process:
            client = self.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()

    def _on_server(self, call: Callable[[], Any]) -> Any:
        """The first rank's result for every rank; where one rank fails, all fail alike. Collective."""
        result, failure = None, None
        try:
            result = call()
        except UnmetError:
            raise
        except Exception as error:  # noqa: BLE001 - TRL's client raises Exception itself, after its own retries
            rank = self.accelerator.process_index
            who = f"the vLLM server at {self.server_base_url}" if rank == 0 else f"rank {rank}"
            failure = f"{who} failed: {error!r}"
        failures = [failure for failure in gather_object([failure]) if failure]
        if failures:
            raise RolloutError("; ".join(failures))
        box = [result]
        broadcast_object_list(box)
        return box[0]


@contextmanager
def environment(values: dict[str, str], *others: str) -> Iterator[None]:
    """These variables for as long as it lasts; then they and ``others`` are as before. What else is set stays."""
    before = {name: os.environ.get(name) for name in (*values, *others)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def as_questions(prompts: Sequence[Sequence[int]], pictures: Sequence[Sequence[Image.Image]]) -> list[Question]:
    """Runs of equal prompts with equal pictures as one question each, seeded from torch's global generator."""
    firsts: list[int] = []
    counts: list[int] = []
    for i, of_prompt in enumerate(pictures):
        before = firsts[-1] if firsts else None
        if before is not None and prompts[before] == prompts[i] and list(pictures[before]) == list(of_prompt):
            counts[-1] += 1
        else:
            firsts.append(i)
            counts.append(1)
    seeds = torch.randint(MAX_SEED, (len(firsts),)).tolist()
    return [
        Question(list(prompts[first]), pictures[first], k, seed)
        for first, k, seed in zip(firsts, counts, seeds, strict=True)
    ]


def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a model with LoRA, adapters added, under the base model's names; the model is not touched.

    W' = W + alpha / r * B A, rounded once to W's precision (LoRA, arXiv 2106.09685, Eq. 3). Adding the adapter to the
    weights themselves and subtracting it again, as TRL does, leaves bfloat16 weights a little elsewhere every time.
    """
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, parameter in model.named_parameters():
        if model.prefix in name or "original_module" in name:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        weight = parameter.data
        if leaf == "weight" and owner in layers:
            layer = layers[owner]
            for adapter in layer.active_adapters:
                weight = (weight + layer.get_delta_weight(adapter)).to(parameter.dtype)
        yield name.removeprefix("base_model.model.").replace(".base_layer", ""), weight

"""vLLM in this process: started, asked, given new weights, emptied.

The trainer's rollouts (:mod:`vqr1.rollout.synced`) and evaluation (:mod:`vqr1.rollout.vllm_policy`) both ask through
here, so prompts, stop tokens and tokens that are never drawn are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError
from vqr1.rollout.engine import Drawn, Question, Sampling

PREFILL_TOKENS = 4096  # read at once, at most
CPU_CACHE = 1 << 28  # bytes of keys and values without a GPU
COMPARED = 8  # pictures whose pixels are compared at the start


class VllmEngine:
    """A Qwen2.5-VL in vLLM.

    ``limits``: the policy's smallest and largest number of pixels; vLLM would otherwise read them from the model's
    folder. ``parallel``: GPUs that share the weights; with ``colocated`` these are processes that all ask the same.
    ``pictures``: in one prompt, at most. ``lora_rank``: of the adapters that will be loaded beside the weights, if any.
    """

    def __init__(
        self,
        path: Path,
        processor: Any,
        *,
        limits: tuple[int, int],
        max_length: int,
        max_answers: int,
        dtype: str = "auto",
        memory_share: float = 0.3,
        parallel: int = 1,
        sleep: bool = False,
        colocated: bool = False,
        lora_rank: int | None = None,
        pictures: int = 1,
    ):
        prepare()
        from vllm import LLM

        self._image_token = processor.image_token_id
        self._limits = limits
        self._adapter: Any = None
        self.llm = LLM(
            model=str(path),
            trust_remote_code=False,
            load_format="safetensors",  # and no pickled weights, which it would look for too
            dtype=dtype,
            max_model_len=max_length,
            max_num_seqs=max_answers,
            max_num_batched_tokens=max(PREFILL_TOKENS, max_length),
            tensor_parallel_size=parallel,
            gpu_memory_utilization=memory_share,
            enable_sleep_mode=sleep,
            limit_mm_per_prompt={"image": pictures, "video": 0},
            mm_processor_kwargs={"size": {"shortest_edge": limits[0], "longest_edge": limits[1]}},
            logprobs_mode="processed_logprobs",  # of the distribution that is drawn from
            generation_config="vllm",  # nothing of the folder's sampling settings
            **({"distributed_executor_backend": "external_launcher"} if colocated else {}),
            **({"enable_lora": True, "max_lora_rank": lora_room(lora_rank)} if lora_rank else {}),
            **({} if torch.cuda.is_available() else without_gpu()),
        )

    def ask(self, questions: Sequence[Question], sampling: Sampling) -> list[list[Drawn]]:
        """The answers to each question, whose pictures are sent and encoded once, whatever its k.

        Raises ValueError for a picture that vLLM reads as other tokens than the trained model does.
        """
        from vllm import SamplingParams

        for question in questions:
            for picture in question.pictures:
                check_limits(picture, *self._limits)
        inputs = [
            {
                "prompt_token_ids": collapse_placeholders(question.ids, self._image_token),
                "multi_modal_data": {"image": list(question.pictures)},
            }
            for question in questions
        ]
        wanted = [
            SamplingParams(
                n=question.k,
                seed=question.seed,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                stop_token_ids=list(sampling.stop),
                logit_bias=dict.fromkeys(sampling.never, -100.0),
                logprobs=0,  # the drawn token's alone
                detokenize=False,
            )
            for question in questions
        ]
        replies = self.llm.generate(inputs, wanted, use_tqdm=False, lora_request=self._adapter)
        for question, reply in zip(questions, replies, strict=True):
            check_tokens(question, reply.prompt_token_ids, self._image_token)
        return [[drawn(output) for output in reply.outputs] for reply in replies]

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over weights under transformers' names."""
        model = self.llm.llm_engine.model_executor.driver_worker.model_runner.model
        for name, weight in weights:
            model.load_weights([(name, weight)])

    def load_adapter(self, folder: Path) -> None:
        """Answer from now on with the adapter that PEFT saved in ``folder``, in place of the one before."""
        from vllm.lora.request import LoRARequest

        self.llm.llm_engine.add_lora(LoRARequest("policy", 1, str(folder), load_inplace=True))
        self._adapter = LoRARequest("policy", 1, str(folder))

    def forget(self, pictures: bool) -> None:
        """Drop what was computed with other weights: cached prompts and, with ``pictures``, encoded pictures.

        TRL drops the prompts alone (huggingface/trl issue 7198): after an update of the vision tower a picture seen
        before would be answered as the old tower saw it.
        """
        self.llm.reset_prefix_cache()
        if pictures:
            self.llm.llm_engine.reset_encoder_cache()

    def sleep(self) -> None:
        """Give all memory back. Weights are lost: load them before the next question."""
        self.llm.sleep(level=2)

    def wake(self, part: str) -> None:
        """Take memory again for ``weights`` or for the ``kv_cache``."""
        self.llm.wake_up(tags=[part])

    def image_processor(self) -> Any:
        """vLLM's own, to be compared with the policy's."""
        from vllm.transformers_utils.processor import cached_processor_from_config

        return cached_processor_from_config(self.llm.llm_engine.model_config).image_processor


def prepare() -> None:
    """What must be set before vLLM starts: one process, so that weights can be handed over and randomness is ours."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if torch.cuda.is_available():
        return
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import _custom_ops

    # vLLM 0.31 on a CPU packs weights for oneDNN and forgets the originals: new ones could not be loaded.
    _custom_ops._supports_onednn = False


def without_gpu() -> dict[str, Any]:
    """LLM's arguments for a CPU: nothing is compiled, and a prompt is read in one go.

    vLLM 0.31 sets a request's random generator back after each part of its prompt but the last, by an offset that
    torch's CPU generators do not have.
    """
    return {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE, "enable_chunked_prefill": False}


def lora_room(rank: int) -> int:
    """The smallest of the ranks that vLLM has room for: a power of two, 8 or more."""
    return max(8, 1 << (rank - 1).bit_length())


def collapse_placeholders(ids: Sequence[int], image_token: int) -> list[int]:
    """One image token for each run of them.

    vLLM puts a picture's tokens in place of each image token it is given; given the run that the trained model reads,
    it would put them in once more (huggingface/trl issue 6294). Vision start and end tokens keep pictures apart.
    """
    return [
        token for before, token in zip([None, *ids], ids, strict=False) if token != image_token or before != image_token
    ]


def check_pixels(theirs: Any, ours: Any, pictures: Sequence[Image.Image]) -> None:
    """Raises ValueError unless both image processors, vLLM's and the policy's, make the same patches of each picture.

    The first few pictures are compared: what differs, such as a limit or a normalisation, differs for all.
    """
    for picture in pictures[:COMPARED]:
        seen, meant = theirs([picture], return_tensors="pt"), ours([picture], return_tensors="pt")
        same_grid = torch.equal(seen["image_grid_thw"], meant["image_grid_thw"])
        if not same_grid or not torch.allclose(seen["pixel_values"], meant["pixel_values"], atol=1e-5):
            raise UserError(
                f"of a picture of {picture.width}x{picture.height} pixels vLLM makes a grid of "
                f"{seen['image_grid_thw'].tolist()}, and the policy {meant['image_grid_thw'].tolist()}, or other "
                "pixels: look at preprocessor_config.json in the policy's folder"
            )


def check_limits(picture: Image.Image, min_pixels: int, max_pixels: int) -> None:
    """Raises ValueError for a picture that would be resized, so that vLLM saw another than the trained model."""
    width, height = picture.size
    if width % TOKEN_PIXELS or height % TOKEN_PIXELS or not min_pixels <= width * height <= max_pixels:
        raise ValueError(
            f"a picture of {width}x{height} pixels does not fit the policy's grid of {min_pixels} to {max_pixels} "
            f"pixels in multiples of {TOKEN_PIXELS}; fit it with vqr1.data.pictures.fit_to_grid"
        )


def check_tokens(question: Question, read: Sequence[int], image_token: int) -> None:
    """Raises ValueError unless vLLM read the very tokens that the trained model reads."""
    if list(read) != question.ids:
        ours, theirs = question.ids.count(image_token), list(read).count(image_token)
        raise UserError(
            f"vLLM read {len(read)} tokens with {theirs} of the picture where the policy reads {len(question.ids)} "
            f"with {ours}: its answers would be to another prompt. Look at the processor files in the policy's folder"
        )


def drawn(output: Any) -> Drawn:
    """vLLM's CompletionOutput as an answer."""
    ids = list(output.token_ids)
    return Drawn(ids, [at[token].logprob for at, token in zip(output.logprobs, ids, strict=True)])

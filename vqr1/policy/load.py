"""A Qwen2.5-VL to train: weights, processor, what is frozen, LoRA."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vqr1.config import Launcher, LoraSettings, PolicyConfig, Tuning
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import MissingFileError, UserError
from vqr1.policy.weight_files import (
    check_adapter,
    check_adapter_files,
    check_folder,
    needs_code,
    refuse_pickles,
    weight_files,
)

SHIPPED = Path(__file__).parent / "tiny_policy"
TINY: dict[str, Any] = {
    "dtype": "float32",
    "attention": "sdpa",
    "max_pixels": 200704,
}  # the shipped policy's settings, as conf/policy/tiny.yaml has them


def resolve_dtype(name: str) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU that has it, else float32. Raises UserError for an unknown name."""
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    if name in ("float32", "bfloat16", "float16"):
        return getattr(torch, name)
    raise UserError(f"policy.dtype={name}: choose auto, float32, bfloat16 or float16")


def trains_in_bfloat16(name: str) -> bool:
    """Whether a policy of this dtype computes in bfloat16 while it trains, under autocast, and so in vLLM.

    With bfloat16 weights on a GPU that has bfloat16. float32 weights compute in float32; without a GPU nothing is cast.
    Raises UserError for an unknown name.
    """
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return on_gpu and resolve_dtype(name) == torch.bfloat16


def resolve_attention(name: str, dtype: torch.dtype) -> str:
    """``auto`` is flash_attention_2 where it is installed and the weights are half precision on a GPU, else sdpa.

    It takes no float32, and without the import transformers would try to fetch a kernel from the hub. Raises UserError
    for a flash_attention_2 that cannot work.
    """
    if name == "auto":
        half = dtype in (torch.bfloat16, torch.float16) and torch.cuda.is_available()
        return "flash_attention_2" if half and importlib.util.find_spec("flash_attn") else "sdpa"
    if name == "flash_attention_2" and dtype == torch.float32:
        raise UserError("policy.attention=flash_attention_2 takes no float32 (policy.dtype); set policy.attention=sdpa")
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise UserError(
            "policy.attention=flash_attention_2, but flash-attn is not installed; use sdpa, or install it where nvcc "
            "is: make env EXTRAS=dev,gpu,flash (docs/install.md)"
        )
    return name


def check_precision(policy: PolicyConfig, tuning: Tuning, launcher: Launcher) -> None:
    """Refuse float16, and full fine-tuning of bfloat16 weights without a float32 master copy. Raises UserError.

    Nothing scales the loss here, and float16 has no numbers under 6e-8: small gradients would be 0. bfloat16 keeps 8
    bits: at a learning rate of 1e-6 nearly every update rounds away. LoRA's weights are float32, ZeRO keeps
    float32 master weights of its own, and accelerate makes FSDP2's float32 where they compute under autocast.
    """
    if resolve_dtype(policy.dtype) == torch.float16:
        raise UserError(
            "policy.dtype=float16: training has no loss scaling, without which small float16 gradients become 0; set "
            "policy.dtype=bfloat16, or float32 where the GPU has no bfloat16"
        )
    kept = launcher.of_deepspeed or (launcher is Launcher.fsdp2 and trains_in_bfloat16(policy.dtype))
    if tuning is not Tuning.lora and not kept and resolve_dtype(policy.dtype) != torch.float32:
        raise UserError(
            f"policy.dtype={policy.dtype} would train {resolve_dtype(policy.dtype)} weights with no float32 master "
            "copy, and small updates would round away; set policy.dtype=float32, use LoRA (policy.tuning=lora), or "
            "share the optimiser's state (launcher=zero3, zero2 or fsdp2)"
        )


def files_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of the files, in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def load_policy(policy: PolicyConfig) -> torch.nn.Module:
    """The model, in the dtype and with the attention asked for, frozen where asked. Moved nowhere yet."""
    dtype = resolve_dtype(policy.dtype)
    model = load_folder(find_weights(policy.path), dtype, resolve_attention(policy.attention, dtype))
    if not policy.train_vision:
        model.model.visual.requires_grad_(False)
    return model


def load_folder(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The Qwen2.5-VL in ``folder``, every parameter of which is in its files.

    Raises UserError where one is missing, unknown or of another shape, for files that are damaged or no safetensors,
    and where the attention does not work here.
    """
    from safetensors import SafetensorError
    from transformers import Qwen2_5_VLForConditionalGeneration

    check_folder(folder)
    try:
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, ImportError, OSError, SafetensorError) as error:
        # transformers' and safetensors' words for what is wrong with files or settings
        raise UserError(f"{folder} does not load with policy.attention={attention}: {error}") from error
    model, report = loaded
    # The names were compared before; this is what transformers made of them.
    left = {name: report[name] for name in ("unexpected_keys", "mismatched_keys", "error_msgs") if report[name]}
    if missing := set(report["missing_keys"]) - set(model.all_tied_weights_keys):
        left["missing_keys"] = missing
    if left:
        raise UserError(f"{folder} is not loaded as a whole: {left}")
    return model


def add_adapter(model: Any, folder: Path) -> Any:
    """``model`` with the LoRA adapter in ``folder`` around it. Raises UserError where the two do not fit."""
    from peft import PeftModel

    check_adapter_files(folder)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # PEFT takes the settings as they are: what it meets in them may be of any kind
        raise UserError(f"the adapter in {folder} does not fit the policy it is laid on: {error}") from error
    check_adapter(adapted, folder)
    return adapted


def load_processor(policy: PolicyConfig) -> Any:
    """The model's own processor, held to the pixel limits, padding on the left.

    The limits are set on the image processor itself; set anywhere else they have no effect.
    """
    from transformers import AutoProcessor, Qwen2VLImageProcessor

    weights = find_folder(policy.path)
    try:
        processor = AutoProcessor.from_pretrained(
            str(weights), padding_side="left", trust_remote_code=False, local_files_only=True
        )
        processor.image_processor = Qwen2VLImageProcessor.from_pretrained(str(weights), local_files_only=True)
    except Exception as error:  # tokenizers raises Exception itself for a file that is damaged
        if "trust_remote_code" in str(error):
            raise needs_code(weights, "its processor, auto_map") from error
        raise UserError(f"policy.path={policy.path}: the processor in {weights} does not load: {error}") from error
    processor.image_processor.size = {"shortest_edge": policy.min_pixels, "longest_edge": policy.max_pixels}
    processor.tokenizer.padding_side = "left"
    return processor


def load_generation_config(path: str) -> Any:
    """What a model's folder says of generation, as the loaded model has it: only its stop tokens count here."""
    from transformers import AutoConfig, GenerationConfig

    folder = find_folder(path)
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(folder), trust_remote_code=False))


def policy_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model's folder that a run reads, several at a time."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja", ".txt"))
    with ThreadPoolExecutor() as pool:
        return dict(zip((path.name for path in files), pool.map(lambda path: files_hash([path]), files), strict=True))


def find_weights(path: str) -> Path:
    """The folder that holds the model: the shipped one, a folder of yours, or the hub's cache on this machine.

    Raises MissingFileError, saying what to fetch, where it is not here. Nothing is downloaded: a policy of many
    gigabytes is fetched once, on purpose, and not by every rank.
    """
    folder = SHIPPED if path == "tiny" else Path(path).expanduser()
    if _is_whole(folder):
        return folder
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(path, "config.json")
        if isinstance(cached, str) and _is_whole(Path(cached).parent):
            return Path(cached).parent
        fetch = f"fetch it with: hf download {path}   or give a folder that holds it: policy.path=FOLDER"
        raise MissingFileError(f"policy.path={path} is not on this machine, or not all of it; {fetch}")
    refuse_pickles(folder)
    raise MissingFileError(f"policy.path={path}: {folder} holds no model (config.json and *.safetensors)")


def find_folder(path: str) -> Path:
    """As :func:`find_weights`, where a folder of yours may lack its weights: for processor and configuration."""
    folder = Path(path).expanduser()
    return folder if path != "tiny" and (folder / "config.json").is_file() else find_weights(path)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a model's folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _is_whole(folder: Path) -> bool:
    """An interrupted download has the configuration, and not yet all files of weights."""
    return (folder / "config.json").is_file() and all(file.is_file() for file in weight_files(folder))


def vision_tower(model: Any) -> torch.nn.Module:
    """The vision tower of a policy, with or without LoRA around it."""
    return base_model(model).model.visual


def base_model(model: Any) -> Any:
    """The Qwen2.5-VL itself, with or without LoRA around it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def drops_out(model: Any) -> bool:
    """Whether a training pass of the policy is random: LoRA's dropout, or the model's own."""
    attention = base_model(model).config.get_text_config().attention_dropout
    return attention > 0 or any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())


def lora_config(settings: LoraSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def check_grid(processor: Any, picture: Image.Image, policy: PolicyConfig) -> None:
    """Assert that the processor cuts a fitted picture into exactly the tokens that its size says.

    A limit that silently has no effect, or a second resize, shows here before the first step.
    """
    width, height = picture.size
    grid = processor.image_processor([picture], return_tensors="pt")["image_grid_thw"][0].tolist()
    merge = processor.image_processor.merge_size
    tokens = math.prod(grid) // merge**2
    expected = (width // TOKEN_PIXELS) * (height // TOKEN_PIXELS)
    if tokens != expected or not policy.min_pixels <= width * height <= policy.max_pixels:
        raise UserError(
            f"a picture of {width}x{height} pixels became a grid of {grid}, {tokens} tokens instead of {expected}; the "
            "policy's processor has other patch sizes or pixel limits than policy.min_pixels and policy.max_pixels"
        )

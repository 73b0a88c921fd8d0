"""Each picture cut and encoded once, and each prompt read once, however many answers are asked for.

K answers are asked for by K copies of a prompt, each with its picture. Cutting a picture into patches and encoding it
are functions of the picture alone, so either is done once for the equal pictures of a batch and the result is handed
to every copy; gradients of the copies add up on the one encoding. When answers are generated, the cache of one reading
of the prompt is handed to every copy. Exact: nothing is approximated, and the same random state draws the same answers.

Pictures wait for the policy as the bytes they are, an eighth of what it reads: float32, and each patch twice, for it
reads a still picture as a film of two frames. They become that on its device, picture by picture as they are read.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from transformers import BatchFeature, DynamicCache, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
from transformers.image_utils import make_flat_list_of_images

from vqr1.data.pictures import decoders

PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")
AS_BYTES = {"do_rescale": False, "do_normalize": False, "temporal_patch_size": 1}


class PictureCutter(Qwen2VLImageProcessor):
    """Qwen2-VL's image processor up to the point where pictures stop being bytes.

    Its ``pixel_values`` are (N, 3 p p) uint8: of each of N patches of p x p pixels one frame, not yet normalised.
    """

    _latest: tuple[list[Any], dict[str, Any], BatchFeature] | None = None

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """As Qwen2VLImageProcessor's, as tensors, several pictures at a time.

        The last call's patches are kept: who asks again for the same objects, as TRL does, gets the same tensors.
        """
        pictures: Any = make_flat_list_of_images(images)
        asked = {**kwargs, **AS_BYTES, "return_tensors": "pt"}
        latest = self._latest
        if latest is None or latest[1] != asked or list(map(id, latest[0])) != list(map(id, pictures)):
            cut = super().preprocess
            first, number = numbered(list(map(id, pictures)))  # a reference is that of several pictures
            with decoders() as pool:
                once = list(pool.map(lambda i: cut([pictures[i]], **asked), first))
            parts = [once[n] for n in number]
            names = "pixel_values", "image_grid_thw"
            latest = pictures, asked, BatchFeature({name: torch.cat([part[name] for part in parts]) for name in names})
            self._latest = latest
        return BatchFeature(dict(latest[2]))

    def as_read(self, patches: torch.Tensor) -> torch.Tensor:
        """What the vision tower reads, (N, 3 t p p) float32, t frames of a patch: the bits that Qwen2-VL's makes.

        ``patches`` may lie on any device, in any type that holds the integers up to 255.
        """
        p, t = self.patch_size, self.temporal_patch_size
        values = self.rescale_and_normalize(
            patches.float().view(-1, 3, p, p),
            self.do_rescale,
            self.rescale_factor,
            self.do_normalize,
            self.image_mean,
            self.image_std,
        )
        return values.unsqueeze(2).expand(-1, -1, t, -1, -1).reshape(len(patches), -1)


class OncePerPrompt(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor for R prompts with as many pictures each, of which many are copies.

    The same picture is the same object: what loads pictures hands one to every answer that is asked for. Equal prompts
    are read once. Tokens and ``image_grid_thw`` come row by row as ever; ``pixel_values`` holds the pictures of each
    distinct prompt once, as :class:`PictureCutter` cuts them, and ``picture`` (R,) says which of these prompts is each
    row's (:func:`of_rows`).
    """

    _plain: Any

    @classmethod
    def of(cls, processor: Any) -> OncePerPrompt:
        """``processor`` for such batches; saved, it is plain again."""
        cutter = PictureCutter(**processor.image_processor.to_dict())
        once = cls(cutter, processor.tokenizer, processor.video_processor, chat_template=processor.chat_template)
        once._plain = processor
        return once

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        if images is None:
            return super().__call__(text=text, **kwargs)
        pictures: Any = make_flat_list_of_images(images)
        each = len(pictures) // len(text)
        if any(row.count(self.image_token) != each for row in text):  # prompts that show more than others: as ever
            return super().__call__(images, text, **kwargs)
        of_prompt = [pictures[i * each : (i + 1) * each] for i in range(len(text))]
        first, number = numbered([(*map(id, shown), row) for shown, row in zip(of_prompt, text, strict=True)])
        kept = [picture for i in first for picture in of_prompt[i]]
        once = super().__call__(kept, [text[i] for i in first], **kwargs)

        def copied(name: str, values: Any) -> Any:
            if isinstance(values, torch.Tensor) and name == "image_grid_thw":
                return values.reshape(-1, each, 3)[number].flatten(0, 1)
            return values[number] if isinstance(values, torch.Tensor) else [values[n] for n in number]

        rows = {name: copied(name, values) for name, values in once.items() if name != "pixel_values"}
        return BatchFeature({**rows, "pixel_values": once["pixel_values"], "picture": torch.tensor(number)})

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        return self._plain.save_pretrained(save_directory, push_to_hub, **kwargs)


def numbered(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """The first place of each distinct key, and of every key the number of the distinct one that it is."""
    number: dict[Hashable, int] = {}
    of_each = [number.setdefault(key, len(number)) for key in keys]
    return [of_each.index(n) for n in range(len(number))], of_each


def of_rows(pixels: torch.Tensor, grid: torch.Tensor, number: Sequence[int]) -> list[torch.Tensor]:
    """The patches of each of R rows, views of ``pixels``, which holds them once: those of prompt ``number[r]``.

    ``grid``: of the pictures of every row, (R n, 3) or (R, n, 3) for n pictures to a row, whose patches stay together.
    """
    first, number = numbered(number)
    pictures = torch.split(pixels, grid.reshape(len(number), -1, 3)[first].prod(-1).sum(-1).tolist())
    return [pictures[n] for n in number]


def take_bytes(visual: Any, cutter: PictureCutter) -> None:
    """Let a Qwen2.5-VL vision tower take pictures as ``cutter`` cuts them, too.

    It computes on its own device what Qwen2-VL's image processor would have sent there. On their way the bytes are
    cast to the tower's type, which holds all of them.
    """
    width = 3 * cutter.patch_size**2

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        patches = args[0] if args else kwargs["hidden_states"]
        if patches.shape[-1] != width:
            return None
        kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return (cutter.as_read(patches).to(patches.dtype), *args[1:]), kwargs

    visual.register_forward_pre_hook(before, with_kwargs=True)


def encode_each_picture_once(visual: Any) -> None:
    """Let a Qwen2.5-VL vision tower skip the pictures that are in its batch already.

    By hooks, so that the tower's own forward, its gradient checkpointing and whatever wraps the model see a smaller
    batch and nothing else.
    """
    merged_patches = visual.spatial_merge_size**2
    copies: list[torch.Tensor] = []  # of the call in progress: for each picture, which of the distinct ones it is
    sizes: list[list[int]] = []

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pixels, grid = (args[0] if args else kwargs["hidden_states"]), kwargs["grid_thw"]
        lengths = grid.prod(-1).tolist()
        pictures = torch.split(pixels, lengths)
        first, copy_of = distinct(pictures)
        copies.append(copy_of)
        sizes.append([lengths[i] // merged_patches for i in first])
        kept = torch.cat([pictures[i] for i in first])
        return (kept, *args[1:]), {**kwargs, "grid_thw": grid[first]}

    def after(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        encoded = torch.split(output.pooler_output, sizes.pop())
        output.pooler_output = torch.cat([encoded[i] for i in copies.pop().tolist()])
        return output

    visual.register_forward_pre_hook(before, with_kwargs=True)
    visual.register_forward_hook(after, with_kwargs=True)


def distinct(pictures: tuple[torch.Tensor, ...]) -> tuple[list[int], torch.Tensor]:
    """The first place of each distinct picture, and for every picture which of these it equals."""
    first: list[int] = []
    copy_of: list[int] = []
    by_sum: dict[tuple[int, float], list[int]] = {}  # candidates, to be compared in full
    sums = torch.stack([picture.sum() for picture in pictures]).tolist()
    for i, picture in enumerate(pictures):
        candidates = by_sum.setdefault((len(picture), sums[i]), [])
        match = next((n for n in candidates if torch.equal(pictures[first[n]], picture)), None)
        if match is None:
            match = len(first)
            first.append(i)
            candidates.append(match)
        copy_of.append(match)
    return first, torch.tensor(copy_of)


def read_each_prompt_once(model: Any, in_step: bool = False) -> None:
    """Let a Qwen2.5-VL's ``generate`` take :class:`OncePerPrompt`'s batches and read equal consecutive prompts once.

    Other batches go the usual way. ``in_step``: ranks share the weights, so all make as many passes as the one with the
    longest answer. transformers sees that for itself under ZeRO-3, not under accelerate's FSDP2.
    """
    plain = model.generate

    @functools.wraps(plain)
    def generate(*args: Any, picture: torch.Tensor | None = None, **inputs: Any) -> Any:
        if in_step:
            inputs["synced_gpus"] = True
        if picture is None:
            return plain(*args, **inputs)
        grid = inputs.pop("image_grid_thw")
        pictures = of_rows(inputs.pop("pixel_values"), grid, picture.tolist())
        copies = copies_in_a_row(inputs, picture)
        first = copies.cumsum(0) - copies
        grid = grid.reshape(len(picture), -1, 3)[first].flatten(0, 1)
        seen = {"pixel_values": torch.cat([pictures[i] for i in first]), "image_grid_thw": grid}
        if len(first) == len(picture):
            return plain(**inputs, **seen)
        # All but the last token, which generate takes up from the cache.
        once = {name: inputs[name][first, :-1] for name in PER_TOKEN}
        del inputs["mm_token_type_ids"]
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(**once, **seen, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(copies)  # type: ignore[arg-type]  # handed to torch, which takes several numbers
        model.model.rope_deltas = model.model.rope_deltas.repeat_interleave(copies, dim=0)
        return plain(**inputs, past_key_values=cache)

    model.generate = generate


def copies_in_a_row(inputs: dict[str, Any], picture: torch.Tensor) -> torch.Tensor:
    """How often each prompt with its picture comes in a row, in order."""
    rows = inputs["input_ids"]
    row = torch.cat([rows, inputs["attention_mask"], picture[:, None].to(rows)], dim=1)
    return torch.unique_consecutive(row, dim=0, return_counts=True)[1]

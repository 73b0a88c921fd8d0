"""A run's weights as a folder of their own: merged, with all that is needed to ask them."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig

from vqr1.answering.model import (
    Model,
    check_model,
    find_model,
    load_weights,
    prompt_text,
    usual_method,
    weights_of_run,
)
from vqr1.answering.settings import AnswerSettings, Method, conversation, objective_of
from vqr1.command_options import written
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError, file_trouble
from vqr1.evaluation.results import SETTINGS, Evaluation, read_evaluation
from vqr1.evaluation.scale import fit_scales
from vqr1.export.asking import levels_lines, transformers_lines
from vqr1.export.card import FILE, export_card, read_card
from vqr1.export.check import ask_without_vqr1, check_picture, check_reference
from vqr1.exported import Exported, write_exported
from vqr1.folder_writer import NEW, put_in_place, remove
from vqr1.policy.level_scores import level_scores
from vqr1.policy.load import files_hash, load_processor, resolve_dtype
from vqr1.policy.weight_files import check_folder
from vqr1.rollout.engine import stop_tokens, vision_tokens
from vqr1.rollout.offline import Policy, encode_prompts, text_tokens
from vqr1.rollout_settings import longest_sequence

ROUNDING = 2e-3  # of a score by levels in float32, which is computed in rows of their own and in one pass


@dataclass(frozen=True)
class Asked:
    """What ``vqr1 export`` was asked for."""

    run: str  # a run's folder, or one of its folders of weights
    folder: Path  # to be made
    prompt: str | None = None  # None: the run's
    dtype: str = "auto"  # of the weights that are written; auto: the run's
    max_tokens: int = 256
    results: Sequence[Path] = ()  # of vqr1 evaluate on the same weights, for the card
    mos_maps: Sequence[Path] = ()  # the same, on other pictures: what scores are read as MOS by
    check: bool = True  # ask the folder in a process without vqr1


@dataclass(frozen=True)
class Done:
    """What became of it."""

    bytes: int
    notes: list[str]  # what the user has to know
    answer: str | None  # of the process without vqr1; None where it was not asked


def export(asked: Asked) -> Done:
    """Write the folder, whole or not at all.

    Raises UserError for what is no run, a folder that holds something, results of other weights, a map to MOS that was
    fitted on pictures of the results, and where the folder, asked by transformers alone, does not answer as the weights
    do.
    """
    folder = asked.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; give a folder that is not, or remove it")
    weights = weights_of_run(asked.run)
    method = usual_method(asked.run) or Method.greedy
    model = find_model(AnswerSettings(model=asked.run, method=method, prompt=asked.prompt, dtype=asked.dtype))
    if model.objective not in (None, objective_of(method)):
        raise UserError(
            f"{asked.run} has learnt by objective={model.objective}, and an exported folder rates single pictures: its "
            "weights are in the run's folder, and vqr1 evaluate asks them there"
        )
    written("FOLDER", folder, lambda: folder.parent.mkdir(parents=True, exist_ok=True))
    notes = [warning] if (warning := check_model(model, method)) else []
    exported = _described(model, method, asked.max_tokens)
    evaluations = [_of_these_weights("--results", path, model, exported) for path in asked.results]
    maps = [_of_these_weights("--mos-map", path, model, exported) for path in asked.mos_maps]
    scales = fit_scales(maps, evaluations)
    exported = replace(exported, scales={name: scale.record() for name, scale in scales.items()})
    card = read_card(weights)
    if card is None:
        notes.append(f"warning: {weights} has no {FILE}, so the card says nothing of data and figures")

    processor = load_processor(model.policy)
    length = 0
    if method.draws:
        text = text_tokens(processor, exported.prompt, pictures=model.pictures)
        length = longest_sequence(text, exported.max_pixels, TOKEN_PIXELS, exported.max_tokens, model.pictures)
    readme = export_card(model.name, card, exported, length, evaluations, scales)
    loaded = load_weights(model)
    picture = check_picture(exported.min_pixels, exported.max_pixels)
    reference = check_reference(picture) if exported.reference else None
    shown = [picture] if reference is None else [reference, picture]
    expected = _answer(loaded, processor, exported, shown, method) if asked.check else None
    new = folder.with_name(folder.name + NEW)
    try:
        remove(new)
        new.mkdir()
        loaded.generation_config = generation_config(loaded.generation_config, processor, exported.max_tokens)
        loaded.save_pretrained(str(new))
        processor.save_pretrained(str(new))
        write_exported(new, exported)
        (new / FILE).write_text(readme, encoding="utf-8")
        check_folder(new)
        del loaded  # the process that asks loads them again
        gc.collect()
        torch.cuda.empty_cache()
        lines = levels_lines if method is Method.levels else transformers_lines
        answer = ask_without_vqr1(new, exported.prompt, picture, reference, lines) if asked.check else None
        if warning := difference(answer, expected, exported.dtype, method):
            notes.append(warning)
        put_in_place(folder)
    except UserError:
        raise
    except Exception as error:
        if (trouble := file_trouble(error, new)) is None:
            raise
        raise UserError(f"{trouble}; nothing is exported") from error
    finally:
        remove(new)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Done(size, notes, answer)


def _described(model: Model, method: Method, max_tokens: int) -> Exported:
    rule = model.seen.rule
    return Exported(
        objective=objective_of(method),
        prompt=prompt_text(method, model.prompt),
        min_pixels=model.policy.min_pixels,
        max_pixels=model.policy.max_pixels,
        max_tokens=max_tokens,
        dtype=str(resolve_dtype(model.policy.dtype)).removeprefix("torch."),
        trained_on=model.trained_on,
        split_ratio=list(rule.ratio),
        split_seed=rule.seed,
        splits=dict(model.seen.hashes),
        reference=model.reference,
    )


def _of_these_weights(option: str, path: Path, model: Model, exported: Exported) -> Evaluation:
    """The results in ``path``, which ``option`` names.

    Raises UserError unless they are of these weights, asked this prompt.
    """
    evaluation = read_evaluation(path)
    here = {"weights_sha256": files_hash(model.files()), "prompt": exported.prompt, "reference": exported.reference}
    for name, value in here.items():
        found = evaluation.settings.get(name, False if name == "reference" else None)
        if found != value:
            raise UserError(
                f"{option} {path}: {name} in its {SETTINGS} is {found}, and that of the exported weights is {value}; "
                "evaluate these weights, or leave it out"
            )
    return evaluation


def difference(answer: str | None, expected: str | None, dtype: str, method: Method = Method.greedy) -> str | None:
    """What to warn of where the folder's answer, or its score by levels, is not that of the run's weights.

    Raises UserError in float32, where both compute the same; half precision may round two near tokens either way.
    """
    if answer == expected:
        return None
    if method is Method.levels and answer and expected and abs(float(answer) - float(expected)) < ROUNDING:
        return None
    told = f"asked by transformers alone the folder answers {answer!r}, and the run's weights answer {expected!r}"
    if dtype == "float32":
        raise UserError(f"{told}: it is not the same model, and nothing is exported")
    return f"warning: {told}; in {dtype} two tokens that are nearly as likely may change places"


def generation_config(own: Any, processor: Any, max_tokens: int) -> GenerationConfig:
    """One greedy answer, ended and kept from vision tokens as vqr1 does it.

    Of the model's ``own`` settings its special tokens are kept alone: Qwen's have a repetition penalty and a
    temperature, under which nothing was trained.
    """
    tokenizer = processor.tokenizer
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=list(stop_tokens(own, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=own.bos_token_id,
        suppress_tokens=list(vision_tokens(tokenizer)),
    )


def _answer(loaded: Any, processor: Any, exported: Exported, shown: Sequence[Image.Image], method: Method) -> str:
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    example = {"prompt": conversation(method, exported.prompt), "images": shown}
    if method is Method.levels:
        inputs = encode_prompts(processor, [example]).to(loaded.device)
        return f"{level_scores(loaded.eval(), processor.tokenizer, inputs).score.item():.4f}"
    policy = Policy(loaded, processor, max_tokens=exported.max_tokens, temperature=0.0)
    (answer,) = policy.answer([example])
    return answer

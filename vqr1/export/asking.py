"""How an exported folder is asked without vqr1: the lines that its card shows.

Those for transformers are also what :mod:`vqr1.export.check` runs.
"""

from __future__ import annotations

from vqr1.levels import LEVELS, OPENING

FOLDER, PHOTO, ORIGINAL = '"FOLDER"', '"photo.jpg"', '"original.jpg"'  # as the lines write them

_BEGIN = """\
import torch
from PIL import Image, ImageOps
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

folder = {folder}
device = "cuda" if torch.cuda.is_available() else "cpu"
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto").to(device).eval()
processor = AutoProcessor.from_pretrained(folder)
prompt = {prompt!r}
picture = ImageOps.exif_transpose(Image.open({photo})).convert("RGB"){first}
message = {{"role": "user", "content": [{{"type": "image", "image": picture}}, {{"type": "text", "text": prompt}}]}}
inputs = processor.apply_chat_template(
    [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
).to(device)
"""

_ANSWER = """\
tokens = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
answer = processor.decode(tokens, skip_special_tokens=True)
"""

_WITH_REFERENCE = """
reference = ImageOps.exif_transpose(Image.open({original})).convert("RGB")"""

# A plain number from 1 to 5 alone between the tags, as vqr1.answer reads it.
_READ = r"""score = re.search(r"<answer>\s*([1-4](\.[0-9]+)?|5(\.0+)?)\s*</answer>", answer)
print(answer, float(score[1]) if score else "no score", sep="\n")
"""

# The score of levels: the words' probabilities, each a product over its tokens, among the five alone.
_LEVELS = """\
tokenizer = processor.tokenizer
begin = tokenizer.encode({opening!r}, add_special_tokens=False)
log_p = []
for word in {words!r}:
    told = begin + tokenizer.encode(" " + word, add_special_tokens=False)
    row = {{**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([told], device=device)], 1)}}
    row["attention_mask"] = torch.ones_like(row["input_ids"])
    row["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(told)))
    with torch.no_grad():
        logits = model(**row).logits[0, -len(told) - 1 : -1].float().log_softmax(-1)
    log_p.append(logits.gather(1, torch.tensor(told, device=device)[:, None])[len(begin) :].sum())
probabilities = torch.stack(log_p).softmax(0)
score = float(probabilities @ torch.arange(1.0, 6.0, device=device))
answer = f"{{score:.4f}}"
print(answer, probabilities.tolist(), sep="\\n")
"""

_SERVER = (
    "vllm serve FOLDER --dtype {dtype} --max-model-len {length} "
    """--limit-mm-per-prompt '{{"image": {pictures}, "video": 0}}'"""
)

_CLIENT = """\
import base64
import re
from pathlib import Path

from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
prompt = {prompt!r}
photo = base64.b64encode(Path({photo}).read_bytes()).decode()
picture = {{"type": "image_url", "image_url": {{"url": f"data:image/jpeg;base64,{{photo}}"}}}}{first}
reply = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{{"role": "user", "content": [picture, {{"type": "text", "text": prompt}}]}}],
    temperature=0,
    max_tokens={max_tokens},
)
answer = reply.choices[0].message.content
"""

_CLIENT_WITH_REFERENCE = """
original = base64.b64encode(Path({original}).read_bytes()).decode()
reference = {{"type": "image_url", "image_url": {{"url": f"data:image/jpeg;base64,{{original}}"}}}}"""


def transformers_lines(prompt: str, folder: str = FOLDER, photo: str = PHOTO, original: str | None = None) -> str:
    """Python that asks for one greedy answer and reads its score.

    ``folder``, ``photo`` and the picture's reference ``original``, if one is shown, are Python expressions.
    """
    first = "" if original is None else _WITH_REFERENCE.format(original=original)
    begin = _BEGIN.format(prompt=prompt, folder=folder, photo=photo, first=first)
    if original is not None:
        alone, text = '[{"type": "image", "image": picture}, ', '{"type": "text", "text": prompt}]}'
        both = '[{"type": "image", "image": each} for each in (reference, picture)]'
        begin = begin.replace(f"{alone}{text}", f'{both}}}\nmessage["content"].append({text[:-2]})')
    return "import re\n\n" + begin + _ANSWER + _READ


def levels_lines(prompt: str, folder: str = FOLDER, photo: str = PHOTO) -> str:
    """Python that reads the score, 1 to 5, of the five levels' words, as :func:`transformers_lines` asks for one."""
    begin = _BEGIN.format(prompt=prompt, folder=folder, photo=photo, first="")
    return begin + _LEVELS.format(opening=OPENING, words=list(LEVELS))


def server_line(length: int, dtype: str, pictures: int = 1) -> str:
    """The shell command that starts vLLM's server. ``length``: tokens of the longest prompt and answer.

    ``dtype`` is that of the weights: vLLM by itself computes in half precision where they are float32.
    """
    return _SERVER.format(length=length, dtype=dtype, pictures=pictures)


def client_lines(prompt: str, max_tokens: int, reference: bool = False) -> str:
    """Python that asks that server for one greedy answer and reads its score. ``reference``: it is shown one."""
    first = _CLIENT_WITH_REFERENCE.format(original=ORIGINAL) if reference else ""
    lines = _CLIENT.format(prompt=prompt, photo=PHOTO, max_tokens=max_tokens, first=first)
    return (lines.replace("[picture, ", "[reference, picture, ") if reference else lines) + _READ

"""The card of an exported folder: the run's, with how to ask in place of how to load."""

import re
from dataclasses import replace

import pytest

from tests.support.results import rows_of, write_results
from vqr1.answer import read_score
from vqr1.errors import UserError
from vqr1.evaluation.mos_map import MosMap
from vqr1.evaluation.results import make_row, read_evaluation
from vqr1.evaluation.scale import Scale
from vqr1.export.asking import client_lines, transformers_lines
from vqr1.export.card import export_card, read_card
from vqr1.exported import Exported

EXPORTED = Exported("Rate in <answer> tags.", 3136, 50176, 64, "bfloat16", ["five"], [6.0, 2.0, 2.0], 7, {})
CARD = """---
base_model: owner/base
library_name: peft
tags: [vqr1, lora]
datasets: [five]
---

# mine, step 6

X (LoRA adapters, to be laid on the base model).

## Trained on

| five | 31 |

## Load

with PeftModel

## My own notes

Kept.

## Limits

- Few.
"""


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_sections_of_the_run_are_kept_but_for_how_to_load():
    text = export_card("mine", CARD, EXPORTED, 500)
    found = sections(text)
    assert list(found) == ["Ask", "Trained on", "My own notes", "Limits", "Licence"]
    assert found["Trained on"] == "\n| five | 31 |\n\n" and found["My own notes"].strip() == "Kept."
    assert "PeftModel" not in text and "X (LoRA adapters, merged into the base model)." in text
    assert "`owner/base`" in found["Licence"] and "of five" in found["Licence"]
    assert "--dtype bfloat16 --max-model-len 500 " in found["Ask"] and "max_tokens=64" in found["Ask"]


def test_evaluations_are_a_table_with_intervals(tmp_path):
    rows = rows_of("bid", 40, noise=0.5)
    rows[3] = make_row(rows[3].image_id, "bid", rows[3].group, rows[3].mos, [None, None, None], "so")
    write_results(tmp_path / "r", {"bid": rows})
    write_results(tmp_path / "g", {"own": [make_row(f"own/{i}", "own", f"{i}", i, [3.0], "") for i in range(4)]}, k=1,
                  temperature=0.0)  # fmt: skip
    found = sections(export_card("mine", CARD, EXPORTED, 500, [read_evaluation(tmp_path / each) for each in "rg"]))
    assert list(found)[-3:] == ["Measured by vqr1 evaluate", "Limits", "Licence"]
    *_, bid, own = found["Measured by vqr1 evaluate"].strip().splitlines()
    number = r"0\.\d{3}"
    assert re.fullmatch(rf"\| bid \| all \| mean of 3 \|( {number} \| {number} to {number} \|){{2}} 1 \| 40 \|", bid)
    assert own == "| own | all | greedy | - | - | - | - | 0 | 4 |"  # one score for all: nothing to correlate


def test_scales_are_a_table_a_formula_and_a_command(tmp_path):
    """The table by hand: 10 + 80 / (1 + exp(-(x - 3) / 0.5)); errors of 2 on what it has not seen."""
    rows = [make_row(f"{i}", "own", f"{i}", 50 + 2 * (-1) ** i, [3.0, 3.0], "") for i in range(4)]
    write_results(tmp_path / "r", {"own": rows}, k=2)
    write_results(tmp_path / "g", {"own": rows}, k=1, temperature=0.0)  # in another way: not what the curve is for
    scale = Scale(MosMap("own", 10.0, 90.0, 3.0, 0.5, 200, 1.5, 4.5, 4.0), "validation split", "mean of 2", True)
    results = [read_evaluation(tmp_path / each) for each in "rg"]
    found = sections(export_card("mine", CARD, EXPORTED, 500, results, {"own": scale}))["Scores as MOS"]
    assert "| MOS of own | 11.4 | 13.8 | 19.5 | 31.5 | 50 | 68.5 | 80.5 | 86.2 | 88.6 |" in found
    assert "MOS of own = 10 + 80 / (1 + exp(-(score - 3) / 0.5)), fitted on 200 pictures" in found
    assert "pictures of its validation split, scores of the method mean of 2" in found
    assert found.count("has not seen") == 1 and "on 4 pictures that it has not seen the RMSE is 2." in found
    assert "pseudo-labels" in found
    assert "    vqr1 rate photo.jpg --model FOLDER --method mean -k 2 --scale own" in found
    greedy = {"own": replace(scale, answers="greedy", pseudo_labels=False)}
    found = sections(export_card("mine", CARD, EXPORTED, 500, [], greedy))["Scores as MOS"]
    assert "    vqr1 rate photo.jpg --model FOLDER --scale own" in found and "pseudo" not in found


@pytest.mark.parametrize("number", ["1", "3.25", "5.0", "5.1", "0.9", "3.", "4/5", "05", " 3.5 "])
def test_the_cards_lines_read_a_score_as_vqr1_does(number, capsys):
    answer = f"<think>so</think> <answer>{number}</answer>"
    lines = transformers_lines("p").splitlines()
    exec("\n".join(["import re", f"answer = {answer!r}", *lines[-2:]]), {})
    *_, said = capsys.readouterr().out.splitlines()
    assert said == str(read_score(answer) or "no score")
    assert client_lines("p", 9).splitlines()[-2:] == lines[-2:]


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ("a: [", ": not YAML"),
        ("- a", " holds no settings by name"),
        ("x: 2001-99-99", ": not YAML"),
        ("x: " + 3000 * "[", ", line 2: brackets within brackets"),
        ("x: 0x" + 4000 * "f", ", line 2: a whole number of more than 64 bits"),
        ("a: &a [1]\nbase_model: [*a, *a]", ", line 3: an alias"),
        ("tags: 5", ": tags is '5' and no list"),
        ("tags: lora", ": tags is 'lora' and no list"),
        ("datasets: 5", ": datasets is '5' and no list"),
    ],
)
def test_broken_front_matter_is_refused(front, why):
    with pytest.raises(UserError, match=f"front matter of the run's README.md{why}.*; mend or remove it"):
        export_card("mine", f"---\n{front}\n---\n# mine\n", EXPORTED, 500)


@pytest.mark.parametrize("front", ["", "tags:\n", "datasets:\n"])
def test_front_matter_may_be_empty(front):
    assert "library_name: transformers" in export_card("mine", f"---\n{front}---\n# mine\n", EXPORTED, 500)


def test_a_card_in_latin_1_is_named(tmp_path):
    (tmp_path / "README.md").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"README.md cannot be read \(.*\); write it in UTF-8 or remove it"):
        read_card(tmp_path)


def test_without_a_card_it_says_so():
    text = export_card("mine", None, EXPORTED, 500)
    assert "Its run left no card" in text and list(sections(text)) == ["Ask", "Licence"]

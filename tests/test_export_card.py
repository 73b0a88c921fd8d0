"""The card of an exported folder: the run's, with how to ask in place of how to load."""

import re

import pytest

from tests.support.results import rows_of, write_results
from vqr1.errors import UserError
from vqr1.evaluation.results import make_row, read_evaluation
from vqr1.export.card import export_card
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
    assert re.fullmatch(rf"\| bid \| all \| 3 \|( {number} \| {number} to {number} \|){{2}} 1 \| 40 \|", bid)
    assert own == "| own | all | 1, greedy | - | - | - | - | 0 | 4 |"  # one score for all: nothing to correlate


@pytest.mark.parametrize(("front", "why"), [("a: [", "is not YAML"), ("- a", "has no settings by name")])
def test_broken_front_matter_is_refused(front, why):
    with pytest.raises(UserError, match=f"front matter of the run's README.md {why}"):
        export_card("mine", f"---\n{front}\n---\n# mine\n", EXPORTED, 500)


def test_without_a_card_it_says_so():
    text = export_card("mine", None, EXPORTED, 500)
    assert "Its run left no card" in text and list(sections(text)) == ["Ask", "Licence"]

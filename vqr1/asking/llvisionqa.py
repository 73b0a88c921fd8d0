"""LLVisionQA, the questions of Q-Bench (arXiv 2309.14181): one picture each.

Rows {img_path, question, candidates, correct_ans, type, concern}; the test part has no correct_ans.
"""

from __future__ import annotations

from vqr1.asking.choice_question import ChoiceQuestion, checked, right_option
from vqr1.asking.rows import Pictures, Row


def fits(row: Row) -> bool:
    return {"candidates", "img_path"} <= set(row.fields) and not isinstance(row.fields["img_path"], list)


def read(row: Row, pictures: Pictures) -> ChoiceQuestion:
    """Raises UserError, naming file and row."""
    options = row.texts("candidates")
    picture = pictures.find(row, "img_path", row.fields["img_path"])
    right = right_option(row, "correct_ans", options)
    return checked(row, [picture], row.text("question"), options, right, ("type", "concern"))

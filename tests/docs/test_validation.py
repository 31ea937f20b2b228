"""The validation table: as its script writes it, with the error of each row and a reason for the large ones."""

from __future__ import annotations

from pathlib import Path

import validation

ROOT = Path(__file__).parent.parent.parent


def test_the_page_holds_what_the_script_writes() -> None:
    rows = validation.all_rows()
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    assert validation.written(page, validation.table(rows)) == page, "run benchmarks/validation.py --write"
    assert validation.unexplained(rows) == []
    assert {row.chip for row in rows} == {"yao2020", "hermes", "neurram", "isaac"}
    assert all(row.source for row in rows)


def test_what_was_measured_is_on_the_page_that_is_named() -> None:
    """A run that is measured anew is told on its page first."""
    page = " ".join((ROOT / "docs" / "hybrid_training.md").read_text(encoding="utf-8").split())
    assert f"the mean loss over 40 chips on all 10,000 test images is {validation.LOST_POINTS} points" in page
    assert f"({validation.TUNED} % +- 0.34 % tuned, {validation.AGED} % +- 1.36 % two hours later" in page
    assert f"the float network reaches {validation.FLOAT} %" in page
    assert f"{validation.WON_BACK_WITH_REPLICAS} % of the loss is won back" in page


def test_a_row_far_off_needs_a_reason() -> None:
    near = validation.Row("a", "b", 10.0, 10.9, "x", "there")
    far, none = (validation.Row("a", "b", 10.0, ours, "x", "there") for ours in (11.1, None))
    told = validation.Row("a", "b", 10.0, 5.0, "x", "there", "half of it is missing")
    assert validation.unexplained([near, far, none, told]) == [far, none]
    assert near.cells()[4] == "+9.0%"
    assert none.cells()[3:5] == ("no data", "")
    assert told.cells()[4:6] == ("-50.0%", "half of it is missing")

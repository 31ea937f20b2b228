"""Accuracy in words, tables and JSON: the float network, the quantised one, and emulated chips as they differ."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from memcompile.figures import PLUS_MINUS
from memcompile.report.acceptance import CONFIDENCE, Acceptance
from memcompile.report.emulated_chips import spread
from memcompile.report.evaluation import Accuracy, TunedAccuracy

Facts = dict[str, Any]
LOW_QUANTILE = 0.05


def accuracy_facts(accuracy: Accuracy) -> Facts:
    """Facts with the keys that docs/json.md documents."""
    return {
        "float": accuracy.reference,
        "ideal": accuracy.ideal,
        "ideal_emulated": accuracy.ideal_emulated,
        **{f"transferred_{name}": value for name, value in chip_facts(accuracy.transferred).items()},
        **{f"emulated_{name}": value for name, value in chip_facts(accuracy.emulated).items()},
        "transferred": accuracy.transferred.tolist(),
        "emulated": accuracy.emulated.tolist(),
        "images": accuracy.images,
        "emulated_images": accuracy.emulated_images,
        "seeds": accuracy.seeds,
        "calibration": asdict(accuracy.calibration),
        "acceptance": _acceptance_facts(accuracy.acceptance),
        "tuned": None if accuracy.tuned is None else _tuned_facts(accuracy.tuned, accuracy.least),
    }


def chip_facts(shares: NDArray[np.float64]) -> Facts:
    """Mean, standard deviation, least and low quantile over chips, [chips]."""
    return {
        "mean": float(shares.mean()),
        "std": spread(shares),
        "worst": float(shares.min()),
        "quantile_5": float(np.quantile(shares, LOW_QUANTILE)),
    }


def _tuned_facts(tuned: TunedAccuracy, least: float | None) -> Facts:
    return {
        **chip_facts(tuned.chips),
        "chips": tuned.chips.tolist(),
        "training_data": tuned.training_data,
        "training_images": tuned.training_images,
        "acceptance": None if least is None else _acceptance_facts(Acceptance.of(tuned.chips, least)),
    }


def _acceptance_facts(acceptance: Acceptance | None) -> Facts | None:
    if acceptance is None:
        return None
    return {
        "least": acceptance.least,
        "reached": acceptance.reached,
        "chips": acceptance.chips,
        "share": acceptance.share,
        "interval": list(acceptance.interval),
        "confidence": CONFIDENCE,
    }


def accuracy_table(facts: Facts) -> Table:
    """One row for each stage that the network goes through."""
    accuracy = facts["accuracy"]
    table = Table(title=f"accuracy on {facts['data']}", title_justify="left", header_style="bold")
    for heading in ("network", "accuracy", "worst chip", "5 % quantile", "images"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    table.add_row("float (onnxruntime)", f"{accuracy['float']:.2%}", "", "", f"{accuracy['images']:,}")
    table.add_row("quantised, ideal devices", f"{accuracy['ideal']:.2%}", "", "", f"{accuracy['images']:,}")
    for words, row in _chip_rows(accuracy):
        table.add_row(words, *chip_words(row, accuracy["seeds"]), f"{accuracy['emulated_images']:,}")
    return table


def _chip_rows(accuracy: Facts) -> list[tuple[str, Facts]]:
    """Words and figures of each row that holds emulated chips."""
    chips = f"{accuracy['seeds']} chip{'s' * (accuracy['seeds'] != 1)}"
    names = ("mean", "std", "worst", "quantile_5")
    rows = [(f"transferred to {chips}", {name: accuracy[f"transferred_{name}"] for name in names})]
    if accuracy["calibration"]["chips"]:
        rows.append(("calibrated, without labels", {name: accuracy[f"emulated_{name}"] for name in names}))
    if accuracy["tuned"]:
        rows.append(("tuned (hybrid training)", accuracy["tuned"]))
    return rows


def chip_words(row: Facts, chips: int) -> tuple[str, str, str]:
    """Mean with the spread of several chips, worst chip, and low quantile."""
    spread_words = f"{PLUS_MINUS}{row['std']:.2%}" if chips > 1 else ""
    return f"{row['mean']:.2%}{spread_words}", f"{row['worst']:.2%}", f"{row['quantile_5']:.2%}"


def accuracy_lines(accuracy: Facts) -> list[Text]:
    """Lines below the table: chips that are accepted, calibration where not every chip gained by it, training."""
    lines = []
    tuned = accuracy["tuned"]
    if tuned:
        lines.append(f"each chip was tuned on {tuned['training_images']:,} images of {tuned['training_data']}")
    for words, found in (("calibrated", accuracy["acceptance"]), ("tuned", (tuned or {}).get("acceptance"))):
        if found is not None:
            acceptance = Acceptance(found["least"], found["reached"], found["chips"])
            lines.append(f"{f'{words}, ' if tuned else ''}{acceptance.line()}")
    calibration = accuracy["calibration"]
    if calibration["obstacle"]:
        lines.append(f"chips are not calibrated: {calibration['obstacle']}")
    elif calibration["chips"] != accuracy["seeds"]:
        lines.append(
            f"calibration on {calibration['images']} images helped {calibration['chips']} of {accuracy['seeds']} chips"
        )
    return [Text(line) for line in lines]

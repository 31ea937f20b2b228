"""The error budget in words, tables and JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from memcompile.accuracy.error_budget import ErrorBudget
from memcompile.figures import PLUS_MINUS, points

Facts = dict[str, Any]

LEAST_POINTS = 0.05
"""Points below which a cause is not listed by name."""
MAIN_SHARE = 0.5
"""Share of the noise at the output from which on one layer is named."""


def budget_facts(budget: ErrorBudget) -> Facts:
    """Facts with the keys that docs/json.md documents."""
    return {
        "measure": budget.measure,
        "calibrated": budget.calibrated,
        "predicted_loss": budget.loss,
        "uncertainty": budget.uncertainty,
        "chip_spread": budget.chip_spread,
        "output_noise_ratio": budget.noise,
        "images": budget.images,
        "causes": [
            {"cause": str(item.cause), "alone": item.alone, "left_out": item.left_out} for item in budget.causes
        ],
        "layers": [
            {
                "name": item.name,
                "noise_ratio": item.ratio,
                "sensitivity": item.sensitivity,
                "alone": item.alone,
                "main_cause": None if item.main_cause is None else str(item.main_cause),
            }
            for item in budget.layers
        ],
    }


def budget_lines(facts: Facts) -> list[Text | Table]:
    """Prediction beside what chips were emulated to lose, the causes, and the layer that most of it is in."""
    budget, accuracy = facts["error_budget"], facts["accuracy"]
    emulated = 100 * (accuracy["ideal_emulated"] - accuracy["emulated_mean"])
    chips = f"{accuracy['seeds']} chip{'s' * (accuracy['seeds'] != 1)}"
    predicted = f"{points(budget['predicted_loss'])}{PLUS_MINUS}{budget['uncertainty']:.1f}"
    words = f"loss on noisy devices: predicted {predicted} points, emulated {points(emulated)} on {chips}"
    lines: list[Text | Table] = [Text(words)]
    shown = [item for item in budget["causes"] if max(item["alone"], item["left_out"]) >= LEAST_POINTS]
    if shown:
        table = Table(title="error budget", title_justify="left", header_style="bold")
        table.add_column("cause")
        for heading in ("points alone", "points won without it"):
            table.add_column(heading, justify="right")
        for item in sorted(shown, key=lambda item: -item["left_out"]):
            table.add_row(item["cause"], f"{item['alone']:.1f}", f"{item['left_out']:.1f}")
        lines.append(table)
    lines.append(Text(_sentence(facts)))
    return lines


def _sentence(facts: Facts) -> str:
    budget = facts["error_budget"]
    largest = sorted(budget["causes"], key=lambda item: -item["left_out"])
    named = [f"{item['cause']} {item['alone']:.1f}" for item in largest[:3] if item["alone"] >= LEAST_POINTS]
    if not named:
        return "no device effect alone costs a tenth of a point"
    words = ", ".join(named)
    of_output = {item["name"]: item["noise_ratio"] * item["sensitivity"] for item in budget["layers"]}
    whole = sum(of_output.values())
    main = max(of_output, key=lambda name: of_output[name])
    if len(of_output) == 1 or of_output[main] < MAIN_SHARE * whole:
        return f"{words[0].upper()}{words[1:]} points"
    windows = next(layer["parallel_windows"] for layer in facts["layers"] if layer["name"] == main)
    parallel = " (parallel windows)" if any(size > 1 for window in windows for size in window) else ""
    return f"{words[0].upper()}{words[1:]} points; most of it in {main}{parallel}"


def layer_budget_table(facts: Facts) -> Table | None:
    """Ratio, sensitivity and loss of each layer; None without a budget."""
    budget = facts["error_budget"]
    if budget is None:
        return None
    table = Table(title="noise of layers", title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    for heading in ("noise to signal", "sensitivity", "points alone"):
        table.add_column(heading, justify="right")
    table.add_column("most of it")
    for item in budget["layers"]:
        table.add_row(
            item["name"],
            f"{item['noise_ratio']:.4f}",
            f"{item['sensitivity']:.2f}",
            f"{item['alone']:.1f}",
            item["main_cause"] or "",
        )
    return table

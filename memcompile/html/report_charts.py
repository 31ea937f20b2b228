"""Charts of the report of one program, made of its facts alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memcompile.html.charts import Chart, plain
from memcompile.pictures import COLOURS, colour_of
from memcompile.report.lifetime import age_text
from memcompile.short_names import short_names

Facts = dict[str, Any]
AXIS_LETTERS = 28
MOST_BARS = 40
"""Layers that a chart shows one by one."""
DIGITAL = ("addition", "buffer", "link", "crossing", "shift_and_add")
"""Components of the energy that are digital."""
CONVERTER = ("conversion", "sample_and_hold")


def report_charts(facts: Facts) -> list[Chart | None]:
    """All charts of the report; None for those whose data are not there."""
    makers = (accuracy_chart, causes_chart, layers_chart, noise_chart, energy_chart, age_chart)
    return [make(facts) for make in makers]


def accuracy_chart(facts: Facts) -> Chart | None:
    """Accuracy of each chip, as written, calibrated and tuned, with lines for the float and the ideal network."""
    accuracy = facts["accuracy"]
    if accuracy is None:
        return None
    groups = [("transferred", accuracy["transferred"])]
    if accuracy["calibration"]["chips"]:
        groups.append(("calibrated", accuracy["emulated"]))
    if accuracy["tuned"]:
        groups.append(("tuned", accuracy["tuned"]["chips"]))
    traces: list[Facts] = [
        {
            "type": "box",
            "name": name,
            "y": [100 * share for share in shares],
            "boxpoints": "all",
            "jitter": 0.4,
            "pointpos": 0,
            "marker": {"color": colour_of(number), "size": 8},
            "line": {"width": 1},
            "hovertemplate": "%{y:.2f} %<extra>" + name + "</extra>",
            "showlegend": False,
        }
        for number, (name, shares) in enumerate(groups)
    ]
    lines = (("float", accuracy["float"], "dot", "top"), ("ideal devices", accuracy["ideal"], "dash", "bottom"))
    names = ", ".join(name for name, _ in groups)
    words = f"Accuracy of {accuracy['seeds']} emulated chips, {names}, beside the float and the ideal network"
    layout = {
        "yaxis": {"title": {"text": "right answers, %"}, "tickformat": ".1f"},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 100 * share,
                "y1": 100 * share,
                "line": {"dash": dash, "color": "var(--soft)", "width": 1.5},
            }
            for _, share, dash, _ in lines
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 1 if place == "top" else 0,
                "y": 100 * share,
                "text": name,
                "showarrow": False,
                "xanchor": "right" if place == "top" else "left",
                "yanchor": "bottom" if place == "top" else "top",
            }
            for name, share, _, place in lines
        ],
    }
    # Shapes do not widen an axis.
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [groups[0][0]] * 2,
            "y": [100 * share for _, share, _, _ in lines],
            "opacity": 0,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    return Chart("accuracy", "Right answers of each emulated chip", words, traces, layout)


def causes_chart(facts: Facts) -> Chart | None:
    """Points that each cause costs alone, and that leaving it out would win."""
    budget = facts["error_budget"]
    if budget is None or not budget["causes"]:
        return None
    causes = sorted(budget["causes"], key=lambda item: item["left_out"])
    names = [plain(item["cause"]) for item in causes]
    traces = [
        _bars(names, [item[key] for item in causes], name, COLOURS[number], "%{x:.2f} points")
        for number, (key, name) in enumerate((("alone", "costs alone"), ("left_out", "won without it")))
    ]
    words = "Bars of the points of accuracy that each cause of noise costs; the table has the same numbers"
    layout = {"barmode": "group", "xaxis": {"title": {"text": "points of accuracy"}}}
    return Chart("causes", "Loss by cause", words, traces, layout, height=max(200, 90 + 46 * len(causes)))


def layers_chart(facts: Facts) -> Chart | None:
    """Points that each layer costs if only it were noisy."""
    budget = facts["error_budget"]
    if budget is None or not budget["layers"]:
        return None
    ranked = sorted(budget["layers"], key=lambda item: item["alone"])[-MOST_BARS:]
    names = _names(ranked)
    causes = [plain(item["main_cause"] or "nothing") for item in ranked]
    trace = _bars(
        names, [item["alone"] for item in ranked], "costs alone", COLOURS[0], "%{x:.2f} points<br>%{customdata}"
    )
    trace["customdata"] = causes
    words = "Bars of the points of accuracy that each layer costs alone; the table has the same numbers"
    layout = {"xaxis": {"title": {"text": "points of accuracy"}}, "showlegend": False}
    return Chart(
        "layers", "Loss by layer, if only it were noisy", words, [trace], layout, max(200, 90 + 22 * len(ranked))
    )


def noise_chart(facts: Facts) -> Chart | None:
    """Signal to noise along the network."""
    layers, names = facts["layers"], _names(facts["layers"])
    ideal = [layer["sqnr_db"] for layer in layers]
    traces = []
    if any(value is not None for value in ideal):
        traces.append(_line(names, ideal, "ideal devices", COLOURS[0]))
        chips = (facts["emulated_quality"] or {}).get("layer_sqnr_db", {})
        means = [(chips.get(layer["name"]) or {}).get("mean") for layer in layers]
        if any(value is not None for value in means):
            traces.append(_line(names, means, "emulated chips", COLOURS[1]))
    elif facts["error_budget"] is not None:
        found = {item["name"]: item["noise_ratio"] for item in facts["error_budget"]["layers"]}
        ratios = [found.get(layer["name"]) for layer in layers]
        values = [-10 * math.log10(ratio) if ratio else None for ratio in ratios]
        traces.append(_line(names, values, "predicted for noisy chips", COLOURS[1]))
    if not traces or len(layers) < 2:
        return None
    words = "Signal-to-noise ratio of the output of each crossbar layer, in execution order"
    layout = {
        "yaxis": {"title": {"text": "signal to noise, dB"}},
        "xaxis": {"showticklabels": len(layers) <= MOST_BARS, "type": "category"},
    }
    return Chart("noise", "Signal to noise along the network", words, traces, layout)


def energy_chart(facts: Facts) -> Chart | None:
    """Energy of an image by part, component and layer, as a treemap."""
    cost = facts["cost"]
    if not cost["energy_pj"]:
        return None
    boxes = [_Box("all", "", "an image", None, 0)]
    components = {name: value for name, value in cost["energy_pj_by_component"].items() if value}
    for number, part in enumerate(dict.fromkeys(map(_part, components))):
        boxes.append(_Box(part, "all", part, None, number))
        for name in components:
            if _part(name) == part:
                boxes += _component_boxes(cost, name, part, number)
    trace = {
        "type": "treemap",
        "ids": [box.name for box in boxes],
        "labels": [plain(box.label) for box in boxes],
        "parents": [box.parent for box in boxes],
        # Boxes with others in them count what these hold.
        "branchvalues": "remainder",
        "values": [(box.energy_pj or 0.0) * 1e-12 for box in boxes],
        "marker": {
            "colors": ["var(--empty)", *(colour_of(box.number) for box in boxes[1:])],
            "line": {"width": 1, "color": "var(--ground)"},
        },
        "texttemplate": "%{label}<br>%{percentRoot:.1%}",
        "hovertemplate": "%{label}<br>%{percentRoot:.2%} of an image<extra></extra>",
        "maxdepth": 3,
    }
    words = "Treemap of the energy of an image by converter, array and digital part, component and layer"
    layout = {"margin": {"l": 0, "r": 0, "t": 28, "b": 0}}
    return Chart("energy", "Energy of an image; select a box to look into it", words, [trace], layout, height=400)


@dataclass(frozen=True)
class _Box:
    """A box of the treemap, in the box named ``parent``; without an energy it is as large as what it holds."""

    name: str
    parent: str
    label: str
    energy_pj: float | None
    number: int


def _component_boxes(cost: Facts, component: str, part: str, number: int) -> list[_Box]:
    """A component of the energy with the layers that take most of it."""
    by_layer = [(layer["energy_pj_by_component"] or {}).get(component, 0.0) for layer in cost["layers"]]
    largest = sorted(range(len(by_layer)), key=lambda place: -by_layer[place])[:MOST_BARS]
    names = [layer["name"] for layer in cost["layers"]]
    boxes = [_Box(f"{component}/", part, component.replace("_", " "), None, number)]
    boxes += [
        _Box(f"{component}/{place}", f"{component}/", names[place], by_layer[place], number)
        for place in largest
        if by_layer[place]
    ]
    # Writing and values between chips belong to no layer.
    rest_pj = cost["energy_pj_by_component"][component] - sum(by_layer[place] for place in largest)
    if rest_pj > 1e-6 * cost["energy_pj"]:
        boxes.append(_Box(f"{component}/rest", f"{component}/", "all else", rest_pj, number))
    return boxes


def age_chart(facts: Facts) -> Chart | None:
    """Accuracy against age, where chips were followed."""
    life = facts.get("life")
    if not life:
        return None
    series = [("without refresh", life["ages"])]
    if life["refresh"]:
        series.append(("just before each refresh", life["refresh"]["ages"]))
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [age["age_s"] for age in ages],
            "y": [100 * age["mean"] for age in ages],
            "error_y": {"type": "data", "array": [100 * age["spread"] for age in ages]},
            "customdata": [age_text(age["age_s"]) for age in ages],
            "line": {"color": colour_of(number)},
            "hovertemplate": "%{customdata}: %{y:.2f} %<extra></extra>",
        }
        for number, (name, ages) in enumerate(series)
    ]
    words = f"Mean accuracy of {life['chips']} chips against their age, with the spread from chip to chip"
    layout = {
        "xaxis": {"type": "log", "title": {"text": "age, s"}, "exponentformat": "power"},
        "yaxis": {"title": {"text": "right answers, %"}},
    }
    return Chart("age", "Accuracy against age", words, traces, layout)


def _part(component: str) -> str:
    if component in DIGITAL:
        return "digital"
    if component in CONVERTER:
        return "converter"
    return "writing" if component == "writing" else "array"


def _names(items: Sequence[Facts]) -> list[str]:
    """Names of layers, short enough for an axis, as text of a trace."""
    return [plain(name) for name in short_names([item["name"] for item in items], AXIS_LETTERS)]


def _bars(names: list[str], values: list[float], name: str, colour: str, hover: str) -> Facts:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": names,
        "x": values,
        "marker": {"color": colour},
        "hovertemplate": "%{y}<br>" + hover + "<extra></extra>",
    }


def _line(names: list[str], values: list[float | None], name: str, colour: str) -> Facts:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": names,
        "y": values,
        "line": {"color": colour},
        "hovertemplate": "%{x}<br>%{y:.1f} dB<extra>" + name + "</extra>",
    }

"""The page of an exploration: front, parallel coordinates, main effects, points without a result, commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memcompile.atomic import write_atomically
from memcompile.exploration.commands import compile_command
from memcompile.exploration.effects import Effect, main_effects, reasons
from memcompile.exploration.judging.quantities import ACCURACY, QUANTITIES, Quantity
from memcompile.exploration.knobs import Value, text_of
from memcompile.exploration.points import Candidate
from memcompile.exploration.search import Search
from memcompile.figures import figure
from memcompile.html.charts import Chart, plain
from memcompile.html.page import Page
from memcompile.pictures import colour_of

MOST_LINES = 400
"""Points that parallel coordinates show; those on the front are always among them."""
ON_FRONT, COMPLETE, OTHER = "on the front", "all chips emulated", "predicted, or some chips"


def exploration_page(search: Search, model: str, others: Sequence[str] = ()) -> bytes:
    """The page as HTML.

    Parameters
    ----------
    model
        Path of the model, for commands.
    others
        Further words of commands, such as those of the data.
    """
    items = sorted(search.candidates.values(), key=lambda item: item.order)
    quantities = [one for one in QUANTITIES.values() if any(_value(item, one, search) is not None for item in items)]
    rows = [_row(item, quantities, search) for item in items]
    facts = {
        "model": search.study.name,
        "quantities": [
            {"name": one.name, "words": one.words, "unit": one.unit, "more": one.more_is_better} for one in quantities
        ],
        "compared": [one.name for one in search.plan.quantities],
        "resolution": search.plan.resolution,
        "rows": rows,
    }
    page = Page(f"Exploration of {search.study.name}", "explore.html.j2", facts, ("explore.js",))
    page.add_chart(_parallel(items, rows, quantities))
    effects = main_effects(items, [one for one in quantities if one in search.plan.quantities], search.plan.chips)
    for number, effect in enumerate(effects):
        page.add_chart(_effect_chart(number, effect))
    missing = reasons(items)
    page.add_chart(_map_of_missing(items))
    work = search.work
    return page.render(
        front=[_front_row(item, search, model, others) for item in search.front],
        names=list(items[0].values) if items else [],
        columns=[_heading(one) for one in search.plan.quantities],
        count=len(items),
        missing=missing,
        missing_count=sum(count for _, count in missing),
        effects=effects,
        effect_names=[f"effect-{number}" for number in range(len(effects))],
        chips=search.plan.chips,
        images=search.study.dataset.count,
        data_name=search.study.dataset.name,
        work=work,
        saved=f"{work.saved_share:.0%}",
        resolution=f"{100 * search.plan.resolution:g}",
        condition=None if search.plan.condition is None else search.plan.condition.text,
    )


def write_exploration_page(path: Path, search: Search, model: str, others: Sequence[str] = ()) -> None:
    """Write the page, whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    write_atomically(path, exploration_page(search, model, others))


def shown(value: Value) -> str:
    """A value of a knob for a person."""
    return "auto" if value is None else text_of(value)


def _value(item: Candidate, quantity: Quantity, search: Search) -> float | None:
    """Figure of a point; of an accuracy that is not known in full, the middle of its interval."""
    if item.mapped is None or item.error:
        return None
    if quantity is not ACCURACY:
        found = item.facts.get(quantity.key)
        return None if found is None else float(found)
    low, high = item.interval(search.plan.chips)
    return None if (low, high) == (0.0, 1.0) else (low + high) / 2


def _row(item: Candidate, quantities: Sequence[Quantity], search: Search) -> dict[str, Any]:
    low, high = item.interval(search.plan.chips)
    return {
        "point": item.key,
        "values": {name: shown(value) for name, value in item.values.items()},
        "figures": {one.name: _value(item, one, search) for one in quantities},
        "interval": [low, high],
        "complete": item.is_complete(search.plan.chips),
        "front": item.on_front,
        "excluded": bool(item.excluded or item.error),
    }


def _front_row(item: Candidate, search: Search, model: str, others: Sequence[str]) -> dict[str, Any]:
    figures = []
    for one in search.plan.quantities:
        value = _value(item, one, search)
        figures.append("n/a" if value is None else f"{value:.2%}" if one is ACCURACY else figure(value))
    return {
        "values": [shown(value) for value in item.values.values()],
        "figures": figures,
        "command": compile_command(model, item.design, others),
    }


def _heading(quantity: Quantity) -> str:
    return f"{quantity.name}, {quantity.unit}" if quantity.unit else quantity.name


def _kind(row: Mapping[str, Any]) -> str:
    return ON_FRONT if row["front"] else COMPLETE if row["complete"] else OTHER


def _parallel(
    items: Sequence[Candidate], rows: Sequence[Mapping[str, Any]], quantities: Sequence[Quantity]
) -> Chart | None:
    """A line a point over an axis for each knob and quantity, all from 0 to 1."""
    usable = [
        (item, row)
        for item, row in zip(items, rows, strict=True)
        if not row["excluded"] and all(value is not None for value in row["figures"].values())
    ]
    usable.sort(key=lambda pair: not pair[1]["front"])
    usable = usable[:MOST_LINES]
    if not usable:
        return None
    names = list(usable[0][0].values)
    texts = {name: list(dict.fromkeys(row["values"][name] for _, row in usable)) for name in names}
    spans = {one.name: _span([row["figures"][one.name] for _, row in usable]) for one in quantities}
    labels = [*names, *(one.name for one in quantities)]
    traces = []
    for kind, colour, width in ((OTHER, colour_of(4), 0.6), (COMPLETE, colour_of(0), 0.8), (ON_FRONT, colour_of(5), 2)):
        x: list[int | None] = []
        y: list[float | None] = []
        for _, row in usable:
            if _kind(row) != kind:
                continue
            x += [*range(len(labels)), None]
            y += [_place(texts[name].index(row["values"][name]), len(texts[name])) for name in names]
            y += [_scaled(row["figures"][one.name], spans[one.name]) for one in quantities]
            y.append(None)
        if x:
            line = {"color": colour, "width": width}
            traces.append({"x": x, "y": y, "mode": "lines", "name": kind, "line": line, "hoverinfo": "skip"})
    ends = [(texts[name][0], texts[name][-1]) for name in names]
    ends += [(_short(spans[one.name][0], one), _short(spans[one.name][1], one)) for one in quantities]
    notes = [
        {"x": number, "y": place, "text": plain(text), "showarrow": False, "yshift": shift, "font": {"size": 11}}
        for number, both in enumerate(ends)
        for place, text, shift in ((0, both[0], -10), (1, both[1], 10))
    ]
    across = {"tickvals": list(range(len(labels))), "ticktext": list(map(plain, labels)), "zeroline": False}
    layout = {"yaxis": {"visible": False, "range": [-0.12, 1.12]}, "xaxis": across, "annotations": notes}
    words = f"Parallel coordinates of {len(usable)} points over {', '.join(labels)}"
    return Chart("parallel", "Every point as a line: what was chosen, and what came of it", words, traces, layout, 420)


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _scaled(value: float, span: tuple[float, float]) -> float:
    return 0.5 if span[0] == span[1] else (value - span[0]) / (span[1] - span[0])


def _place(number: int, count: int) -> float:
    return 0.5 if count == 1 else number / (count - 1)


def _short(value: float, quantity: Quantity) -> str:
    return f"{value:.1%}" if quantity is ACCURACY else quantity.text(value)


def _effect_chart(number: int, effect: Effect) -> Chart:
    """Mean of a quantity at each value of each knob, a panel a knob."""
    knobs = list(effect.means)
    traces, layout = [], {"showlegend": False, "yaxis": {"title": {"text": plain(_heading(effect.quantity))}}}
    for place, name in enumerate(knobs):
        end = "" if place == 0 else str(place + 1)
        means = effect.means[name]
        width = 1 / len(knobs)
        traces.append(
            {
                "x": [plain(text) for text in means],
                "y": list(means.values()),
                "xaxis": f"x{end}",
                "yaxis": "y",
                "mode": "lines+markers",
                "name": plain(name),
                "line": {"color": colour_of(place)},
            }
        )
        layout[f"xaxis{end}"] = {
            "type": "category",
            "title": {"text": plain(name)},
            "domain": [place * width + 0.01, (place + 1) * width - 0.01],
        }
    title = f"{effect.quantity.words.capitalize()}: mean over all points at each value"
    moved = ", ".join(f"{name} by {figure(effect.span(name))}" for name in knobs)
    return Chart(f"effect-{number}", title, f"Main effects on {effect.quantity.words}: {moved}", traces, layout, 260)


def _map_of_missing(items: Sequence[Candidate]) -> Chart | None:
    """Share of points without a result for each pair of values of the two knobs that it depends on most."""
    failed = [item for item in items if item.error or item.excluded]
    names = list(items[0].values) if items else []
    if not failed or not names:
        return None
    order = sorted(names, key=lambda name: -_spread_of_missing(items, name))
    across, down = order[0], order[1] if len(order) > 1 else None
    columns = list(dict.fromkeys(shown(item.values[across]) for item in items))
    lines = [""] if down is None else list(dict.fromkeys(shown(item.values[down]) for item in items))
    share: list[list[float | None]] = []
    words: list[list[str]] = []
    for line in lines:
        cells = [
            [item for item in items if shown(item.values[across]) == column and _at(item, down) == line]
            for column in columns
        ]
        share.append([_missing_share(cell) for cell in cells])
        words.append([plain("; ".join(text for text, _ in reasons(cell))[:300]) for cell in cells])
    trace = {
        "type": "heatmap",
        "x": [plain(text) for text in columns],
        "y": [plain(text) for text in lines],
        "z": share,
        "text": words,
        "hovertemplate": "%{x}, %{y}: %{z:.0%} without a result<br>%{text}<extra></extra>",
        "colorscale": [[0, "#e6eaee"], [1, "#a83a00"]],
        "zmin": 0,
        "zmax": 1,
        "colorbar": {"tickformat": ".0%", "thickness": 12},
    }
    layout = {
        "xaxis": {"type": "category", "title": {"text": plain(across)}},
        "yaxis": {"type": "category", "title": {"text": plain(down or "")}},
    }
    title = "Share of points that failed or do not satisfy the condition"
    return Chart("missing", title, f"{title}, by {across} and {down or 'nothing else'}", [trace], layout, 320)


def _at(item: Candidate, name: str | None) -> str:
    return "" if name is None else shown(item.values[name])


def _missing_share(cell: Sequence[Candidate]) -> float | None:
    return sum(bool(item.error or item.excluded) for item in cell) / len(cell) if cell else None


def _spread_of_missing(items: Sequence[Candidate], name: str) -> float:
    """Difference between the values of a knob in the share of points without a result."""
    by_value: dict[str, list[Candidate]] = {}
    for item in items:
        by_value.setdefault(shown(item.values[name]), []).append(item)
    shares = [_missing_share(cell) or 0.0 for cell in by_value.values()]
    return max(shares) - min(shares)

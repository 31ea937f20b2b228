"""Picture of the life of a chip: accuracy against age."""

from __future__ import annotations

import numpy as np

from memcompile.pictures import new_figure, png_of
from memcompile.report.lifetime import Life, age_text

BAND = 0.18
DAY_S, YEAR_S = 86_400.0, 365.25 * 86_400.0
TICKS = {
    **{"1 ms": 1e-3, "1 s": 1.0, "1 min": 60.0, "1 h": 3600.0, "1 d": DAY_S, "30 d": 30 * DAY_S},
    **{"1 y": YEAR_S, "10 y": 10 * YEAR_S, "100 y": 100 * YEAR_S},
}


def life_picture(life: Life, accuracy: float, title: str) -> bytes:
    """PNG of mean and spread over chips against age, with the accuracy that was asked about.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    figure = new_figure(6.4, 3.8, "--plot")
    axes = figure.subplots()
    curves = [(life.plain, "#8a4b08", "without refresh")]
    if life.refreshes is not None:
        curves.append((life.refreshed, "#00695c", f"with {life.refreshes.words}"))
    for ages, colour, label in curves:
        at = np.array([age.age_s for age in ages])
        mean, spread = (100 * np.array(values) for values in zip(*((a.mean, a.spread) for a in ages), strict=True))
        axes.plot(at, mean, "o-", color=colour, markersize=3, label=label)
        axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=BAND, linewidth=0)
    axes.axhline(100 * accuracy, color="#8a8a8a", linewidth=0.8, linestyle="--")
    first, last = life.plain[0].age_s, life.plain[-1].age_s
    ticks = {name: tick for name, tick in TICKS.items() if first <= tick <= last}
    ticks = ticks or {age_text(age_s): age_s for age_s in (first, last)}
    axes.set_xscale("log")
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.set_xticks([], minor=True)
    axes.set(xlabel="age", ylabel="accuracy (%)", title=title)
    axes.legend(fontsize="small")
    return png_of(figure, 120)

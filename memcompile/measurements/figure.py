"""Picture of measured cells over what was fitted to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from memcompile.measurements.pairs import PairsFit
from memcompile.measurements.reads import ReadsFit
from memcompile.measurements.retention import RetentionFit
from memcompile.pictures import new_figure, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA, FIT, BAND = "#8a8a8a", "#00695c", 0.18


def device_figure(pairs: PairsFit, reads: ReadsFit | None, retention: RetentionFit | None) -> bytes:
    """PNG of data over fit: errors of writing, and changes and reads if they were measured.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    count = 1 + (retention is not None) + (reads is not None)
    figure = new_figure(5.0 * count, 3.6, "--plot")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    _draw_pairs(axes.pop(0), pairs)
    if retention is not None:
        _draw_retention(axes.pop(0), retention)
    if reads is not None:
        _draw_reads(axes.pop(0), reads)
    return png_of(figure, 120)


def _draw_pairs(axes: Axes, pairs: PairsFit) -> None:
    odd = {item.line for item in pairs.outliers}
    errors = pairs.measured_us - pairs.target_us
    axes.plot(pairs.target_us, errors, ".", color=DATA, markersize=3, label=f"{pairs.count} pairs")
    at = np.linspace(pairs.g_min_us, pairs.g_max_us, 200)
    mean, spread = pairs.error_at_us(at)
    axes.plot(at, mean, color=FIT, label="mean")
    axes.fill_between(at, mean - 2 * spread, mean + 2 * spread, color=FIT, alpha=BAND, label="2 standard deviations")
    end = 1.1 * max(
        float(np.abs(errors[~np.isin(pairs.lines, list(odd))]).max()), float((np.abs(mean) + 2 * spread).max())
    )
    if odd:
        targets, measured = np.array([(item.target_us, item.measured_us) for item in pairs.outliers]).T
        # Those that lie beyond are at the edge.
        axes.plot(targets, np.clip(measured - targets, -end, end), "x", color="#b71c1c", label=f"{len(odd)} outliers")
    axes.set_ylim(-1.05 * end, 1.05 * end)
    axes.set(xlabel="goal (uS)", ylabel="measured - goal (uS)", title="error of writing")
    axes.legend(fontsize="small")


def _draw_retention(axes: Axes, retention: RetentionFit) -> None:
    changes = retention.changes
    mean, spread = retention.law.moments(changes)
    axes.plot(changes.time_s, changes.change_us, ".", color=DATA, markersize=3, label=f"{len(mean)} reads")
    order = np.argsort(changes.time_s, kind="stable")
    times, place = np.unique(changes.time_s[order], return_inverse=True)
    counts = np.bincount(place)
    middle = np.bincount(place, (mean - changes.start_us)[order]) / counts
    # Cells of other conductances change by other means.
    power = np.square(spread) + np.square(mean - changes.start_us)
    width = np.sqrt(np.maximum(np.bincount(place, power[order]) / counts - np.square(middle), 0.0))
    axes.plot(times, middle, color=FIT, label="mean")
    axes.fill_between(times, middle - 2 * width, middle + 2 * width, color=FIT, alpha=BAND)
    axes.set(xscale="log", xlabel="time (s)", ylabel="change (uS)", title=retention.law.name)
    axes.legend(fontsize="small")


def _draw_reads(axes: Axes, reads: ReadsFit) -> None:
    axes.plot(reads.mean_us, reads.residuals_us, ".", color=DATA, markersize=3, label=f"{reads.count} reads")
    at = np.linspace(float(reads.mean_us.min()), float(reads.mean_us.max()), 200)
    spread = reads.choice.fit.spread_at(at)
    axes.fill_between(at, -2 * spread, 2 * spread, color=FIT, alpha=BAND, label="2 standard deviations")
    axes.set(xlabel="conductance (uS)", ylabel="read - mean (uS)", title="read noise")
    axes.legend(fontsize="small")

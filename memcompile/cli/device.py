"""``memcompile device``: a target from measured cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from memcompile.atomic import write_atomically
from memcompile.cli.advice import command_line
from memcompile.cli.console import Output, check_writable
from memcompile.errors import UsageError
from memcompile.figures import PLUS_MINUS
from memcompile.hardware.target import load_target
from memcompile.hardware.target_text import target_text
from memcompile.measurements.device_target import measured_target
from memcompile.measurements.figure import device_figure
from memcompile.measurements.pairs import PairsFit, fit_pairs, read_pairs
from memcompile.measurements.reads import ReadsFit, fit_reads, read_reads
from memcompile.measurements.retention import RetentionFit, fit_retention, read_retention
from memcompile.measurements.spread_fit import Array, Choice
from memcompile.pipelines import DEFAULT_TARGET

MOST_OUTLIERS = 10
"""Outliers that are printed one by one."""


@click.command("device")
@click.argument("pairs", type=Path)
@click.option("--retention", type=Path, metavar="CSV", help="Reads of cells at several times: cell, time, measured.")
@click.option("--reads", type=Path, metavar="CSV", help="Repeated reads of cells, for read noise: cell, measured.")
@click.option(
    "--base",
    default=DEFAULT_TARGET,
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Target that gives all the rest.",
)
@click.option("-o", "--output", type=Path, required=True, metavar="FILE.toml", help="Target file to write.")
@click.option("--plot", type=Path, metavar="PNG", help="Draw data over fit (needs matplotlib).")
@click.option("--json", "json_path", metavar="FILE|-", help="Write what was fitted as JSON (- for standard output).")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def device_command(pairs: Path, **options: Any) -> None:
    """Make a target of measured cells: PAIRS is a CSV file of conductances aimed at and measured.

    Columns are found by name and unit, such as target_us and measured_us, or "g_target [S]" and "R measured (kohm)".
    """
    out, target_path = Output(options["quiet"], options["json_path"]), options["output"]
    if target_path.suffix != ".toml":
        raise UsageError(f"-o {target_path}: a target file ends in .toml; name it so")
    check_writable(target_path)
    if options["plot"]:
        check_writable(options["plot"], "--plot")
    base = load_target(options["base"])
    of_pairs = fit_pairs(read_pairs(pairs))
    reads = fit_reads(read_reads(options["reads"])) if options["reads"] else None
    retention = fit_retention(read_retention(options["retention"])) if options["retention"] else None
    target = measured_target(_name(target_path), base, of_pairs, reads, retention)
    picture = device_figure(of_pairs, reads, retention) if options["plot"] else None
    write_atomically(target_path, target_text(target).encode())
    facts = {
        "pairs": _pairs_facts(of_pairs),
        "reads": _reads_facts(reads),
        "retention": _retention_facts(retention),
        "base": base.name,
    }
    lines = [*_pairs_lines(of_pairs), *_reads_lines(reads), *_retention_lines(retention)]
    out.facts(facts, lines)
    if picture is not None:
        write_atomically(options["plot"], picture)
        out.say(f"data and fit drawn to {options['plot']}")
    out.say(f"target written to {target_path}; next: {command_line(['MODEL.onnx', '--target', target_path])}")


def _name(path: Path) -> str:
    """Name of a target, of the letters that one may have."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
    return (name if name[:1].isalnum() else f"t{name}")[:64]


# --- facts ------------------------------------------------------------------------------------------


def _choice_facts(choice: Choice) -> dict[str, Any]:
    fit = choice.fit
    return {
        "mean": {"form": fit.mean_form.name, "values": fit.mean.tolist(), "errors": _errors(fit.mean_covariance)},
        "spread": {
            "form": fit.spread_form.name,
            "values": fit.spread.tolist(),
            "errors": _errors(fit.spread_covariance),
        },
        "held_out_log_likelihood": choice.held_out,
        "candidates": {
            "mean": {item.name: item.mean for item in choice.means},
            "spread": {item.name: item.mean for item in choice.spreads},
        },
        "ks_distance": choice.ks_distance,
        "ks_p": choice.ks_p,
    }


def _errors(covariance: Array) -> list[float]:
    # Rounding may leave a variance of 0 below it.
    errors: list[float] = np.sqrt(np.maximum(covariance.diagonal(), 0.0)).tolist()
    return errors


def _pairs_facts(pairs: PairsFit) -> dict[str, Any]:
    return {
        "file": pairs.name,
        "count": pairs.count,
        "outliers": [vars(item) for item in pairs.outliers],
        "g_min_us": pairs.g_min_us,
        "g_max_us": pairs.g_max_us,
        "levels": pairs.levels,
        "levels_measured": pairs.levels_measured,
        "stuck_low": pairs.stuck_low,
        "stuck_high": pairs.stuck_high,
        **_choice_facts(pairs.choice),
    }


def _reads_facts(reads: ReadsFit | None) -> dict[str, Any] | None:
    if reads is None:
        return None
    return {"file": reads.name, "count": reads.count, "cells": reads.cells, **_choice_facts(reads.choice)}


def _retention_facts(retention: RetentionFit | None) -> dict[str, Any] | None:
    if retention is None:
        return None
    return {
        "file": retention.name,
        "count": len(retention.changes.time_s),
        "law": retention.law.name,
        "values": retention.law.numbers(),
        "errors": dict(retention.errors),
        "candidates": {item.name: item.mean for item in retention.candidates},
        "held_out_log_likelihood": retention.held_out,
        "ks_distance": retention.ks_distance,
        "ks_p": retention.ks_p,
    }


# --- lines ------------------------------------------------------------------------------------------


def _pairs_lines(pairs: PairsFit) -> Iterator[str]:
    window = f"window {pairs.g_min_us:.4g} to {pairs.g_max_us:.4g} uS"
    how = "aimed at" if pairs.levels_measured else "two standard deviations apart"
    yield f"{pairs.count} pairs of {pairs.name}: {window}, {pairs.levels} levels {how}"
    if pairs.outliers:
        ends = f"{pairs.stuck_low} stuck low, {pairs.stuck_high} stuck high"
        yield f"  {len(pairs.outliers)} outliers left out ({ends}):"
        for item in pairs.outliers[:MOST_OUTLIERS]:
            far = f"{item.deviations:+.1f} standard deviations"
            yield f"    line {item.line}: {item.measured_us:.4g} uS where {item.target_us:.4g} uS was aimed at, {far}"
        if len(pairs.outliers) > MOST_OUTLIERS:
            yield f"    and {len(pairs.outliers) - MOST_OUTLIERS} more"
    yield from _choice_lines("error of writing", pairs.choice, (pairs.g_min_us, pairs.g_max_us), pairs.g_max_us)


def _choice_lines(what: str, choice: Choice, ends_us: tuple[float, float], scale_us: float) -> Iterator[str]:
    """Lines about a fit against conductances over ``scale_us``."""
    fit, at_us = choice.fit, np.linspace(*ends_us, 3)
    x = at_us / scale_us
    mean = _values(at_us, fit.mean_at(x), fit.mean_error_at(x)) if fit.mean_form.size else ""
    yield f"  mean of the {what}: {fit.mean_form.name}{mean}"
    yield f"  spread of the {what}: {fit.spread_form.name}{_values(at_us, fit.spread_at(x), fit.spread_error_at(x))}"
    others = ", ".join(f"{item.name} {item.mean:.3f}" for item in choice.spreads)
    yield f"  held-out log-likelihood of a number: {choice.held_out:.3f} (spreads: {others})"
    yield f"  held-out residuals against a Gaussian: KS distance {choice.ks_distance:.3f}, p = {choice.ks_p:.2g}"


def _values(at_us: Array, values: Array, errors: Array) -> str:
    """Values at some conductances, with standard errors."""
    shown = zip(at_us.tolist(), values.tolist(), errors.tolist(), strict=True)
    return ", " + ", ".join(f"{value:.3g}{PLUS_MINUS}{error:.2g} uS at {at:.3g} uS" for at, value, error in shown)


def _reads_lines(reads: ReadsFit | None) -> Iterator[str]:
    if reads is None:
        yield "read noise: not measured; the share of the window that the base target has (--reads)"
        return
    yield f"{reads.count} reads of {reads.cells} cells of {reads.name}"
    ends_us = float(reads.mean_us.min()), float(reads.mean_us.max())
    yield from _choice_lines("read noise", reads.choice, ends_us, 1.0)


def _retention_lines(retention: RetentionFit | None) -> Iterator[str]:
    if retention is None:
        yield "changes after writing: not measured, so that cells do not age (--retention)"
        return
    yield f"{len(retention.changes.time_s)} reads after writing of {retention.name}: {retention.law.name}"
    yield f"  {_numbers(retention.law.numbers(), retention.errors)}"
    others = ", ".join(f"{item.name} {item.mean:.3f}" for item in retention.candidates)
    yield f"  held-out log-likelihood of a read: {retention.held_out:.3f} ({others})"
    yield f"  residuals against a Gaussian: KS distance {retention.ks_distance:.3f}, p = {retention.ks_p:.2g}"


def _numbers(values: Mapping[str, float], errors: Mapping[str, float]) -> str:
    spreads = {name: f"{PLUS_MINUS}{error:.2g}" for name, error in errors.items()}
    return ", ".join(f"{name} {value:.4g}{spreads.get(name, '')}" for name, value in values.items())

"""Life of a chip as `memcompile run --time A..B` follows it: options, lines and files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from memcompile.atomic import write_atomically
from memcompile.cli.console import Output, duration
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.export.lifetime_picture import life_picture
from memcompile.figures import PLUS_MINUS
from memcompile.program.program import Program
from memcompile.report.facts import Facts
from memcompile.report.lifetime import Age, Life, Refreshes, age_text, life_of, life_sentence, log_ages, time_above_s

DEFAULT_POINTS, DEFAULT_SEEDS = 12, 3
LOSS = 0.01
"""Loss of accuracy against new chips that is asked about where no accuracy is named."""
KINDS = {"scales": "lines fitted again", "writing": "cells written again"}
ONE_AGE = ("points", "refresh", "refresh_by", "stays_above", "plot", "json_path")
"""Options that need a range of ages."""
OF_A_RANGE = ("output", "ideal", "explain", "reads", "accept")
"""Options that need one age."""


def age_or_range(ctx: click.Context, param: click.Parameter, value: str) -> float | tuple[float, float]:
    """Read an age such as 2h, or a range of ages such as 1s..10y, in seconds."""
    first, dots, last = value.partition("..")
    if not dots:
        return duration(ctx, param, value)
    ends = duration(ctx, param, first), duration(ctx, param, last)
    if not 0 < ends[0] < ends[1]:
        raise click.BadParameter(f"{value!r} is no range of ages; give a shorter one above 0 first, such as 1s..10y")
    return ends


def _refreshes(ctx: click.Context, param: click.Parameter, value: str | None) -> Refreshes | None:
    if value is None:
        return None
    every, _, period = value.strip().partition(" ")
    if every == "every":
        return Refreshes("scales", every_s=_positive(ctx, param, period))
    times = tuple(_positive(ctx, param, text) for text in value.split(","))
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise click.BadParameter(f"{value!r}: ages of refreshes must rise; sort them, each once")
    return Refreshes("scales", times)


def _positive(ctx: click.Context, param: click.Parameter, text: str) -> float:
    time_s = duration(ctx, param, text)
    if time_s <= 0:
        raise click.BadParameter(f"{text!r}: a chip cannot be refreshed at age 0; give a longer time")
    return time_s


def life_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for a range of ages."""
    for option in (
        click.option("--json", "json_path", metavar="FILE|-", help="Write accuracy against age as JSON."),
        click.option("--plot", type=Path, metavar="PNG", help="Draw accuracy against age (needs matplotlib)."),
        click.option(
            "--stays-above",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Accuracy to ask about [default: a point below new chips].",
        ),
        click.option(
            "--refresh-by",
            type=click.Choice(["scales", "writing"]),
            help="scales fits gains and offsets of lines again, writing writes all cells again, too [default: scales].",
        ),
        click.option(
            "--refresh",
            callback=_refreshes,
            metavar="TIMES",
            help='Ages at which chips are refreshed: "1h,1d,30d" or "every 30d".',
        ),
        click.option(
            "--seeds",
            type=click.IntRange(1),
            help="Emulated chips, from --seed on; of several, accuracies alone are told "
            f"[default: 1, or {DEFAULT_SEEDS} over a range of ages].",
        ),
        click.option(
            "--points", type=click.IntRange(2, 1000), help=f"Ages, evenly in log time [default: {DEFAULT_POINTS}]."
        ),
    ):
        function = option(function)
    return function


def check_life_options(options: dict[str, Any], *, follows: bool) -> None:
    """Refuse options of one age with a range of ages, and the other way round."""
    wrong = OF_A_RANGE if follows else ONE_AGE
    given = next((name for name in wrong if options[name]), None)
    if given is not None:
        option = f"--{given.removesuffix('_path').replace('_', '-')}"
        need = "one age" if follows else "a range of ages; give one, such as --time 1s..10y"
        raise UsageError(f"{option} is for {need}")
    if follows and options["executor"] != "fast":
        raise UsageError("--executor literal is for one age")
    if options["refresh_by"] and options["refresh"] is None:
        raise UsageError('--refresh-by says how chips are refreshed; say when with --refresh, such as "every 30d"')


def report_life(program: Program, dataset: Dataset, options: dict[str, Any], out: Output) -> None:
    """Follow chips through a range of ages; prints, draws and writes what was found."""
    refreshes = options["refresh"]
    if refreshes is not None and options["refresh_by"]:
        refreshes = replace(refreshes, by=options["refresh_by"])
    first_s, last_s = options["time_s"]
    life = life_of(
        program,
        dataset,
        log_ages(first_s, last_s, options["points"] or DEFAULT_POINTS),
        seeds=options["seeds"] or DEFAULT_SEEDS,
        seed=options["seed"],
        refreshes=refreshes,
        calibrate=not options["no_calibration"],
        progress=out.progress,
    )
    asked = options["stays_above"]
    accuracy = max(life.plain[0].mean - LOSS, 0.0) if asked is None else asked / 100
    picture = life_picture(life, accuracy, program.target.name) if options["plot"] else None
    out.facts(life_facts(life, dataset, accuracy), list(_lines(life, dataset, accuracy)))
    if picture is not None:
        write_atomically(options["plot"], picture)
        out.say(f"accuracy against age drawn to {options['plot']}")


def life_facts(life: Life, dataset: Dataset, accuracy: float) -> Facts:
    """Facts of a life, by the stable names of the JSON output."""
    above = {"without_refresh_s": _finite(time_above_s(life.plain, accuracy))}
    if life.refreshes is not None:
        above["with_refresh_s"] = _finite(time_above_s(life.refreshed, accuracy))
    return {
        "data": dataset.name,
        "images": dataset.count,
        "chips": len(life.plain[0].accuracies),
        "calibrated": life.calibrated,
        "ages": [_age_facts(age) for age in life.plain],
        "refresh": None if life.refreshes is None else _refresh_facts(life),
        "accuracy_asked": accuracy,
        "stays_above": above,
    }


def _finite(time_s: float) -> float | None:
    """A time, None where the accuracy is never left."""
    return None if time_s == math.inf else time_s


def _age_facts(age: Age) -> Facts:
    return {"age_s": age.age_s, "mean": age.mean, "spread": age.spread, "accuracies": list(age.accuracies)}


def _refresh_facts(life: Life) -> Facts:
    assert life.refreshes is not None
    endurance = life.endurance
    return {
        "by": life.refreshes.by,
        "times_s": list(life.refreshes.times_s),
        "every_s": _finite(life.refreshes.every_s),
        "ages": [
            {
                **_age_facts(age),
                "since_refresh_s": age.since_s,
                "refreshes": age.refreshes,
                "endurance_share": None if endurance is None else endurance.used(age.refreshes),
            }
            for age in life.refreshed
        ],
    }


def _lines(life: Life, dataset: Dataset, accuracy: float) -> Iterator[str]:
    chips = len(life.plain[0].accuracies)
    calibrated = ", calibrated when new" if life.calibrated else ""
    yield f"accuracy on {dataset.name}, {dataset.count:,} images, {chips} chip{'s' * (chips > 1)}{calibrated}"
    yield from (f"  {age_text(age.age_s):<12}{_share(age)}" for age in life.plain)
    if life.refreshes is not None:
        yield f"with {life.refreshes.words} ({KINDS[life.refreshes.by]}), just before each"
        for age in life.refreshed:
            count = f"after {age.refreshes:,} refresh{'es' * (age.refreshes != 1)}"
            yield f"  {age_text(age.age_s):<12}{_share(age)} {count}"
    if life.endurance is not None:
        yield f"  {_endurance_line(life)}"
    yield life_sentence(life, accuracy)


def _share(age: Age) -> str:
    spread = f"{PLUS_MINUS}{100 * age.spread:.2f}" if len(age.accuracies) > 1 else ""
    return f"{100 * age.mean:.2f}{spread} %"


def _endurance_line(life: Life) -> str:
    assert life.endurance is not None
    count, endurance = life.refreshed[-1].refreshes, life.endurance
    pulses = endurance.first + count * endurance.each
    most = f"the cell that is written most gets {pulses:,} pulses with {count:,} refreshes"
    used = endurance.used(count)
    return most if used is None else f"{most}, {used:.2g} of its endurance"

"""``memcompile explore``: many designs, their results, and the front of the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from memcompile.cli.advice import DataOptions
from memcompile.cli.console import Output, accept_option, calibration_option, data_options
from memcompile.cli.values import NumberOr, input_options, input_words
from memcompile.data.source import read_source
from memcompile.errors import UsageError
from memcompile.exploration.commands import compile_command
from memcompile.exploration.exploration import USUAL_CHIPS, USUAL_RESOLUTION, Asked, Exploration
from memcompile.exploration.explore import executor_of
from memcompile.exploration.judging.quantities import ACCURACY, QUANTITIES, USUAL
from memcompile.exploration.knobs import Design, text_of
from memcompile.exploration.page import write_exploration_page
from memcompile.exploration.points import Candidate
from memcompile.exploration.search import Search, seconds_words
from memcompile.frontend.sandbox import DEFAULT_LIMITS
from memcompile.ir.slicing import SliceChoice
from memcompile.pipelines import DEFAULT_TARGET
from memcompile.progress.terminal import PlainLines

MOST_LIVE = 12
"""Rows of the table that is shown while work goes on."""
REFRESH_S = 0.5


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that run tasks on workers."""
    for option in (
        click.option(
            "--dashboard",
            metavar="HOST:PORT",
            help="Serve Dask's dashboard there, such as 127.0.0.1:8787 [default: none].",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS|FILE.json",
            help="Run on this scheduler of Dask, such as tcp://HOST:8786 or tls://HOST:8786, instead of workers here.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(0),
            metavar="N",
            help="Worker processes on this machine, 0 for none beside this one [default: one a processor].",
        ),
    ):
        function = option(function)
    return function


@click.command("explore")
@click.argument("model", type=Path)
@click.option(
    "--vary",
    "varied",
    multiple=True,
    required=True,
    metavar="NAME=V1,V2|A..B",
    help="What varies: target, an option such as slices, max_loss, optimise or effort, a field of targets such as "
    "adc.bits, an option of a pass; A..B:STEP has a step (repeatable).",
)
@click.option("-o", "--output", type=Path, metavar="DIR", help="Folder for results [default: MODEL.explore].")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, metavar="NAME|FILE.toml", help="Where not varied.")
@click.option(
    "--chips", type=NumberOr(int, "N", auto=None), default="auto", show_default=True, help="Where not varied."
)
@click.option("--slices", default="1", show_default=True, metavar="N[:equal]", help="Where not varied.")
@click.option("--slice-base", type=int, metavar="B", help="Where not varied.")
@click.option(
    "--max-loss",
    type=NumberOr(float, "POINTS", none=None),
    default="none",
    show_default=True,
    help="Accuracy budget, where not varied.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME.FIELD=VALUE", help="As for compile (repeatable).")
@input_options
@click.option(
    "--chips-sampled",
    type=click.IntRange(0),
    default=USUAL_CHIPS,
    show_default=True,
    help="Emulated chips of each point near the front; 0 predicts accuracy and emulates nothing.",
)
@click.option("--images", type=click.IntRange(1), help="Score on the first so many samples [default: 1000].")
@click.option(
    "--quantities",
    metavar="A,B[,C]",
    help=f"What the front is of, among {', '.join(QUANTITIES)} [default: {','.join(USUAL)}].",
)
@click.option(
    "--resolution",
    type=click.FloatRange(0, 50),
    default=100 * USUAL_RESOLUTION,
    show_default=True,
    metavar="POINTS",
    help="Points of accuracy up to which designs count as equal.",
)
@click.option("--where", metavar="CONDITION", help='Leave out points that do not satisfy, such as "energy_uj < 2".')
@click.option("--iso", metavar="area|chips|rate[=N]", help="Give all points the same area, chips or rate.")
@click.option("--whole", is_flag=True, help="Emulate all chips of all points, whether they can be on the front or not.")
@click.option("--sampler", metavar="tpe|nsga2", help="Let Optuna choose points instead of taking all.")
@click.option("--trials", type=click.IntRange(1), metavar="N", help="Points that the sampler chooses.")
@click.option("--storage", metavar="URL", help="Optuna's storage [default: sqlite:///DIR/study.db].")
@accept_option
@calibration_option
@cluster_options
@data_options
def explore_command(model: Path, **options: Any) -> None:
    """Compile and emulate variants of MODEL, and show which are best.

    A killed exploration resumes with the same command.
    """
    out = Output(options["quiet"], None)
    asked = _asked(options)
    exploration = Exploration.of(asked, lambda: _source(model, options))
    folder = options["output"] or Path(f"{model.stem}.explore")
    exploration.say = out.say
    with _watched(exploration, options["quiet"]):
        search = exploration.run(
            lambda: executor_of(options["workers"], options["scheduler"], dashboard=options["dashboard"]), folder
        )
    others = [*input_words(options), *(str(word) for word in DataOptions.of(options).words())]
    _conclude(search, model, others, folder, out)


def _asked(options: dict[str, Any]) -> Asked:
    pairs = dict(_pair(text) for text in options["settings"])
    base = Design(
        options["target"],
        options["chips"],
        SliceChoice.of(options["slices"]).value,
        options["slice_base"],
        options["max_loss"],
        tuple(sorted(pairs.items())),
    )
    quantities = options["quantities"]
    return Asked(
        options["varied"],
        base,
        chips=options["chips_sampled"],
        images=options["images"],
        quantities=() if quantities is None else [name.strip() for name in quantities.split(",")],
        resolution=options["resolution"] / 100,
        where=options["where"],
        iso=options["iso"],
        least=options["accept"],
        seed=options["seed"],
        calibrate=not options["no_calibration"],
        whole=options["whole"],
        sampler=options["sampler"],
        trials=options["trials"],
        storage=options["storage"],
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text!r} is not of the form NAME.FIELD=VALUE")
    return name.strip(), value.strip()


def _source(model: Path, options: dict[str, Any]) -> Any:
    return read_source(
        model,
        data=options["data"],
        mean=options["mean"],
        std=options["std"],
        input_shapes=options["input_shapes"],
        frozen_inputs=options["frozen_inputs"],
        seed=options["seed"],
        limits=DEFAULT_LIMITS,
    )


@contextmanager
def _watched(exploration: Exploration, quiet: bool) -> Iterator[None]:
    """Show the state of an exploration on standard error while it runs: in a terminal, or as a line a round."""
    console = Console(stderr=True)
    if quiet:
        yield
        return
    begin, shown = time.monotonic(), 0.0
    if not console.is_terminal:
        rounds = PlainLines()
        exploration.changed = lambda search, words, done, total: rounds.say(f"{words}: {total:,}") if not done else None
        yield
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def changed(search: Search, words: str, done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown > REFRESH_S or done == total:
                live.update(_state(search, words, done, total, now - begin), refresh=True)
                shown = time.monotonic()

        exploration.changed = changed
        yield


def _state(search: Search, words: str, done: int, total: int, elapsed_s: float) -> Group:
    """Work that is being done, and the points that are in the race."""
    racing = [item for item in search.candidates.values() if item.mapped is not None and not item.beaten_by]
    racing = sorted((item for item in racing if not item.error and not item.excluded), key=lambda item: item.order)
    line = f"{words}: {done:,} of {total:,}, {seconds_words(elapsed_s)}; {len(racing):,} points in the race"
    return Group(Text(line), points_table(search, racing[:MOST_LIVE], "") if racing else Text())


def points_table(search: Search, items: list[Candidate], title: str) -> Table:
    """Varied values and quantities of the front, of some points."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    table.add_column("", justify="right")
    names = list(items[0].values) if items else []
    for name in names:
        table.add_column(name, overflow="fold")
    for quantity in search.plan.quantities:
        table.add_column(quantity.heading, justify="right")
    for number, item in enumerate(items, start=1):
        facts = item.facts
        values = [("auto" if item.values[name] is None else text_of(item.values[name])) for name in names]
        figures = [
            accuracy_text(item, search.plan.chips)
            if quantity is ACCURACY
            else ("n/a" if facts.get(quantity.key) is None else quantity.text(facts[quantity.key]))
            for quantity in search.plan.quantities
        ]
        table.add_row(f"{number}", *values, *figures)
    return table


def accuracy_text(item: Candidate, chips: int) -> str:
    """Accuracy of a point as far as it is known."""
    low, high = item.interval(chips)
    if low == high:
        return f"{low:.2%}"
    return "?" if (low, high) == (0.0, 1.0) else f"{low:.1%} to {high:.1%}"


def _conclude(search: Search, model: Path, others: list[str], folder: Path, out: Output) -> None:
    """Print the front, what failed, and what was saved."""
    front = search.front
    lines = [
        f"{number}: {compile_command(str(model), item.design, others)}" for number, item in enumerate(front, start=1)
    ]
    out.show(points_table(search, front, f"front of {', '.join(item.name for item in search.plan.quantities)}"), *lines)
    for text, count in _reasons(search):
        out.say(f"{count:,} point{'s' * (count != 1)} without a result: {text}")
    out.say(work_line(search))
    page = folder / "explore.html"
    write_exploration_page(page, search, str(model), others)
    out.say(f"results written to {folder / 'results.csv'} and {folder / 'results.jsonl'}, a page to {page}")


def _reasons(search: Search) -> list[tuple[str, int]]:
    """Messages of points that failed, the most frequent first, three at most."""
    counts: dict[str, int] = {}
    for item in search.candidates.values():
        if item.error:
            counts[item.error] = counts.get(item.error, 0) + 1
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:3]


def work_line(search: Search) -> str:
    """Chips that were emulated, beside those of the whole grid."""
    done = search.work
    if not search.plan.chips:
        return "accuracies are predicted; nothing was emulated"
    seconds = done.map_seconds + done.chip_seconds
    each = done.chip_seconds / done.chips if done.chips else 0.0
    whole = done.map_seconds + each * done.all_chips
    return (
        f"{done.chips:,} of {done.all_chips:,} chips were emulated, {done.saved_share:.0%} saved; "
        f"{seconds_words(seconds)} of processor time, about {seconds_words(whole)} for all"
    )

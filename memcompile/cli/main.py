"""The command line: ``memcompile MODEL.onnx`` and its companions."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from rich.table import Table

from memcompile.atomic import write_atomically
from memcompile.cli.advice import (
    CompileAdvice,
    DataOptions,
    command_line,
    derived_path,
    front_lines,
    program_path,
    with_option,
)
from memcompile.cli.chips.tuned_compile import OWN_DATA, TuningStudy
from memcompile.cli.compare import compare_command
from memcompile.cli.console import (
    Output,
    accept_option,
    all_layers_option,
    calibration_option,
    check_writable,
    data_options,
    discard_output,
)
from memcompile.cli.device import device_command
from memcompile.cli.draw import draw_command
from memcompile.cli.explore import explore_command
from memcompile.cli.export import export_command
from memcompile.cli.overview import command_group
from memcompile.cli.population import population_command
from memcompile.cli.programs import program_of
from memcompile.cli.refresh import refresh_command
from memcompile.cli.report import NO_PAGE, ReportFiles, report_command, report_file_options
from memcompile.cli.run import run_command
from memcompile.cli.several_targets import check_targets, compile_targets, split_targets
from memcompile.cli.signals import ended_by_signals
from memcompile.cli.targets import targets_command
from memcompile.cli.tune import tune_command
from memcompile.cli.values import NumberOr, input_options
from memcompile.data.source import Source, read_source
from memcompile.errors import MemcompileError, OutputError, UsageError
from memcompile.frontend.sandbox import DEFAULT_LIMITS, GIB, Limits
from memcompile.html.program_page import Origin
from memcompile.ir.graph import Graph
from memcompile.ir.pass_manager import PassContext
from memcompile.ir.printer import print_graph
from memcompile.ir.slicing import ALL_LAYERS, SliceChoice, Slices
from memcompile.pipelines import (
    AUTO,
    DEFAULT_TARGET,
    Auto,
    Compilation,
    compile_model,
    compile_source,
    compiler_version,
    default_passes,
)
from memcompile.program.file import save_program
from memcompile.program.program import Program
from memcompile.progress.phases import CHECK, EVALUATING, MAP, MAP_FRONT, QUANTISE, READ_MODEL, TUNE_CHIPS, WRITE_REPORT
from memcompile.report.budget_report import layer_budget_table
from memcompile.report.cost_report import energy_table
from memcompile.report.evaluation import Evaluation, check_acceptance, evaluate
from memcompile.report.explain import Explanation
from memcompile.report.facts import Facts, program_facts, with_evaluation
from memcompile.report.front_report import front_table
from memcompile.report.lookup import find_weight
from memcompile.tuned_chips import TunedChips

DEFAULT_BATCH = 100

cli = command_group(click.version_option(compiler_version(), prog_name="memcompile"))


def _slices(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Slices:
    slices: dict[str, int | str] = {ALL_LAYERS: 1}
    for text in value:
        name, _, choice = text.rpartition("=")
        try:
            SliceChoice.of(choice)
        except UsageError as error:
            raise click.BadParameter(f"{text!r} is neither of the form 3 or 3:equal nor LAYER=2") from error
        slices[name] = int(choice) if choice.isdecimal() else choice
    return slices if len(slices) > 1 else slices[ALL_LAYERS]


def _list_passes(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value:
        return
    for item in default_passes():
        click.echo(f"{item.pass_name():28} {item.summary}")
        for option, kind in item.option_types().items():
            words = f" ({', '.join(get_args(kind))})" if get_origin(kind) is Literal else ""
            click.echo(f"    --set {item.pass_name()}.{option}={getattr(item, option)}{words}")
    ctx.exit()


def _batch(options: dict[str, Any]) -> int | None:
    """Images of a batch, None unless the network may be written in segments."""
    if options["batch"] is not None and not options["reprogram"]:
        raise UsageError(f"--batch {options['batch']} is for networks that are written in segments; add --reprogram")
    return (options["batch"] or DEFAULT_BATCH) if options["reprogram"] else None


@cli.command("compile")
@click.argument("model", type=Path)
@click.option(
    "-o",
    "--output",
    type=Path,
    metavar="FILE",
    help="Program file [default: MODEL.TARGET.mcp, in the working folder].",
)
@click.option(
    "--target",
    default=DEFAULT_TARGET,
    show_default=True,
    metavar="NAME|FILE.toml,..",
    help="Hardware; see `memcompile targets`. Of several, programs are compared.",
)
@click.option(
    "--chips",
    type=NumberOr(int, "N", auto=None),
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Hard budget of chips, or as many as needed.",
)
@click.option(
    "--reprogram",
    is_flag=True,
    help="If the network is larger than the chips, write it onto them segment by segment, for each batch of images.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    metavar="IMAGES",
    help=f"Images of a batch, with --reprogram [default: {DEFAULT_BATCH}].",
)
@click.option(
    "--slices",
    multiple=True,
    callback=_slices,
    metavar="N[:equal]|LAYER=..",
    help="Differential pairs per weight: of all layers, or of one (repeatable); with :equal they share each weight, "
    "so that their errors average, instead of holding as much of it as they can [default: 1].",
)
@click.option(
    "--slice-base",
    type=int,
    metavar="B",
    help="What a slice's step counts in steps of the one below [default: as large as leaves room for errors].",
)
@input_options
@click.option(
    "--max-loss",
    type=NumberOr(float, "POINTS", auto=AUTO, none=None),
    default=AUTO,
    show_default="1 where there are data and no --slices, --no-windows or --time-limit",
    metavar="POINTS|none",
    help="Choose slices and windows of layers, converter ranges and writing again such that calibrated chips lose at "
    "most so many points of accuracy.",
)
@click.option(
    "--no-windows",
    multiple=True,
    metavar="LAYER",
    help="Give a layer no parallel windows, whose cells add errors (repeatable).",
)
@click.option(
    "--pareto",
    is_flag=True,
    help="List mappings by steps, or by what --optimise says, and predicted loss, with the command that compiles each.",
)
@click.option("--images", type=click.IntRange(1), help="Score on the first so many samples [default: all].")
@click.option("--emulated-images", type=click.IntRange(1), help="Samples for the emulated accuracy [default: by cost].")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Emulated chips.")
@click.option(
    "--tune",
    is_flag=False,
    flag_value=OWN_DATA,
    metavar="[NPZ|DIR]",
    help="Tune each emulated chip as `memcompile tune` does, and write the first; samples to train with, or the "
    "training part of --data, three quarters of an archive.",
)
@click.option("--tune-images", type=click.IntRange(1), help="Train with the first so many samples [default: all].")
@accept_option
@click.option("--no-evaluation", is_flag=True, help="Compile only; measure no accuracy.")
@calibration_option
@click.option("--no-check", is_flag=True, help="Do not compare the program with onnxruntime's result on a sample.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON (- for standard output).")
@report_file_options
@all_layers_option
@click.option("--dump-ir", type=Path, metavar="DIR", help="Write the graph after each pass as DIR/NN_pass.txt.")
@click.option(
    "--optimise",
    type=click.Choice(["throughput", "accuracy", "latency", "arrays"]),
    default="throughput",
    show_default=True,
    help="What the mapping makes best; accuracy is throughput without parallel windows, whose cells add errors.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "best"]),
    default="normal",
    show_default=True,
    help="How long the mapping is searched for (deterministic at each level).",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End the search for a mapping after so long; results then depend on the machine.",
)
@click.option(
    "--import-seconds",
    type=click.FloatRange(0.1, 86_400),
    default=DEFAULT_LIMITS.seconds,
    show_default=True,
    metavar="SECONDS",
    help="Limit on loading the model, and on running it on one sample.",
)
@click.option(
    "--import-memory",
    type=click.FloatRange(0.1, 1024),
    default=DEFAULT_LIMITS.memory_bytes / GIB,
    show_default=True,
    metavar="GIB",
    help="Limit on the memory that either takes.",
)
@click.option("--explain", is_flag=True, help="List each operator, analog or digital and why, and each layer's energy.")
@click.option(
    "--no-pager",
    is_flag=True,
    help="Print what --explain lists at once; longer than the terminal it goes to PAGER [default: less].",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.FIELD=VALUE",
    help="Set a pass option or a target field (repeatable).",
)
@click.option(
    "--list-passes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_passes,
    help="List passes with their options.",
)
@data_options
@click.pass_context
def compile_command(context: click.Context, /, model: Path, **options: Any) -> None:
    """Compile MODEL, write the program, and report mapping and accuracy."""
    out = Output(options["quiet"], options["json_path"])
    targets = split_targets(options["target"])
    _check_evaluation(options)
    if len(targets) == 1:
        out.write_json(_compile(context, model, {**options, "target": targets[0]}, out, context.obj))
        return
    comparison = check_targets(model, targets, options)
    out.expect(READ_MODEL, *targets)
    with out.progress(READ_MODEL, 1):
        source = read_source(model, **_source_options(options))
    page = NO_PAGE if options["html"] == NO_PAGE else None

    def compiled(target: str) -> Facts:
        arguments = with_option(context.obj, "--target", target)
        return _compile(context, model, {**options, "target": target, "html": page}, out, arguments, source)

    compile_targets(targets, compiled, comparison, out)


def _source_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of reading a model and its data."""
    return {
        **{name: options[name] for name in ("data", "mean", "std", "input_shapes", "frozen_inputs", "seed")},
        "limits": Limits(options["import_seconds"], int(options["import_memory"] * GIB)),
    }


def _compile(
    context: click.Context,
    model: Path,
    options: dict[str, Any],
    out: Output,
    arguments: list[str],
    source: Source | None = None,
) -> Facts:
    """Compile for one target, report, and write its files; returns the facts of the report.

    Parameters
    ----------
    arguments
        Words of a command line that does this.
    source
        The model and its data, if they have been read.
    """
    target = options["output"] or program_path(model, options["target"])
    check_writable(target)
    report_files = ReportFiles.of(options["html"], options["trace"], target)
    if options["tune"] is not None:
        check_writable(derived_path(target, "tuned"))
    if source is None:
        out.expect(*_phases(options, pages=report_files.any))
    explanation = Explanation()
    compilation = _compilation(context, model, options, out, explanation, source)
    if options["accept"] is not None:
        check_acceptance(compilation.program, compilation.dataset)
    study = None
    if options["tune"] is not None:
        study = TuningStudy.of(compilation.program, compilation.dataset, options)
    save_program(compilation.program, target)
    with _kept(target):
        explanation.weigh(compilation.multiply_adds)
        facts = program_facts(
            compilation.program, choice=compilation.budget, front=compilation.front, operators=explanation.facts()
        )
        out.mapping(facts, options["all_layers"])
        evaluation, tuned = _evaluated(compilation, study, options, out)
        facts = with_evaluation(facts, evaluation)
        out.quality(facts, options["all_layers"])
        if options["explain"]:
            tables = (explanation.table(), energy_table(facts["cost"]), layer_budget_table(facts))
            out.read([table for table in tables if table is not None], paged=not options["no_pager"])
        if facts["pareto"] is not None:
            out.show(front_table(facts), *front_lines(facts, arguments))
        advice = CompileAdvice(compilation.program, target, DataOptions.of(options), arguments)
        out.say(f"program written to {target}; next: {advice.run()}")
        if tuned is not None and study is not None:
            chip = derived_path(target, "tuned")
            save_program(tuned.first.program, chip)
            scored = replace(DataOptions.of(options), skip=study.skipped or None)
            out.say(f"chip {options['seed']} written to {chip}; next: {command_line(['run', chip, *scored.words()])}")
        for line in advice.lines(facts, compilation.dataset, options["optimise"]):
            out.say(line)
        with out.progress(WRITE_REPORT, 1) if report_files.any else nullcontext():
            report_files.write(compilation.program, facts, Origin(command_line(arguments), options["seed"]), out)
    return facts


@contextmanager
def _kept(program: Path) -> Iterator[None]:
    """Say of an error that a program was written before it."""
    try:
        yield
    except MemcompileError as error:
        error.args = (f"{error}; the program was written to {program} before that", *error.args[1:])
        raise


def _compilation(
    context: click.Context,
    model: Path,
    options: dict[str, Any],
    out: Output,
    explanation: Explanation,
    source: Source | None,
) -> Compilation:
    dump = options["dump_ir"]
    how: dict[str, Any] = {
        **{name: options[name] for name in ("chips", "slices", "slice_base", "seed", "no_windows", "pareto")},
        "batch": _batch(options),
        "settings": (
            f"replicate.objective={options['optimise']}",
            f"replicate.effort={options['effort']}",
            *options["settings"],
        ),
        "instruments": (explanation, *((DumpIr(dump),) if dump else ())),
        "progress": out.progress,
        "check": not options["no_check"],
        "time_limit_s": math.inf if options["time_limit"] is None else options["time_limit"],
        "max_loss": _max_loss(context, options),
    }
    if source is None:
        return compile_model(model, options["target"], **{**_source_options(options), **how})
    return compile_source(source, options["target"], **how)


def _phases(options: dict[str, Any], pages: bool) -> tuple[str, ...]:
    """Phases of a compilation, in order."""
    left_out = {
        MAP_FRONT: not options["pareto"],
        CHECK: options["no_check"],
        **dict.fromkeys((*EVALUATING, TUNE_CHIPS), options["no_evaluation"]),
        WRITE_REPORT: not pages,
    }
    if options["tune"] is None:
        left_out[TUNE_CHIPS] = True
    wanted = (READ_MODEL, MAP_FRONT, QUANTISE, MAP, CHECK, *EVALUATING, TUNE_CHIPS, WRITE_REPORT)
    return tuple(phase for phase in wanted if not left_out.get(phase, False))


def _max_loss(context: click.Context, options: dict[str, Any]) -> float | Auto | None:
    """Budget of accuracy: none by itself where slices are given, even if one is all that is asked for."""
    given = context.get_parameter_source("slices") is not click.core.ParameterSource.DEFAULT
    max_loss: float | Auto | None = options["max_loss"]
    return None if max_loss == AUTO and given else max_loss


def _evaluated(
    compilation: Compilation, study: TuningStudy | None, options: dict[str, Any], out: Output
) -> tuple[Evaluation | None, TunedChips | None]:
    """Measured quality of a program, and of its chips after tuning; None of what is not asked for."""
    if options["no_evaluation"]:
        return None, None
    evaluation = evaluate(
        compilation.program,
        compilation.model,
        compilation.dataset if study is None else study.scored,
        images=options["images"],
        emulated_images=options["emulated_images"],
        seeds=options["seeds"],
        seed=options["seed"],
        calibrate=not options["no_calibration"],
        sensitivities=None if compilation.budget is None else compilation.budget.model.sensitivities,
        written=study is not None,
        progress=out.progress,
    )
    if options["accept"] is not None:
        evaluation = evaluation.accepting(options["accept"])
    return (evaluation, None) if study is None else study.tuned(evaluation, options, out)


def _check_evaluation(options: dict[str, Any]) -> None:
    """Refuse options that need emulated chips where there are none."""
    if options["tune_images"] is not None and options["tune"] is None:
        raise UsageError(f"--tune-images {options['tune_images']} is for tuned chips; add --tune")
    for name, what in (("accept", "counts chips by their accuracy"), ("tune", "scores tuned chips")):
        if options[name] is not None and options["no_evaluation"]:
            raise UsageError(f"--{name} {what}; leave --no-evaluation out")


@dataclass(frozen=True)
class DumpIr:
    """Instrument that writes the graph after each pass."""

    folder: Path

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Write ``NN_pass.txt``."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--dump-ir {self.folder}: {error.strerror}; name a folder that can be made") from error
        write_atomically(self.folder / f"{number:02}_{name}.txt", print_graph(graph).encode())


@cli.command("show")
@click.argument("program", type=Path)
@click.option(
    "--weight", nargs=3, metavar="LAYER OUT IN", help="Where a weight sits: output channel OUT, kernel input IN."
)
@click.option("--json", "json_path", metavar="FILE|-", help="Write the facts as JSON (- for standard output).")
@all_layers_option
def show_command(program: Path, weight: tuple[str, str, str] | None, json_path: str | None, all_layers: bool) -> None:
    """Show the mapping table of PROGRAM, or where one weight sits."""
    out = Output(quiet=False, json_path=json_path)
    loaded = program_of(program)
    if weight is None:
        facts = program_facts(loaded)
        out.mapping(facts, all_layers)
        out.quality(facts)
        out.write_json(facts)
        return
    layer, output, kernel_input = weight
    if not (output.isdigit() and kernel_input.isdigit()):
        raise UsageError(f"--weight {layer} {output} {kernel_input}: the last two are numbers that count from 0")
    out.print(_weight_table(loaded, layer, int(output), int(kernel_input)))


def _weight_table(program: Program, layer: str, output: int, kernel_input: int) -> Table:
    array, segmented = program.target.array, bool(program.placement.segments)
    table = Table(
        title=f"weight of {layer}: output channel {output}, kernel input {kernel_input}", title_justify="left"
    )
    headings = (
        "replica",
        *(("segment",) if segmented else ()),
        "chip",
        "array",
        array.input_line_name,
        array.output_line_name,
        "slice",
        "polarity",
        "level",
        "conductance",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for cell in find_weight(program, layer, output, kernel_input):
        places = (
            cell.replica,
            *((cell.segment,) if segmented else ()),
            cell.chip,
            cell.array,
            cell.input_line,
            cell.output_line,
            cell.slice,
            cell.polarity,
            cell.level,
        )
        table.add_row(*map(str, places), f"{cell.conductance_us:.3f} uS")
    return table


cli.add_command(report_command)
cli.add_command(draw_command)
cli.add_command(compare_command)
cli.add_command(targets_command)
cli.add_command(device_command)
cli.add_command(export_command)
cli.add_command(tune_command)
cli.add_command(refresh_command)
cli.add_command(run_command)
cli.add_command(explore_command)
cli.add_command(population_command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    with ended_by_signals():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    try:
        result = cli.main(args=arguments, prog_name="memcompile", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except MemcompileError as error:
        click.echo(f"memcompile: error: {error}", err=True)
        return error.exit_code
    except MemoryError:
        click.echo(
            "memcompile: error: there is not enough memory for this; take a smaller model or less data", err=True
        )
        return MemcompileError.exit_code
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        # The reader of our output went away (`| head`), which click turns into exit 1: nobody is left to tell.
        discard_output()
        return 0
    except OSError as error:
        # Files are read and written where their errors get names; what is left is our own output.
        discard_output()
        click.echo(f"memcompile: error: standard output cannot be written: {error.strerror or error}", err=True)
        return OutputError.exit_code

"""All pipelines on one page: which passes run, in which order, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from numpy.typing import ArrayLike

from memcompile.accuracy.accuracy_budget import BudgetResult, fit_budget
from memcompile.accuracy.candidates import Candidates, Plans, quieter_targets
from memcompile.accuracy.labelled_samples import can_budget
from memcompile.accuracy.loss_front import LossFront, loss_front
from memcompile.accuracy.loss_prediction import Reference
from memcompile.blas import one_blas_thread
from memcompile.data.loader import Data, Dataset
from memcompile.data.source import Source, read_source
from memcompile.described import Described
from memcompile.errors import UsageError
from memcompile.frontend.batch_axes import Found
from memcompile.frontend.body_operators import find_bodies
from memcompile.frontend.importer import ModelFile, to_model
from memcompile.frontend.sandbox import Limits
from memcompile.frontend.sources import Network
from memcompile.hardware.target import Target, load_target
from memcompile.hardware.target_settings import with_target_settings
from memcompile.heap import large_blocks_go_back
from memcompile.ir.batching import Batching
from memcompile.ir.graph import DigitalNode, Graph, MappedLayer, Node, OnnxNode, TiledLayer, read_values
from memcompile.ir.pass_contract import Form, check_order
from memcompile.ir.pass_manager import (
    Instrument,
    Pass,
    PassContext,
    ProgressBar,
    Recording,
    no_progress,
    run_passes,
    with_options,
)
from memcompile.ir.slicing import SliceChoice, Slices, slice_choices
from memcompile.passes.calibrate_activations import CalibrateActivations
from memcompile.passes.calibrate_ranges import CalibrateRanges
from memcompile.passes.cut_segments import CutSegments
from memcompile.passes.fold_batchnorm import FoldBatchnorm
from memcompile.passes.fold_constants import FoldConstants
from memcompile.passes.group_digital import GroupDigital
from memcompile.passes.place import Place
from memcompile.passes.quantize_weights import QuantizeWeights
from memcompile.passes.remove_dead_nodes import RemoveDeadNodes
from memcompile.passes.replicate import Replicate
from memcompile.passes.schedule import Schedule
from memcompile.passes.select_crossbar_operators import SelectCrossbarOperators
from memcompile.passes.slice_weights import SliceWeights
from memcompile.passes.solving.clock import Clock, running
from memcompile.passes.split_differential import SplitDifferential
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.passes.unroll_convolutions import UnrollConvolutions
from memcompile.program.program import DigitalStage, Program, Provenance, Stage
from memcompile.program.random_operators import random_values
from memcompile.progress.phases import CHECK, MAP, MAP_FRONT, QUANTISE, READ_MODEL
from memcompile.report.evaluation import run_float
from memcompile.report.multiply_adds import MultiplyAdds
from memcompile.timing.dataflow_steps import Flow
from memcompile.verify.self_check import FloatNetwork, check_program
from memcompile.verify.verifier import Verifier

DEFAULT_TARGET = "yao2020"
Auto = Literal["auto"]
AUTO: Auto = "auto"
DEFAULT_MAX_LOSS = 1.0
"""Points of the accuracy budget that a network gets if the user says nothing of it."""
RECORDINGS = 4
"""Mappings under an accuracy budget that are kept, so that the one that is chosen is not made again."""


def default_passes() -> tuple[Pass, ...]:
    """The passes from an imported graph to a scheduled mapping."""
    return (
        # First, so that weights which come through chains of operators are seen as static.
        FoldConstants(),
        # Before folding, which works on layers; only layers have weights to fold into.
        SelectCrossbarOperators(),
        FoldBatchnorm(),
        # Folding leaves operators behind that nothing reads.
        RemoveDeadNodes(),
        # From here on the graph alternates between crossbar layers and digital subgraphs.
        GroupDigital(),
        UnrollConvolutions(),
        # Needs the float network; everything after works on integers.
        CalibrateActivations(),
        QuantizeWeights(),
        SliceWeights(),
        SplitDifferential(),
        # The mapping proper: what the blocks are, how many replicas, where, and when.
        TileMatrices(),
        # Where one replica of each layer is too large for the chips; the two passes that follow then leave it as it is.
        CutSegments(),
        Replicate(),
        # Needs to know how layers are cut, which is settled now; where tiles lie does not matter.
        CalibrateRanges(),
        Place(),
        Schedule(),
    )


@dataclass(frozen=True, eq=False, repr=False)
class Compilation(Described):
    """A program with what it was made from, for reports and evaluation."""

    program: Program
    model: ModelFile
    dataset: Dataset
    warnings: tuple[str, ...]
    multiply_adds: MultiplyAdds
    budget: BudgetResult | None = None
    front: LossFront | None = None

    def described(self) -> list[str]:
        """Lines of ``repr``."""
        return [*self.program.described(), *self.dataset.described()]


@cache
def compiler_version() -> str:
    """Version of the installed package."""
    try:
        return version("memcompile")
    except PackageNotFoundError:
        return "0+checkout"


def compile_model(  # noqa: PLR0913 - its options are those of the command line
    model: Network,
    target: Target | str = DEFAULT_TARGET,
    *,
    data: Data = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    frozen_inputs: Mapping[str, ArrayLike] | None = None,
    example_inputs: Sequence[Any] | None = None,
    chips: int | None = None,
    batch: int | None = None,
    slices: Slices = 1,
    slice_base: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    passes: Sequence[Pass] | None = None,
    instruments: Iterable[Instrument] = (),
    progress: ProgressBar = no_progress,
    check: bool = True,
    limits: Limits | None = None,
    time_limit_s: float = math.inf,
    max_loss: float | Auto | None = None,
    no_windows: Sequence[str] = (),
    pareto: bool = False,
) -> Compilation:
    """Compile a model and keep everything that was read on the way.

    ``passes`` is a pipeline of one's own instead of :func:`default_passes`; ``settings`` change options of passes and
    fields of the target. With ``batch`` a network that is larger than ``chips`` chips is cut into segments that are
    written onto them one after the other, once for each batch of so many images. With ``check`` the program is compared
    with the model on one batch of samples. ``slices`` is a number for all layers, or one by the name of each layer, and
    of all others by ``ALL_LAYERS``; texts such as ``3:equal`` say how slices are filled, too. ``example_inputs`` are
    for a PyTorch module, ``frozen_inputs`` values of inputs that are made constants. ``limits`` apply where onnxruntime
    first loads and runs the model; None trusts it. The command line sets limits. ``time_limit_s`` holds for all
    searches of the mapping together; where it is finite, results depend on the machine. ``max_loss`` is a budget of
    accuracy in points: layers get slices, at least those given, and windows such that calibrated chips lose no more
    against the model itself; ``AUTO`` is a budget of ``DEFAULT_MAX_LOSS`` where the loss is known and neither slices,
    windows, a pipeline nor a time limit are given. ``no_windows`` names layers without parallel windows. With
    ``pareto`` the result has the front of mappings without a budget, of steps (or what is to be best) against predicted
    loss.

    Raises
    ------
    MemcompileError
        Any fault of the model, the data, the target, the options or the budget.
    """
    _checked(target, settings, chips, batch, slices, slice_base, seed, passes)
    with progress(READ_MODEL, 1):
        source = read_source(
            model,
            data=data,
            mean=mean,
            std=std,
            input_shapes=input_shapes,
            frozen_inputs=frozen_inputs,
            example_inputs=example_inputs,
            seed=seed,
            limits=limits,
        )
    return compile_source(
        source,
        target,
        chips=chips,
        batch=batch,
        slices=slices,
        slice_base=slice_base,
        seed=seed,
        settings=settings,
        passes=passes,
        instruments=instruments,
        progress=progress,
        check=check,
        time_limit_s=time_limit_s,
        max_loss=max_loss,
        no_windows=no_windows,
        pareto=pareto,
    )


def compile_source(  # noqa: PLR0913 - its options are those of compile_model
    source: Source,
    target: Target | str,
    *,
    chips: int | None = None,
    batch: int | None = None,
    slices: Slices = 1,
    slice_base: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    passes: Sequence[Pass] | None = None,
    instruments: Iterable[Instrument] = (),
    progress: ProgressBar = no_progress,
    check: bool = True,
    time_limit_s: float = math.inf,
    max_loss: float | Auto | None = None,
    no_windows: Sequence[str] = (),
    pareto: bool = False,
) -> Compilation:
    """Compile what was read; parameters are those of :func:`compile_model`.

    Raises
    ------
    MemcompileError
        Any fault of the target, the options or the budget.
    """
    hardware, pipeline = _checked(target, settings, chips, batch, slices, slice_base, seed, passes)
    usual_slices, own_slices = slice_choices(slices)
    file, dataset, found, sample = source.model, source.dataset, source.found, source.sample
    graph = source.graph
    context = PassContext(
        hardware,
        dataset.calibration,
        representative=not dataset.generated,
        slices=usual_slices.count,
        slice_base=slice_base,
        fill=usual_slices.fill,
        layer_slices=own_slices,
        one_position=frozenset(no_windows),
        chips=chips,
        batch=batch,
        seed=seed,
        effort=next((item.effort for item in pipeline if isinstance(item, Replicate)), Replicate().effort),
        progress=progress,
    )
    # A time limit would be spent by the first of several mappings.
    usual = (slices, slice_base, passes, batch, time_limit_s) == (1, None, None, None, math.inf) and not no_windows
    if max_loss == AUTO and (dataset.generated or not usual):
        max_loss = None
    if max_loss is not None and max_loss != AUTO:
        _check_budget(max_loss, batch)
    network = FloatNetwork(file, sample)
    counted = MultiplyAdds(find_bodies(file, sample))
    checks = (counted, Verifier(), network) if check else (counted, Verifier())
    observers, budget, front = (*instruments, *checks), None, None
    reference = partial(run_float, file, batching=found.batching)
    with running(Clock(waiting_s=time_limit_s)), large_blocks_go_back(), one_blas_thread():
        if pareto:
            with progress(MAP_FRONT, 1):
                front = _front(graph, pipeline, context, dataset, reference)
        begin = _first_of_mapping(pipeline)
        with progress(QUANTISE, 1):
            graph = run_passes(graph, pipeline[:begin], context, observers)
        with progress(MAP, 1):
            if max_loss is None:
                graph = run_passes(graph, pipeline[begin:], context, observers, done=begin)
            else:
                graph, context, budget = _within_budget(
                    graph, pipeline, context, observers, dataset, max_loss, reference
                )
    warnings = (
        *_data_warnings(dataset, found, calibrated=not hardware.cell.continuous),
        *_branch_warnings(source.graph),
        *_random_warnings(graph),
    )
    options: dict[str, str | int | float | bool | None] = {
        "batch": batch,
        "chips": chips,
        "data": dataset.name,
        "seed": seed,
        "settings": " ".join(settings),
        "slice_base": context.slicing.base,
        "slices": context.slices,
    }
    options.update(_layer_options(context))
    if budget is not None:
        options.update(_budget_options(budget, hardware))
    if file.frozen:
        options["freeze"] = file.frozen
    if time_limit_s < math.inf:
        options["time_limit_s"] = time_limit_s
    if passes is not None:
        options["passes"] = " ".join(item.pass_name() for item in pipeline)
    provenance = Provenance(
        file.name, file.sha256, compiler_version(), options, warnings, counted.total, counted.on_arrays
    )
    program = emit_program(graph, context, provenance)
    if check:
        rounding = [item for item in pipeline if isinstance(item, QuantizeWeights)]
        clipping = [item for item in pipeline if isinstance(item, CalibrateActivations)]
        with progress(CHECK, 1):
            check_program(
                program,
                network,
                compensated=context.representative and any(item.compensate for item in rounding),
                shortest_range=min((item.shortest for item in clipping), default=CalibrateActivations().shortest),
            )
    return Compilation(program, file, dataset, warnings, counted, budget, front)


def _layer_options(context: PassContext) -> dict[str, str | int]:
    """Slices and windows that are not those of most programs, for the provenance."""
    slices = {f"slices of {name}": own.value for name, own in context.layer_slices.items()}
    windows = {f"windows of {name}": False for name in sorted(context.one_position)}
    return {**({} if context.fill == "max" else {"slice_fill": context.fill}), **slices, **windows}


def _budget_options(budget: BudgetResult, hardware: Target) -> dict[str, str | float]:
    """Options for the provenance that an accuracy budget chose, besides slices and windows."""
    found: dict[str, str | float] = {"max_loss": budget.points}
    if budget.target.programming != hardware.programming:
        found["write_again_share"] = budget.target.programming.write_again_share
    if budget.range_calibrated:
        found["converter_range"] = budget.target.adc.range
    return found


class _Mappings:
    """Ways to map a graph whose passes up to rounding have run, with slices and windows of layers as plans say."""

    def __init__(self, graph: Graph, pipeline: Sequence[Pass], context: PassContext, reference: Reference) -> None:
        self.begin = _first_of_mapping(pipeline)
        self.tiled = next(number for number, item in enumerate(pipeline, start=1) if Form.TILED in item.produces)
        self.graph, self.pipeline, self.context = graph, pipeline, replace(context, kept={})
        self._recordings: dict[object, Recording] = {}
        self._ranged: dict[object, Graph] = {}
        replicate = [item for item in pipeline if isinstance(item, Replicate)]
        windows = all(item.parallel_windows and item.objective != "accuracy" for item in replicate)
        self.ranges = [item for item in pipeline if isinstance(item, CalibrateRanges)]
        targets = quieter_targets(context.target, ranges=bool(self.ranges))
        self.candidates = Candidates(cache(self._layers), self._program, targets, self._slices, windows, reference)

    def chosen(self, plans: Plans) -> PassContext:
        """The context in which passes follow plans."""
        given = self.context.layer_slices
        slices = {name: plan.slices for name, plan in plans.items() if plan.slices != self._slices(name)}
        one_position = frozenset(name for name, plan in plans.items() if not plan.windows)
        return replace(
            self.context, layer_slices={**given, **slices}, one_position=self.context.one_position | one_position
        )

    def recorded(self, plans: Plans) -> Recording:
        """The passes from rounding on; the first recording and the last ones are kept."""
        context = self.chosen(plans)
        key = _key(context)
        if key not in self._recordings:
            recording = Recording()
            run_passes(self.graph, self.pipeline[self.begin :], context, (recording,), done=self.begin)
            if len(self._recordings) >= RECORDINGS:
                oldest = list(self._recordings)[1]
                del self._recordings[oldest]
                self._ranged.pop(oldest, None)
            self._recordings[key] = recording
        return self._recordings[key]

    def on(self, plans: Plans, target: Target, observers: Sequence[Instrument] | None = None) -> Graph:
        """The mapped graph on a target of the candidates; with ``observers`` they are shown all passes."""
        recording, context = self.recorded(plans), replace(self.chosen(plans), target=target)
        graph = recording.last if observers is None else recording.replay(observers)
        if target.adc.range == self.context.target.adc.range:
            return graph
        key = _key(context)
        if key not in self._ranged:
            self._ranged[key] = run_passes(graph, self.ranges, context)
        for observer in observers or ():
            observer.after_pass(len(self.pipeline) + 1, CalibrateRanges.pass_name(), self._ranged[key], context)
        return self._ranged[key]

    def _slices(self, layer: str) -> SliceChoice:
        slicing = self.context.slicing_of(layer)
        return SliceChoice(slicing.slices, slicing.fill)

    def _layers(self, slices: SliceChoice) -> dict[str, TiledLayer]:
        context = replace(self.context, slices=slices.count, fill=slices.fill, layer_slices={})
        cut = run_passes(self.graph, self.pipeline[self.begin : self.tiled], context)
        return {node.name: node for node in cut.nodes if isinstance(node, TiledLayer)}

    def _program(self, plans: Plans, target: Target) -> Program:
        graph = self.on(plans, target)
        return emit_program(graph, replace(self.chosen(plans), target=target), Provenance(graph.name, "", "", {}))


def _key(context: PassContext) -> object:
    return frozenset(context.layer_slices.items()), context.one_position


def _within_budget(
    graph: Graph,
    pipeline: Sequence[Pass],
    context: PassContext,
    observers: Sequence[Instrument],
    dataset: Dataset,
    max_loss: float | Auto,
    reference: Reference,
) -> tuple[Graph, PassContext, BudgetResult | None]:
    """The mapped graph whose layers have the slices and windows that hold a loss, and the context that gives them.

    On ``graph`` the passes before the first that slices matter to have run.
    """
    mappings = _Mappings(graph, pipeline, context, reference)
    plans: Plans = {}
    result, target = None, context.target
    if max_loss != AUTO or can_budget(mappings.candidates.first, dataset):
        points = DEFAULT_MAX_LOSS if max_loss == AUTO else max_loss
        result = fit_budget(mappings.candidates, dataset, points, chips=context.chips, progress=context.progress)
        plans, target = result.plans, result.target
    chosen = replace(mappings.chosen(plans), target=target, kept=None)
    return mappings.on(plans, target, observers), chosen, result


def _front(
    graph: Graph, pipeline: Sequence[Pass], context: PassContext, dataset: Dataset, reference: Reference
) -> LossFront:
    """The front of mappings without a budget."""
    if context.batch is not None:
        raise UsageError("segments are written anew for each batch; leave out --pareto or --reprogram")
    graph = run_passes(graph, pipeline[: _first_of_mapping(pipeline)], context)
    objective = next((item.objective for item in pipeline if isinstance(item, Replicate)), Replicate().objective)
    candidates = _Mappings(graph, pipeline, context, reference).candidates
    return loss_front(candidates, dataset, objective, chips=context.chips, progress=context.progress)


def _first_of_mapping(pipeline: Sequence[Pass]) -> int:
    """Number of the first pass that slices matter to; the order of passes was checked, so that there is one."""
    return next(number for number, item in enumerate(pipeline) if Form.QUANTIZED in item.produces)


def _checked(
    target: Target | str,
    settings: Sequence[str],
    chips: int | None,
    batch: int | None,
    slices: Slices,
    slice_base: int | None,
    seed: int,
    passes: Sequence[Pass] | None,
) -> tuple[Target, Sequence[Pass]]:
    """The target and the passes with their settings.

    Raises
    ------
    MemcompileError
        Any fault of the target, or of options that do not depend on the model.
    """
    hardware, of_passes = with_target_settings(load_target(target) if isinstance(target, str) else target, settings)
    usual, own = slice_choices(slices)
    for choice in (usual, *own.values()):
        check_options(hardware, chips, choice, slice_base, seed)
    check_batch(chips, batch)
    pipeline = with_options(default_passes() if passes is None else passes, of_passes)
    check_order(pipeline)
    return hardware, pipeline


def check_options(target: Target, chips: int | None, slices: SliceChoice, slice_base: int | None, seed: int) -> None:
    """Raise UsageError for numbers out of range."""
    if chips is not None and chips < 1:
        raise UsageError(f"chips = {chips}: at least 1, or auto for as many as the network needs")
    if not 1 <= slices.count <= 4:
        raise UsageError(f"slices = {slices}: from 1 to 4 pairs can hold one weight")
    if target.cell.continuous and (slices.count, slice_base) != (1, None):
        raise UsageError(f"slices = {slices}: one pair of {target.name} holds any weight; give no slices or slice base")
    if slice_base is not None and not 2 <= slice_base <= target.slice_base():
        raise UsageError(f"slice base = {slice_base}: pairs of {target.name} allow 2 to {target.slice_base()}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed = {seed}: from 0 to 2^63 - 1")


def _check_budget(points: float, batch: int | None) -> None:
    """Raise UsageError if no mapping can have such a budget of accuracy."""
    if not 0 < points <= 100:
        raise UsageError(f"max_loss = {points:g}: above 0, at most 100 points")
    if batch is not None:
        raise UsageError("segments are written anew for each batch; give no accuracy budget with --reprogram")


def check_batch(chips: int | None, batch: int | None) -> None:
    """Raise UsageError if a network cannot be written in segments for batches of so many images."""
    if batch is None:
        return
    if not 1 <= batch <= 2**32:
        raise UsageError(f"batch = {batch}: from 1 to 2^32 images")
    if chips is None:
        raise UsageError(
            "a network gets as many chips as it needs unless their number is given, so nothing is written twice; "
            "give --chips N with --reprogram"
        )


def _data_warnings(dataset: Dataset, found: Found, calibrated: bool) -> tuple[str, ...]:
    """Warnings about generated data and about inputs without a batch."""
    warnings = []
    if dataset.generated and calibrated:
        warnings.append(
            "no data: the input quantisers are calibrated on generated inputs, so accuracy is not measured and "
            "will suffer; give real samples with --data"
        )
    for name in found.inputs if dataset.generated else ():
        if name not in found.assumed:
            continue
        sizes = list(found.batching.sample_shape(name, found.inputs[name].shape))
        warnings.append(f"input {name!r} leaves sizes open; compiled for {sizes} (--input-shape to change)")
    if found.batching.whole:
        warnings.append("the inputs have no batch axis in common: one run of the network is one sample")
    return tuple(warnings)


def _branch_warnings(graph: Graph) -> tuple[str, ...]:
    """A warning for each input of one number that alone decides which branches of the imported network run."""
    makers = {value: node for node in graph.nodes for value in node.outputs}
    deciding: dict[str, None] = {}
    for node in graph.nodes:
        if isinstance(node, OnnxNode) and node.kind == "If":
            inputs = _values_behind(node.inputs[0], makers) & set(graph.inputs)
            deciding.update(dict.fromkeys(inputs if len(inputs) == 1 else ()))
    return tuple(
        f"input {name!r} decides which branches run, so all of them stay digital; --freeze {name}=VALUE makes it a "
        "constant, and the branch that runs is compiled"
        for name in deciding
        if math.prod(size or 1 for size in graph.types[name].shape) == 1
    )


def _values_behind(value: str, makers: Mapping[str, Node]) -> set[str]:
    """All values that a value depends on, itself included."""
    found, waiting = {value}, [value]
    while waiting:
        node = makers.get(waiting.pop())
        further = () if node is None else read_values(node)
        waiting += [read for read in further if read not in found]
        found.update(further)
    return found


def _random_warnings(graph: Graph) -> tuple[str, ...]:
    """A warning for each operator whose random numbers reach an output."""
    sources = random_values(Flow.of_graph(graph))
    reached: dict[str, list[str]] = {}
    for output in graph.outputs:
        if output in sources:
            reached.setdefault(sources[output].name, []).append(output)
    return tuple(
        f"operator {source.op_type} {name!r} draws random numbers anew at each run; what depends on them is another "
        f"result each time, from onnxruntime too: {', '.join(reached[name])}"
        for name, source in {source.name: source for source in sources.values()}.items()
        if name in reached
    )


def emit_program(graph: Graph, context: PassContext, provenance: Provenance) -> Program:
    """Turn a scheduled graph into a program."""
    assert graph.placement is not None
    stages: list[Stage] = []
    for node in graph.nodes:
        if isinstance(node, MappedLayer):
            stages.append(node)
            continue
        assert isinstance(node, DigitalNode)
        model = to_model(graph, node.nodes, node.inputs, node.outputs)
        stages.append(DigitalStage(node.name, node.inputs, node.outputs, model))
    inputs = {name: graph.types[name] for name in graph.inputs}
    return Program(
        target=context.target,
        inputs=inputs,
        outputs=graph.outputs,
        stages=tuple(stages),
        constants={name: graph.constants[name] for name in graph.outputs if name in graph.constants},
        placement=graph.placement,
        provenance=provenance,
        layout=None if graph.batching == Batching.along_first(inputs) else graph.batching,
    )

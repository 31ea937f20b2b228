"""The emulator: runs a program image by image as the chip would.

Crossbar layers go through one of two executors of the same program: ``fast`` (default), stage by
stage, and ``literal``, the slow and obvious oracle, which follows the schedule of one image step
by step. Without imperfections both give the bits of integer arithmetic; with deterministic ones
they agree bit for bit with each other; with read noise they agree in distribution.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.described import Described
from memcompile.errors import DataError, ProgramError, UsageError
from memcompile.frontend.values import Value
from memcompile.hardware.conditions import Conditions
from memcompile.hardware.pulses import WriteReport
from memcompile.ir.batching import Batching
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import MappedLayer
from memcompile.program.coupled_samples import program_couples_samples
from memcompile.program.line_corrections import Calibration
from memcompile.program.program import DigitalStage, Program, Stage
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.executors.batches import Batches, check_inputs, join_values
from memcompile.runtime.executors.digital import DigitalRunner
from memcompile.runtime.executors.edges import quantize, rescale
from memcompile.runtime.executors.fast import FastExecutor
from memcompile.runtime.executors.literal import LiteralExecutor
from memcompile.runtime.executors.machine import Machine
from memcompile.runtime.executors.passes_of_images import PassExecutors
from memcompile.runtime.executors.schedule_walk import ScheduleWalk
from memcompile.runtime.kernels.compiled import Workers, available_threads

__all__ = ["Effects", "Emulator"]

CHUNK_BYTES = 40_000_000
"""Memory that the largest layer's input vectors and sums may take in a thread; sets the default chunk.

More costs time: fresh memory has to be mapped, and caches do not hold what one step hands to the next.
"""
MAX_CHUNK = 1_000


class Emulator(Described):
    """A program on one sample of hardware.

    Parameters
    ----------
    program
        Program to run.
    seed
        Selects the sample of devices and all noise, 0 <= seed < 2^64. A program that is transferred to a
        chip has devices of its own, by ``program.chip.seed``; the seed then selects the read noise alone.
    effects
        Imperfections to apply; all of them when None.
    executor
        ``"fast"``, or ``"literal"`` for the step-by-step oracle.
    chunk
        Images run at once; chosen to bound memory when None. Results do not depend on it, nor does the
        pass of an image, which its number and the program's batch decide. Only where digital operators find a range
        for all images that they get together, such as DynamicQuantizeLinear, does it matter: None then is one image,
        as the chip works, and a chunk of several gives what onnxruntime gives for a batch of so many. Networks whose
        images do not lie along axis 0 run one by one.
    threads
        Threads of the compiled kernels; the processors at hand when None. Results do not depend
        on it.
    time_s
        Time since programming, in seconds; relaxation and drift depend on it. In a program of several
        segments each segment is this old when it is used.
    reads
        Reads of each cell since programming, for read disturb.
    writes
        Times that all cells were written again; what belongs to a cell, such as faults, stays. Time and reads count
        from the last one.
    whole
        The inputs have no common batch axis; only :meth:`run_whole` takes such inputs.

    Raises
    ------
    UsageError
        The seed, executor, time, count or chunk is out of range, or the chunk contradicts the model's fixed
        batch.
    """

    def __init__(
        self,
        program: Program,
        seed: int = 0,
        *,
        effects: Effects | None = None,
        executor: Literal["fast", "literal"] = "fast",
        chunk: int | None = None,
        threads: int | None = None,
        time_s: float = 0.0,
        reads: float = 0.0,
        writes: int = 0,
        whole: bool = False,
    ) -> None:
        check_seed(seed)
        conditions = Conditions(time_s, reads, writes)
        if executor not in ("fast", "literal"):
            raise UsageError(f"no executor is called {executor!r}; there are 'fast' and 'literal'")
        self.program = program
        self.effects = Effects() if effects is None else effects
        threads = threads or available_threads()
        self.machine = Machine(program, seed, self.effects, threads, conditions)
        batching = Batching({}) if whole else program.batching
        inputs, coupled = {} if whole else program.inputs, program_couples_samples(program)
        together = executor == "fast" and not whole and _lies_along_first(program)
        self.batches = Batches.of(inputs, batching, chunk, default_chunk(program), coupled=coupled, together=together)

        switches = self.effects  # no reference to self: a chip that nobody needs any more goes at once

        def machine_of(pass_number: int) -> Machine:
            return Machine(program, seed, switches, threads, conditions, pass_number)

        self._fast = PassExecutors(self.machine, machine_of, FastExecutor)
        self._literal = None if executor == "fast" else PassExecutors(self.machine, machine_of, LiteralExecutor)
        self._digital = DigitalRunner()
        self._numbers = {layer.name: number for number, layer in enumerate(program.layers)}

    def described(self) -> tuple[str, ...]:
        """Lines of ``repr``."""
        ideal = self.effects == Effects.none()
        hardware = "ideal devices" if ideal else f"devices of seed {self.machine.seed}"
        return (f"Emulator with {hardware}", *self.program.described())

    @classmethod
    def ideal(cls, program: Program, executor: Literal["fast", "literal"] = "fast") -> Emulator:
        """Perfect hardware: integer arithmetic of the quantised network, converters wide enough."""
        return cls(program, effects=Effects.none(), executor=executor)

    def calibrated(self, calibration: Calibration | None) -> Emulator:
        """The same chip with other corrections of its lines, or none; its cells are shared, not written again.

        Raises
        ------
        UsageError
            The corrections are those of another chip.
        """
        chip = copy.copy(self)
        chip.program = replace(self.program, calibration=calibration)
        chip.machine = self.machine.calibrated(chip.program)
        return chip

    def run(
        self,
        x: NDArray[Any] | Mapping[str, NDArray[Any]],
        *,
        first_image: int = 0,
        also: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run images through the program, chunk by chunk.

        Parameters
        ----------
        x
            The program's inputs by name, [images, ...] each; one array if there is one input. Images lie
            along another axis, or all share one value, where ``program.batching`` says so. Where a run of the network
            is one image, an array has the input's own shape, or a further first axis that counts runs; outputs then
            have it as well.
        first_image
            Number of the first image; read noise is keyed by image number, so that a data set
            run in parts gives the same result as in one go.
        also
            Intermediate values to return beside the outputs.
        progress
            Called after each chunk with the number of images done since the last call.

        Returns
        -------
        dict of ndarray
            Outputs and values of ``also`` by name.

        Raises
        ------
        DataError
            An input is missing, unknown, of another type or shape, or not finite; or a value
            between the stages is not a number.
        UsageError
            ``also`` names a value that the program does not have.
        """
        return self.measure((*self.program.outputs, *also), x, first_image=first_image, progress=progress)

    def measure(
        self,
        names: Sequence[str],
        x: NDArray[Any] | Mapping[str, NDArray[Any]],
        *,
        first_image: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run images only as far as some values need it, and return these; else as :meth:`run`."""
        wanted = tuple(dict.fromkeys(names))
        self._check_names(wanted)
        inputs, images = check_inputs(self.program.inputs, x, self.batches)
        if not 0 <= first_image <= (1 << 32) - images:
            raise UsageError(f"first_image {first_image} is out of range; give 0 <= first_image <= 2^32 - {images}")
        results = self._run_chunks(inputs, max(images, 1), first_image, wanted, progress=progress)
        if images:
            return results
        return {name: value[0, ...] if isinstance(value, np.ndarray) else value[0] for name, value in results.items()}

    def run_whole(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Run inputs that have no common batch axis, in one go and unchecked; returns the outputs.

        Raises
        ------
        DataError
            A stage cannot run on the values it gets.
        """
        return self._run_chunk(dict(values), np.zeros(1, np.int64), self.program.outputs)

    def run_from(
        self, first_stage: int, values: Mapping[str, NDArray[Any]], *, first_image: int = 0, also: Sequence[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """Run only the stages from one on, on values that the earlier ones made.

        Parameters
        ----------
        first_stage
            Number of the first stage to run.
        values
            Values that :func:`values_before` lists, [images, ...] each, of images numbered from ``first_image`` on; the
            result is then that of :meth:`run`, bit for bit.
        also
            Intermediate values to return beside the outputs.

        Raises
        ------
        UsageError
            A value is no tensor.
        """
        wanted = tuple(dict.fromkeys((*self.program.outputs, *also)))
        self._check_names(also)
        refuse_sequences(values)
        images = max(len(array) for name, array in values.items() if name not in self.batches.batching.shared)
        return self._run_chunks(values, images, first_image, wanted, first_stage)

    def _run_chunks(
        self,
        values: Mapping[str, NDArray[Any]],
        images: int,
        first_image: int,
        wanted: tuple[str, ...],
        first_stage: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run chunk by chunk, and join the results."""
        cuts = list(self.batches.cuts(images, self.machine.workers.threads))
        try:
            return self._run_cuts(values, cuts, first_image, wanted, first_stage, progress)
        except ProgramError:
            # The vectors of several images may lie time first, in an order that the schedule of one does not know.
            if self._literal is None or len(cuts) == images:
                raise
        alone = [(image, image + 1) for image in range(images)]
        return self._run_cuts(values, alone, first_image, wanted, first_stage, progress)

    def _run_cuts(
        self,
        values: Mapping[str, NDArray[Any]],
        cuts: Sequence[tuple[int, int]],
        first_image: int,
        wanted: tuple[str, ...],
        first_stage: int,
        progress: Callable[[int], None] | None,
    ) -> dict[str, NDArray[Any]]:
        """Run some chunks, given by their first image and the one behind their last."""

        def run_chunk(begin: int, end: int) -> dict[str, NDArray[Any]]:
            some = self.batches.part(values, begin, end)
            numbers = np.arange(first_image + begin, first_image + end, dtype=np.int64)
            return self._run_chunk(some, numbers, wanted, first_stage)

        tasks = [partial(run_chunk, *cut) for cut in cuts]
        # A thread per chunk has less to wait for than threads that share every layer of one. Arrays
        # that are written anew for later images come one after the other.
        one_by_one = self._literal is not None or self.machine.differs_between_passes
        if not one_by_one and len(cuts) > 1:
            self._prepare(self.program.stages[first_stage : self._last_stage(wanted)])
        results = (task() for task in tasks) if one_by_one else self.machine.workers.in_order(tasks)
        parts: list[dict[str, NDArray[Any]]] = []
        for (begin, end), part in zip(cuts, results, strict=True):
            parts.append(part)
            if progress is not None:
                progress(end - begin)
        counts = [end - begin for begin, end in cuts]

        def run_others(name: str) -> tuple[int, Value]:
            number = 2 if counts[0] == 1 else 1
            return number, run_chunk(0, number)[name]

        return {name: self._joined(name, parts, counts, run_others) for name in wanted}

    def explain(self) -> dict[str, str]:
        """Method that each crossbar layer goes through, and the reason, by layer name."""
        if self._literal is not None:
            reason = "literal: asked for; every step, phase and cell as placed"
            return dict.fromkeys((layer.name for layer in self.program.layers), reason)
        paths = [self._fast.first.path(number) for number in range(len(self.program.layers))]
        return {layer.name: f"{path}: {why}" for layer, (path, why) in zip(self.program.layers, paths, strict=True)}

    def writing(self) -> WriteReport | None:
        """Cost of writing all arrays once: pulses, time, energy, and cells that missed the margin.

        None where the target emulates no pulses (``write_verify.emulated``), the programming error is
        switched off, or the program was transferred to a chip, whose report came with the transfer.
        """
        return self.machine.devices.writing()

    def _joined(
        self,
        name: str,
        parts: Sequence[Mapping[str, Value]],
        counts: Sequence[int],
        run_others: Callable[[str], tuple[int, Value]],
    ) -> Value:
        batching = self.batches.batching
        if name in self.program.constants:
            constant = self.program.constants[name]
            return np.broadcast_to(constant, (len(parts), *constant.shape)) if batching.whole else constant
        alone = self.batches.fixed is not None or batching.one_by_one
        another = None if alone else partial(run_others, name)
        return join_values(name, [part[name] for part in parts], counts, another, batching)

    def _check_names(self, also: Sequence[str]) -> None:
        known = {value for stage in self.program.stages for value in stage.outputs}
        known |= set(self.program.inputs) | set(self.program.constants)
        unknown = [name for name in also if name not in known]
        if unknown:
            raise UsageError(
                f"the program has no value {unknown[0]!r}; values between its stages are "
                f"{', '.join(sorted(known - set(self.program.constants)))}"
            )

    def _run_chunk(
        self, values: dict[str, NDArray[Any]], images: NDArray[np.int64], wanted: tuple[str, ...], first_stage: int = 0
    ) -> dict[str, NDArray[Any]]:
        values = {**self.program.constants, **values}
        if self._literal is not None and first_stage == 0:
            walk = ScheduleWalk(self.machine, self._literal, self._digital, values, images, quantized_input)
            walk.run()
            return {name: walk.value(name) for name in wanted}
        stages = zip(self.program.stages, self.dead_after(wanted), strict=True)
        for stage, dead in itertools.islice(stages, first_stage, self._last_stage(wanted)):
            values.update(self.run_stage(stage, values, images))
            for name in dead:
                del values[name]
        return {name: values[name] for name in wanted}

    def _prepare(self, stages: Sequence[Stage]) -> None:
        """Program the cells of some stages on all threads, before threads take an image chunk each."""
        for stage in stages:
            if isinstance(stage, MappedLayer):
                self._fast.first.prepare(self._numbers[stage.name])

    def _last_stage(self, wanted: tuple[str, ...]) -> int:
        """Number of stages up to the last one that makes a wanted value."""
        makers = [number for number, stage in enumerate(self.program.stages) if set(stage.outputs) & set(wanted)]
        return max(makers, default=-1) + 1

    def dead_after(self, wanted: tuple[str, ...]) -> list[list[str]]:
        """Values that nothing reads after each stage, and nobody wants."""
        seen = set(wanted)
        dead: list[list[str]] = []
        for stage in reversed(self.program.stages):
            names = {name for name in (*stage.inputs, *stage.outputs) if name}
            dead.append(sorted(names - seen))
            seen |= names
        return dead[::-1]

    def run_stage(
        self, stage: Stage, values: Mapping[str, NDArray[Any]], images: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Run one stage on the values it reads, [images, ...] each; image numbers key the read noise."""
        if isinstance(stage, MappedLayer):
            return {stage.outputs[0]: self._run_layer(stage, values[stage.inputs[0]], images)}
        if self.batches.fixed != 1 or len(images) == 1:
            return self._digital.run(stage, values)
        return self._digital.run_each(stage, values, len(images), self.program.constants)

    def _run_layer(self, layer: MappedLayer, x: NDArray[Any], images: NDArray[np.int64]) -> NDArray[Any]:
        geometry = layer.geometry
        workers = self.machine.workers
        quantized, items = quantized_input(layer, x, images, workers)
        number = self._numbers[layer.name]
        sums, converter = self._sums(number, quantized, items, images), self.machine.devices.converters[number]
        y = rescale(self.machine.rescalings[number], sums, layer.dtype, converter, workers)
        y = y.reshape(len(quantized), geometry.out_channels, *geometry.output_size)
        return geometry.from_channels_first(y, x.shape)

    def _sums(self, layer: int, x: NDArray[Any], items: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[Any]:
        """Sums of a layer as an executor gives them, each item with the arrays as they are written in its pass."""
        executors: PassExecutors[Any] = self._literal or self._fast
        parts = [
            (where, executor.sums(layer, x[where], items[where]))
            for executor, where in executors.groups(images, len(x))
        ]
        if len(parts) == 1:
            whole: NDArray[Any] = parts[0][1]
            return whole
        sums = np.empty((len(x), *parts[0][1].shape[1:]), parts[0][1].dtype)
        for where, part in parts:
            sums[where] = part
        return sums


def _lies_along_first(program: Program) -> bool:
    """Return True if an image is one entry along axis 0 of all inputs, outputs and values between stages."""
    batching = program.batching
    if batching.whole or batching.outputs or any(axis != 0 for axis in batching.inputs.values()):
        return False
    stages = (stage for stage in program.stages if isinstance(stage, DigitalStage))
    sizes = (item for stage in stages for item in stage.first_sizes.items())
    return batching.size == 1 and all(size == 1 for name, size in sizes if name not in program.constants)


def check_seed(seed: int) -> None:
    """Raise UsageError unless a seed selects a chip."""
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"seed {seed} is out of range; give 0 <= seed < 2^64")


def values_before(program: Program, first_stage: int) -> tuple[str, ...]:
    """Values made before a stage that the stages from it on, or the outputs, read."""
    read = dict.fromkeys(name for stage in program.stages[first_stage:] for name in stage.inputs if name)
    made = {name for stage in program.stages[first_stage:] for name in stage.outputs}
    wanted = dict.fromkeys((*read, *program.outputs))
    return tuple(name for name in wanted if name not in made and name not in program.constants)


def refuse_sequences(values: Mapping[str, Value]) -> None:
    """Raise UsageError for values that cannot be taken apart image by image."""
    for name, value in values.items():
        if value is None or isinstance(value, list | dict):
            raise UsageError(
                f"value {name!r} is a sequence, map or optional and cannot be kept image by image; begin at a later "
                "layer, behind everything that reads it"
            )


def quantized_input(
    layer: MappedLayer, x: NDArray[Any], images: NDArray[np.int64], workers: Workers
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A layer's input as integers, [items, in_channels, *input_size], and the number of each item.

    Raises
    ------
    DataError
        The input has another shape than the layer was compiled for, or is not a number.
    """
    geometry = layer.geometry
    if not _fits(geometry, x):
        raise DataError(
            f"layer {layer.name} gets [{', '.join(map(str, x.shape))}] as {layer.inputs[0]!r}; it was compiled for "
            f"{geometry.in_channels} channels of size {geometry.input_size}; compile for this input size"
        )
    quantized = quantize(layer.quantizer, geometry.to_channels_first(x), workers)
    if quantized is None:
        image = int(images[0]) + int(np.argwhere(np.isnan(x))[0][0])
        raise DataError(
            f"layer {layer.name} gets a value that is not a number in {layer.inputs[0]!r} (image {image}); "
            "find the digital operator before it that makes it, such as a division by zero"
        )
    return quantized, _spread(images, len(quantized))


def _fits(geometry: Geometry, x: NDArray[Any]) -> bool:
    """Return True if a tensor has the shape a layer was compiled for."""
    if geometry.layout == "channels_first":
        return x.shape[1:] == (geometry.in_channels, *geometry.input_size)
    image = math.prod(geometry.input_size) * geometry.in_channels
    return x.ndim > 1 and x.shape[-1] == geometry.in_channels and x.size % image == 0


def _spread(images: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Image numbers for a layer that sees ``count`` items, such as several crops of each image."""
    each, rest = divmod(count, len(images))
    if rest:
        each, images = count, images[:1]
    numbers: NDArray[np.int64] = (images[:, None] * each + np.arange(each)).ravel()
    return numbers


def default_chunk(program: Program) -> int:
    """Images at once such that the largest layer's arrays stay below ``CHUNK_BYTES``."""
    largest = 1
    for layer in program.layers:
        for replica in layer.replicas:
            unrolling = replica.unrolling
            values = len(replica.windows) * unrolling.matrices * (6 * unrolling.rows + 20 * unrolling.columns)
            largest = max(largest, values, 16 * layer.geometry.out_channels * layer.geometry.positions)
        largest = max(largest, 8 * layer.geometry.in_channels * math.prod(layer.geometry.input_size))
    return max(1, min(MAX_CHUNK, CHUNK_BYTES // largest))

"""The verifier's rules of segments: what is written over what, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from memcompile.ir.graph import MappedLayer, Placement
from memcompile.program.program import Program
from memcompile.verify.violation import Violation


class Stage(Protocol):
    """A crossbar layer or a group of digital operators, of a graph or of a program."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...


def segment_violations(stages: Sequence[Stage], placement: Placement) -> list[Violation]:
    """All violations of the segments of a placement whose tiles are those of the stages' layers."""
    found = [*_numbers(placement), *_totals(placement)]
    return found or list(_order(stages, placement))


def _numbers(placement: Placement) -> Iterator[Violation]:
    used = np.unique(placement.tiles.segment)
    count = max(1, len(placement.segments))
    wanted = np.arange(count if len(used) or placement.segments else 0)
    if not np.array_equal(used, wanted):
        what = f"{len(used)} different numbers up to {used.max(initial=-1)}; they must be 0 to {count - 1}"
        yield Violation("segments-numbered", "tile table", f"column segment has {what}")


def _totals(placement: Placement) -> Iterator[Violation]:
    if (placement.batch > 0) != bool(placement.segments):
        what = f"a batch of {placement.batch} images with {len(placement.segments)} segments"
        yield Violation("segments-have-a-batch", "placement", f"has {what}; segments and a batch go together")
    for field in ("initiation_interval_steps", "latency_steps", "pipelined_latency_steps"):
        total, whole = sum(getattr(segment, field) for segment in placement.segments), getattr(placement, field)
        if placement.segments and total != whole:
            yield Violation("segments-sum-up", "placement", f"{field} is {whole}, its segments make {total}")


def _order(stages: Sequence[Stage], placement: Placement) -> Iterator[Violation]:
    """Layers with a tile in an earlier segment than the last tile of something they read."""
    if not placement.segments:
        return
    first, last = _spans(placement)
    exists: dict[str, int] = {}
    number = 0
    for stage in stages:
        read = _latest(stage.inputs, exists)
        made = read
        if isinstance(stage, MappedLayer):
            if number in first and first[number] < read:
                what = f"has a tile in segment {first[number]} and reads what is complete after segment {read}"
                yield Violation("segments-in-order", stage.name, what)
            made = max(read, last.get(number, 0))
            number += 1
        exists.update(dict.fromkeys(stage.outputs, made))


def _spans(placement: Placement) -> tuple[dict[int, int], dict[int, int]]:
    """First and last segment of each layer's tiles."""
    tiles = placement.tiles
    layers, where = np.unique(tiles.layer, return_inverse=True)
    first = np.full(len(layers), np.iinfo(np.int32).max)
    last = np.full(len(layers), -1)
    np.minimum.at(first, where.ravel(), tiles.segment)
    np.maximum.at(last, where.ravel(), tiles.segment)
    numbers = layers.tolist()
    return dict(zip(numbers, first.tolist(), strict=True)), dict(zip(numbers, last.tolist(), strict=True))


def _latest(values: Sequence[str], exists: Mapping[str, int]) -> int:
    return max((exists.get(value, 0) for value in values), default=0)


def chip_violations(program: Program) -> Iterator[Violation]:
    """A chip keeps what is written once; arrays that are written anew keep nothing."""
    if program.chip is not None and program.placement.segments:
        what = f"is given for arrays that are written {len(program.placement.segments)} times a pass"
        yield Violation("chip-is-written-once", "chip", what)

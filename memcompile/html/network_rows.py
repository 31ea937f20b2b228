"""The network as rows of a graph: stages in execution order, with the lanes that values take from one to the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from memcompile.ir.graph import MappedLayer
from memcompile.program.program import Program, Stage

LANE_WIDTH, ROW_HEIGHT = 16, 34
"""In CSS pixels."""
MOST_KINDS = 6
"""Kinds of operators that a row names."""


@dataclass(frozen=True)
class NetworkRow:
    """A stage, an input or an output, with the lanes of its row.

    ``lane`` is that of its mark, ``through`` are lanes that pass by, ``above`` lanes that end in it, and ``below`` says
    whether something later reads what it makes. ``layer`` is the number of a crossbar layer, None of all else.
    """

    name: str
    kind: str
    words: str
    layer: int | None
    lane: int
    through: tuple[int, ...]
    above: tuple[int, ...]
    below: bool

    @property
    def paths(self) -> list[str]:
        """Lines of the row, as SVG paths."""
        half, x = ROW_HEIGHT / 2, _x(self.lane)
        lines = [f"M{_x(lane)} 0V{ROW_HEIGHT}" for lane in self.through]
        lines += [f"M{_x(lane)} 0C{_x(lane)} {half} {x} 0 {x} {half}" for lane in self.above]
        if self.below:
            lines.append(f"M{x} {half}V{ROW_HEIGHT}")
        return lines

    @property
    def x(self) -> int:
        """Place of its mark."""
        return _x(self.lane)


def _x(lane: int) -> int:
    return LANE_WIDTH // 2 + lane * LANE_WIDTH


def network_rows(program: Program) -> list[NetworkRow]:
    """Rows of inputs, stages and outputs; a value keeps its lane from where it is made to where it is last read."""
    nodes: list[tuple[str, str, str, int | None, tuple[str, ...], tuple[str, ...]]] = [
        (name, "input", str(kind), None, (), (name,)) for name, kind in program.inputs.items()
    ]
    layer = 0
    for stage in program.stages:
        crossbar = isinstance(stage, MappedLayer)
        kind, words = ("analog", _shape(stage)) if isinstance(stage, MappedLayer) else ("digital", _operators(stage))
        nodes.append((stage.name, kind, words, layer if crossbar else None, stage.inputs, stage.outputs))
        layer += crossbar
    nodes += [(name, "output", "", None, (name,), ()) for name in program.outputs]
    return _laid_out(nodes)


def _laid_out(
    nodes: list[tuple[str, str, str, int | None, tuple[str, ...], tuple[str, ...]]],
) -> list[NetworkRow]:
    maker = {value: number for number, (*_, outputs) in enumerate(nodes) for value in outputs}
    readers: dict[int, int] = {}
    sources = []
    for number, (*_, inputs, _) in enumerate(nodes):
        found = sorted({maker[value] for value in inputs if value in maker and maker[value] < number})
        sources.append(found)
        readers.update(dict.fromkeys(found, number))
    lanes: dict[int, int] = {}
    rows = []
    for number, (name, kind, words, layer, *_) in enumerate(nodes):
        above = tuple(lanes[source] for source in sources[number])
        ending = [lanes.pop(source) for source in sources[number] if readers[source] == number]
        taken = set(lanes.values())
        lane = next(place for place in range(len(nodes) + 1) if place not in taken)
        if ending and min(ending) not in taken:
            lane = min(ending)
        going_on = number in readers
        through = tuple(sorted(taken))
        if going_on:
            lanes[number] = lane
        rows.append(NetworkRow(name, kind, words, layer, lane, through, above, going_on))
    return rows


def _shape(layer: MappedLayer) -> str:
    geometry = layer.geometry
    kernel = "x".join(map(str, geometry.kernel))
    groups = f", {geometry.groups} groups" if geometry.groups > 1 else ""
    return f"{geometry.in_channels} to {geometry.out_channels} channels, kernel {kernel}{groups}"


def _operators(stage: Stage) -> str:
    """Kinds of the operators of a digital stage, the most frequent first."""
    assert not isinstance(stage, MappedLayer)
    counts = Counter(operator.kind for operator in stage.operators[0]).most_common()
    named = [f"{kind} x {count}" if count > 1 else kind for kind, count in counts[:MOST_KINDS]]
    return ", ".join([*named, *([f"{len(counts) - MOST_KINDS} more kinds"] if len(counts) > MOST_KINDS else [])])

"""The graph IR: immutable nodes on a networkx data-flow graph.

A graph starts as ONNX operators (:class:`OnnxNode`). The passes turn linear operators with
static weights into crossbar layers, in stages that each add facts (:class:`LinearLayer` ->
:class:`UnrolledLayer` -> :class:`CalibratedLayer` -> :class:`QuantizedLayer` ->
:class:`SlicedLayer` -> :class:`PairedLayer` -> :class:`TiledLayer` -> :class:`MappedLayer`), and
group everything else into digital subgraphs (:class:`DigitalNode`). Passes never change a value
in place; arrays are shared and read-only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcompile.described import Described
from memcompile.ir.arrays import read_only as read_only  # noqa: PLC0414 - handed on
from memcompile.ir.batching import Batching
from memcompile.ir.certificate import Certificate as Certificate  # noqa: PLC0414 - handed on
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.placement import TILE_COLUMNS as TILE_COLUMNS  # noqa: PLC0414 - handed on
from memcompile.ir.placement import Cut as Cut  # noqa: PLC0414 - handed on
from memcompile.ir.placement import Placement as Placement  # noqa: PLC0414 - handed on
from memcompile.ir.placement import Segment as Segment  # noqa: PLC0414 - handed on
from memcompile.ir.placement import TileTable as TileTable  # noqa: PLC0414 - handed on
from memcompile.ir.placement import no_pauses as no_pauses  # noqa: PLC0414 - handed on
from memcompile.ir.quantizers import ExactInput, InputQuantizer

if TYPE_CHECKING:
    import networkx as nx

T = TypeVar("T", bound="Node")


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value.

    ``dtype`` is a NumPy dtype name; a dimension of None is free. Of a graph input that is the batch alone.
    """

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('N' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class OtherType(TensorType):
    """Type of a value that is no tensor, such as a sequence: onnxruntime's word for it, and the TypeProto."""

    proto: bytes = b""


def fixed_batch(kinds: Iterable[TensorType]) -> int | None:
    """The batch that some inputs are bound to; None if any batch will do."""
    return next((kind.shape[0] for kind in kinds if kind.shape and kind.shape[0] is not None), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """Base of all nodes: a name, the values it reads and the values it makes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Word for the node in printed IR and messages."""
        return type(self).__name__


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxNode(Node):
    """One ONNX operator, as imported.

    ``inputs`` holds "" for an omitted optional input. ``captures`` are outer values that the
    operator's own subgraphs (If, Loop, Scan) read. ``proto`` is the serialised NodeProto, kept so
    that nothing of an unknown operator is lost.
    """

    op_type: str
    domain: str
    attributes: Mapping[str, Any]
    proto: bytes = field(repr=False)
    captures: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type


@dataclass(frozen=True, kw_only=True, eq=False)
class DigitalNode(Node):
    """A group of ONNX operators that onnxruntime runs between crossbar layers."""

    nodes: tuple[OnnxNode, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearLayer(Node):
    """A linear operator with static weights, bound for crossbars.

    ``weight`` is [out_channels, in_channels / groups, *kernel] float32, ``bias`` [out_channels] float32; the bias is
    added digitally. ``bias_size`` [out_channels] float64 is the sum of the magnitudes of the numbers that a folded bias
    was made of, None where it is the operator's own: the network itself rounds in proportion to them. ``integer``
    layers multiply integers of a quantised model, with bytes as inputs; these stay unchanged where the target can hold
    them.
    """

    geometry: Geometry
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    bias_size: NDArray[np.float64] | None = None
    dtype: str = "float32"
    integer: bool = False

    def matrices(self) -> NDArray[np.float32]:
        """Kernels as matrices, [groups, group_rows, group_columns]."""
        geometry = self.geometry
        return self.weight.reshape(geometry.groups, geometry.group_columns, geometry.group_rows).transpose(0, 2, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnrolledLayer(Node):
    """A layer as weight matrices: [groups, group_rows, group_columns] float32."""

    geometry: Geometry
    matrix: NDArray[np.float32]
    bias: NDArray[np.float32]
    bias_size: NDArray[np.float64] | None = None
    dtype: str = "float32"
    integer: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibratedLayer(UnrolledLayer):
    """A layer whose input has a quantiser."""

    quantizer: InputQuantizer | ExactInput


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLayer(Node):
    """Base of all layers with weights in units of the hardware (never built itself).

    Weights are integers; on targets with continuous cells they are float32 shares of the
    conductance window, -1..1. ``scale`` is [out_channels] float32: the digital factor of a sum,
    that is input scale times weight scale; ``bias`` is [out_channels] float32.
    """

    geometry: Geometry
    quantizer: InputQuantizer | ExactInput
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    dtype: str = "float32"

    @abstractmethod
    def integer_matrix(self) -> NDArray[Any]:
        """Integer weights (float32 with continuous cells), [groups, group_rows, group_columns]."""

    def rescale(self, sums: NDArray[Any]) -> NDArray[Any]:
        """Turn integer sums into the layer's output: scale * sum + bias, per channel.

        Computed in double precision, so that an exact sum gives the same bits on every path.

        Parameters
        ----------
        sums
            [batch, out_channels, positions], in units of input step times weight step.
        """
        scaled = sums * self.scale.astype(np.float64)[:, None]
        scaled += self.bias.astype(np.float64)[:, None]
        return as_dtype(scaled, self.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedLayer(IntegerLayer):
    """A layer with integer weights: [groups, group_rows, group_columns], int8 to int32 (or float32 shares)."""

    levels: NDArray[Any]

    def integer_matrix(self) -> NDArray[Any]:
        return self.levels


@dataclass(frozen=True, kw_only=True, eq=False)
class SlicedLayer(IntegerLayer):
    """A layer whose weights are digits: [slices, groups, group_rows, group_columns] int8.

    weight = sum over s of digit[s] * base^s, digits -L..+L. The only digit of a continuous weight
    is the weight, float32.
    """

    base: int
    digits: NDArray[Any]

    @property
    def slices(self) -> int:
        """Pairs that hold one weight."""
        return int(self.digits.shape[0])

    def integer_matrix(self) -> NDArray[Any]:
        return _combined(list(self.digits), self.base)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedLayer(IntegerLayer):
    """A layer as cell levels: [2, slices, groups, group_rows, group_columns] uint8 (or float32 shares).

    The first axis is the polarity: cells that add, then cells that are subtracted.
    """

    base: int
    cells: NDArray[Any]

    @property
    def slices(self) -> int:
        """Pairs that hold one weight."""
        return int(self.cells.shape[1])

    def integer_matrix(self) -> NDArray[Any]:
        signed = self.cells.dtype if self.cells.dtype.kind == "f" else np.dtype(np.int16)
        return _combined([np.subtract(*pair, dtype=signed) for pair in zip(*self.cells, strict=True)], self.base)


def _combined(digits: Sequence[NDArray[Any]], base: int) -> NDArray[Any]:
    """Weights from their digits, one array a slice; a continuous weight is its only digit."""
    if digits[0].dtype.kind == "f":
        return digits[0]
    weights: NDArray[Any] = digits[0].astype(np.int32)
    for place, digit in enumerate(digits[1:], start=1):
        weights += digit.astype(np.int32) * base**place
    return weights


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledLayer(PairedLayer):
    """A layer with one replica's unrolling and cut."""

    unrolling: Unrolling
    cut: Cut


@dataclass(frozen=True, eq=False)
class Replica:
    """One replica of a layer and the windows it works on.

    ``windows`` are window numbers (row-major in the unrolling's grid), int32. ``number`` counts the replicas of all
    layers that share cells: those of one number use the same ones.
    """

    unrolling: Unrolling
    cut: Cut
    windows: NDArray[np.int32]
    number: int = 0

    @property
    def tiles(self) -> int:
        """Tiles of this replica."""
        return self.unrolling.matrices * self.cut.tiles

    @cached_property
    def has_all_windows(self) -> bool:
        """True if the replica works on all windows, in order."""
        return len(self.windows) == self.unrolling.windows and bool((np.diff(self.windows) == 1).all())


def different_replicas(replicas: Iterable[Replica]) -> Iterator[Replica]:
    """One replica for all that are unrolled and cut alike, with the windows of all of them."""
    alike: dict[tuple[Unrolling, Cut], list[NDArray[np.int32]]] = {}
    for copy in replicas:
        alike.setdefault((copy.unrolling, copy.cut), []).append(copy.windows)
    for (unrolling, cut), windows in alike.items():
        yield Replica(unrolling, cut, np.concatenate(windows))


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedLayer(PairedLayer):
    """A layer with all its replicas.

    ``range_share`` is the end of its converters' range as a share of the largest possible line
    current, or None for the range of the target. ``shares_with`` names the first of the layers that share cells, see
    :mod:`memcompile.ir.sharing`; "" where the layer has cells of its own.
    """

    replicas: tuple[Replica, ...]
    range_share: float | None = None
    shares_with: str = ""


@dataclass(frozen=True, eq=False)
class QuantizedConstant:
    """Quantised form of a constant, before DequantizeLinear: (values - zero_point) * scale along ``axis``."""

    values: NDArray[Any]
    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int


@dataclass(frozen=True, eq=False, repr=False)
class Graph(Described):
    """A network: nodes in topological order, constants, and types of values.

    ``observed_shapes`` are the concrete shapes of values that linear operators read, seen when onnxruntime ran the
    model once; a sequence or map counts as one vector of the numbers in it. ``quantized`` holds the quantised form of
    constants that came through DequantizeLinear. ``batching`` gives the axes of samples in inputs and outputs; None
    stands for axis 0 everywhere.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]
    types: Mapping[str, TensorType]
    observed_shapes: Mapping[str, tuple[int, ...]]
    opsets: tuple[tuple[str, int], ...]
    ir_version: int = 10
    placement: Placement | None = None
    quantized: Mapping[str, QuantizedConstant] = field(default_factory=dict)
    batching: Batching | None = None

    def described(self) -> list[str]:
        """Lines of ``repr``; :mod:`memcompile.ir.printer` has the whole text."""
        counts = Counter(type(node).__name__ for node in self.nodes)
        kinds = [f"  {count:,} of {kind}" for kind, count in sorted(counts.items())]
        return [f"Graph {self.name}: {', '.join(self.inputs)} to {', '.join(self.outputs)}", *kinds]

    @cached_property
    def samples(self) -> int:
        """Samples of the run that shapes were observed on."""
        if self.batching is not None:
            return self.batching.size or 1
        shapes = [self.observed_shapes[name] for name in self.inputs if name in self.observed_shapes]
        return max((shape[0] for shape in shapes if shape), default=1)

    @cached_property
    def dataflow(self) -> nx.DiGraph[str]:
        """Frozen networkx graph: node names, an edge per value with the attribute ``values``."""
        import networkx as nx  # noqa: PLC0415 - slow to import; no pass of the usual pipeline needs it

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(node.name for node in self.nodes)
        for node in self.nodes:
            for value in read_values(node):
                producer = self.producers.get(value)
                if producer is None:
                    continue
                graph.add_edge(producer.name, node.name)
                graph.edges[producer.name, node.name].setdefault("values", []).append(value)
        frozen: nx.DiGraph[str] = nx.freeze(graph)
        return frozen

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each value."""
        return MappingProxyType({value: node for node in self.nodes for value in node.outputs if value})

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value, in graph order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(read_values(node)):
                found.setdefault(value, []).append(node)
        return MappingProxyType({value: tuple(nodes) for value, nodes in found.items()})

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return MappingProxyType({node.name: node for node in self.nodes})

    def is_tensor(self, value: str) -> bool:
        """Return True if a value is known to be a tensor, not a sequence, map or optional."""
        kind = self.types.get(value)
        return kind is not None and not isinstance(kind, OtherType)

    def replace(self, **changes: Any) -> Graph:
        """Return a graph with some fields replaced; constants nobody reads are dropped."""
        graph = replace(self, **changes)
        inner = (each for node in graph.nodes for each in (node.nodes if isinstance(node, DigitalNode) else (node,)))
        read = {value for node in inner for value in read_values(node)} | set(graph.outputs)
        kept = {name: array for name, array in graph.constants.items() if name in read}
        return replace(graph, constants=MappingProxyType(kept))

    def map_nodes(self, changed: Mapping[str, Node]) -> Graph:
        """Return a graph in which the nodes of these names are replaced."""
        return self.replace(nodes=tuple(changed.get(node.name, node) for node in self.nodes))


def as_dtype(values: NDArray[np.floating[Any]], dtype: str) -> NDArray[Any]:
    """Numbers in a layer's output type; integer types round, and numbers beyond float32 become infinite."""
    with np.errstate(over="ignore"):
        if dtype == "float16":
            values = values.astype(np.float32)  # the way of onnxruntime's Cast, which rounds twice
        return (np.rint(values) if np.dtype(dtype).kind == "i" else values).astype(dtype)


def read_values(node: Node) -> tuple[str, ...]:
    """Values a node reads, captured ones included, omitted inputs left out."""
    captures = node.captures if isinstance(node, OnnxNode) else ()
    return tuple(value for value in (*node.inputs, *captures) if value)


def carry(kind: type[T], source: Node, **added: Any) -> T:
    """Build the next stage of a layer: the fields both stages have, plus the added ones."""
    shared = {f.name: getattr(source, f.name) for f in fields(kind) if hasattr(source, f.name)}
    return kind(**{**shared, **added})

"""Products with a static operand other than a plain MatMul: Einsum, Mul with ReduceSum, MatMul with vectors.

All are contractions: each axis of the data, the weights and the result has a letter, and letters that the result
lacks are summed over.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.decomposing import Decomposition, Size, sizes_of

_NO_PRODUCT = "it sums over no product with its weights"
_OPEN = "sizes it multiplies are not static"


def decompose_einsum(node: OnnxNode, graph: Graph) -> Decomposition | str:
    """Einsum of data and a static operand, in any order."""
    if len(node.inputs) != 2:
        return f"it has {len(node.inputs)} operands, not two"
    static = [name in graph.constants for name in node.inputs]
    if static[0] == static[1]:
        return "its weights are not static" if not static[0] else "its data input is static"
    data, weight = node.inputs[static.index(False)], node.inputs[static.index(True)]
    terms = _terms(node, [len(graph.observed_shapes[data]), graph.constants[weight].ndim], static == [True, False])
    return _contraction(node, graph, data, terms[0], graph.constants[weight], terms[1], terms[2])


def decompose_mul_sum(node: OnnxNode, graph: Graph) -> Decomposition | str | None:
    """ReduceSum of the products with constants; None for any other ReduceSum."""
    multiply = graph.producers.get(node.inputs[0])
    if not isinstance(multiply, OnnxNode) or multiply.kind != "Mul":
        return None
    static = [name in graph.constants for name in multiply.inputs]
    if sum(static) != 1 or len(multiply.inputs) != 2:
        return None
    data, weight = multiply.inputs[static.index(False)], multiply.inputs[static.index(True)]
    if data not in graph.observed_shapes:
        return None
    product = multiply.outputs[0]
    if len(graph.consumers[product]) > 1 or product in graph.outputs:
        return "the products it sums are read by others, too"
    weights = graph.constants[weight]
    rank = max(len(graph.observed_shapes[data]), weights.ndim)
    reduced = _reduced_axes(node, graph, rank)
    if reduced is None:
        return "its axes are not static"
    letters = string.ascii_letters[:rank]
    kept = "".join(letter for axis, letter in enumerate(letters) if axis not in reduced)
    terms = letters[rank - len(graph.observed_shapes[data]) :], letters[rank - weights.ndim :]
    parts = _contraction(node, graph, data, terms[0], weights, terms[1], kept)
    if isinstance(parts, str) or not node.attributes.get("keepdims", 1):
        return parts
    return parts.finish(parts.along("Unsqueeze", parts.result, reduced))


def _reduced_axes(node: OnnxNode, graph: Graph, rank: int) -> list[int] | None:
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        if node.inputs[1] not in graph.constants:
            return None
        axes = graph.constants[node.inputs[1]].reshape(-1).tolist()
    if not axes:
        return None if node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({int(axis) % rank for axis in axes})


def decompose_vector_product(node: OnnxNode, graph: Graph) -> Decomposition | str | None:
    """MatMul with a vector on either side; None for any other MatMul."""
    left, right = node.inputs
    on_the_left = left in graph.constants
    data, weight = (right, left) if on_the_left else (left, right)
    if weight not in graph.constants or data in graph.constants or data not in graph.observed_shapes:
        return None
    weights, rank = graph.constants[weight], len(graph.observed_shapes[data])
    if rank != 1 and weights.ndim != 1:
        return None
    terms = []
    for place, count in enumerate((weights.ndim, rank) if on_the_left else (rank, weights.ndim)):
        outer = string.ascii_lowercase[: max(count - 2, 0)]
        ends = ("K",) if count == 1 else (("M", "K"), ("K", "N"))[place]
        terms.append(outer + "".join(ends))
    # A vector has no axis of its own, so at most one operand brings outer axes.
    result = "".join(letter for letter in "".join(terms) if letter != "K")
    first, second = (terms[1], terms[0]) if on_the_left else (terms[0], terms[1])
    return _contraction(node, graph, data, first, weights, second, result)


def _terms(node: OnnxNode, ranks: Sequence[int], swapped: bool) -> tuple[str, str, str]:
    """Letters of data, weights and result; an ellipsis becomes capital letters that the equation leaves free."""
    equation = str(node.attributes["equation"]).replace(" ", "")
    given, arrow, result = equation.partition("->")
    operands = given.split(",")
    if swapped:
        operands = operands[::-1]
    counts = [
        rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(operands, ranks, strict=True)
    ]
    free = [letter for letter in string.ascii_letters if letter not in equation][: max(counts)]
    outer = "".join(free)
    data, weights = (
        term.replace("...", outer[len(outer) - count :]) for term, count in zip(operands, counts, strict=True)
    )
    if not arrow:
        letters = "".join(operands).replace("...", "")
        result = "..." * ("..." in given) + "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    return data, weights, result.replace("...", outer)


def _contraction(
    node: OnnxNode, graph: Graph, data: str, term: str, weights: NDArray[np.generic], weight_term: str, result: str
) -> Decomposition | str:
    """A MatMul with the weights as one matrix or a stack, and the permutations of axes before and after it."""
    shape, known = graph.observed_shapes[data], sizes_of(graph, data)
    if len(set(term)) < len(shape):
        return "an axis of its data occurs twice"
    if weights.dtype.kind != "f":
        return f"it computes in {weights.dtype}"
    parts = Decomposition(node, graph)
    extents, seen = (
        dict(zip(weight_term, weights.shape, strict=True)),
        dict(zip(term, zip(shape, known, strict=True), strict=True)),
    )
    # Axes of one number along which only the weights have more.
    gone = [letter for letter in term if seen[letter][1] == 1 and extents.get(letter, 1) > 1]
    sizes = {letter: size for letter, size in seen.items() if letter not in gone}
    matrix, letters = _own_weights(weights.astype(np.float32), weight_term, sizes, result)
    for letter in letters:
        if letter in sizes and sizes[letter][1] != letters[letter]:
            return _OPEN
    value = parts.along("Squeeze", data, [term.index(letter) for letter in gone])
    lost = [letter for letter in sizes if letter not in letters and letter not in result]
    value = parts.along("ReduceSum", value, [list(sizes).index(letter) for letter in lost], keepdims=0)
    own = [letter for letter in sizes if letter not in lost]
    stack = [letter for letter in own if letter in letters and letter in result]
    summed = [letter for letter in own if letter in letters and letter not in result]
    vectors = [letter for letter in own if letter not in letters]
    columns = [letter for letter in letters if letter not in own]
    if not summed:
        return _NO_PRODUCT
    order = [*stack, *summed, *columns]
    matrix = matrix.transpose([list(letters).index(letter) for letter in order])
    matrix = matrix.reshape(*(letters[letter] for letter in stack), math.prod(letters[letter] for letter in summed), -1)
    named = {letter: sizes[letter] for letter in own}
    named |= {letter: (letters[letter], letters[letter]) for letter in columns}
    if stack:
        done = _stacked(parts, value, own, (vectors, stack, summed, columns), named, matrix)
    else:
        done = _matrix_product(parts, value, own, (vectors, summed, columns), named, matrix)
    if isinstance(done, str):
        return done
    value, have = done
    return parts.finish(parts.transposed(value, [have.index(letter) for letter in result]))


Sizes = dict[str, tuple[int, Size]]


def _own_weights(
    weights: NDArray[np.float32], term: str, sizes: Sizes, result: str
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Weights with each letter once, summed over letters of their own, less axes along which they are constant."""
    extent = dict(zip(term, weights.shape, strict=True))
    kept = [
        letter
        for letter in extent
        if (letter in sizes or letter in result) and not _is_one_for_all(letter, extent[letter], sizes, result)
    ]
    whole: NDArray[np.float32] = np.einsum(f"{term}->{''.join(kept)}", weights)
    return whole, {letter: extent[letter] for letter in kept}


def _is_one_for_all(letter: str, extent: int, sizes: Sizes, result: str) -> bool:
    """Return True if weights are constant along an axis of the data; to sum over one product is to multiply."""
    return extent == 1 and letter in sizes and (letter in result or sizes[letter][1] != 1)


def _matrix_product(
    parts: Decomposition,
    value: str,
    own: list[str],
    groups: tuple[list[str], list[str], list[str]],
    sizes: Sizes,
    matrix: NDArray[np.float32],
) -> tuple[str, list[str]]:
    """One matrix for all vectors: data [*vectors, rows] to [*vectors, *columns]."""
    vectors, summed, columns = groups
    value = parts.transposed(value, [own.index(letter) for letter in (*vectors, *summed)])
    if len(summed) > 1 or not vectors:
        value = parts.reshaped(value, [*([0] * len(vectors) or [1]), len(matrix)])
    _see(parts, value, [sizes[letter] for letter in vectors] or [(1, 1)], len(matrix))
    value = parts.product("MatMul", value, parts.constant(matrix))
    if len(columns) != 1 or not vectors:
        value = parts.reshaped(value, [*([0] * len(vectors)), *(sizes[letter][0] for letter in columns)])
    return value, [*vectors, *columns]


def _stacked(
    parts: Decomposition,
    value: str,
    own: list[str],
    groups: tuple[list[str], list[str], list[str], list[str]],
    sizes: Sizes,
    matrices: NDArray[np.float32],
) -> tuple[str, list[str]] | str:
    """One matrix per item of a stack: [images, *stack, others, rows] to [images, *stack, *others, *columns]."""
    vectors, stack, summed, columns = groups
    first, others = vectors[:1], vectors[1:]
    if any(sizes[letter][1] is None for letter in others):
        return _OPEN
    value = parts.transposed(value, [own.index(letter) for letter in (*first, *stack, *others, *summed)])
    many = math.prod(sizes[letter][0] for letter in others)
    outer = [0] * len(first) + [sizes[letter][0] for letter in stack]
    rows = matrices.shape[-2]
    if len(others) != 1 or len(summed) != 1:
        value = parts.reshaped(value, [*outer, many, rows])
    _see(parts, value, [*(sizes[letter] for letter in (*first, *stack)), (many, many)], rows)
    value = parts.product("MatMul", value, parts.constant(matrices))
    if len(others) != 1 or len(columns) != 1:
        value = parts.reshaped(value, [*outer, *(sizes[letter][0] for letter in (*others, *columns))])
    return value, [*first, *stack, *others, *columns]


def _see(parts: Decomposition, value: str, outer: Sequence[tuple[int, Size]], rows: int) -> None:
    if value in parts.types:
        parts.seen(value, [*(seen for seen, _ in outer), rows], [*(known for _, known in outer), rows])

"""Sixteen numbers at once in compiled kernels: a vector type for Numba.

Left to itself the compiler guards a loop over many arrays with a test that none of them overlap,
and short loops then spend more on tests than on arithmetic. Operations on lanes are vector
instructions from the start; processors with narrower registers take several for each. Import only
through :mod:`memcompile.runtime.kernels.compiled`.

Lanes hold float32, float64, int32, int64 or bytes. ``+ - * & ^ << >>`` work lane by lane; a scalar operand counts for
all lanes. ``>>`` keeps the sign, :func:`unsigned_right` does not.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.extending import models, overload, register_model
from numba.np import arrayobj

COUNT = 16
"""Lanes of a vector."""
intrinsic: Any = extending.intrinsic  # its types are not those of what it makes
make_array: Any = arrayobj.make_array
pointer_type: Any = types.CPointer


class Lanes(types.Type):
    """Numba type of ``COUNT`` numbers of one scalar type."""

    def __init__(self, scalar: Any) -> None:
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(manager.lookup(lanes.scalar).get_value_type(), COUNT))  # type: ignore[no-untyped-call]


FLOATS, DOUBLES = Lanes(types.float32), Lanes(types.float64)
INTS, LONGS, BYTES = Lanes(types.int32), Lanes(types.int64), Lanes(types.uint8)


def _spread(context: Any, builder: Any, value: Any, kind: Any, lanes: Lanes) -> Any:
    """Lanes as they are, a scalar in all lanes."""
    if isinstance(kind, Lanes):
        return value
    scalar = context.cast(builder, value, kind, lanes.scalar)
    nowhere = ir.Constant(ir.VectorType(scalar.type, COUNT), ir.Undefined)
    first = builder.insert_element(nowhere, scalar, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), COUNT), [0] * COUNT)
    return builder.shuffle_vector(first, nowhere, everywhere)


def _binary(for_floats: str, for_ints: str) -> Any:
    """An operation on two operands of which at least one is lanes; bits of floats have none ("")."""

    @intrinsic
    def operation(_typing: Any, a: Any, b: Any) -> Any:
        lanes = a if isinstance(a, Lanes) else b
        name = for_ints if lanes in (INTS, LONGS, BYTES) else for_floats

        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            spread = [_spread(context, builder, v, k, lanes) for v, k in zip(values, signature.args, strict=True)]
            return getattr(builder, name)(*spread)

        return lanes(a, b), build

    return operation


def _overload(symbol: Any, operation: Any) -> None:
    def typed(a: Any, b: Any) -> Any:
        if isinstance(a, Lanes) or isinstance(b, Lanes):
            return lambda a, b: operation(a, b)  # noqa: PLW0108 - Numba wants a Python function
        return None

    overload(symbol, strict=False)(typed)


for _symbol, _for_floats, _for_ints in (
    (operator.add, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"),
    (operator.and_, "", "and_"),
    (operator.xor, "", "xor"),
    (operator.lshift, "", "shl"),
    (operator.rshift, "", "ashr"),
):
    _overload(_symbol, _binary(_for_floats, _for_ints))

divided = _binary("fdiv", "")
"""``divided(x, y)``: floating-point quotients."""
unsigned_right = _binary("", "lshr")
"""``unsigned_right(x, n)``: shift bits to the right and zeros in."""


def _called(name: str) -> Any:
    """A function of LLVM that works on each lane."""

    @intrinsic
    def operation(_typing: Any, a: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            lanes = values[0].type
            suffix = f"v{COUNT}{a.scalar.name[0]}{a.scalar.bitwidth}"
            function = builder.module.declare_intrinsic(f"{name}.{suffix}", (), ir.FunctionType(lanes, [lanes]))
            return builder.call(function, values)

        return a(a), build

    return operation


floor = _called("llvm.floor")
"""``floor(x)``: largest integers that are not above."""
root = _called("llvm.sqrt")
"""``root(x)``: square roots."""
nearest = _called("llvm.rint")
"""``nearest(x)``: nearest integers, the even one of two."""


@intrinsic
def multiplied_and_added(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``multiplied_and_added(a, b, c)``: a * b + c of float32, only where products and sums are exact.

    Else results would depend on whether the processor has one instruction for both.
    """

    def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(values[0].type, [values[0].type] * 3)
        return builder.call(builder.module.declare_intrinsic(f"llvm.fmuladd.v{COUNT}f32", (), kind), values)

    return (a(a, b, c), build) if a == FLOATS else None


def _extreme(comparison: str) -> Any:
    @intrinsic
    def operation(_typing: Any, a: Any, b: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            other = _spread(context, builder, values[1], signature.args[1], a)
            return builder.select(builder.fcmp_ordered(comparison, values[0], other), values[0], other)

        return a(a, b), build

    return operation


greater = _extreme(">")
"""``greater(x, limit)``: the greater of both."""
less = _extreme("<")
"""``less(x, limit)``: the less of both."""


def _converted(sources: tuple[Lanes, ...], result: Lanes, method: str) -> Any:
    @intrinsic
    def operation(_typing: Any, a: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            return getattr(builder, method)(values[0], context.get_value_type(result))

        return (result(a), build) if a in sources else None

    return operation


to_floats = _converted((INTS,), FLOATS, "sitofp")
"""Integers as float32, rounded to nearest."""
to_floats_nearest = _converted((DOUBLES,), FLOATS, "fptrunc")
"""Float64 as float32, rounded to nearest."""
to_doubles = _converted((INTS,), DOUBLES, "sitofp")
"""Integers as float64."""
doubled = _converted((FLOATS,), DOUBLES, "fpext")
"""Float32 as float64."""
ints_of_bytes = _converted((BYTES,), INTS, "zext")
"""Bytes as integers."""
longs_of = _converted((INTS,), LONGS, "zext")
"""Int32 as the lower halves of int64, above zeros."""
low_halves = _converted((LONGS,), INTS, "trunc")
"""The lower halves of int64."""
bits_of = _converted((FLOATS,), INTS, "bitcast")
"""The bits of float32."""
of_bits = _converted((INTS,), FLOATS, "bitcast")
"""Float32 with the given bits."""


@intrinsic
def like(_typing: Any, a: Any, scalar: Any) -> Any:
    """``like(a, scalar)``: the same numbers in the type of a scalar.

    Numbers become floating-point numbers, rounded to nearest; floating-point numbers that are whole and below 2^31 in
    magnitude become integers.
    """
    result = Lanes(scalar)

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if a == result:
            return values[0]
        kind = context.get_value_type(result)
        if isinstance(scalar, types.Integer):
            # There are instructions for 32 bits; more take one number after the other on most processors.
            narrow = builder.fptosi(values[0], context.get_value_type(INTS))
            return narrow if result == INTS else builder.sext(narrow, kind)
        method = {FLOATS: builder.fpext, DOUBLES: builder.fptrunc}.get(a, builder.sitofp)
        return method(values[0], kind)

    return result(a, scalar), build


def _picked(lanes: list[int]) -> Any:
    """Some lanes of two vectors one after the other."""

    @intrinsic
    def operation(_typing: Any, a: Any, b: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            picked = ir.Constant(ir.VectorType(ir.IntType(32), COUNT), lanes)
            return builder.shuffle_vector(*values, picked)

        return a(a, b), build

    return operation


evens = _picked(list(range(0, 2 * COUNT, 2)))
"""``evens(a, b)``: lanes 0, 2, ... of a, then of b."""
odds = _picked(list(range(1, 2 * COUNT, 2)))
"""``odds(a, b)``: lanes 1, 3, ... of a, then of b."""
zip_low = _picked([lane // 2 + lane % 2 * COUNT for lane in range(COUNT)])
"""``zip_low(a, b)``: the lower half of the lanes of a and b by turns."""
zip_high = _picked([(COUNT + lane) // 2 + lane % 2 * COUNT for lane in range(COUNT)])
"""``zip_high(a, b)``: the upper half of the lanes of a and b by turns."""


@intrinsic
def where_odd(_typing: Any, whole: Any, a: Any, b: Any) -> Any:
    """``where_odd(whole, a, b)``: a where an integer is odd, b elsewhere."""

    def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        odd = builder.trunc(values[0], ir.VectorType(ir.IntType(1), COUNT))
        return builder.select(odd, values[1], values[2])

    return a(whole, a, b), build


@intrinsic
def everywhere(_typing: Any, scalar: Any) -> Any:
    """``everywhere(scalar)``: a number in all lanes."""
    lanes = Lanes(scalar)

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _spread(context, builder, values[0], signature.args[0], lanes)

    return lanes(scalar), build


@intrinsic
def where_set(_typing: Any, flags: Any, a: Any, b: Any) -> Any:
    """``where_set(flags, a, b)``: a where a byte is not 0, b elsewhere."""

    def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        zeros = ir.Constant(values[0].type, [0] * COUNT)
        return builder.select(builder.icmp_unsigned("!=", values[0], zeros), values[1], values[2])

    return a(flags, a, b), build


@intrinsic
def total_of(_typing: Any, a: Any) -> Any:
    """``total_of(a)``: the sum of all lanes of INTS."""

    def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [values[0].type])
        return builder.call(builder.module.declare_intrinsic(f"llvm.vector.reduce.add.v{COUNT}i32", (), kind), values)

    return (types.int32(a), build) if a == INTS else None


@intrinsic
def any_outside(_typing: Any, words: Any, low: Any, high: Any) -> Any:
    """``any_outside(words, low, high)``: True if any unsigned word is below ``low`` or above ``high``."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        limits = [_spread(context, builder, v, k, words) for v, k in zip(values[1:], signature.args[1:], strict=True)]
        below = builder.icmp_unsigned("<", values[0], limits[0])
        above = builder.icmp_unsigned(">", values[0], limits[1])
        mask = builder.bitcast(builder.or_(below, above), ir.IntType(COUNT))
        return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))

    return types.boolean(words, low, high), build


@intrinsic
def gathered(_typing: Any, table: Any, places: Any) -> Any:
    """``gathered(table, places)``: numbers of a flat array at the places in INTS; unchecked."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        begin = _begin(context, builder, signature.args[0], values[0])
        found = ir.Constant(ir.VectorType(context.get_value_type(table.dtype), COUNT), ir.Undefined)
        for lane in range(COUNT):
            at = ir.Constant(ir.IntType(32), lane)
            number = builder.load(builder.gep(begin, [builder.extract_element(values[1], at)]))
            found = builder.insert_element(found, number, at)
        return found

    return Lanes(table.dtype)(table, places), build


def _begin(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Address of the first value of an array, or of a pointer to some."""
    return value if isinstance(kind, pointer_type) else make_array(kind)(context, builder, value).data


@intrinsic
def pointer(_typing: Any, array: Any) -> Any:
    """``pointer(array)``: the values of a contiguous array, for ``load``, ``store`` and unchecked indices.

    Arrays that are handed to inlined functions may have their references counted at each call, which can take
    as long as the function. A pointer keeps nothing alive: only take those of arguments.
    """

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _begin(context, builder, signature.args[0], values[0])

    return pointer_type(array.dtype)(array), build


def _address(context: Any, builder: Any, kind: Any, values: Any) -> Any:
    """Pointer to the lanes that begin at an index of a flat array."""
    first = builder.gep(_begin(context, builder, kind, values[0]), [values[1]])
    scalar = context.get_value_type(kind.dtype)
    return builder.bitcast(first, ir.VectorType(scalar, COUNT).as_pointer())


@intrinsic
def load(_typing: Any, array: Any, index: Any) -> Any:
    """``load(array, index)``: lanes from ``index`` on of a flat contiguous array; unchecked."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], values), align=array.dtype.bitwidth // 8)

    return Lanes(array.dtype)(array, index), build


@intrinsic
def store(_typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """``store(array, index, lanes)``: write lanes from ``index`` on; unchecked."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address = _address(context, builder, signature.args[0], values)
        builder.store(values[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, lanes), build


def _copied(size: int) -> Any:
    """Copy of so many bytes between flat byte arrays."""
    bytes_ = ir.IntType(8 * size) if size <= 8 else ir.VectorType(ir.IntType(8), size)

    @intrinsic
    def operation(_typing: Any, target: Any, to: Any, source: Any, of: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = bytes_.as_pointer()
            ends = [
                builder.bitcast(
                    builder.gep(_begin(context, builder, signature.args[i], values[i]), [values[i + 1]]), kind
                )
                for i in (0, 2)
            ]
            builder.store(builder.load(ends[1], align=1), ends[0], align=1)
            return context.get_dummy_value()

        return types.void(target, to, source, of), build

    return operation


copy_64 = _copied(64)
"""``copy_64(target, to, source, of)``: 64 bytes from index ``of`` of a flat byte array to ``to``; unchecked."""
copy_32 = _copied(32)
"""The same of 32 bytes."""
copy_16 = _copied(16)
"""The same of sixteen bytes."""
copy_8 = _copied(8)
"""The same of eight bytes."""
copy_4 = _copied(4)
"""The same of four bytes."""


@intrinsic
def turn(_typing: Any, source: Any, of: Any, distance: Any, target: Any, to: Any, step: Any) -> Any:
    """``turn(source, of, distance, target, to, step)``: transpose ``COUNT`` x ``COUNT`` numbers; unchecked.

    Number j of row i, in a flat array at ``of + distance i + j``, goes to ``to + step j + i`` of another.
    Four times the rows of the upper half are interleaved with those of the lower one: each time turns the
    bits of a number's place (i, j) one place further.
    """

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds, bytes_ = signature.args, source.dtype.bitwidth // 8

        def place(array: int, row: int) -> Any:
            flat, first, apart = values[array : array + 3]
            moved = builder.add(first, builder.mul(apart, ir.Constant(apart.type, row)))
            return _address(context, builder, kinds[array], (flat, moved))

        rows = [builder.load(place(0, row), align=bytes_) for row in range(COUNT)]
        low = ir.Constant(ir.VectorType(ir.IntType(32), COUNT), [COUNT * (i % 2) + i // 2 for i in range(COUNT)])
        high = ir.Constant(low.type, [COUNT * (i % 2) + (COUNT + i) // 2 for i in range(COUNT)])
        for _ in range(COUNT.bit_length() - 1):
            pairs = zip(rows[: COUNT // 2], rows[COUNT // 2 :], strict=True)
            rows = [builder.shuffle_vector(*pair, half) for pair in pairs for half in (low, high)]
        for row, lanes in enumerate(rows):
            builder.store(lanes, place(3, row), align=bytes_)
        return context.get_dummy_value()

    return types.void(source, of, distance, target, to, step), build


@intrinsic
def numbered(_typing: Any) -> Any:
    """``numbered()``: the number of each lane, 0 to ``COUNT`` - 1."""

    def build(_context: Any, _builder: Any, _signature: Any, _values: Any) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), COUNT), list(range(COUNT)))

    return INTS(), build

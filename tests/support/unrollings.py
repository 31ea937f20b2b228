"""Random convolutions, unrolled with random windows and bundles."""

from __future__ import annotations

from hypothesis import strategies as st

from memcompile.ir.geometry import Geometry, Unrolling


@st.composite
def unrollings(pick: st.DrawFn) -> Unrolling:
    """Convolutions of one or two axes, with strides, padding and groups."""
    groups, rank = pick(st.integers(1, 3)), pick(st.integers(1, 2))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(pick(st.integers(least, most)) for _ in range(rank))

    geometry = Geometry(
        in_channels=groups * pick(st.integers(1, 2)),
        out_channels=groups,
        kernel=each(1, 3),
        input_size=each(3, 7),
        groups=groups,
        strides=each(1, 3),
        dilations=(1,) * rank,
        pads_begin=each(0, 2),
        pads_end=each(0, 2),
    )
    window = tuple(pick(st.integers(1, size)) for size in geometry.output_size)
    return Unrolling(geometry, window, pick(st.integers(1, groups)))

"""Mapping of a layer's windows to the rows and columns of weight matrices.

A *linear layer* is a convolution over any number of spatial axes; a matrix product is the case with kernel size 1 over
the vectors of one image. An *unrolling* says how one replica of the layer's kernels is laid out for one step: the
kernel itself (im2col), or a larger *parallel window* that is multiplied with shifted copies of the kernels so that one
step yields several output positions (SDK mapping, Zhang et al. 2020; VW-SDK, Rhe et al. 2022).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["channels_first", "channels_last"]


@dataclass(frozen=True)
class Geometry:
    """Shape of one linear layer on one image.

    ``channels_first`` tensors are [batch, channels, *spatial] (ONNX Conv); ``channels_last``
    tensors are [..., channels] whose leading axes are flattened to ``input_size`` vectors an
    image (ONNX Gemm and MatMul).
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = (1,)
    input_size: tuple[int, ...] = (1,)
    groups: int = 1
    strides: tuple[int, ...] = (1,)
    dilations: tuple[int, ...] = (1,)
    pads_begin: tuple[int, ...] = (0,)
    pads_end: tuple[int, ...] = (0,)
    layout: Layout = "channels_first"

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Output positions per spatial axis."""
        return tuple(
            (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for size, before, after, dilation, kernel, stride in zip(
                self.input_size,
                self.pads_begin,
                self.pads_end,
                self.dilations,
                self.kernel,
                self.strides,
                strict=True,
            )
        )

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return math.prod(self.output_size)

    @property
    def group_rows(self) -> int:
        """Kernel inputs of one group: k_h * k_w * c_in / groups."""
        return self.in_channels // self.groups * math.prod(self.kernel)

    @property
    def group_columns(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def weights(self) -> int:
        """Number of weights of the layer."""
        return self.groups * self.group_rows * self.group_columns

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one image."""
        return self.positions * self.weights

    def to_channels_first(self, x: NDArray[Any]) -> NDArray[Any]:
        """Bring a tensor of this layout to [batch, channels, *input_size]."""
        if self.layout == "channels_first":
            return x
        vectors = math.prod(self.input_size)
        return x.reshape(-1, vectors, self.in_channels).transpose(0, 2, 1)

    def from_channels_first(self, y: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
        """Bring [batch, out_channels, *output_size] back to the layout of the layer's output."""
        if self.layout == "channels_first":
            return y
        return np.ascontiguousarray(y.transpose(0, 2, 1)).reshape(*input_shape[:-1], self.out_channels)


@dataclass(frozen=True)
class Unrolling:
    """One way to lay a replica of the layer's kernels out as weight matrices.

    ``window`` is the number of output positions per spatial axis that one step yields, and ``bundle`` the number of
    groups that share one block-diagonal matrix. The replica consists of ``matrices`` weight matrices of ``rows`` x
    ``columns``. Rows run over (group in the bundle, input channel of the group, *window input position); columns over
    (group in the bundle, *output position in the window, output channel of the group).
    """

    geometry: Geometry
    window: tuple[int, ...]
    bundle: int = 1

    @classmethod
    def im2col(cls, geometry: Geometry) -> Unrolling:
        """One output position a step, one group a matrix."""
        return cls(geometry, (1,) * geometry.rank)

    @cached_property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """Per spatial axis: the padded-input offsets that a window reads."""
        geometry = self.geometry
        return tuple(
            tuple(sorted({stride * output + dilation * tap for output in range(count) for tap in range(kernel)}))
            for count, kernel, stride, dilation in zip(
                self.window, geometry.kernel, geometry.strides, geometry.dilations, strict=True
            )
        )

    @property
    def matrices(self) -> int:
        """Number of weight matrices of one replica."""
        return -(-self.geometry.groups // self.bundle)

    @property
    def window_inputs(self) -> int:
        """Input positions a window reads, per channel."""
        return math.prod(len(axis) for axis in self.offsets)

    @property
    def window_outputs(self) -> int:
        """Output positions one step yields."""
        return math.prod(self.window)

    @property
    def rows(self) -> int:
        """Rows of each weight matrix."""
        return self.bundle * (self.geometry.in_channels // self.geometry.groups) * self.window_inputs

    @property
    def columns(self) -> int:
        """Columns of each weight matrix."""
        return self.bundle * self.geometry.group_columns * self.window_outputs

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Windows per spatial axis that cover the output once."""
        return tuple(-(-size // count) for size, count in zip(self.geometry.output_size, self.window, strict=True))

    @property
    def windows(self) -> int:
        """Steps for one image with one replica."""
        return math.prod(self.grid)

    def expand(self, kernels: NDArray[Any]) -> NDArray[Any]:
        """Lay kernels out as weight matrices.

        Parameters
        ----------
        kernels
            [..., groups, group_rows, group_columns]; the rows of a group run over
            (input channel, *kernel tap).

        Returns
        -------
        [..., matrices, rows, columns] with zeros where the window has no weight.
        """
        geometry = self.geometry
        if self.window_outputs == 1 and self.bundle == 1:
            return kernels
        lead = kernels.shape[:-3]
        channels = geometry.in_channels // geometry.groups
        taps = kernels.reshape(*lead, geometry.groups, channels, *geometry.kernel, geometry.group_columns)
        block = np.zeros(
            (
                *lead,
                geometry.groups,
                channels,
                *(len(axis) for axis in self.offsets),
                *self.window,
                geometry.group_columns,
            ),
            kernels.dtype,
        )
        everything = (slice(None),) * (len(lead) + 2)
        for output in np.ndindex(*self.window):
            where = tuple(
                np.array([axis.index(stride * position + dilation * tap) for tap in range(kernel)])
                for axis, position, kernel, stride, dilation in zip(
                    self.offsets, output, geometry.kernel, geometry.strides, geometry.dilations, strict=True
                )
            )
            # Advanced indices on adjacent axes keep their place, so the target block has the
            # axes (*lead, groups, channels, *kernel, *output, columns) that `taps` has.
            block[(*everything, *np.ix_(*where), *output)] = taps
        block = block.reshape(
            *lead,
            geometry.groups,
            channels * self.window_inputs,
            self.window_outputs * geometry.group_columns,
        )
        return self._bundle(block)

    def _bundle(self, block: NDArray[Any]) -> NDArray[Any]:
        """Put ``bundle`` groups on the block diagonal of each matrix."""
        if self.bundle == 1:
            return block
        lead, (groups, rows, columns) = block.shape[:-3], block.shape[-3:]
        matrices = np.zeros((*lead, self.matrices, self.rows, self.columns), block.dtype)
        for group in range(groups):
            matrix, slot = divmod(group, self.bundle)
            matrices[..., matrix, slot * rows : (slot + 1) * rows, slot * columns : (slot + 1) * columns] = block[
                ..., group, :, :
            ]
        return matrices

    def vectors(self, x: NDArray[Any], lines: slice = slice(None)) -> NDArray[Any]:
        """Cut the input vectors of windows out of images.

        Parameters
        ----------
        x
            [batch, channels, *input_size].
        lines
            Windows along the first spatial axis of the grid; all of them by default.

        Returns
        -------
        [batch, matrices, rows, windows], zero where a window reads padding or a bundle is not full.
        """
        geometry = self.geometry
        padding = self.padding()
        padded = np.pad(x, padding, mode="constant") if any(map(any, padding)) else x
        batch, channels = x.shape[:2]
        # Groups that fill up the last bundle have no channels of their own: their rows stay zero.
        room = self.matrices * self.bundle * (channels // geometry.groups)
        grid = tuple(len(range(cells)[lines if axis == 0 else slice(None)]) for axis, cells in enumerate(self.grid))
        empty = np.empty if room == channels else np.zeros
        cut = empty((batch, room, self.window_inputs, *grid), x.dtype)
        some = (slice(None), slice(None), *((lines,) if grid else ()))
        # One strided copy per window input is several times faster than one gather for all.
        for number, where in enumerate(self._places()):
            cut[:, :channels, number] = padded[where][some]
        return cut.reshape(batch, self.matrices, self.rows, math.prod(grid))

    def combined(self, x: NDArray[Any], combine: np.ufunc) -> NDArray[Any]:
        """Combine the inputs of each window, such as their sum: ``combine.reduce(self.vectors(x), axis=2)``.

        Parameters
        ----------
        x
            [batch, channels, *input_size], not negative.
        combine
            ``np.add`` or ``np.maximum``.

        Returns
        -------
        [batch, matrices, windows].
        """
        each = self.bundle * (self.geometry.in_channels // self.geometry.groups)
        begins = range(0, x.shape[1], each)
        of_matrices = np.stack([combine.reduce(x[:, begin : begin + each], axis=1) for begin in begins], axis=1)
        padding = self.padding()
        padded = np.pad(of_matrices, padding, mode="constant") if any(map(any, padding)) else of_matrices
        first, *others = self._places()
        total = padded[first].copy()
        for where in others:
            combine(total, padded[where], out=total)
        return total.reshape(len(x), self.matrices, self.windows)

    def addresses(self) -> tuple[list[tuple[int, int]], NDArray[np.int64], NDArray[np.int64]]:
        """Places from which :meth:`vectors` takes its values.

        Row r of matrix m reads place ``windows[w] + rows[m, r]`` in window w.

        Returns
        -------
        Padding per tensor axis, and the places in a flat padded image: ``windows`` [windows] and
        ``rows`` [matrices, rows], the latter -1 where a bundle is not full.
        """
        geometry, padding = self.geometry, self.padding()
        size = [cells + sum(pads) for cells, pads in zip(geometry.input_size, padding[2:], strict=True)]
        strides = [math.prod(size[axis + 1 :]) for axis in range(geometry.rank)]
        steps = [count * stride for count, stride in zip(self.window, geometry.strides, strict=True)]
        grid = [np.arange(cells) * step * stride for cells, step, stride in zip(self.grid, steps, strides, strict=True)]
        taps = [np.array(axis) * stride for axis, stride in zip(self.offsets, strides, strict=True)]
        channels = np.arange(self.matrices * self.bundle * (geometry.in_channels // geometry.groups))
        rows = (channels * math.prod(size))[:, None] + _outer_sum(taps)
        rows[geometry.in_channels :] = -1
        return padding, _outer_sum(grid), rows.reshape(self.matrices, self.rows)

    def fold(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Add input vectors up where they were cut out: the adjoint of :meth:`vectors`.

        Parameters
        ----------
        vectors
            [batch, matrices, rows, windows].

        Returns
        -------
        [batch, channels, *input_size].
        """
        geometry, batch = self.geometry, len(vectors)
        padding = self.padding()[2:]
        size = geometry.input_size
        channels = geometry.in_channels
        cut = vectors.reshape(batch, -1, self.window_inputs, *self.grid)[:, :channels]
        padded = np.zeros(
            (batch, channels, *(before + cells + after for (before, after), cells in zip(padding, size, strict=True))),
            vectors.dtype,
        )
        for number, where in enumerate(self._places()):
            padded[where] += cut[:, :, number]
        inside = (slice(before, before + cells) for (before, _), cells in zip(padding, size, strict=True))
        return padded[(slice(None), slice(None), *inside)]

    def _places(self) -> Iterator[tuple[slice, ...]]:
        """Slices of padded images that all windows read, one for each input of a window."""
        steps = [count * stride for count, stride in zip(self.window, self.geometry.strides, strict=True)]
        for offset in itertools.product(*self.offsets):
            where = (
                slice(first, first + (cells - 1) * step + 1, step)
                for first, cells, step in zip(offset, self.grid, steps, strict=True)
            )
            yield (slice(None), slice(None), *where)

    def patches(self, x: NDArray[Any], windows: NDArray[np.int32] | None = None) -> NDArray[Any]:
        """Input vectors of some windows (all when None): [batch, windows, matrices, rows]."""
        vectors = self.vectors(x)
        if windows is not None:
            vectors = vectors[..., windows]
        return vectors.transpose(0, 3, 1, 2)

    def padding(self) -> list[tuple[int, int]]:
        """Padding (before, after) of batch, channels and axes, with what windows read past the far edge added."""
        geometry = self.geometry
        padding = [(0, 0), (0, 0)]
        for axis in range(geometry.rank):
            reach = (self.grid[axis] - 1) * self.window[axis] * geometry.strides[axis] + self.offsets[axis][-1] + 1
            size = geometry.input_size[axis] + geometry.pads_begin[axis]
            padding.append((geometry.pads_begin[axis], max(geometry.pads_end[axis], reach - size)))
        return padding

    def window_positions(self) -> NDArray[np.int64]:
        """Output position (row-major in the output) of each window's outputs.

        Returns
        -------
        [windows, window_outputs], not to be written to; -1 where a window at the far edge has no output.
        """
        return self._window_positions

    @cached_property
    def _window_positions(self) -> NDArray[np.int64]:
        size = self.geometry.output_size
        position = np.zeros((*self.grid, *self.window), np.int64)
        inside = np.ones_like(position, dtype=bool)
        rank = self.geometry.rank
        for axis in range(rank):
            shape = [1] * (2 * rank)
            shape[axis], shape[rank + axis] = self.grid[axis], self.window[axis]
            here = (
                np.arange(self.grid[axis])[:, None] * self.window[axis] + np.arange(self.window[axis])[None, :]
            ).reshape(shape)
            position = position * size[axis] + here
            inside &= here < size[axis]
        return np.where(inside, position, -1).reshape(self.windows, self.window_outputs)

    def scatter(self, outputs: NDArray[Any], windows: NDArray[np.int32], y: NDArray[Any]) -> None:
        """Write the results of some windows into the output tensor.

        Parameters
        ----------
        outputs
            [batch, len(windows), matrices, columns].
        windows
            The window numbers they belong to.
        y
            [batch, out_channels, positions], written in place.
        """
        geometry = self.geometry
        batch, count = outputs.shape[:2]
        split = outputs.reshape(batch, count, self.matrices * self.bundle, self.window_outputs, geometry.group_columns)[
            :, :, : geometry.groups
        ]
        positions = self.window_positions()[windows]  # windows, window outputs
        for output in range(self.window_outputs):
            inside = np.flatnonzero(positions[:, output] >= 0)
            values = split[:, :, :, output][:, _as_slice(inside)].transpose(0, 2, 3, 1)
            places = _as_slice(positions[inside, output])
            y[:, :, places] = values.reshape(batch, geometry.out_channels, len(inside))


def _as_slice(numbers: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Numbers as a slice if they follow one another, which is several times faster to index with."""
    if len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1 and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def _outer_sum(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sums of one number of each part, the last part running fastest, flat."""
    total = np.zeros(1, np.int64)
    for part in parts:
        total = (total[:, None] + part).ravel()
    return total

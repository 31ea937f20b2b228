"""The two digital ends of a crossbar layer: quantised inputs and rescaled sums.

The compiled kernels do the operations of :class:`memcompile.ir.quantizers.InputQuantizer` and of
:meth:`memcompile.runtime.executors.rescaling.Rescaling.apply` in one pass over the values, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.runtime.executors.rescaling import Rescaling
from memcompile.runtime.kernels.compiled import Workers, product_kernels

MIN_VALUES = 1 << 18
"""Values below which a second thread costs more than it brings."""


def quantize(quantizer: InputQuantizer | ExactInput, x: NDArray[Any], workers: Workers) -> NDArray[Any] | None:
    """Quantise a tensor of any shape; None if it holds anything that is not a number."""
    compiled = product_kernels()
    if compiled is None or x.dtype != np.float32 or isinstance(quantizer, ExactInput):
        # The minimum of anything with a NaN is one; cheaper than an array of flags.
        return None if x.size and np.isnan(x.min()) else quantizer.quantize(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    quantized = np.empty(flat.size, np.int16)
    scale, low, high = (np.float32(v) for v in (quantizer.scale, quantizer.lowest, quantizer.highest))

    numbers: list[bool] = []

    def work(begin: int, end: int) -> None:
        numbers.append(compiled.quantize(flat, scale, low, high, quantized, begin, end))

    workers.each_range(flat.size, work, MIN_VALUES)
    return quantized.reshape(x.shape) if all(numbers) else None


def rescale(
    rescaling: Rescaling, sums: NDArray[Any], dtype: str, converter: Converter, workers: Workers
) -> NDArray[Any]:
    """Outputs of a layer of this type from its sums, both [batch, out_channels, positions].

    ``sums`` are level steps if float64, else codes of the converter.
    """
    compiled = product_kernels()
    channels_last = sums.transpose(0, 2, 1)
    lies_ready, alike = channels_last.flags.c_contiguous, len(rescaling.scale) == 1
    if compiled is None or dtype != "float32" or not (lies_ready or (alike and sums.dtype == np.float64)):
        return rescaling.apply(converter.in_levels(sums), dtype)
    y = np.empty(sums.shape, np.float32)
    scale, bias, factors = rescaling.scale, rescaling.bias, converter.factor_to_levels(sums)

    def work(begin: int, end: int) -> None:
        if lies_ready:
            compiled.rescale_channels_last(channels_last, *factors, scale, bias, rescaling.place, y, begin, end)
        else:
            compiled.rescale(np.ascontiguousarray(sums[begin:end]), scale[0], bias[0], y[begin:end])

    workers.each_range(len(sums), work, max(2, MIN_VALUES // max(1, y[:1].size)))
    return y

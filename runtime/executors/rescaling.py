"""Digital scale and bias behind the adders of a layer, as one chip has them.

Without a calibration all output positions share the layer's scale and bias. A calibrated chip has its own for each
place that outputs are read from: y = gain (scale * sum + bias) + offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import MappedLayer, as_dtype
from memcompile.program.line_corrections import LineCorrections, places_of


@dataclass(frozen=True, eq=False)
class Rescaling:
    """Factor and summand of each place, float64 [places, out_channels], and the place of each position, [positions]."""

    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, layer: MappedLayer, corrections: LineCorrections | None) -> Rescaling:
        """Those of a layer with the corrections of a chip."""
        scale, bias = layer.scale.astype(np.float64)[None], layer.bias.astype(np.float64)[None]
        if corrections is None:
            return cls(scale, bias, np.zeros(layer.geometry.positions, np.int64))
        gain = corrections.gain.astype(np.float64)
        return cls(scale * gain, bias * gain + corrections.offset, places_of(layer))

    def apply(self, sums: NDArray[np.float64], dtype: str, positions: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Outputs, [batch, out_channels, positions], from sums in level steps, at some positions (all when None)."""
        place = self.place if positions is None else self.place[positions]
        return as_dtype(sums * self.scale[place].T + self.bias[place].T, dtype)

"""Quantised inputs of a layer on calibration data, and the input vectors that windows cut out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.ir.quantizers import ExactInput, InputQuantizer


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """Quantised inputs of a layer.

    ``values`` are integers, [images, in_channels, *input_size]. Moments of input vectors are those of vectors cut out
    of them, for the window at hand: whole second-moment matrices of inputs are never formed, since all that the model
    needs of them is their diagonal and their product with the weights.
    """

    quantizer: InputQuantizer | ExactInput
    values: NDArray[Any]

    def vectors(
        self, unrolling: Unrolling, windows: NDArray[np.int32], count: int, seed: int = 0
    ) -> NDArray[np.float32]:
        """Some input vectors of some windows, [about count, matrices, rows].

        Each image gives as many, at random windows; all there are if they are fewer.
        """
        each = min(len(windows), -(-count // len(self.values)))
        images = self.values[: -(-count // each)]
        rng = np.random.default_rng(seed)
        all_windows = np.broadcast_to(np.arange(len(windows)), (len(images), len(windows)))
        chosen = all_windows if each == len(windows) else rng.integers(0, len(windows), (len(images), each))
        padding, begins, rows = unrolling.addresses()
        flat = np.pad(images, padding).reshape(len(images), -1) if any(map(any, padding)) else images
        places = begins[windows[chosen]][:, :, None, None] + rows
        cut = flat.reshape(len(images), -1)[np.arange(len(images))[:, None, None, None], places]
        found: NDArray[np.float32] = np.where(rows < 0, 0, cut).astype(np.float32)
        return found.reshape(-1, *rows.shape)

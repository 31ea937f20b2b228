"""A classifier of two dense layers that names the nearest of four patterns, and its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from models import float_model, node
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.pipelines import Compilation, compile_model


@dataclass(frozen=True, eq=False)
class FourPatterns:
    """Noisy images of four patterns, [images, 12], and their classes."""

    rng: np.random.Generator
    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def drawn(cls, seed: int, count: int) -> FourPatterns:
        """So many images."""
        rng, labels = np.random.default_rng(seed), np.arange(count) % 4
        patterns = rng.normal(size=(4, 12)).astype(np.float32)
        return cls(rng, (patterns[labels] + rng.normal(size=(count, 12)) * 0.7).astype(np.float32), labels)

    def compiled(self, folder: Path, target: Target, *, labelled: bool) -> Compilation:
        """Compile the classifier from files in a folder."""
        hidden = self.rng.normal(size=(12, 24)).astype(np.float32)
        nodes = [node("Gemm", "x a", "h"), node("Relu", "h", "r"), node("Gemm", "r b", "y")]
        active = np.maximum(self.images @ hidden, 0)
        outputs = np.linalg.lstsq(active, np.eye(4)[self.labels], rcond=None)[0].astype(np.float32)
        path, data = folder / "net.onnx", folder / "d.npz"
        path.write_bytes(float_model(nodes, ("N", 12), {"a": hidden, "b": outputs}).SerializeToString())
        np.savez(data, x=self.images, **({"labels": self.labels} if labelled else {}))
        return compile_model(path, target, data=data)

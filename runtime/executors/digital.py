"""Digital stages: ONNX subgraphs between crossbar layers, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.frontend.sessions import open_session
from memcompile.program.program import DigitalStage


def _as_array(result: Any) -> Any:
    """Tensors as arrays; what is no tensor (a sequence, a map, nothing) as it is."""
    return result if result is None or isinstance(result, list | dict) else np.asarray(result)


class DigitalRunner:
    """Keeps one open session per digital stage."""

    def __init__(self) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {}

    def run(self, stage: DigitalStage, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a stage on the values it reads.

        Raises
        ------
        DataError
            onnxruntime refuses the values, for instance because their shape is not the one the
            model was made for.
        """
        feeds = {name: values[name] for name in stage.inputs if name}
        names = [name for name in stage.outputs if name]
        try:
            results = self._session(stage).run(names, feeds)
        except Exception as error:  # onnxruntime's errors have no common base class
            shapes = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in feeds.items())
            first_line = str(error).strip().splitlines()[0]
            raise DataError(f"digital stage {stage.name} cannot run on {shapes}: {first_line}") from error
        return dict(zip(names, map(_as_array, results), strict=True))

    def run_each(
        self, stage: DigitalStage, values: Mapping[str, Any], images: int, shared: Collection[str]
    ) -> dict[str, Any]:
        """Run a stage of a model that was exported for one image on several, [images, ...] each but for shared values.

        All its values have one entry along axis 0 for an image, see :attr:`DigitalStage.first_sizes`.

        Raises
        ------
        DataError
            As :meth:`run`.
        """
        names = [name for name in stage.inputs if name]
        parts = [
            self.run(stage, {name: values[name] if name in shared else values[name][k : k + 1] for name in names})
            for k in range(images)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in stage.outputs if name}

    def _session(self, stage: DigitalStage) -> ort.InferenceSession:
        if stage.name not in self._sessions:
            # One thread: chunks of images run on all of them, and to wake others for a small operator costs more.
            self._sessions[stage.name] = open_session(stage.model, threads=1, frugal=True)
        return self._sessions[stage.name]

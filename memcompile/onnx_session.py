"""onnxruntime sessions, opened the same way everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from memcompile.errors import ModelError

# onnxruntime's own element type names, as sessions report them.
_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "bfloat16": "bfloat16",
    "bool": "bool",
    "string": "object",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def open_session(model: bytes | str, *, optimise: bool = True, threads: int = 2) -> ort.InferenceSession:
    """Open a session on the CPU.

    ``optimise=False`` switches onnxruntime's graph rewrites off, which references need: some of
    the rewrites replace operators by less exact kernels.

    Raises
    ------
    Exception
        Whatever onnxruntime raises; it has no common base class.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Idle threads of the pool would spin and take a core from the emulator's kernels.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: ort.InferenceSession, names: Sequence[str], feeds: Mapping[str, Any], where: str) -> list[Any]:
    """Run a session on samples of a user's.

    Raises
    ------
    ModelError
        onnxruntime fails on these samples, as it may where it ran one sample and gets many.
    """
    try:
        results: list[Any] = session.run(list(names), dict(feeds))
    except Exception as error:  # onnxruntime's exceptions have no common base class
        shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feeds.items())
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"onnxruntime cannot run {where} on inputs of shape {shapes}: {reason}; "
            "give other or fewer samples with --data"
        ) from error
    return results


def tensor_dtype(kind: str) -> str | None:
    """NumPy dtype name of an onnxruntime type such as ``tensor(float)``; None if it is no tensor."""
    if not kind.startswith("tensor("):
        return None
    return _DTYPES.get(kind[len("tensor(") : -1])


def zeros_for(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros (empty strings for string tensors)."""
    return np.full(shape, "", object) if dtype == "object" else np.zeros(shape, dtype)

"""onnxruntime sessions, opened the same way everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.errors import ModelError


@dataclass(frozen=True)
class FileStamp:
    """A file with the facts that tell whether it has changed."""

    path: Path
    facts: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """The file as it is; without facts where there is none."""
        try:
            found = path.stat()
        except OSError:
            return cls(path, ())
        return cls(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))

    @property
    def holds(self) -> bool:
        """True if the file is there and has not changed."""
        return bool(self.facts) and self == FileStamp.of(self.path)


@dataclass(frozen=True, eq=False)
class Weights:
    """Initializers whose values a model leaves out.

    Attributes
    ----------
    arrays
        Their values, by name.
    folder
        Folder of the files that hold the values according to the model: onnxruntime requires these files, and then
        reads the arrays in place. Without a folder it copies them.
    files
        These files, as they were when they were read.
    """

    arrays: Mapping[str, NDArray[Any]]
    folder: Path | None = None
    files: tuple[FileStamp, ...] = ()

    @cached_property
    def values(self) -> Mapping[str, ort.OrtValue]:
        """The arrays as onnxruntime reads them; sessions know but do not own them."""
        return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Weights, (self.arrays, self.folder, self.files)

    @property
    def in_place(self) -> bool:
        """True if onnxruntime can read the arrays where they are: all files are there and have not changed."""
        return self.folder is not None and all(file.holds for file in self.files)


NO_WEIGHTS = Weights({})

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


def open_session(
    model: bytes | str,
    *,
    optimise: bool = True,
    threads: int = 2,
    weights: Weights = NO_WEIGHTS,
    once: bool = False,
    frugal: bool = False,
    shapes_first: bool = False,
) -> ort.InferenceSession:
    """Open a session on the CPU.

    Parameters
    ----------
    optimise
        False switches onnxruntime's graph rewrites off, which references need: some of the rewrites
        replace operators by less exact kernels.
    weights
        Initializers whose values the model leaves out. The caller keeps this object for as long as the session.
    once
        The session runs one batch: weights are not copied into the order that is fastest for many runs.
    frugal
        The session gives its memory back after each run. Otherwise it keeps that of its largest run, which adds up
        where many sessions are open.
    shapes_first
        Shape operators run as soon as they can, so that none keeps a value for its size alone.

    Raises
    ------
    Exception
        onnxruntime's own exceptions, which have no common base class.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Idle threads of the pool would spin and take a core from the emulator's kernels.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if once:
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = not (once or frugal)
    if shapes_first:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if weights.arrays:
        _hand_over(weights, options)
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Its fallback would print what went wrong and try the same again; there is no other provider.
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def _hand_over(weights: Weights, options: ort.SessionOptions) -> None:
    if weights.folder is None:
        options.add_external_initializers(list(weights.values), list(weights.values.values()))
        return
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.folder))
    for name, value in weights.values.items():
        options.add_initializer(name, value)


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

"""Keeps what is dear to make, such as compiled programs, for all tests and worker processes of a run.

Each test gets a copy of its own, so that none sees what another one does to it.
"""

from __future__ import annotations

import copyreg
import fcntl
import hashlib
import inspect
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from memcompile import pipelines
from memcompile.accuracy.loss_model import LossModel, loss_model
from memcompile.data.loader import Dataset
from memcompile.errors import MemcompileError
from memcompile.hardware.target import Target, load_target
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.pipelines import Compilation
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.report import evaluation
from memcompile.report.evaluation import Evaluation
from memcompile.report.explain import Explanation

compile_model, evaluate = pipelines.compile_model, evaluation.evaluate
"""As they are, whatever a test puts in their place."""


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


class _Pickler(pickle.Pickler):
    """A pickler that also takes read-only views of dictionaries."""

    dispatch_table = {  # noqa: RUF012 - the name that pickle looks for
        **copyreg.dispatch_table,
        MappingProxyType: lambda view: (_read_only, (dict(view),)),
    }


def _pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(value)
    return stream.getvalue()


class Kept:
    """Results in a folder that the workers of a run share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def result(self, key: object, make: Callable[[], Any]) -> Any:
        """A copy of what ``make`` returns, which is called by the first test that asks with this key."""
        path = self._folder / hashlib.sha256(_pickled(key)).hexdigest()
        with open(path.with_suffix(".lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                path.write_bytes(_pickled(make()))
        return pickle.loads(path.read_bytes())

    def compilation(self, model: Any, target: Target | str = pipelines.DEFAULT_TARGET, **options: Any) -> Compilation:
        """:func:`memcompile.pipelines.compile_model`, once for each model, target and options."""
        key = _key(model, target, options)
        if key is None:
            return compile_model(model, target, **options)
        own = tuple(options.pop("instruments", ()))
        compilation, seen = self.result(key, lambda: (compile_model(model, target, **options, instruments=own), own))
        for instrument, kept in zip(own, seen, strict=True):
            vars(instrument).update(vars(kept))
        found: Compilation = compilation
        return found

    def program(self, model: Any, target: Target | str = pipelines.DEFAULT_TARGET, **options: Any) -> Program:
        """The program of :meth:`compilation`."""
        return self.compilation(model, target, **options).program

    def loss_model(self, program: Program, dataset: Dataset, **options: Any) -> tuple[LossModel, list[LayerInputs]]:
        """:func:`memcompile.accuracy.loss_model.loss_model`, once for each program, data and options."""
        asked = {name: value for name, value in options.items() if name != "progress"}
        key = ("loss model", encode_program(program), dataset, asked)
        found: tuple[LossModel, list[LayerInputs]] = self.result(key, lambda: loss_model(program, dataset, **options))
        return found

    def evaluation(self, program: Program, model: Any, dataset: Any, **options: Any) -> Evaluation:
        """:func:`memcompile.report.evaluation.evaluate`, once for each program, data and options."""
        asked = {name: value for name, value in options.items() if name != "progress"}
        key = ("evaluation", encode_program(program), model.sha256, dataset, asked)
        found: Evaluation = self.result(key, lambda: evaluate(program, model, dataset, **options))
        return found


def _key(model: Any, target: Target | str, options: dict[str, Any]) -> object:
    """Everything that a compilation depends on; None where it is not kept."""
    given = inspect.signature(compile_model).bind(model, target, **options)
    given.apply_defaults()
    asked = given.arguments
    instruments, data = tuple(asked.pop("instruments")), asked.pop("data")
    del asked["model"], asked["target"], asked["progress"]
    files = [path for path in (model, data) if path is not None]
    if (
        not all(isinstance(path, Path | str) and Path(path).is_file() for path in files)
        or not all(type(instrument) is Explanation for instrument in instruments)
        or asked["passes"] is not None
        or asked["time_limit_s"] < math.inf
    ):
        return None
    try:
        hardware = load_target(target) if isinstance(target, str) else target
    except MemcompileError:
        return None
    contents = [(Path(path).name, Path(path).read_bytes()) for path in files]  # nothing depends on their folders
    return "compilation", contents, str(target), hardware.model_dump_json(), len(instruments), repr(asked)

"""memcompile: from trained ONNX networks to programs for memristor crossbar chips."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memcompile.errors import MemcompileError
    from memcompile.hardware.target import Target, load_target
    from memcompile.pipelines import compile, compile_model  # noqa: A004 - the public name
    from memcompile.program.file import load_program, save_program
    from memcompile.program.program import Program
    from memcompile.runtime.emulator import Effects, Emulator

__all__ = [
    "Effects",
    "Emulator",
    "MemcompileError",
    "Program",
    "Target",
    "compile",
    "compile_model",
    "load_program",
    "load_target",
    "save_program",
]

_HOMES = {
    "Effects": "runtime.emulator",
    "Emulator": "runtime.emulator",
    "MemcompileError": "errors",
    "Program": "program.program",
    "Target": "hardware.target",
    "compile": "pipelines",
    "compile_model": "pipelines",
    "load_program": "program.file",
    "load_target": "hardware.target",
    "save_program": "program.file",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the command line listens to signals before that."""
    if name not in _HOMES:
        raise AttributeError(f"module 'memcompile' has no attribute {name!r}")
    return getattr(import_module(f"memcompile.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

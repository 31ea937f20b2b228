"""memcompile: from trained ONNX networks to programs for memristor crossbar chips."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memcompile.api import calibrate, compile, draw, evaluate, load, report_page, tune  # noqa: A004 - the public name
    from memcompile.exploration.explore import explore
    from memcompile.hardware.target import Target
    from memcompile.pipelines import compiler_version
    from memcompile.runtime.emulator import Emulator

    __version__ = compiler_version()

__all__ = [
    "Emulator",
    "Target",
    "__version__",
    "calibrate",
    "compile",
    "draw",
    "evaluate",
    "explore",
    "load",
    "report_page",
    "tune",
]

_HOMES = {
    "Emulator": "runtime.emulator",
    "Target": "hardware.target",
    "calibrate": "api",
    "compile": "api",
    "draw": "api",
    "evaluate": "api",
    "explore": "exploration.explore",
    "load": "api",
    "report_page": "api",
    "tune": "api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the command line listens to signals before that."""
    if name == "__version__":
        return import_module("memcompile.pipelines").compiler_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'memcompile' has no attribute {name!r}")
    return getattr(import_module(f"memcompile.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

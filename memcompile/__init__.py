"""memcompile: from trained ONNX networks to programs for memristor crossbar chips."""

from memcompile.errors import MemcompileError
from memcompile.pipelines import compile, compile_model  # noqa: A004 - the public name
from memcompile.program import Program
from memcompile.program_file import load_program, save_program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.target import Target, load_target

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

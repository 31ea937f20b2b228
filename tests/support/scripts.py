"""Runs scripts in this process: the start of another costs more than most of them do."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest


def run_script(script: Path, *arguments: object) -> int:
    """Run a script in the current folder, as ``python script`` would.

    Returns
    -------
    Its exit code.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.setattr(sys, "path", [str(script.parent.resolve()), *sys.path])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            if isinstance(left.code, str):
                sys.stderr.write(left.code)
                return 1
            return left.code or 0
    return 0

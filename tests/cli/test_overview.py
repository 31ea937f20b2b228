"""The list of commands, which is printed without importing what they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memcompile.cli.main import cli, main
from memcompile.cli.overview import COMMANDS, print_overview


def test_the_list_is_that_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    print_overview()
    quick = capsys.readouterr().out
    main(["--help"])
    assert quick == capsys.readouterr().out
    assert sorted(COMMANDS) == sorted(cli.commands), "a new command goes into the list of cli/overview.py too"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_it_imports_nothing_slow(arguments: list[str]) -> None:
    script = (
        "import atexit, sys; sys.argv[1:] = " + repr(arguments) + "\n"
        "atexit.register(lambda: print(sorted({'numpy', 'onnx', 'pydantic', 'rich'} & set(sys.modules))))\n"
        "from memcompile.__main__ import run; run()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.endswith("[]\n")
    assert "Usage: memcompile" in done.stdout

"""``--memory`` bounds the memory of the process."""

from __future__ import annotations

import os

import pytest

from memcompile.cli.main import main
from memcompile.runtime.cells import memory


@pytest.mark.parametrize("command", ["compile", "run", "tune", "refresh"])
def test_commands_that_emulate_take_a_bound(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "7")
    assert main([command, "missing file", "--memory", "2.5"]) > 0
    assert os.environ[memory.VARIABLE] == "2.5"
    assert memory.bound_bytes() == int(2.5 * memory.GIB)


def test_a_bound_is_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "missing file", "--memory", "0"]) == 2
    assert "--memory" in capsys.readouterr().err

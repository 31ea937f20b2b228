"""Times and memory of memcompile and other crossbar emulators, under the same settings, by turns.

    python benchmarks/peers.py --aihwkit ENV/bin/python --crosssim ENV/bin/python --badcrossbar ENV/bin/python

Each emulator has an environment of its own, named by its Python, and each case a process of its own in it:

    aihwkit      pip install torch scikit-build ninja cmake mypy pybind11 "setuptools<81"; OpenBLAS's headers and a C++
                 compiler; then pip install --no-build-isolation aihwkit==1.2.0 (an hour of a processor)
    CrossSim     git clone -b v3.2.0 https://github.com/sandialabs/cross-sim; pip install ./cross-sim torch
    badcrossbar  pip install badcrossbar==1.1.0 "numpy<2"

The environment that runs this script takes torch as well, to write the networks. Two processes work in rounds by turns:
what slows the machine slows both. Times are medians of rounds; memory is the peak of a process. What is alike and what
is not stands in :mod:`emulators.cases` and in the module of each emulator.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulators.cases import CASES
from rounds import Comparison, compared, machine

FOLDER = Path(__file__).resolve().parent
SLOW_S, SLOW_ROUNDS = 10.0, 1
"""A call that takes longer is measured in fewer rounds."""
LIMIT_S = 300.0
"""A call that takes longer ends its case."""
Row = dict[str, Any]


class NoAnswerError(Exception):
    """A process ended, or takes too long."""


class Side:
    """Process of an emulator that works on one case."""

    def __init__(self, python: str, name: str, case: str) -> None:
        paths = os.pathsep.join((str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])))
        self._process = subprocess.Popen(
            [python, "-m", "emulators.serve", name, case],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.peak_mb = 0.0
        self.note: str | None = None

    def ready(self) -> bool:
        """Wait until the work of the case is set up and done once; ``note`` says why it cannot be."""
        self.note = self._answer().get("note")
        return self.note is None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
            self._process.kill()
            raise NoAnswerError(f"a call takes longer than {LIMIT_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise NoAnswerError("its process ended")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def seconds(self, calls: int) -> float:
        """Time of one of some calls, in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        facts = self._answer()
        self.peak_mb = facts["peak_mb"]
        return float(facts["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def measured(case: str, name: str, python: str, rounds: int) -> Row:
    """Compare one peer with this project on one case."""
    row = {"case": case, "peer": name}
    with contextlib.ExitStack() as stack:
        peer = Side(python, name, case)
        stack.callback(peer.close)
        try:
            if not peer.ready():
                return {**row, "note": peer.note}
            slow = peer.seconds(1) > SLOW_S
        except NoAnswerError as error:
            return {**row, "note": str(error)}
        ours = Side(sys.executable, "memcompile", case)
        stack.callback(ours.close)
        if not ours.ready():
            raise SystemExit(f"{case}: {ours.note}")
        found = _by_turns(ours, peer, SLOW_ROUNDS if slow else rounds)
    return {**row, **found.facts(), "ours_mb": ours.peak_mb, "peer_mb": peer.peak_mb}


def _by_turns(ours: Side, peer: Side, rounds: int) -> Comparison:
    def clock(work: Callable[[], object], calls: int) -> float:
        side = work()
        assert isinstance(side, Side)
        return side.seconds(calls)

    return compared(lambda: peer, lambda: ours, rounds, clock)


def show(row: Row) -> str:
    """One row of the table."""
    title = f"| {CASES[row['case']].title} | {row['peer']} |"
    if "note" in row:
        return f"{title} {row['note']} | | | | |"
    work, reference = row["work_s"], row["reference_s"]
    quartiles = f"{row['lower_quartile']:,.3g} to {row['upper_quartile']:,.3g}"
    return (
        f"{title} {1e3 * reference:,.3g} ms | {1e3 * work:,.3g} ms | {row['ratio']:,.3g} ({quartiles}) "
        f"| {row['ours_mb']:.0f} | {row['peer_mb']:.0f} |"
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("aihwkit", "crosssim", "badcrossbar"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"Python of an environment with {name}")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sys.stdout.write("| case | peer | time here | time of the peer | ratio | memory here, MB | of the peer, MB |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|\n")
    rows = []
    for case in arguments.case or CASES:
        for name in ("aihwkit", "crosssim", "badcrossbar"):
            python = getattr(arguments, name)
            if python is None:
                continue
            rows.append(measured(case, name, python, arguments.rounds))
            sys.stdout.write(show(rows[-1]) + "\n")
            sys.stdout.flush()
    if arguments.json:
        facts = {"machine": machine(), "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Two commits by turns: which one is faster, and by how much.

    python benchmarks/compare.py OLD [NEW] [--rounds 7] [--case NAME ...] [--json FILE]

Each commit (NEW: the working tree when left out) gets a copy of its own and a process that stays alive, so that kernels
are compiled and caches warm. The processes work one after the other, a case at a time, and report the processor time of
all their threads: on a busy machine that says more than the time that passed. A ratio below 1 says that NEW is faster.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from rounds import Comparison, compared, machine

REPOSITORY = Path(__file__).resolve().parent.parent
FIVE_LAYER = REPOSITORY / "examples" / "five_layer_cnn.onnx"
IMAGES = 200


def _network(target: str, *, ideal: bool = False) -> Callable[[], object]:
    """Images through the five-layer network on a chip that is programmed already."""
    from memcompile.pipelines import compile_model  # noqa: PLC0415 - of the commit that is measured
    from memcompile.runtime.emulator import Emulator  # noqa: PLC0415 - of the commit that is measured

    compiled = compile_model(FIVE_LAYER, target)
    x = compiled.dataset.calibration["image"]
    x = x[np.arange(IMAGES) % len(x)]
    emulator = Emulator.ideal(compiled.program) if ideal else Emulator(compiled.program)
    return lambda: emulator.run(x)


def _first_image(target: str) -> Callable[[], object]:
    """A new chip with its first image."""
    from memcompile.pipelines import compile_model  # noqa: PLC0415 - of the commit that is measured
    from memcompile.runtime.emulator import Emulator  # noqa: PLC0415 - of the commit that is measured

    compiled = compile_model(FIVE_LAYER, target)
    x = compiled.dataset.calibration["image"][:1]
    return lambda: Emulator(compiled.program).run(x)


def _transfer() -> Callable[[], object]:
    from memcompile.pipelines import compile_model  # noqa: PLC0415 - of the commit that is measured
    from memcompile.runtime.training.transfer import transfer  # noqa: PLC0415 - of the commit that is measured

    program = compile_model(FIVE_LAYER, "yao2020").program
    return lambda: transfer(program, 0)


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "run-yao2020": lambda: _network("yao2020"),
    "run-pimcomp": lambda: _network("pimcomp"),
    "run-hermes": lambda: _network("hermes"),
    "run-ideal-devices": lambda: _network("yao2020", ideal=True),
    "first-image-yao2020": lambda: _first_image("yao2020"),
    "first-image-hermes": lambda: _first_image("hermes"),
    "transfer": _transfer,
}


def serve() -> None:
    """Work on cases as the other process asks for them: a name and a number of calls a line; answers in seconds."""
    ready: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        name, calls = line.split()
        if name not in ready:
            ready[name] = CASES[name]()
        begin = time.process_time()
        for _ in range(int(calls)):
            ready[name]()
        sys.stdout.write(f"{(time.process_time() - begin) / int(calls)!r}\n")
        sys.stdout.flush()


class Side:
    """The process of one commit."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
        paths = f"{folder}:{Path(__file__).resolve().parent}"
        self._process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, name: str, calls: int) -> float:
        """Processor time of a call, in seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name} {calls}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"case {name} failed")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def checkout(commit: str | None) -> Iterator[Path]:
    """A folder with the files of a commit; the working tree itself when None."""
    if commit is None:
        yield REPOSITORY
        return
    packed = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def _compared(name: str, new: Side, old: Side, rounds: int) -> Comparison:
    """A case on two commits by turns; each clocks itself."""

    def clock(work: Callable[[], object], calls: int) -> float:
        side = work()
        assert isinstance(side, Side)
        return side.seconds(name, calls)

    return compared(lambda: new, lambda: old, rounds, clock)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", nargs="?", help="another; the working tree when left out")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        sides = [Side(stack.enter_context(checkout(commit))) for commit in (arguments.new, arguments.old)]
        for side in sides:
            stack.callback(side.close)
        for name in arguments.case or CASES:
            found = _compared(name, *sides, arguments.rounds)
            rows.append({"case": name, **found.facts()})
            spread = f"{found.lower_quartile:.3f} to {found.upper_quartile:.3f}"
            times = f"{1e3 * found.work_s:10.2f} ms, before {1e3 * found.reference_s:10.2f} ms"
            sys.stdout.write(f"{name:24} {found.ratio:6.3f} x  ({spread}) {times}\n")
            sys.stdout.flush()
    if arguments.json:
        facts = {"machine": machine(), "old": arguments.old, "new": arguments.new, "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()

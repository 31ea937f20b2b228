"""Bars of explorations: a grid against its front, a population, the scheduler's pace, and kills at random moments.

    python -m benchmarks.explore grid --data MNIST_DIR [--whole]
    python -m benchmarks.explore population --data MNIST_DIR [--chips 1000]
    python -m benchmarks.explore pace [--workers 32] [--tasks 4000]
    python -m benchmarks.explore kills [--times 50]

``grid`` explores 168 designs of the five-layer CNN, with ``--whole`` all chips of all of them in a second folder, and
compares the fronts. ``pace`` runs tasks that only sleep on slim workers in one process. ``kills`` explores a small grid
on a scheduler and workers of their own, of which one, or the client, is killed (SIGKILL) again and again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distributed import Client, LocalCluster

from memcompile.exploration.knobs import Design
from memcompile.exploration.runs.cluster import Cluster
from memcompile.exploration.runs.tasks import Outcome, Task

FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
GRID = (
    *("--vary", "target=yao2020,isaac", "--vary", "array.input_lines=64,128,256,512"),
    *("--vary", "adc.bits=4..10", "--vary", "slices=1,2,3"),
    *("--set", "chip.arrays=8", "--set", "replicate.effort=fast", "--images", "500"),
)
SMALL_GRID = (
    *("--vary", "adc.bits=6..8", "--vary", "slices=1,2"),
    *("--set", "replicate.effort=fast", "--images", "100", "--chips-sampled", "3", "--no-calibration", "--quiet"),
)
NAP_S = 0.01
KILLS_EACH = 5
"""Kills of a run at most; one that ends before is followed by another run."""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["grid", "population", "pace", "kills"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("explore_benchmark"))
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--chips", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--times", type=int, default=50)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    {"grid": grid, "population": population, "pace": pace, "kills": kills}[asked.what](asked)


def memcompile(*words: str | Path) -> list[str]:
    """Command line of a process of its own."""
    return [sys.executable, "-m", "memcompile", *map(str, words)]


def timed(words: list[str]) -> None:
    """Run a command, and print the time it took and the processor time of its processes."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.monotonic() - begin:.0f} s, {cpu_s:.0f} s of processor time")


def grid(asked: argparse.Namespace) -> None:
    """Explore the grid, and the whole of it where that is asked for."""
    data = ("--data", asked.data) if asked.data else ()
    timed(memcompile("explore", FIVE_LAYER, *GRID, *data, "-o", asked.folder / "raced"))
    if asked.whole:
        timed(memcompile("explore", FIVE_LAYER, *GRID, *data, "--whole", "-o", asked.folder / "whole"))
        fronts = [front_of(asked.folder / name / "results.jsonl") for name in ("raced", "whole")]
        print(f"fronts of {len(fronts[0])} and {len(fronts[1])} designs are equal: {fronts[0] == fronts[1]}")


def front_of(path: Path) -> list[tuple[str, float]]:
    """Designs on a front, with their accuracy."""
    rows = map(json.loads, path.read_text().splitlines())
    return [(row["point"], row["accuracy.emulated_mean"]) for row in rows if row["front"]]


def population(asked: argparse.Namespace) -> None:
    """Emulate chips of one program."""
    data = ("--data", asked.data) if asked.data else ()
    program = asked.folder / "cnn.mcp"
    compiled = memcompile(FIVE_LAYER, *data, "--max-loss", "none", "--no-evaluation", "--quiet", "-o", program)
    subprocess.run(compiled, check=True)
    folder = asked.folder / f"population_{asked.chips}"
    timed(memcompile("population", program, *data, "--chips", str(asked.chips), "--accept", "97%", "-o", folder))


def nap(shared: float, task: Task) -> Outcome:
    """Work of a fixed time."""
    time.sleep(shared)
    return Outcome(task, ({"kind": "chip", "key": task.key, "seed": 0},))


def pace(asked: argparse.Namespace) -> None:
    """Measure how many tasks the scheduler and the client get through."""
    with (
        LocalCluster(
            n_workers=asked.workers,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as local,
        Client(local) as client,
    ):
        cluster = Cluster(client=client)
        list(cluster.run(nap, 0.0, [Task("chips", f"warm{number}", Design()) for number in range(100)]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin, cpu = time.monotonic(), time.process_time()
        tasks = [Task("chips", f"nap{number}", Design()) for number in range(asked.tasks)]
        done = sum(1 for _ in cluster.run(nap, NAP_S, tasks))
        wall_s, cpu_s = time.monotonic() - begin, time.process_time() - cpu
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{done:,} tasks on {asked.workers} workers: {done / wall_s:.0f} a second, {1000 * cpu_s / done:.2f} ms of "
            f"processor time each (scheduler, client and workers), {1024 * grown / done:,.0f} bytes each"
        )


def server(port: int) -> subprocess.Popen[bytes]:
    """A scheduler in a process of its own."""
    script = (
        "import asyncio\nfrom distributed import Scheduler\n"
        "async def main():\n"
        f"    async with Scheduler(host='127.0.0.1', port={port}, dashboard=False) as own:\n"
        "        await own.finished()\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)


def worker(port: int) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    script = (
        "import asyncio, time\nimport memcompile.exploration.runs.tasks\nfrom distributed import Worker\n"
        "async def main():\n"
        f"    async with Worker('tcp://127.0.0.1:{port}', nthreads=1, dashboard=False, host='127.0.0.1') as own:\n"
        "        await own.finished()\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def kills(asked: argparse.Namespace) -> None:
    """Kill one of scheduler, worker and client at random moments, and start it again."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        whole, killed = folder / "whole", folder / "killed"
        words = ("explore", FIVE_LAYER, *SMALL_GRID)
        subprocess.run(memcompile(*words, "--workers", "0", "-o", whole), check=True)
        counts = dict.fromkeys(("scheduler", "worker", "client"), 0)
        for number in itertools.count():
            times = min(KILLS_EACH, asked.times - sum(counts.values()))
            if not times:
                return
            place = killed / str(number)
            counts = add(
                counts, one_run(memcompile(*words, "--scheduler", f"tcp://127.0.0.1:{port}", "-o", place), port, times)
            )
            for file in ("results.jsonl", "results.csv"):
                assert (place / file).read_bytes() == (whole / file).read_bytes(), f"{place / file} differs"
            lines = (place / "journal.jsonl").read_text().splitlines()
            assert len(lines) == len(set(lines)), "something was done twice"
            print(f"run {number}: killed so far {counts}, results complete and identical", flush=True)


def add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Sums of counts by name."""
    return {name: one[name] + other[name] for name in one}


def one_run(words: list[str], port: int, times: int) -> dict[str, int]:
    """Run a client to its end, with kills on the way; returns how often what was killed."""
    counts = dict.fromkeys(("scheduler", "worker", "client"), 0)
    chance = random.Random(time.monotonic_ns())
    start = {
        "scheduler": lambda: server(port),
        "worker": lambda: worker(port),
        "client": lambda: subprocess.Popen(words),
    }
    running = {name: make() for name, make in start.items()}
    try:
        while True:
            time.sleep(chance.uniform(0.5, 6.0) if times else 0.2)
            for name in ("scheduler", "worker"):
                if running[name].poll() is not None:  # a worker ends with its scheduler
                    running[name] = start[name]()
            code = running["client"].poll()
            if code == 0:
                return counts
            if code is not None:
                running["client"] = start["client"]()
                continue
            if times:
                name = chance.choice(list(counts))
                os.kill(running[name].pid, signal.SIGKILL)
                running[name].wait()
                running[name] = start[name]()
                counts[name] += 1
                times -= 1
    finally:
        for process in running.values():
            process.kill()


if __name__ == "__main__":
    main()

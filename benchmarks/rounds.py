"""Times of two pieces of work in rounds by turns, as ratios that a busy machine does not distort.

What slows the machine for a while slows both pieces of a round, so that their ratio stays; the median over rounds
leaves out what hit one of them alone, and the quartiles say how far to trust it. A round whose reference took much
longer than in the fastest round was disturbed, and is measured again.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROUND_S, PAUSE_S = 0.5, 0.1
"""About as long as one piece of a round takes, and the pause before it, in which other threads fall asleep.

What takes less is called several times, since the first call after a pause finds cold caches and sleeping processors.
"""
DISTURBED = 1.5
"""Multiple of its fastest time beyond which a reference was disturbed."""
MOST_AGAIN = 3
"""Rounds at most for each one that counts."""
PACKAGES = ("numpy", "numba", "onnxruntime", "ortools", "scipy")


@dataclass(frozen=True)
class Comparison:
    """Medians of both times, in seconds a call, and the ratio's median and quartiles over rounds.

    ``again`` rounds were measured again, and ``disturbed`` ones count although their reference was slow.
    """

    work_s: float
    reference_s: float
    ratio: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    again: int
    disturbed: int

    @classmethod
    def of(cls, pairs: list[tuple[float, float]], again: int) -> Comparison:
        """Sum up rounds, (work, reference) in seconds."""
        ratios = sorted(work / reference for work, reference in pairs)
        lower, _, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        fastest = min(reference for _, reference in pairs)
        return cls(
            work_s=statistics.median(work for work, _ in pairs),
            reference_s=statistics.median(reference for _, reference in pairs),
            ratio=statistics.median(ratios),
            lower_quartile=lower,
            upper_quartile=upper,
            rounds=len(pairs),
            again=again,
            disturbed=sum(reference > DISTURBED * fastest for _, reference in pairs),
        )

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def seconds_a_call(work: Callable[[], object], calls: int = 1) -> float:
    """Time of one of some calls in a row, in seconds."""
    begin = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - begin) / calls


def compared(
    work: Callable[[], object],
    reference: Callable[[], object],
    rounds: int = 7,
    clock: Callable[[Callable[[], object], int], float] = seconds_a_call,
) -> Comparison:
    """Measure both in rounds by turns, after one call of each; what takes little is called several times a round.

    ``clock`` measures so many calls and returns the seconds of one.
    """
    both = (work, reference)
    for each in both:
        each()
    calls = [max(1, int(ROUND_S / max(clock(each, 1), 1e-9))) for each in both]
    pairs: list[tuple[float, float]] = []
    measured = 0
    while measured < rounds * MOST_AGAIN:
        measured += 1
        found = []
        for each, count in zip(both, calls, strict=True):
            time.sleep(PAUSE_S)
            found.append(clock(each, count))
        pairs.append((found[0], found[1]))
        fastest = min(reference for _, reference in pairs)
        good = [pair for pair in pairs if pair[1] <= DISTURBED * fastest]
        if len(good) >= rounds:
            return Comparison.of(good, measured - len(good))
    return Comparison.of(pairs[-rounds:], measured - rounds)


def exponent(sizes: list[float], values: list[float]) -> float:
    """Exponent of the power law through values over sizes: the slope of a straight line in their logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def machine() -> dict[str, Any]:
    """Machine and versions that figures belong to."""
    versions = {}
    for name in ("memcompile", *PACKAGES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    """Model and the widest vectors of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2") if name in flags), "")
    return " ".join(part for part in (fields.get("model name", platform.machine()), vectors) if part)

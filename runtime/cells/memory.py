"""Memory that an emulator may fill with cells: a share of what is free, or what is left of a bound.

``MEMCOMPILE_MEMORY`` bounds the memory of a process, in GiB; ``--memory`` of the command line sets it. Results do not
depend on it: what does not fit is programmed anew, to the same bits, each time it is used.
"""

from __future__ import annotations

import os
from pathlib import Path

from memcompile.errors import UsageError

VARIABLE = "MEMCOMPILE_MEMORY"
SHARE = 0.25
"""Share of the free memory that the cells of one emulator may fill; several may live at the same time."""
WORKING_BYTES = 300_000_000
"""Memory beside cells that a run takes: inputs, sums and values between layers of the images at once."""
UNKNOWN_BYTES = 800_000_000
"""Free memory where the system does not say."""
LEAST_BYTES = 16_000_000
GIB = 1 << 30


def bytes_for_cells() -> int:
    """Memory for what executors keep of cells."""
    bound = bound_bytes()
    if bound is None:
        return max(int(SHARE * free_bytes()), LEAST_BYTES)
    return max(min(bound - used_bytes() - WORKING_BYTES, free_bytes()), LEAST_BYTES)


def bound_bytes() -> int | None:
    """Memory that the process may take; None where there is no bound.

    Raises
    ------
    UsageError
        ``MEMCOMPILE_MEMORY`` is not a positive number.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        gib = float(text)
    except ValueError:
        gib = 0.0
    if not 0 < gib < 1 << 20:
        raise UsageError(f"{VARIABLE}={text!r} is no number of GiB; give one above 0, such as 8, or unset it")
    return int(gib * GIB)


def free_bytes() -> int:
    """Memory that is free for this process, within the limit of its container if it has one."""
    free = _field("/proc/meminfo", "MemAvailable:")
    system = UNKNOWN_BYTES if free is None else 1024 * free
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return system
    return min(system, max(limit - used, 0))


def used_bytes() -> int:
    """Memory that this process takes now."""
    used = _field("/proc/self/status", "VmRSS:")
    return 0 if used is None else 1024 * used


def _field(path: str, name: str) -> int | None:
    """A number of kilobytes in a file of the proc file system; None where there is none."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(name)]
    return int(found[0][1]) if found else None


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

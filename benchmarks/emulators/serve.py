"""Process of one emulator and one case: works on calls as the other process asks for them.

``python -m emulators.serve SIDE CASE`` answers ``ready``, or ``note`` with a reason; then each line that it reads is a
number of calls, and its answer the seconds of one and the peak of memory in megabytes. The end of its input ends it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable

from .cases import CASES


def main() -> None:
    """Serve until there are no more calls."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # emulators print
    side, case = sys.argv[1:]

    def answer(**facts: object) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        work: Callable[[], object] | str = importlib.import_module(f"emulators.{side}_side").prepare(CASES[case])
        if isinstance(work, str):
            answer(note=work)
            return
        work()
    except (ImportError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        answer(note=f"does not run: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        return
    answer(ready=True)
    for line in sys.stdin:
        calls = int(line)
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        answer(
            seconds=(time.perf_counter() - begin) / calls,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )


if __name__ == "__main__":
    main()

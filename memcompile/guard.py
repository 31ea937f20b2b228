"""Runs work on files that nobody vouches for in a child process with limits on memory and time.

A kilobyte of ONNX may ask onnxruntime for a terabyte, loop without end or crash it. None of that
can be stopped from within the process. The child is a fork: it costs some ten milliseconds, reads
what its parent has read, and hands its answer back as JSON, so that nothing is done twice.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What the import of a model may take.

    Attributes
    ----------
    seconds
        Wall time of each of the two steps, loading the model and running it on one sample.
    memory_bytes
        Address space beyond what the process held before.
    """

    seconds: float = 60.0
    memory_bytes: int = 8 * GIB


DEFAULT_LIMITS = Limits()


class GuardError(Exception):
    """The work broke a limit or crashed; the message says which, and the limit."""


class WorkError(Exception):
    """The work itself failed; the message is that of its exception."""


def run_guarded(work: Callable[[], Any], limits: Limits) -> Any:
    """Do work in a child process.

    Where the system cannot fork, the work is done in this process and no limit holds.

    Parameters
    ----------
    work
        Returns what JSON can hold.

    Raises
    ------
    GuardError
        The work took too long or too much memory, or its process died.
    WorkError
        The work raised an exception.
    """
    if not hasattr(os, "fork"):
        try:
            return json.loads(json.dumps(work()))
        except Exception as error:  # whatever the work raises
            raise WorkError(str(error)) from error
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    # An interrupt between here and the child's own settings would make it run on as a second parent.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    with warnings.catch_warnings():
        # Python warns of threads that a fork leaves behind; the child needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_child(work, write_end, limits)
    os.close(write_end)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        text = _read_all(read_end, time.monotonic() + limits.seconds)
    finally:
        # Also on Ctrl-C: no child outlives the call.
        os.close(read_end)
        os.kill(child, signal.SIGKILL)
        _, status, _ = os.wait4(child, 0)
    if text is None:
        raise GuardError(f"takes more than {limits.seconds:g} s")
    return _answer(text, status, limits)


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """Everything until the other end is closed; None if it is not in time."""
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while poll.poll(max(0, math.ceil(1000 * (deadline - time.monotonic())))):
        part = os.read(pipe, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _answer(text: bytes, status: int, limits: Limits) -> Any:
    """The result that a child sent, or the exception that tells what became of it."""
    too_much = GuardError(f"takes more than {limits.memory_bytes / GIB:g} GiB of memory")
    if not text:
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL:
            raise too_much  # no memory was left to answer, or the system ended it for what it took
        raise GuardError(f"crashes onnxruntime ({signal.Signals(os.WTERMSIG(status)).name})")
    answer = json.loads(text)
    if answer.get("memory"):
        raise too_much
    if "error" in answer:
        raise WorkError(answer["error"])
    return answer["result"]


def _be_child(work: Callable[[], Any], write_end: int, limits: Limits) -> NoReturn:
    """Work, send the answer and end without any of the parent's clean-up."""
    try:
        _confine(limits)
        try:
            answer = {"result": work()}
        except MemoryError:
            answer = {"memory": True}
        except Exception as error:  # whatever the work raises
            answer = {"error": str(error)}
        text = json.dumps(answer).encode()
        while text:
            text = text[os.write(write_end, text) :]
    finally:
        os._exit(0)


def _confine(limits: Limits) -> None:
    """Set limits, and see that a crash neither prints nor leaves a file."""
    import resource  # noqa: PLC0415 - only where there is fork

    faulthandler.disable()
    # Interrupts are the parent's business; it ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    held = _address_space()
    if held is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = held + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    # If the parent is killed, nobody else ends this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(limits.seconds) + 1)


def _address_space() -> int | None:
    """Bytes of address space this process holds; None where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether a library's exception tells of memory it did not get; there is no class for it."""
    text = str(error).lower()
    return any(sign in text for sign in ("failed to allocate memory", "bad_alloc", "bad allocation"))

"""Runs work on untrusted files in a child process with limits on memory and time.

A kilobyte of ONNX may ask onnxruntime for a terabyte, loop without end or crash it. None of that
can be stopped from within the process. The child is a fork: it costs some ten milliseconds, reads
what its parent has read, and hands its answer back as JSON, so that nothing is done twice.

A process with threads must not be forked, for a lock that one of them holds would stay locked in
the child for ever. Only the command line's own process is known to have none. Elsewhere a helper
process, started once, does the forking.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import math
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from memcompile.heap import ADDRESS_SPACE, process_bytes

GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """Time and memory that the import of a model may take.

    Attributes
    ----------
    seconds
        Wall time of each of the two steps, loading the model and running it on one sample.
    memory_bytes
        Address space of either, beyond what the process held before.
    """

    seconds: float = 60.0
    memory_bytes: int = 8 * GIB


DEFAULT_LIMITS = Limits()


class GuardError(Exception):
    """The work broke a limit or crashed; the message says which, and the limit."""


class WorkError(Exception):
    """The work itself failed; the message is that of its exception."""


class _Process:
    """State of the sandbox in this process."""

    def __init__(self) -> None:
        self.may_fork = False
        self.helper: socket.socket | None = None
        self.keeper: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()


_process = _Process()


def allow_fork() -> None:
    """Declare that this process has no other threads but idle workers of its own."""
    _process.may_fork = True


def run_guarded(work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits) -> Any:
    """Run a function in a child process.

    On a system without fork it runs in this process, and no limit holds.

    Parameters
    ----------
    work
        A function at the top of its module that returns what JSON can hold.
    arguments
        Its arguments; they are pickled on the way to a helper.

    Raises
    ------
    GuardError
        The work took too long or too much memory, or its process died.
    WorkError
        The work raised an exception.
    """
    if not hasattr(os, "fork") or not sys.executable:
        answer = _answer_of(work, arguments)
    elif _process.may_fork:
        answer = _run_forked(work, arguments, limits)
    else:
        answer = _ask_helper(work, arguments, limits)
    if "guard" in answer:
        raise GuardError(answer["guard"])
    if "error" in answer:
        raise WorkError(answer["error"])
    return answer["result"]


def out_of_memory(error: BaseException) -> bool:
    """Return True if a library's exception reports a failed allocation; there is no class for it."""
    text = str(error).lower()
    return any(sign in text for sign in ("failed to allocate memory", "bad_alloc", "bad allocation"))


def _answer_of(work: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    try:
        return {"result": json.loads(json.dumps(work(*arguments)))}
    except MemoryError:
        return {"guard": "takes more memory than there is"}
    except Exception as error:  # whatever the work raises
        return {"error": str(error)}


# --- the child ---------------------------------------------------------------------------------


def _run_forked(work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits) -> dict[str, Any]:
    """Fork, wait for the child's answer and end it."""
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    # An interrupt between here and the child's own settings would make it run on as a second parent.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    child = os.fork()
    if child == 0:
        _be_child(work, arguments, write_end, limits)
    try:
        os.close(write_end)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        text = _read_all(read_end, time.monotonic() + limits.seconds)
    finally:
        # Also on Ctrl-C: no child outlives the call.
        os.close(read_end)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if text is None:
        return {"guard": f"takes more than {limits.seconds:g} s"}
    if text:
        answer: dict[str, Any] = json.loads(text)
        return answer
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        return {"guard": f"crashes onnxruntime ({signal.Signals(os.WTERMSIG(status)).name})"}
    return _too_much(limits)  # no memory was left to answer, or the system ended it for what it took


def _too_much(limits: Limits) -> dict[str, Any]:
    return {"guard": f"takes more than {limits.memory_bytes / GIB:g} GiB of memory"}


def _read_all(pipe: int, deadline: float) -> bytes | None:
    """All bytes until the other end is closed; None if that takes too long."""
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while poll.poll(max(0, math.ceil(1000 * (deadline - time.monotonic())))):
        part = os.read(pipe, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _be_child(work: Callable[..., Any], arguments: tuple[Any, ...], write_end: int, limits: Limits) -> NoReturn:
    """Work, send the answer and end without any of the parent's clean-up."""
    try:
        gc.freeze()  # a collection would write to the pages of all that the parent holds, and copy them
        _confine(limits)
        answer = _answer_of(work, arguments)
        _write_all(write_end, json.dumps(_too_much(limits) if "guard" in answer else answer).encode())
    finally:
        os._exit(0)


def _write_all(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


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
    held = process_bytes(ADDRESS_SPACE)
    if held is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = held + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    # If the parent is killed, nobody else ends this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(limits.seconds) + 1)


# --- the helper --------------------------------------------------------------------------------


def _ask_helper(work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits) -> dict[str, Any]:
    """Have a helper without threads fork; after an interrupt its child goes on until its time is up."""
    data = pickle.dumps((work, arguments, limits))
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    with open(answer_read, "rb") as answer, open(ask_write, "wb") as ask:
        try:
            socket.send_fds(_helper(), [b"!"], [ask_read, answer_write])
        finally:
            os.close(ask_read)
            os.close(answer_write)
        with contextlib.suppress(BrokenPipeError):  # the answer will tell
            ask.write(data)
            ask.close()
        text = answer.read()
    if not text:
        return {"guard": "needs a helper process, which has ended"}
    found: dict[str, Any] = json.loads(text)
    return found


def _helper() -> socket.socket:
    """The socket of the helper, which is started when it is first needed."""
    with _process.lock:
        if _process.helper is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            code = "import memcompile.frontend.importer; from memcompile.frontend.sandbox import serve; serve()"
            paths = os.pathsep.join(path for path in sys.path if path)
            _process.keeper = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
            )
            theirs.close()
            _process.helper = ours
        return _process.helper


def serve() -> None:
    """Serve as the helper: fork for each request on standard input until that is closed."""
    allow_fork()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    connection = socket.socket(fileno=0)
    while True:
        message, pipes, _, _ = socket.recv_fds(connection, 1, 2)
        if not message:
            return
        if os.fork() == 0:
            _serve_one(*pipes)
        for pipe in pipes:
            os.close(pipe)


def _serve_one(ask: int, answer: int) -> NoReturn:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with open(ask, "rb") as stream:
            work, arguments, limits = pickle.load(stream)
        _write_all(answer, json.dumps(_run_forked(work, arguments, limits)).encode())
    finally:
        os._exit(0)

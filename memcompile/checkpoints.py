"""Checkpoints of hybrid training: the state of a run, in a file from which a killed run resumes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.held_back import Outcome, StepRecord
from memcompile.atomic import write_atomically
from memcompile.errors import OutputError
from memcompile.hardware.pulses import WriteReport
from memcompile.program.file import decode_program, encode_program
from memcompile.program.program import Program
from memcompile.runtime.training.hybrid_training import EpochRecord

_ARRAYS = ("pending", "cell_pulses", "start_right", "start_error", "best_right", "best_error")


@dataclass(frozen=True, eq=False)
class TuningState:
    """State of a run: enough to go on as if it had not stopped.

    ``best`` is the chip to go back to, ``start_outcome`` and ``best_outcome`` are the results of held-back images on
    the chip before in-situ tuning and on ``best``.
    """

    program: Program
    best: Program
    start_outcome: Outcome
    best_outcome: Outcome
    steps: tuple[StepRecord, ...]
    records: tuple[EpochRecord, ...]
    pending: NDArray[np.float64]
    rounds: int
    transfer: WriteReport
    transfer_most_pulses: int
    cell_pulses: NDArray[np.int64]
    undoing: WriteReport

    @property
    def tuning(self) -> WriteReport:
        """Cost of rewriting in all epochs."""
        return sum((record.report for record in self.records), WriteReport())


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of one run.

    Attributes
    ----------
    path
        The file; None keeps nothing.
    fingerprint
        Digest of all that decides the run.
    """

    path: Path | None
    fingerprint: str = ""

    @classmethod
    def of(
        cls,
        path: Path | None,
        program: Program,
        inputs: Mapping[str, NDArray[Any]],
        labels: NDArray[np.int64] | None,
        plan: Mapping[str, Any],
    ) -> Checkpoint:
        """The file of a run on this program and data, by a plan as JSON can hold it."""
        if path is None:
            return cls(None)
        digest = hashlib.sha256(encode_program(program))
        for name in sorted(inputs):
            digest.update(np.ascontiguousarray(inputs[name]).tobytes())
        digest.update(b"" if labels is None else labels.tobytes())
        digest.update(json.dumps(plan, sort_keys=True).encode())
        return cls(path, digest.hexdigest())

    def save(self, state: TuningState) -> None:
        """Write the state of the run."""
        if self.path is None:
            return
        facts = {
            "fingerprint": self.fingerprint,
            "records": [asdict(record) for record in state.records],
            "rounds": state.rounds,
            "transfer": asdict(state.transfer),
            "transfer_most_pulses": state.transfer_most_pulses,
            "steps": [asdict(step) for step in state.steps],
            "undoing": asdict(state.undoing),
        }
        arrays: dict[str, NDArray[Any]] = {"pending": state.pending, "cell_pulses": state.cell_pulses}
        for name, outcome in (("start", state.start_outcome), ("best", state.best_outcome)):
            arrays |= {f"{name}_right": outcome.right, f"{name}_error": outcome.error}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("state.json", json.dumps(facts))
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", content.getvalue())
            archive.writestr("program.mcp", encode_program(state.program))
            archive.writestr("best.mcp", encode_program(state.best))
        write_atomically(self.path, buffer.getvalue())

    def resume(self, epochs: int, notify: Callable[[str], None]) -> TuningState | None:
        """State of an interrupted run of the same kind after at most so many epochs; None if there is none.

        Raises
        ------
        OutputError
            A file that is damaged or of another run cannot be set aside.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                facts = json.loads(archive.read("state.json"))
                arrays = {
                    name: np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                    for name in _ARRAYS
                }
                data, best = archive.read("program.mcp"), archive.read("best.mcp")
            same = facts["fingerprint"] == self.fingerprint
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            _set_aside(self.path, f"cannot be read ({error})", notify)
            return None
        if not same:
            _set_aside(self.path, "is of a run with another program, other data or other options", notify)
            return None
        return TuningState(
            decode_program(data, str(self.path)),
            decode_program(best, str(self.path)),
            Outcome(arrays["start_right"], arrays["start_error"]),
            Outcome(arrays["best_right"], arrays["best_error"]),
            tuple(StepRecord(**step) for step in facts["steps"]),
            tuple(EpochRecord(**record) for record in facts["records"])[:epochs],
            arrays["pending"],
            facts["rounds"],
            WriteReport(**facts["transfer"]),
            facts["transfer_most_pulses"],
            arrays["cell_pulses"],
            WriteReport(**facts["undoing"]),
        )

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _set_aside(checkpoint: Path, why: str, notify: Callable[[str], None]) -> None:
    """Make room for the checkpoint of a new run.

    Raises
    ------
    OutputError
        The file cannot be moved.
    """
    stale = checkpoint.with_name(f"{checkpoint.name}.stale")
    try:
        checkpoint.replace(stale)
    except OSError as error:
        raise OutputError(
            f"checkpoint {checkpoint} {why} and cannot be moved to {stale}: {error.strerror}; remove it to start again"
        ) from error
    notify(f"checkpoint {checkpoint} {why}; it is now {stale}, and the run starts from the beginning")

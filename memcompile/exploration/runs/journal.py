"""Journal: results as JSON lines in the order in which they came, which a kill at any moment leaves whole.

Records are appended line by line and are on the disk before anything builds on them. A line that a kill tore is the
last one, and is cut off when the journal is opened again. Records are kept by what they are of, so that one that comes
twice is there once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from memcompile.errors import OutputError, UsageError

Record = dict[str, Any]
HEADER = "header"
VERSION = 1


def make_folder(folder: Path) -> None:
    """Make a folder for results, unless it is there.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}; choose another folder with -o") from error


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a record is of: its kind, its point, and the seed of its chip."""
    return record["kind"], record["key"], record.get("seed")


class Journal:
    """Records of one exploration in a folder, for one process at a time.

    Parameters
    ----------
    path
        The file; made if it does not exist.
    digest
        Name of what all records are of. Records of another study are refused.
    words
        What the file is part of, for messages.

    Raises
    ------
    UsageError
        The file belongs to another study, or another process has it open.
    OutputError
        The file cannot be read or written, or is damaged before its end.
    """

    def __init__(self, path: Path, digest: str, words: str = "exploration") -> None:
        self.path = path
        self._records: dict[tuple[Any, ...], Record] = {}
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; choose another folder with -o") from error
        try:
            self._lock(words)
            header = self._read()
            if header is None:
                self._write([{"kind": HEADER, "version": VERSION, "digest": digest}])
            elif (header.get("version"), header.get("digest")) != (VERSION, digest):
                raise UsageError(
                    f"{path.parent} holds results ({words}) of another network, other data, another seed or version of "
                    "memcompile; choose another folder with -o"
                )
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __len__(self) -> int:
        return len(self._records)

    def get(self, kind: str, key: str, seed: int | None = None) -> Record | None:
        """A record, None if it is not there."""
        return self._records.get((kind, key, seed))

    def of_kind(self, kind: str) -> list[Record]:
        """All records of a kind."""
        return [record for record in self._records.values() if record["kind"] == kind]

    def append(self, records: Iterable[Record]) -> None:
        """Add records that are not there yet; they are on the disk when this returns.

        Raises
        ------
        OutputError
            The disk is full, or the like.
        """
        new = {identity(record): record for record in records if identity(record) not in self._records}
        if not new:
            return
        self._write(new.values())
        self._records |= new

    def _lock(self, words: str) -> None:
        try:
            import fcntl  # noqa: PLC0415 - not on every system
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another process writes the {words} in {self.path.parent}; wait for it, or choose another folder "
                "with -o"
            ) from error

    def _write(self, records: Iterable[Record]) -> None:
        data = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records).encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}; the same command resumes") from error

    def _read(self) -> Record | None:
        """Read all records and cut off a torn end; returns the header, None in a new file."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be read: {error.strerror}") from error
        *lines, rest = data.split(b"\n")
        if rest:
            os.ftruncate(self._file, len(data) - len(rest))
        records = [self._parsed(line, number) for number, line in enumerate(lines, start=1)]
        if not records:
            return None
        header, *others = records
        if header.get("kind") != HEADER:
            raise OutputError(f"{self.path}, line 1: no journal of memcompile; choose another folder with -o")
        for number, record in enumerate(others, start=2):
            if not {"kind", "key"} <= record.keys():
                raise self._damaged(number)
            self._records.setdefault(identity(record), record)
        return header

    def _parsed(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise self._damaged(number) from None
        if not isinstance(record, dict):
            raise self._damaged(number)
        return record

    def _damaged(self, number: int) -> OutputError:
        return OutputError(
            f"{self.path}, line {number}: not a record; the file was changed or damaged. Remove the line, whose work "
            "is then done again, or choose another folder with -o"
        )

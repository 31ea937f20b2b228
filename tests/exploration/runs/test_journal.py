"""Journals: what a kill, a torn line and a second process leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memcompile.errors import OutputError, UsageError
from memcompile.exploration.runs.journal import Journal

RECORDS = [{"kind": "map", "key": f"k{number}", "value": number} for number in range(5)]


def written(folder: Path) -> Path:
    path = folder / "journal.jsonl"
    with Journal(path, "d") as journal:
        journal.append(RECORDS)
    return path


def test_a_torn_line_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    ends = [place + 1 for place, letter in enumerate(whole) if letter == ord("\n")]
    for cut in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Journal(path, "d") as journal:
            kept = sum(end <= cut for end in ends) - 1
            assert len(journal) == kept
            journal.append(RECORDS)
        assert path.read_bytes() == whole


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:10])
    with Journal(path, "d") as journal:
        assert len(journal) == 0


def test_what_comes_twice_is_there_once(tmp_path: Path) -> None:
    path = written(tmp_path)
    with Journal(path, "d") as journal:
        journal.append([{**RECORDS[0], "value": 7}, {"kind": "chip", "key": "k0", "seed": 3}])
        assert journal.get("map", "k0") == RECORDS[0]
        assert journal.get("chip", "k0", 3) is not None
    assert len(path.read_text().splitlines()) == 7


def test_another_study_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(UsageError, match="another network"):
        Journal(path, "other")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with Journal(path, "d"), pytest.raises(UsageError, match="another process"):
        Journal(path, "d")
    Journal(path, "d").close()


@pytest.mark.parametrize("line", ["{", "[1]", '{"kind": "map"}', "\udcff", "null"])
def test_damage_inside_is_told_with_its_line(tmp_path: Path, line: str) -> None:
    path = written(tmp_path)
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_bytes("".join(f"{text}\n" for text in lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match="line 3"):
        Journal(path, "d")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"kind": "map", "key": "k"}) + "\n")
    with pytest.raises(OutputError, match="no journal"):
        Journal(path, "d")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="-o"):
        Journal(tmp_path / "none" / "journal.jsonl", "d")

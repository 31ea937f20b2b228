"""Explorations of a small grid: the front of the whole grid, in any order, after any kill."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from explorations import SMALL, Counting, KilledError, Killer, Shuffled, explored, results, source

from memcompile.errors import UsageError
from memcompile.exploration.exploration import Exploration
from memcompile.exploration.runs.executors import InThisProcess
from memcompile.exploration.search import Search


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, Path]:
    folder = tmp_path_factory.mktemp("raced")
    return explored(folder), folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return explored(tmp_path_factory.mktemp("whole"), whole=True)


def test_the_front_is_that_of_the_whole_grid_from_fewer_chips(raced: tuple[Search, Path], whole: Search) -> None:
    search, _ = raced
    assert [item.values for item in search.front] == [item.values for item in whole.front]
    assert len(search.front) > 1
    assert whole.work.chips == whole.work.all_chips == 32
    assert search.work.chips < 30
    figures = {item.key: item.interval(4) for item in whole.front}
    assert {item.key: item.interval(4) for item in search.front} == figures


def test_every_interval_on_the_way_holds_the_accuracy_of_all_chips(raced: tuple[Search, Path], whole: Search) -> None:
    exact = {item.key: item.interval(4) for item in whole.candidates.values()}
    for item in raced[0].candidates.values():
        low, high = item.interval(4)
        assert low - 1e-9 <= exact[item.key][0] <= high + 1e-9


@pytest.mark.parametrize("seed", [1])
def test_results_do_not_depend_on_the_order_of_work(raced: tuple[Search, Path], tmp_path: Path, seed: int) -> None:
    explored(tmp_path, executor=Shuffled(seed))
    assert results(tmp_path) == results(raced[1])


def test_a_killed_exploration_resumes_with_the_same_results_and_nothing_done_twice(
    raced: tuple[Search, Path], tmp_path: Path
) -> None:
    random, lines = Random(7), set[str]()
    for _ in range(40):
        try:
            explored(tmp_path, executor=Killer(random.randrange(100), after=random.randrange(6)))
        except KilledError:
            journal = tmp_path / "journal.jsonl"
            text = journal.read_text()
            assert lines <= set(text.splitlines())
            lines = set(text.splitlines())
            if random.random() < 0.5:  # and the last line was torn
                journal.write_text(text + '{"kind": "chip", "key": "')
            continue
        break
    assert results(tmp_path) == results(raced[1])
    records = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    names = [(record["kind"], record.get("key"), record.get("seed")) for record in records]
    assert len(names) == len(set(names))
    counting = Counting()
    explored(tmp_path, executor=counting)
    assert not counting.done


def test_a_longer_grid_takes_up_what_is_there(raced: tuple[Search, Path], tmp_path: Path) -> None:
    explored(tmp_path, varied=("adc.bits=6", "slices=1,2", "programming.sigma_us=0.2,2.0"))
    counting = Counting()
    explored(tmp_path, executor=counting)
    assert sum(task.kind == "map" for task in counting.done) == 4
    assert results(tmp_path) == results(raced[1])


def test_points_that_fail_are_rows_with_their_messages(tmp_path: Path) -> None:
    search = explored(
        tmp_path,
        varied=("slices=1,2", "slice_base=auto,15", "chips=auto,1", "adc.bits=8"),
        executor=Counting(lambda task: "lightning struck" if task.kind == "map" and task.design.slices == 2 else ""),
        chips=2,
    )
    rows = search.rows()
    assert [row["status"] for row in rows].count("failed") == 4
    assert {row["message"] for row in rows if row["status"] == "failed"} == {"lightning struck"}
    assert all(row["vary.slices"] == 1 for row in rows if row["front"])


def test_rows_have_the_same_keys_in_both_files(raced: tuple[Search, Path]) -> None:
    rows = [json.loads(line) for line in (raced[1] / "results.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((raced[1] / "results.csv").open()))
    assert len(rows) == len(table) == 8
    assert all(list(row) == list(table[0]) for row in rows)
    assert [row["vary.adc.bits"] for row in rows] == [6] * 4 + [8] * 4
    for name in ("point", "status", "front", "cost.energy_pj", "initiation_interval_steps", "accuracy.emulated_mean"):
        assert name in table[0]
    assert "seconds" not in ",".join(table[0])


def test_conditions_leave_points_out_before_and_after_they_are_emulated(tmp_path: Path, whole: Search) -> None:
    energies = sorted(row["cost.energy_pj"] for row in whole.rows())
    limit = energies[3]
    search = explored(tmp_path, where=f"energy <= {limit} and accuracy > 50%", whole=True)
    for row in search.rows():
        dear = row["cost.energy_pj"] > limit
        assert dear == (row["status"] == "excluded" and row["chips_emulated"] == 0)
    wanted = [
        row["point"] for row in whole.rows() if row["cost.energy_pj"] <= limit and row["accuracy.emulated_mean"] > 0.5
    ]
    assert {row["point"] for row in search.rows() if row["front"]} <= set(wanted)
    assert search.front


def test_without_chips_accuracy_is_predicted(tmp_path: Path) -> None:
    search = explored(tmp_path, chips=0)
    assert search.work.chips == 0
    losses = [row["predicted.loss"] for row in search.rows()]
    assert all(loss is not None and loss >= 0 for loss in losses)
    assert search.front


def test_equal_area_gives_designs_the_chips_that_fit(tmp_path: Path) -> None:
    asked = {"varied": ("adc.bits=4,8",), "chips": 0, "quantities": ("rate", "area")}
    search = explored(tmp_path / "a", iso="area=2.4", **asked)
    chips = {row["vary.adc.bits"]: row["chips"] for row in search.rows()}
    areas = {row["vary.adc.bits"]: row["cost.area_mm2"] for row in search.rows()}
    assert chips[4] > chips[8] >= 1
    assert all(area <= 2.4 for area in areas.values())
    assert all(areas[bits] / chips[bits] * (chips[bits] + 1) > 2.4 for bits in chips)


def test_too_little_area_is_told(tmp_path: Path) -> None:
    rows = explored(tmp_path, varied=("adc.bits=4,8",), chips=0, quantities=("rate", "area"), iso="area=0.3").rows()
    assert [row["status"] for row in rows] == ["measured", "failed"]
    assert "more than the 0.3" in rows[1]["message"]


def test_equal_rate_gives_the_fewest_chips_that_reach_it(tmp_path: Path) -> None:
    asked = {"varied": ("array.output_lines=64,128",), "chips": 0, "quantities": ("energy", "chips")}
    slow = min(row["images_per_second"] for row in explored(tmp_path / "a", **asked).rows())
    rows = explored(tmp_path / "b", iso=f"rate={slow}", **asked).rows()
    assert all(row["images_per_second"] >= slow * (1 - 1e-9) for row in rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantities": ("accuracy",)}, "two quantities"),
        ({"quantities": ("accuracy", "beauty")}, "no quantity"),
        ({"quantities": ("chips", "chips")}, "twice"),
        ({"base": SMALL.base.__class__(target="neurram"), "quantities": ("accuracy", "energy")}, "no constants"),
        ({"iso": "volume"}, "--iso"),
        ({"iso": "area=-1"}, "--iso"),
        ({"iso": "chips=1.5"}, "whole numbers"),
        ({"iso": "chips", "varied": ("chips=1,2",)}, "leave out --chips"),
        ({"trials": 5}, "--sampler"),
        ({"sampler": "tpe"}, "--trials N"),
        ({"where": "energie < 2"}, "no key 'energie'"),
        ({"resolution": 2.0}, "resolution"),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        explored(tmp_path, **changes)


def test_accuracy_takes_labels(tmp_path: Path) -> None:
    bare = replace(source(), dataset=replace(source().dataset, labels=None))
    with pytest.raises(UsageError, match="labels"):
        Exploration.of(SMALL, lambda: bare)
    with pytest.raises(UsageError, match="--accept"):
        Exploration.of(replace(SMALL, least=0.9), lambda: bare)
    exploration = Exploration.of(replace(SMALL, varied=("adc.bits=6,8",), quantities=("energy", "area")), lambda: bare)
    rows = exploration.run(InThisProcess, tmp_path).rows()
    assert [row["front"] for row in rows] == [True, False]
    assert all(row["chips_emulated"] == 0 and row["ideal"] is None for row in rows)


def test_a_failed_first_point_does_not_end_it(tmp_path: Path) -> None:
    search = explored(tmp_path, varied=("chips=1,auto", "array.input_lines=2,128", "array.output_lines=8,128"), chips=0)
    rows = search.rows()
    assert rows[0]["status"] == "failed"
    assert "chips" in rows[0]["message"] or "array" in rows[0]["message"]
    assert any(row["front"] for row in rows)

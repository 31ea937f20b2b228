"""Population: many emulated chips of one program, the spread of their accuracies, and what the worst share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.data.loader import Dataset
from memcompile.exploration.knobs import Design
from memcompile.exploration.results import Row, csv_text, flattened
from memcompile.exploration.runs.executors import Executor
from memcompile.exploration.runs.journal import Journal, make_folder
from memcompile.exploration.runs.study import data_digest, digest_of
from memcompile.exploration.runs.tasks import Kept, Outcome, Record, Task, guarded
from memcompile.pipelines import compiler_version
from memcompile.program.file import decode_program, encode_program
from memcompile.program.program import Program
from memcompile.report.acceptance import Acceptance
from memcompile.report.accuracy_report import chip_facts
from memcompile.report.emulated_chips import EmulatedChips
from memcompile.runtime.effects.dead_lines import cells_on_working_lines
from memcompile.runtime.effects.stuck_cells import stick
from memcompile.runtime.emulator import Emulator
from memcompile.tuned_chips import tune_chips
from memcompile.tuning import usual_plan

USUAL_IMAGES = 500
"""Samples that chips are scored on by default."""
CHIPS_A_TASK = 5
ERROR_IMAGES = 64
"""Samples on which errors of layers are measured."""
WORST_SHARE = 0.05
"""Share of the chips that count as the worst."""
EVIDENCE = 3.0
"""Standard errors of a rank sum from which on the worst chips differ from the others."""
HISTOGRAM = 12


@dataclass(frozen=True, eq=False)
class Sample:
    """A program and its data in a form that travels to workers once.

    ``training`` are samples to tune each chip with, if chips are tuned.
    """

    program: bytes
    name: str
    dataset: Dataset
    calibrate: bool
    training: Dataset | None
    digest: str

    @classmethod
    def of(cls, program: Program, name: str, dataset: Dataset, *, calibrate: bool, training: Dataset | None) -> Sample:
        """A program that was read, with the samples that are scored and no others."""
        data = encode_program(program)
        tuned = None if training is None else data_digest(training)
        facts = [compiler_version(), hashlib.sha256(data).hexdigest(), data_digest(dataset), calibrate, tuned]
        return cls(data, name, dataset, calibrate, training, digest_of(facts))


class _Prepared:
    """A sample as a worker has it."""

    def __init__(self, sample: Sample) -> None:
        self.program = decode_program(sample.program, sample.name)
        self.chips = EmulatedChips(self.program, sample.dataset, calibrate=sample.calibrate)
        self.values = [layer.outputs[0] for layer in self.program.layers]
        some = sample.dataset.head(ERROR_IMAGES)
        self.ideal = Emulator.ideal(self.program).run(some.as_given, also=self.values)


_SAMPLES: Kept = Kept(1)


def emulate(sample: Sample, task: Task) -> Outcome:
    """Emulate the chips of a task; every failure of it is a message."""
    return guarded(task, lambda: _emulated(sample, task))


def _emulated(sample: Sample, task: Task) -> list[Record]:
    prepared = _SAMPLES.get(sample.digest, lambda: _Prepared(sample))
    return [_chip(sample, prepared, task.key, seed) for seed in task.seeds]


def _chip(sample: Sample, prepared: _Prepared, key: str, seed: int) -> Record:
    program, dataset = prepared.program, sample.dataset
    chip = prepared.chips.chip(seed)
    outputs = chip.emulator.run(dataset.as_given, also=prepared.values)
    record: Record = {
        "kind": "chip",
        "key": key,
        "seed": seed,
        "accuracy": score_samples({name: outputs[name] for name in program.outputs}, dataset, class_names(program)),
        "calibrated": chip.calibrated,
        "defects": {**_errors(prepared, outputs), **_faults(program, seed)},
    }
    if sample.training is not None:
        tuned = tune_chips(program, sample.training, dataset, [seed], usual_plan(sample.training.count, seed))
        record["tuned"] = float(tuned.accuracy.chips[0])
    return record


def _errors(prepared: _Prepared, outputs: Mapping[str, Any]) -> dict[str, float]:
    """Noise-to-signal ratio of each layer's output, errors of the layers before it included."""
    found = {}
    for layer, value in zip(prepared.program.layers, prepared.values, strict=True):
        wanted, got = prepared.ideal[value], outputs[value]
        if not isinstance(wanted, np.ndarray) or wanted.dtype.kind != "f" or got.shape[1:] != wanted.shape[1:]:
            continue
        power = float(np.square(wanted, dtype=np.float64).mean())
        error = float(np.square(got[: len(wanted)].astype(np.float64) - wanted).mean())
        found[f"error of {layer.name}"] = error / power if power else 0.0
    return found


def _faults(program: Program, seed: int) -> dict[str, float]:
    """Stuck cells of each layer's tiles, and cells of them on dead lines."""
    target, tiles, places = program.target, program.placement.tiles, program.cell_map
    faults = target.faults
    stuck = faults.stuck_low_share + faults.stuck_high_share > 0
    dead = faults.dead_input_line_share + faults.dead_output_line_share > 0
    if not (stuck or dead):
        return {}
    shape = (target.array.input_lines, target.array.output_lines * target.array.cells_per_crossing)
    counts: dict[str, float] = {}
    for array in np.unique(tiles.array).tolist():
        levels = np.full(shape, -1, np.int64)
        if stuck:
            stick(levels, target, array, seed)
        alive = cells_on_working_lines(target, array, seed) if dead else np.ones(shape, np.bool_)
        for tile in np.flatnonzero(tiles.array == array).tolist():
            name = program.layers[int(tiles.layer[tile])].name
            cells = places.input_lines_of(tile), places.cell_columns_of(tile)
            for words, mask in (
                ("cells stuck low in", levels[cells] == 0),
                ("cells stuck high in", levels[cells] == target.signed_levels),
                ("cells on dead lines in", ~alive[cells]),
            ):
                counts[f"{words} {name}"] = counts.get(f"{words} {name}", 0.0) + float(mask.sum())
    return counts


@dataclass(frozen=True)
class SharedDefect:
    """A defect of which the worst chips have more: its means in them and in the others, and how sure that is."""

    name: str
    worst: float
    others: float
    evidence: float


@dataclass(frozen=True, eq=False)
class Population:
    """Chips of a program that were emulated: their seeds, accuracies and defects, in the order of seeds.

    ``tuned`` are accuracies after hybrid training, empty without it; ``failed`` are messages by seed.
    """

    seeds: tuple[int, ...]
    accuracies: NDArray[np.float64]
    tuned: NDArray[np.float64]
    defects: tuple[Mapping[str, float], ...]
    failed: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[Record], failed: Mapping[int, str]) -> Population:
        """Population of records."""
        ordered = sorted(records, key=lambda record: int(record["seed"]))
        return cls(
            tuple(record["seed"] for record in ordered),
            np.array([record["accuracy"] for record in ordered]),
            np.array([record["tuned"] for record in ordered if "tuned" in record]),
            tuple(record["defects"] for record in ordered),
            failed,
        )

    def worst(self, count: int) -> list[tuple[int, float]]:
        """Seeds and accuracies of the worst chips, the worst first."""
        order = np.lexsort((np.array(self.seeds), self.accuracies))[:count]
        return [(self.seeds[place], float(self.accuracies[place])) for place in order.tolist()]

    def shared_defects(self) -> list[SharedDefect]:
        """Defects of which the worst chips have more than the others, by the evidence of a rank sum test."""
        count = max(round(WORST_SHARE * len(self.seeds)), 2)
        if len(self.seeds) < 4 * count:
            return []
        order = np.argsort(self.accuracies, kind="stable")
        worst = np.zeros(len(order), np.bool_)
        worst[order[:count]] = True
        found = []
        for name in dict.fromkeys(name for own in self.defects for name in own):
            values = np.array([own.get(name, 0.0) for own in self.defects])
            evidence = rank_evidence(values, worst)
            if evidence > EVIDENCE:
                found.append(SharedDefect(name, float(values[worst].mean()), float(values[~worst].mean()), evidence))
        return sorted(found, key=lambda item: -item.evidence)

    def histogram(self) -> list[tuple[float, float, int]]:
        """Ranges of accuracy of equal width, and the chips in each."""
        low, high = float(self.accuracies.min()), float(self.accuracies.max())
        if low == high:
            return [(low, high, len(self.accuracies))]
        counts, edges = np.histogram(self.accuracies, HISTOGRAM, (low, high))
        return [
            (float(begin), float(end), int(count)) for begin, end, count in zip(edges, edges[1:], counts, strict=False)
        ]

    def facts(self, least: float | None, worst: int) -> dict[str, Any]:
        """Facts by the stable names of ``population.json``."""
        return {
            "chips": len(self.seeds),
            "failed": {str(seed): words for seed, words in self.failed.items()},
            "accuracy": chip_facts(self.accuracies),
            "acceptance": None if least is None else _acceptance(self.accuracies, least),
            "tuned": None
            if not len(self.tuned)
            else {
                **chip_facts(self.tuned),
                "acceptance": None if least is None else _acceptance(self.tuned, least),
            },
            "histogram": [{"from": begin, "to": end, "chips": count} for begin, end, count in self.histogram()],
            "worst": [{"seed": seed, "accuracy": share} for seed, share in self.worst(worst)],
            "shared_defects": [vars(item) for item in self.shared_defects()],
        }

    def csv(self) -> str:
        """A row a chip."""
        rows: list[Row] = []
        for place, seed in enumerate(self.seeds):
            tuned = {"tuned": float(self.tuned[place])} if len(self.tuned) else {}
            rows.append(
                {
                    "seed": seed,
                    "accuracy": float(self.accuracies[place]),
                    **tuned,
                    **dict(flattened(self.defects[place])),
                }
            )
        return csv_text(rows)


def _acceptance(shares: NDArray[np.float64], least: float) -> dict[str, Any]:
    found = Acceptance.of(shares, least)
    return {**vars(found), "share": found.share, "interval": list(found.interval)}


def rank_evidence(values: NDArray[np.float64], marked: NDArray[np.bool_]) -> float:
    """Standard errors by which marked values rank higher than the others (Mann and Whitney), ties averaged."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]
    inside, all_of = int(marked.sum()), len(values)
    outside = all_of - inside
    expected = inside * (all_of + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (all_of * (all_of - 1))
    variance = inside * outside / 12 * (all_of + 1 - ties)
    return float((ranks[marked].sum() - expected) / math.sqrt(variance)) if variance > 0 else 0.0


def run_population(
    sample: Sample,
    seeds: Sequence[int],
    executor: Executor,
    folder: Path,
    changed: Callable[[int, int], None] = lambda done, total: None,
) -> Population:
    """Emulate chips that the folder's journal does not have yet.

    Raises
    ------
    MemcompileError
        The folder cannot be written, or the scheduler went away.
    """
    key = sample.digest[:16]
    make_folder(folder)
    with Journal(folder / "journal.jsonl", sample.digest, "population") as journal:
        missing = [seed for seed in seeds if journal.get("chip", key, seed) is None]
        tasks = [
            Task("chips", key, Design(), tuple(missing[begin : begin + CHIPS_A_TASK]))
            for begin in range(0, len(missing), CHIPS_A_TASK)
        ]
        done, failed = len(seeds) - len(missing), dict[int, str]()
        changed(done, len(seeds))
        for outcome in executor.run(emulate, sample, tasks):
            journal.append(outcome.records)
            failed |= dict.fromkeys(outcome.task.seeds, outcome.error) if outcome.error else {}
            done += len(outcome.task.seeds)
            changed(done, len(seeds))
        records = [journal.get("chip", key, seed) for seed in seeds]
        return Population.of([record for record in records if record is not None], failed)


def scored_on(dataset: Dataset, images: int | None) -> Dataset:
    """The samples that chips are scored on, in whole batches where the network takes no other."""
    size = dataset.batching.size or 1
    return dataset.head(max(min(images or USUAL_IMAGES, dataset.count) // size, 1) * size)

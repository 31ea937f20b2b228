"""Published figures of chips beside those of their built-in targets, with the signed error.

    python benchmarks/validation.py                            # print the table
    python benchmarks/validation.py --write docs/validation.md # and put it into the page

Efficiency, throughput and density come from the cost of a compiled matrix that fills one array, in the counting of the
publication. Accuracy is what benchmarks/accuracy.py measured; the page that holds the run is named. Figures that
follow from constants of the same publication are marked as derived, those that a value of the target was chosen to
give as fitted: neither predicts anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from efficiency import full_array_cost

from memcompile.hardware.target import Target, load_target
from memcompile.report.cost import Counting

YAO = "P. Yao et al., Nature 577, 641 (2020), doi:10.1038/s41586-020-1942-4"
HERMES = "M. Le Gallo et al., Nature Electronics 6, 680 (2023), doi:10.1038/s41928-023-01010-1"
WAN = "W. Wan et al., Nature 608, 504 (2022), doi:10.1038/s41586-022-04992-8"
ISAAC = (
    "A. Shafiee et al., ISCA 2016, doi:10.1109/ISCA.2016.12, as in F. Aguirre et al., Nature Communications 15, 1974"
)
BEGIN, END = "<!-- table by benchmarks/validation.py -->\n", "<!-- table ends -->\n"
MEASURED = "benchmarks/accuracy.py, docs/hybrid_training.md"
LOST_POINTS, FLOAT, TUNED, AGED = 2.87, 98.88, 97.76, 95.64
"""Loss on transfer, and accuracies in percent: in floating point, tuned and 2 h later; means of 40 chips."""
WON_BACK_WITH_REPLICAS = 62
"""Percent of the loss on transfer, mean of ten chips."""
MOST = 0.10
"""Error beyond which a row gives the reason."""


@dataclass(frozen=True)
class Row:
    """One published figure and ours; ``ours`` is None where the target has no constants or nothing was measured.

    A ``derived`` figure follows from constants that the target file takes from the same publication; for a ``fitted``
    one a value of the target was chosen. ``measured`` names script and page of a run that is not repeated here.
    """

    chip: str
    quantity: str
    published: float
    ours: float | None
    unit: str
    source: str
    reason: str = ""
    basis: Literal["", "derived", "fitted"] = ""
    measured: str = ""

    @property
    def error(self) -> float | None:
        """Signed relative error of ours."""
        return None if self.ours is None else self.ours / self.published - 1

    def cells(self) -> tuple[str, ...]:
        """Cells of the table."""
        ours = "no data" if self.ours is None else f"{_figure(self.ours)} {self.unit}"
        error = "" if self.error is None else f"{round(self.error, 3) + 0.0:+.1%}"
        notes = filter(None, (self.basis, self.measured, self.reason))
        return (
            self.chip,
            self.quantity,
            f"{_figure(self.published)} {self.unit}",
            ours,
            error,
            "; ".join(notes),
            self.source,
        )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class FullArray:
    """Cost of a matrix that fills one array: operations of a product, its energy, its time, and the array's area."""

    cell_operations: int
    weight_operations: int
    energy_pj: float
    time_us: float
    area_mm2: float | None

    @classmethod
    def of(cls, target: Target, slices: int = 1) -> FullArray:
        """Compile the matrix for a chip of one array, with inputs above zero: signs would take phases of their own."""
        inputs = np.abs(np.random.default_rng(1).normal(size=(8, target.array.driven_lines))).astype(np.float32)
        cost = full_array_cost(target.with_(chip__arrays=1), slices, inputs)
        assert cost.total_energy_pj is not None, "the targets compared have energies"
        operations = cost.operations(Counting.CELLS), cost.operations(Counting.WEIGHTS)
        return cls(*operations, cost.total_energy_pj, cost.interval_us, cost.area_mm2)


def yao2020() -> list[Row]:
    """The published core is one of 128 x 128 cells, each a multiply-accumulate operation in every step."""
    core = FullArray.of(load_target("yao2020").with_(array__input_lines=128))
    assert core.area_mm2 is not None
    efficiency = core.cell_operations / core.energy_pj * 1e3
    density = core.cell_operations / core.time_us * 1e-3 / core.area_mm2
    won_back, aged = 100 * (1 - (FLOAT - TUNED) / LOST_POINTS), TUNED - AGED
    alone = "the target is fitted to the loss on transfer alone, and tuning meets no other errors here"
    few = "fitted on six chips and 2,000 images; the mean of 40 chips is sure to 0.2 points"
    measured = (
        Row("yao2020", "five-layer CNN, points lost on transfer", 2.92, LOST_POINTS, "points", YAO, basis="fitted"),
        Row("yao2020", "same, share won back by tuning the last layer", 38.4, won_back, "%", YAO, alone),
        Row("yao2020", "same, points lost from 10 min to 2 h after it", 1.9, aged, "points", YAO, few, basis="fitted"),
        Row("yao2020", "same with three replicas, share won back", 47.7, WON_BACK_WITH_REPLICAS, "%", YAO, alone),
    )
    return [
        Row("yao2020", "efficiency of a core", 11_014, efficiency, "GOP/s/W", YAO, basis="derived"),
        Row("yao2020", "density of a core", 1_164, density, "GOP/s/mm2", YAO, basis="derived"),
        *(replace(row, measured=MEASURED) for row in measured),
    ]


def hermes() -> list[Row]:
    """64 cores work at once; the high-precision mode has four phases."""
    target, rows = load_target("hermes"), []
    phase = "the 130 ns of a phase are an assumption close to it"
    for mode, bits, tops, per_w in (("one phase", 8, 63.1, 9.76), ("four phases", 2, 16.1, 2.48)):
        core = FullArray.of(target.with_(input__bits_per_phase=bits))
        throughput = core.weight_operations / core.time_us * 1e-6 * target.chip.arrays
        efficiency = core.weight_operations / core.energy_pj
        rows += [
            Row("hermes", f"throughput, {mode}", tops, throughput, "TOP/s", HERMES, phase, basis="derived"),
            Row("hermes", f"efficiency, {mode}", per_w, efficiency, "TOP/s/W", HERMES, basis="derived"),
        ]
    reason = "no trained ResNet-9 at hand"
    return [*rows, Row("hermes", "ResNet-9 on CIFAR-10, points lost", 93.67 - 92.81, None, "points", HERMES, reason)]


def neurram() -> list[Row]:
    """The target has no energies; accuracies need the networks of the paper, of 4-bit weights."""
    trained = "needs the paper's ResNet-20 of 4-bit weights, which was not at hand"
    return [
        Row("neurram", "MNIST", 99.0, None, "%", WAN, "needs the paper's seven-layer CNN, which was not at hand"),
        Row("neurram", "CIFAR-10 after fine-tuning", 85.7, None, "%", WAN, trained),
        Row("neurram", "CIFAR-10 as transferred, points lost", 87.03 - 83.67, None, "points", WAN, trained),
    ]


def isaac() -> list[Row]:
    """A published operation has weights in eight cells, four pairs here, and 16-bit inputs in sixteen phases."""
    target = load_target("isaac")
    array = FullArray.of(target, slices=4)
    assert array.area_mm2 is not None
    operations = array.weight_operations * target.input.bits / 16
    tops = operations / array.time_us * 1e-6 * target.chip.arrays
    density = tops / (array.area_mm2 * target.chip.arrays)
    efficiency = operations / array.energy_pj
    links = "links between chips take 10.4 of the published 65.8 W, used or not; ours counts values that cross"
    return [
        Row("isaac", "throughput of a chip", 41.3, tops, "TOP/s", ISAAC, basis="derived"),
        Row("isaac", "density", 0.48, density, "TOP/s/mm2", ISAAC, basis="derived"),
        Row("isaac", "efficiency", 0.63, efficiency, "TOP/s/W", ISAAC, links, basis="derived"),
    ]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| chip | figure | published | ours | error | note | source |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)]) + "\n"


def unexplained(rows: Sequence[Row]) -> list[Row]:
    """Rows that are further off than ``MOST``, or have no figure, without a reason."""
    return [row for row in rows if not row.reason and (row.error is None or abs(row.error) > MOST)]


def written(page: str, text: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def all_rows() -> list[Row]:
    """Rows of all chips."""
    return [*yao2020(), *hermes(), *neurram(), *isaac()]


def main() -> int:
    """Print or write the table; 1 if a row lacks its reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of a page")
    options = parser.parse_args()
    rows = all_rows()
    sys.stdout.write(table(rows))
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(written(page, table(rows)), encoding="utf-8")
    for row in unexplained(rows):
        print(f"no reason given: {row.chip}, {row.quantity}", file=sys.stderr)
    return 1 if unexplained(rows) else 0


if __name__ == "__main__":
    sys.exit(main())

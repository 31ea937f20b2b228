"""Signal-to-noise ratio of weights after transfer, by slices and base, from the formulas of programming alone.

    python -m benchmarks.slice_base

Weights are normally distributed, the largest of ``WEIGHTS`` at the limit of the slices; what rounding them takes away
counts, too.
"""

from __future__ import annotations

import numpy as np

from memcompile.hardware.conditions import NEW
from memcompile.hardware.target import Target, load_target
from memcompile.ir.slicing import FILLS, Fill, Slicing, lower_limit, weight_limit
from memcompile.noise.cause import Cause
from memcompile.noise.cell_errors import weight_errors
from memcompile.passes.slice_weights import balanced_digits, equal_digits

WEIGHTS = 4096
TARGETS = ("yao2020", "hermes", "neurram")
BASES = (2, 3, 4, 5, 6, 8, 10, 15)


def ratio_db(target: Target, slices: int, base: int, fill: Fill) -> float:
    """Power of weights over that of their errors, in decibels."""
    weights = np.random.default_rng(0).standard_normal(WEIGHTS)
    scaled = weights / np.abs(weights).max() * weight_limit(target, slices, base, fill)
    levels = np.rint(scaled).astype(np.int64)
    if fill == "max" or slices == 1:
        digits = balanced_digits(levels, base, slices)
    else:
        digits = equal_digits(levels, base, slices, lower_limit(target, base, fill))
    errors = weight_errors(digits[:, None, None], base, np.zeros((1, 1, WEIGHTS), bool), target, NEW)[Cause.PROGRAMMING]
    power = np.square(errors.mean[0, 0] + levels - scaled) + errors.variance[0, 0]
    return float(10 * np.log10(np.square(scaled).mean() / power.mean()))


def main() -> None:
    """Print the table."""
    heads = ("target", "slices", "filled", *(f"base {base}" for base in BASES), "default")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name in TARGETS:
        target = load_target(name)
        first = f"{name}, {ratio_db(target, 1, target.slice_base(), 'max'):.1f} with one slice"
        for slices in (2, 3):
            for fill in FILLS:
                cells = [f"{ratio_db(target, slices, base, fill):.1f}" for base in BASES if base <= target.slice_base()]
                usual = Slicing(target, slices, fill=fill).base
                print("| " + " | ".join((first, f"{slices}", fill, *cells, f"{usual}")) + " |")
                first = ""


if __name__ == "__main__":
    main()

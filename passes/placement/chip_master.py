"""Column generation over contents of chips: a bound on the values that cross chips, and arrays for each chip.

The master problem chooses patterns, each the tiles of each layer on a chip and the layers whose home it is, such that
all tiles are placed, each layer has one home, and each lies on as many chips as its arrays need. Its prices give a
Lagrangian bound in every round, which holds whether or not the linear program is solved. Diving fixes pattern
after pattern, each with arrays that come closest to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.placement.chip_patterns import ChipPatterns, Counts, Pattern, Prices
from memcompile.passes.solving.clock import running_clock

ROUND_WORK = 0.005
"""Fixed work of a round of column generation."""
PIVOT_WORK = 5e-8
"""Work of a pivot of the linear program, for each of its rows and columns."""
OPERATION_WORK = 2.4e-8
"""Work of an operation of the dynamic program."""
SMOOTHING = 0.85
"""Weight of the best prices so far against those of the linear program, which jump from round to round."""
TOLERANCE = 1e-6


@dataclass
class ChipMaster:
    """The linear program over patterns.

    Parameters
    ----------
    patterns
        Options of a chip.
    tiles
        Tiles of each item, [items].
    fewest_chips
        Chips that each layer needs at least, [layers].
    chips
        Available chips.
    """

    patterns: ChipPatterns
    tiles: Counts
    fewest_chips: Counts
    chips: int
    columns: list[Pattern] = field(default_factory=list)
    bound: int = 0
    amounts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self._known: set[tuple[bytes, bytes]] = set()
        self._best: tuple[float, Prices] | None = None

    def add(self, patterns: Iterable[Pattern]) -> bool:
        """Add columns; True if one of them is new."""
        fresh = False
        for pattern in patterns:
            if pattern.key not in self._known:
                self._known.add(pattern.key)
                self.columns.append(pattern)
                fresh = True
        return fresh

    def start(self, prices: Prices) -> None:
        """Begin with prices from which the bound follows without a linear program."""
        self._priced(prices)

    def solve(self) -> None:
        """Generate columns until the linear program is solved or the clock is over."""
        while not running_clock().is_over:
            solved = solve_master(
                self.patterns, self.columns, self.tiles, np.ones_like(self.fewest_chips), self.fewest_chips, self.chips
            )
            if solved is None:
                return
            value, prices, self.amounts = solved
            if value <= self.bound + TOLERANCE * max(1.0, value):
                return
            smooth = prices if self._best is None else prices.toward(self._best[1], SMOOTHING)
            fresh = self.add([self._priced(smooth)])
            if not fresh and not self.add([self._priced(prices)]):
                return

    def _priced(self, prices: Prices) -> Pattern:
        """The cheapest pattern at some prices, from which the Lagrangian bound follows."""
        prices = prices.exact()
        reduced, pattern = self.patterns.cheapest(prices)
        running_clock().spend(OPERATION_WORK * self.patterns.work)
        paid = float(prices.tile @ self.tiles + prices.home.sum() + prices.chip @ self.fewest_chips)
        lagrangian = paid + self.chips * min(0.0, reduced)
        if self._best is None or lagrangian > self._best[0]:
            self._best = lagrangian, prices
            self.bound = max(self.bound, int(np.ceil(lagrangian)))
        return pattern


def solve_master(
    patterns: ChipPatterns,
    columns: Sequence[Pattern],
    tiles: Counts,
    homes: Counts,
    fewest_chips: Counts,
    chips: int,
    penalty: float = np.inf,
) -> tuple[float, Prices, NDArray[np.float64]] | None:
    """Value of the linear program, its prices, and the amount of each column; None without a solution.

    With a finite ``penalty`` tiles and homes may be left out at that cost.
    """
    # Imported here, because it takes time that networks on one chip need not wait for.
    from scipy.optimize import linprog  # noqa: PLC0415
    from scipy.sparse import csc_matrix, eye, hstack  # noqa: PLC0415

    items, layers, count = len(tiles), len(homes), len(columns)
    rows = items + layers
    held = np.stack([pattern.tiles for pattern in columns], axis=1).astype(np.float64)
    met = np.stack([pattern.home for pattern in columns], axis=1).astype(np.float64)
    there = np.zeros((layers, count))
    np.add.at(there, patterns.layer_of_item, held)
    at_most = csc_matrix(np.concatenate([-held, -(there > 0).astype(np.float64), np.ones((1, count))]))
    exactly = csc_matrix(met)
    cost = np.array([pattern.cost for pattern in columns], np.float64)
    if penalty < np.inf:
        at_most = hstack([at_most, -eye(rows + 1, rows), csc_matrix((rows + 1, layers))])
        exactly = hstack([exactly, csc_matrix((layers, rows)), eye(layers)])
        cost = np.concatenate([cost, np.full(rows + layers, penalty)])
    solution = linprog(
        cost,
        A_ub=at_most,
        b_ub=np.concatenate([-tiles, -fewest_chips, [chips]]).astype(np.float64),
        A_eq=exactly,
        b_eq=homes.astype(np.float64),
        method="highs",
        options={"time_limit": running_clock().seconds_left},
    )
    if solution.x is None:
        return None
    running_clock().spend(ROUND_WORK + PIVOT_WORK * solution.nit * (rows + layers + count))
    paid = -solution.ineqlin.marginals
    prices = Prices(paid[:items], solution.eqlin.marginals, paid[items:rows])
    return float(solution.fun), prices, solution.x[:count]

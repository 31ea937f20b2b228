"""Fills chip after chip with arrays and tiles, led by the amounts of patterns in the master problem: diving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memcompile.passes.placement.chip_master import OPERATION_WORK, ChipMaster, solve_master
from memcompile.passes.placement.chip_patterns import Counts, Pattern, Prices
from memcompile.passes.solving.clock import running_clock

ROUNDS = 6
"""Rounds of column generation between two fixed patterns."""
PENALTY = 1e8
"""Cost of a tile or a home that no pattern takes; beyond any exchange."""
TRIALS = 8
"""Patterns that are tried for a chip where none has a whole amount."""
TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Filled:
    """Arrays of each content on a chip, [contents], and the tiles of each item and kind, [items, kinds]."""

    arrays: Counts
    tiles: Counts


@dataclass(frozen=True, eq=False)
class _Trial:
    """A chip as it might be filled, and the layers whose home it would be."""

    filled: Filled
    home: Counts

    @property
    def held(self) -> Counts:
        """Tiles of each item."""
        held: Counts = self.filled.tiles.sum(axis=1)
        return held


@dataclass
class Dive:
    """Arrays and tiles left to place, and chips filled so far.

    ``contents`` are the tiles of each kind in an array, [contents, kinds], ``arrays`` the arrays of each content that
    are left, ``tiles`` the tiles of each item and kind that are left, [items, kinds]. With ``fit`` arrays must hold
    what a pattern wants and little else for it to be fixed, else the pattern with the largest amount always is.
    """

    master: ChipMaster
    contents: Counts
    arrays: Counts
    tiles: Counts
    arrays_per_chip: int
    fit: bool

    def __post_init__(self) -> None:
        layers = len(self.master.fewest_chips)
        self.homes = np.ones(layers, np.int64)
        self.filled: list[Filled] = []
        self.columns, self.amounts = list(self.master.columns), self.master.amounts
        self.amounts = np.concatenate([self.amounts, np.zeros(len(self.columns) - len(self.amounts))])
        self.prices = Prices(np.ones(len(self.tiles)), np.zeros(layers), np.zeros(layers))

    def run(self) -> list[Filled]:
        """Contents of chips; they hold everything."""
        nothing = Pattern(np.zeros(len(self.tiles), np.int64), np.zeros_like(self.homes), 0)
        while self.arrays.any():
            if not self._fix():
                self._take(self._trial(nothing))
            self._resolve()
        return self.filled

    @property
    def _chips(self) -> int:
        """Chips that are left."""
        return self.master.chips - len(self.filled)

    def _fix(self) -> bool:
        """Fill chips by the patterns with whole amounts as far as arrays fit them, or else the chip that fits best."""
        fixed = False
        order = np.argsort(-self.amounts, kind="stable")
        order = order[self.amounts[order] > TOLERANCE]
        for number in order.tolist():
            for _ in range(int(self.amounts[number] + TOLERANCE)):
                trial = self._trial(self.columns[number])
                if not trial.held.any() or (self.fit and self._excess(trial) > self._mean):
                    break
                self._take(trial)
                fixed = True
        if fixed or not len(order):
            return fixed
        trials = [self._trial(self.columns[number]) for number in order[: TRIALS if self.fit else 1].tolist()]
        ratings = [
            self._excess(trial) - amount * self._mean
            for trial, amount in zip(trials, self.amounts[order], strict=False)
        ]
        self._take(trials[int(np.argmin(ratings))])
        return True

    @property
    def _mean(self) -> float:
        """Exchange of a chip in the mean."""
        return self.master.bound / self.master.chips

    def _excess(self, trial: _Trial) -> float:
        """Reduced cost of a chip."""
        layers = np.bincount(self.master.patterns.layer_of_item, trial.held) > 0
        paid = self.prices.tile @ trial.held + self.prices.home @ trial.home + self.prices.chip @ layers
        return float(self.master.patterns.cost(trial.held, trial.home) - paid)

    def _trial(self, pattern: Pattern) -> _Trial:
        """A chip with arrays for what a pattern wants, as full as further chips demand, and tiles for their places."""
        wanted = self._wanted(pattern.tiles)
        chosen, places = self._chosen_arrays(wanted.sum(axis=0))
        given = np.zeros_like(self.tiles)
        for kind in np.flatnonzero(places).tolist():
            for item in np.flatnonzero(wanted[:, kind]).tolist():
                given[item, kind] = min(int(places[kind]), int(wanted[item, kind]))
                places[kind] -= given[item, kind]
        home = np.minimum(pattern.home, self.homes)
        self._fill_up(places, given, home)
        return _Trial(Filled(chosen, given), home)

    def _take(self, trial: _Trial) -> None:
        self.tiles -= trial.filled.tiles
        self.arrays -= trial.filled.arrays
        self.homes -= trial.home
        self.filled.append(trial.filled)

    def _wanted(self, tiles: Counts) -> Counts:
        """Tiles of each item and kind that a pattern wants of those that are left, [items, kinds]."""
        wanted = np.zeros_like(self.tiles)
        for item in np.flatnonzero(tiles).tolist():
            left = int(tiles[item])
            for kind in np.argsort(-self.tiles[item], kind="stable").tolist():
                wanted[item, kind] = min(left, int(self.tiles[item, kind]))
                left -= int(wanted[item, kind])
                if not left:
                    break
        return wanted

    def _chosen_arrays(self, wanted: Counts) -> tuple[Counts, Counts]:
        """Arrays of each content with places for what is wanted of each kind, and all their places of each kind."""
        chosen, places = np.zeros_like(self.arrays), np.zeros_like(wanted)
        room, left = self.arrays_per_chip, self.arrays.copy()
        spare = self._chips * self.arrays_per_chip - int(left.sum())
        sizes = self.contents.sum(axis=1)
        while room and left.any():
            held = np.minimum(self.contents, np.maximum(wanted - places, 0)).sum(axis=1)
            worth = np.where(left > 0, (2 * held - sizes) / sizes, -np.inf)
            best = int(worth.argmax())
            if worth[best] <= 0 and not held[best] and room <= spare:
                break
            content = self.contents[best]
            inside = content > 0
            times = int((np.maximum(wanted - places, 0)[inside] // content[inside]).min())
            times = max(1, min(times, room, int(left[best])))
            chosen[best] += times
            left[best] -= times
            places += times * content
            room -= times
        return chosen, places

    def _fill_up(self, places: Counts, given: Counts, home: Counts) -> None:
        """Give places that no wanted tile takes to the items that gain most."""
        patterns = self.master.patterns
        for kind in np.flatnonzero(places).tolist():
            while places[kind]:
                held = given.sum(axis=1)
                gains = []
                for item in np.flatnonzero(self.tiles[:, kind] - given[:, kind]).tolist():
                    more, added = held.copy(), min(int(places[kind]), int(self.tiles[item, kind] - given[item, kind]))
                    more[item] += added
                    gain = self.prices.tile[item] * added - patterns.cost(more, home) + patterns.cost(held, home)
                    gains.append((gain / added, -item, added))
                _, item, added = max(gains)
                given[-item, kind] += added
                places[kind] -= added

    def _resolve(self) -> None:
        """Solve the master problem of what is left, with a few new columns."""
        tiles, chips = self.tiles.sum(axis=1), self._chips
        self.amounts = np.zeros(len(self.columns))
        if not tiles.any() or chips <= 0:
            return
        patterns = self.master.patterns
        known: dict[tuple[bytes, bytes], Pattern] = {}
        for pattern in self.columns:
            held, home = np.minimum(pattern.tiles, tiles), np.minimum(pattern.home, self.homes)
            if held.any() or home.any():
                changed = (held != pattern.tiles).any() or (home != pattern.home).any()
                clipped = patterns.pattern(held, home) if changed else pattern
                known[clipped.key] = clipped
        self.columns = list(known.values())
        self.amounts = np.zeros(len(self.columns))
        left, whole = (np.bincount(patterns.layer_of_item, each) for each in (tiles, self.master.tiles))
        fewest = np.ceil(self.master.fewest_chips * left / whole).astype(np.int64)
        for _ in range(ROUNDS):
            if running_clock().is_over or not self.columns:
                break
            solved = solve_master(patterns, self.columns, tiles, self.homes, fewest, chips, PENALTY)
            if solved is None:
                break
            _, self.prices, self.amounts = solved
            _, pattern = patterns.cheapest(self.prices, tiles, self.homes)
            running_clock().spend(OPERATION_WORK * patterns.work)
            if pattern.key in known:
                break
            known[pattern.key] = pattern
            self.columns.append(pattern)
        self.amounts = np.concatenate([self.amounts, np.zeros(len(self.columns) - len(self.amounts))])

"""Contents of one chip as patterns: how many tiles of each layer, and which layers have their home there.

Tiles of a layer that take different room are different *items*, unless there are too many.

What a pattern costs is bounded from below by a table for each layer. The cheapest pattern for given prices comes
from a dynamic program over the layers, whose state is the room taken so far and, for each layer that a later one
asks for, whether its home is on the chip.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MOST_ASKED = 5
"""Most layers whose home is part of the state; later questions for others cost nothing, which keeps bounds true."""
NEVER = 1e18
LAYER_OPERATIONS = 7_000

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Options:
    """Numbers of tiles of one layer that a chip may hold, of each of its items, the first of which are none.

    ``items`` are the numbers of the layer's items. An option stands for the counts from ``first`` to ``last``, both
    [options, items of the layer], with the room and the exchange of its first counts. ``room`` is
    [options, measures of room], ``exchange`` is [inputs come from this chip (0, 1), sums meet on this chip (0, 1),
    options]. ``away`` is True for options that a chip may hold on which the sums do not meet: these meet where most
    of the layer's cells are.
    """

    items: Counts
    first: Counts
    last: Counts
    room: Counts
    exchange: Counts
    away: NDArray[np.bool_]

    def option_of(self, tiles: Counts) -> int:
        """Number of the option that holds numbers of tiles, [items of the layer]."""
        if len(self.items) == 1:
            return int(np.searchsorted(self.first[:, 0], tiles[0], "right")) - 1
        return self._known[tuple(tiles.tolist())]

    @cached_property
    def _known(self) -> dict[tuple[int, ...], int]:
        return {tuple(counts): number for number, counts in enumerate(self.first.tolist())}


@dataclass(frozen=True, eq=False)
class Pattern:
    """Tiles of each item on a chip, [items], the layers whose home it is, [layers], and the least exchange."""

    tiles: Counts
    home: Counts
    cost: int

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Key of equal patterns."""
        return self.tiles.tobytes(), self.home.tobytes()


@dataclass(frozen=True, eq=False)
class Prices:
    """Prices of the rows of the master problem: a tile, [items], a home and a chip that holds a layer, [layers]."""

    tile: NDArray[np.float64]
    home: NDArray[np.float64]
    chip: NDArray[np.float64]

    def toward(self, other: Prices, share: float) -> Prices:
        """Prices between these and others."""
        return Prices(
            *(
                (1 - share) * own + share * further
                for own, further in ((self.tile, other.tile), (self.home, other.home), (self.chip, other.chip))
            )
        )

    def exact(self) -> Prices:
        """Prices in multiples of a power of two, with which sums are exact.

        Those of tiles and of chips are none below zero, whatever the solver leaves: ranges are paid for by their last
        counts, and layers lie on at least their fewest chips, so that only then what follows is a bound.
        """
        tile, home, chip = (np.round(price * 64) / 64 for price in (self.tile, self.home, self.chip))
        return Prices(np.maximum(tile, 0.0), home, np.maximum(chip, 0.0))


@dataclass(frozen=True, eq=False)
class _Step:
    """A layer in the dynamic program: states before it are sets of asked layers whose home is on the chip.

    ``source`` is 1 where inputs come from this chip, ``joined`` what digital operators read from other chips if the
    layer's home is here, both [states]; ``following`` is the state after it, [home (0, 1), states].
    """

    source: Counts
    joined: NDArray[np.float64]
    following: Counts
    states: int


class ChipPatterns:
    """Patterns of a chip.

    Parameters
    ----------
    options
        Options of each layer.
    capacity
        Room of a chip, in each measure.
    sources
        Layer on whose home each layer's input is made, -1 for inputs from outside.
    joins
        Values that cross if the homes of two layers differ.
    """

    def __init__(
        self,
        options: Sequence[Options],
        capacity: Sequence[int],
        sources: Sequence[int],
        joins: Mapping[tuple[int, int], int],
    ) -> None:
        self.options, self.capacity, self.sources = options, capacity, sources
        self.joins = {(min(pair), max(pair)): size for pair, size in joins.items()}
        self._steps = _steps(sources, self.joins)
        self.items = sum(len(each.items) for each in options)
        self.layer_of_item = np.repeat(np.arange(len(options)), [len(each.items) for each in options])
        self._rooms = int(np.prod(np.array(capacity) + 1))
        self._left = [_left(capacity, item.room) for item in options]

    @property
    def work(self) -> int:
        """Operations of the dynamic program; the fixed work of a layer counts as some thousands."""
        return sum(
            step.source.size * left.size + LAYER_OPERATIONS for step, left in zip(self._steps, self._left, strict=True)
        )

    def cost(self, tiles: Counts, home: Counts) -> int:
        """Least exchange of a pattern."""
        total = 0
        for layer in np.unique(self.layer_of_item[tiles > 0]).tolist():
            options, source = self.options[layer], self.sources[layer]
            at_source = 1 if source < 0 else int(home[source])
            total += int(options.exchange[at_source, home[layer], options.option_of(tiles[options.items])])
        return total + sum(size for (first, second), size in self.joins.items() if home[second] and not home[first])

    def pattern(self, tiles: Counts, home: Counts) -> Pattern:
        """A pattern with its cost."""
        return Pattern(tiles, home, self.cost(tiles, home))

    def cheapest(
        self, prices: Prices, limits: Counts | None = None, homes: Counts | None = None
    ) -> tuple[float, Pattern]:
        """Least cost minus worth of a pattern, relaxed to ranges, and a pattern that has it.

        Parameters
        ----------
        prices
            Prices of the rows.
        limits, homes
            Most tiles of each item, [items], and 1 for layers that have no home yet, [layers]; without them there is
            no limit.
        """
        values = np.zeros((1, self._rooms))
        trail = []
        for layer, (step, options) in enumerate(zip(self._steps, self.options, strict=True)):
            last = options.last
            barred: NDArray[np.bool_] = np.zeros(len(options.first), np.bool_)
            if limits is not None:
                most = limits[options.items]
                last = np.minimum(last, most)
                barred = np.asarray((options.first > most).any(axis=1))
            paid = last @ prices.tile[options.items] + prices.chip[layer] * (last > 0).any(axis=1)
            cost = options.exchange[step.source] - paid
            cost[:, :, barred] = NEVER
            cost[:, 0, ~options.away] = NEVER
            choices = [_best(values, self._left[layer], cost[:, 0])]
            if len(options.first) > 1 and (homes is None or homes[layer]):
                value, which = _best(values, self._left[layer][:, 1:], cost[:, 1, 1:])
                choices.append((value + (step.joined - prices.home[layer])[:, None], which + 1))
            values, origin = _merged([value for value, _ in choices], step)
            trail.append((origin, [which for _, which in choices]))
        end = int(values[:, -1].argmin())
        return float(values[end, -1]), self._traced(trail, end, limits)

    def _traced(self, trail: Sequence[tuple[Counts, list[Counts]]], state: int, limits: Counts | None) -> Pattern:
        tiles, home = np.zeros(self.items, np.int64), np.zeros(len(self.options), np.int64)
        room = self._rooms - 1
        for layer in reversed(range(len(trail))):
            origin, which = trail[layer]
            home[layer], state = divmod(int(origin[state, room]), self._steps[layer].source.size)
            chosen = int(which[home[layer]][state, room])
            tiles[self.options[layer].items] = self.options[layer].last[chosen]
            room = int(self._left[layer][room, chosen])
        if limits is not None:
            tiles = np.minimum(tiles, limits)
        return self.pattern(tiles, home)


def _left(capacity: Sequence[int], room: Counts) -> Counts:
    """Room that is left of each room after each option, [rooms, options]; -1 where it does not suffice."""
    sides = np.array(capacity) + 1
    rooms = np.stack(np.unravel_index(np.arange(int(np.prod(sides))), tuple(sides)), axis=-1)
    left = rooms[:, None, :] - room
    fits = (left >= 0).all(axis=2)
    flat: Counts = np.ravel_multi_index(tuple(np.moveaxis(np.maximum(left, 0), 2, 0)), tuple(sides))
    return np.where(fits, flat, -1)


def _best(values: NDArray[np.float64], left: Counts, cost: NDArray[np.float64]) -> tuple[NDArray[np.float64], Counts]:
    """Least value of each state and room over the options, and the option: both [states, rooms].

    Parameters
    ----------
    values
        Of what came before, [states, rooms].
    left
        Room that an option leaves to what came before, [rooms, options]; -1 where it has none.
    cost
        [states, options].
    """
    before = np.concatenate([values, np.full((len(values), 1), NEVER)], axis=1)
    total = before[:, left] + cost[:, None, :]
    which = total.argmin(axis=2)
    return np.take_along_axis(total, which[..., None], axis=2)[..., 0], which


def _merged(values: Sequence[NDArray[np.float64]], step: _Step) -> tuple[NDArray[np.float64], Counts]:
    """Least value of each following state and room, and where it comes from: home times states, plus the state."""
    size = values[0].shape[1]
    merged = np.full((step.states, size), 2 * NEVER)
    origin = np.zeros((step.states, size), np.int64)
    for home, value in enumerate(values):
        for state, following in enumerate(step.following[home].tolist()):
            better = value[state] < merged[following]
            merged[following][better] = value[state][better]
            origin[following][better] = home * len(value) + state
    return merged, origin


def _steps(sources: Sequence[int], joins: Mapping[tuple[int, int], int]) -> list[_Step]:
    """The layers' steps; states list which of the asked layers have their home on the chip."""
    asked_until: dict[int, int] = {}
    for layer, source in enumerate(sources):
        if source >= 0:
            asked_until[source] = max(asked_until.get(source, -1), layer)
    for first, second in joins:
        asked_until[first] = max(asked_until.get(first, -1), second)
    steps, before = [], list[int]()
    for layer, source in enumerate(sources):
        after = [one for one in (*before, layer) if asked_until.get(one, -1) > layer][-MOST_ASKED:]
        states = [dict(zip(before, bits, strict=True)) for bits in itertools.product((0, 1), repeat=len(before))]
        # A layer that is no longer part of the state counts as one with its home here.
        is_here = [1 if source < 0 else state.get(source, 1) for state in states]
        joined = [
            sum(size for (first, second), size in joins.items() if second == layer and not state.get(first, 1))
            for state in states
        ]
        following = [
            [
                sum(2**place * {**state, layer: home}[one] for place, one in enumerate(reversed(after)))
                for state in states
            ]
            for home in (0, 1)
        ]
        steps.append(_Step(np.array(is_here), np.array(joined, np.float64), np.array(following), 2 ** len(after)))
        before = after
    return steps

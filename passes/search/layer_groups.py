"""Layers that share cells, from equal weights to the replicas of each layer."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memcompile.ir.arrays import first_equal
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import MappedLayer, Replica, TiledLayer, carry, read_only


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that share cells, with their numbers in graph order; mostly a single one."""

    numbers: tuple[int, ...]
    layers: tuple[TiledLayer, ...]

    @property
    def first(self) -> TiledLayer:
        """The layer that stands for the group in the search."""
        return self.layers[0]

    @property
    def others(self) -> tuple[Geometry, ...]:
        """Geometries of the other layers, which decide with the first one what options the group has."""
        return tuple(layer.geometry for layer in self.layers[1:])

    def windows(self, unrolling: Unrolling) -> int:
        """Windows of one image, of all layers, with the window and bundle of an unrolling."""
        return sum(self._unrolled(layer, unrolling).windows for layer in self.layers)

    def mapped(self, replicas: Sequence[Replica]) -> dict[str, MappedLayer]:
        """The layers with their replicas, by name.

        ``replicas`` count the windows of one layer after the other. A layer has those that compute windows of it.
        """
        if len(self.layers) == 1:
            return {self.first.name: carry(MappedLayer, self.first, replicas=tuple(replicas))}
        found: dict[str, MappedLayer] = {}
        begin = [0] * len(replicas)
        for layer in self.layers:
            own = []
            for number, replica in enumerate(replicas):
                unrolling = self._unrolled(layer, replica.unrolling)
                low, high = begin[number], begin[number] + unrolling.windows
                begin[number] = high
                windows = replica.windows[(replica.windows >= low) & (replica.windows < high)] - np.int32(low)
                if len(windows):
                    own.append(Replica(unrolling, replica.cut, read_only(windows), number))
            found[layer.name] = carry(
                MappedLayer, layer, cells=self.first.cells, replicas=tuple(own), shares_with=self.first.name
            )
        return found

    @staticmethod
    def _unrolled(layer: TiledLayer, unrolling: Unrolling) -> Unrolling:
        return Unrolling(layer.geometry, unrolling.window, unrolling.bundle)


def layer_groups(layers: Sequence[TiledLayer], one_position: Container[str] = ()) -> tuple[LayerGroup, ...]:
    """Layers with equal cells together, in the order of their first ones.

    Their kernels, cuts and slices have to be equal as well; only the size of the input may differ. Layers of
    ``one_position`` get no parallel windows and stay among themselves.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    for number, (layer, first) in enumerate(zip(layers, first_equal([layer.cells for layer in layers]), strict=True)):
        kernel = replace(layer.geometry, input_size=(), pads_begin=(), pads_end=())
        key = (first, kernel, layer.base, layer.cut, layer.unrolling.bundle, layer.name in one_position)
        members.setdefault(key, []).append(number)
    return tuple(LayerGroup(tuple(numbers), tuple(layers[n] for n in numbers)) for numbers in members.values())


def alone(layers: Sequence[TiledLayer]) -> tuple[LayerGroup, ...]:
    """Each layer as a group of its own."""
    return tuple(LayerGroup((number,), (layer,)) for number, layer in enumerate(layers))


def mapped_groups(groups: Sequence[LayerGroup], replicas: Sequence[Sequence[Replica]]) -> Mapping[str, MappedLayer]:
    """All layers with their replicas, by name, given those of each group."""
    found: dict[str, MappedLayer] = {}
    for group, copies in zip(groups, replicas, strict=True):
        found.update(group.mapped(copies))
    return found

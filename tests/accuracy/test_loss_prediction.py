"""Rounding of weights as noise of a layer's output, against its definition; losses that no mapping avoids."""

from __future__ import annotations

from dataclasses import fields, replace

import factories
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcompile.accuracy.loss_prediction import allowed_loss, rounding_ratio
from memcompile.hardware.target import load_target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import MappedLayer, TiledLayer
from memcompile.noise.layer_inputs import LayerInputs


def tiled(layer: MappedLayer) -> TiledLayer:
    (replica,) = layer.replicas
    own = {item.name: getattr(layer, item.name) for item in fields(TiledLayer) if item.name not in ("unrolling", "cut")}
    return TiledLayer(**own, unrolling=replica.unrolling, cut=replica.cut)


@pytest.mark.parametrize("groups", [1, 2])
def test_rounding_is_the_variance_of_what_it_changes(groups: int) -> None:
    rng, target = np.random.default_rng(3), load_target("yao2020")
    geometry = Geometry(4, 6, (1, 1), (1, 1), groups, (1, 1), (1, 1), (0, 0), (0, 0))
    fine = factories.random_layer(rng, geometry, target, slices=2)
    fine = replace(fine, scale=rng.uniform(0.5, 2.0, 6).astype(np.float32))
    coarse = factories.random_layer(rng, geometry, target, slices=1)
    coarse = replace(coarse, scale=(15 * fine.scale).astype(np.float32))
    x = rng.integers(0, 256, (300, 4, 1, 1))

    def outputs(layer: MappedLayer) -> np.ndarray:
        return factories.naive_sums(layer, x).reshape(300, 6) * layer.scale

    wanted = (outputs(coarse) - outputs(fine)).var(axis=0).sum() / outputs(fine).var(axis=0).sum()
    inputs = LayerInputs(fine.quantizer, x)
    assert rounding_ratio(inputs, coarse, tiled(fine)) == pytest.approx(wanted, rel=1e-4)
    assert rounding_ratio(inputs, fine, tiled(fine)) == 0.0


@given(st.floats(0.1, 5.0), st.floats(0.0, 20.0), st.floats(0.0, 20.0))
def test_a_mapping_may_always_lose_half_of_the_budget(points: float, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert allowed_loss(points, 0.0) == points
    assert allowed_loss(points, more) >= max(points, more + points / 2 - 1e-9)
    assert 0 <= allowed_loss(points, more) - allowed_loss(points, less) <= more - less + 1e-9

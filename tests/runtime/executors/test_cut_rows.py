"""Input vectors that are cut out image by image are those of the unrolling."""

import numpy as np
import pytest

from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.runtime.executors.fast import cut_rows
from memcompile.runtime.kernels.compiled import Workers

IN_PLACE = {
    "dense layer": Unrolling.im2col(Geometry(12, 5)),
    "kernel as large as the image": Unrolling.im2col(Geometry(3, 4, (4, 5), (4, 5), 1, (1, 1), (1, 1), (0, 0), (0, 0))),
}
CUT = {
    "several windows": Unrolling.im2col(Geometry(2, 3, (3,), (9,))),
    "every other value": Unrolling.im2col(Geometry(2, 3, (3,), (6,), 1, (9,), (2,))),
    "padding": Unrolling.im2col(Geometry(2, 3, (4,), (3,), 1, (1,), (1,), (1,), (0,))),
    "groups": Unrolling.im2col(Geometry(4, 4, groups=2)),
    "a parallel window over the whole image": Unrolling(Geometry(2, 3, (3,), (5,)), (3,)),
}


@pytest.mark.parametrize("unrolling", [*IN_PLACE.values(), *CUT.values()], ids=[*IN_PLACE, *CUT])
def test_vectors_are_those_of_the_unrolling(unrolling: Unrolling) -> None:
    geometry = unrolling.geometry
    x = np.random.default_rng(0).integers(0, 256, (7, geometry.in_channels, *geometry.input_size), dtype=np.uint8)
    wanted = unrolling.vectors(x).transpose(1, 0, 3, 2)
    assert np.array_equal(cut_rows(unrolling, x, Workers(2)), wanted)
    strided = np.asfortranarray(x)
    assert np.array_equal(cut_rows(unrolling, strided, Workers(1)), wanted)


@pytest.mark.parametrize("unrolling", IN_PLACE.values(), ids=IN_PLACE)
def test_whole_images_are_not_copied(unrolling: Unrolling) -> None:
    geometry = unrolling.geometry
    x = np.zeros((7, geometry.in_channels, *geometry.input_size), np.uint8)
    assert np.shares_memory(cut_rows(unrolling, x, Workers(1)), x)

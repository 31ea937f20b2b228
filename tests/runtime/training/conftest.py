"""The five-layer network and digits, as most tests of training use them."""

from __future__ import annotations

import pytest
from factories import target_without_errors
from kept import Kept
from places import FIVE_LAYER_CNN as MODEL

from memcompile.data.loader import Dataset, load_dataset
from memcompile.program.program import Program


@pytest.fixture(scope="session")
def program(kept: Kept) -> Program:
    return kept.program(MODEL)


@pytest.fixture(scope="session")
def perfect(kept: Kept) -> Program:
    """A program for a target whose cells have no errors."""
    return kept.program(MODEL, target_without_errors())


@pytest.fixture(scope="session")
def two_slices(kept: Kept) -> Program:
    return kept.program(MODEL, slices=2, slice_base=5, settings=("replicate.effort=fast",))


@pytest.fixture(scope="session")
def digits(program: Program) -> Dataset:
    return load_dataset(None, program.inputs, part="train")


@pytest.fixture(scope="session")
def test_digits(program: Program) -> Dataset:
    return load_dataset(None, program.inputs).head(400)

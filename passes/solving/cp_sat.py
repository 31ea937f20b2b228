"""CP-SAT of OR-Tools, imported when it is first used.

OR-Tools brings pandas along: a quarter of a second and 35 MB that most commands do not need.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import *  # noqa: F403 - for type checkers
    from ortools.sat.python.cp_model import CpModel
else:

    def __getattr__(name: str) -> Any:
        return getattr(importlib.import_module("ortools.sat.python.cp_model"), name)


def new_model() -> CpModel:
    """An empty model, without the old names of its methods."""
    model: CpModel = _plain_model()()
    return model


@cache
def _plain_model() -> Any:
    """Class of models; OR-Tools' own writes old names to each model, which takes longer than many solves."""
    base: Any = importlib.import_module("ortools.sat.python.cp_model").CpModel
    return type("CpModel", (base,), {"_add_pre_pep8_methods": lambda _model: None})

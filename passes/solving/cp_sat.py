"""CP-SAT of OR-Tools, imported when it is first used.

OR-Tools brings pandas along: a quarter of a second and 35 MB that most commands do not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import *  # noqa: F403 - for type checkers
else:

    def __getattr__(name: str) -> Any:
        return getattr(importlib.import_module("ortools.sat.python.cp_model"), name)

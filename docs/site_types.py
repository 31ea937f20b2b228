"""Types of parameters in the Python reference.

`mean, std` in a docstring describes two parameters at once. Griffe gives both the type and default of the first one;
here each gets its own.
"""

from __future__ import annotations

from typing import Any

import griffe


class OwnTypes(griffe.Extension):
    """Take types and defaults of described parameters from the signature."""

    def on_function(self, *, func: griffe.Function, **others: Any) -> None:
        """Correct the parsed docstring of one function."""
        for section in func.docstring.parsed if func.docstring else ():
            if not isinstance(section, griffe.DocstringSectionParameters):
                continue
            for described in section.value:
                if described.name in func.parameters:
                    own = func.parameters[described.name]
                    described.annotation, described.value = own.annotation, own.default

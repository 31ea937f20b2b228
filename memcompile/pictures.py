"""PNG pictures drawn by matplotlib, an optional dependency."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from memcompile.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, option: str) -> Figure:
    """An empty figure of a size in inches, for what an option of the command line asks for.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UsageError(f"{option} needs matplotlib: pip install 'memcompile[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def png_of(figure: Figure, dpi: int) -> bytes:
    """A figure as PNG; the same one gives the same bytes."""
    stream = io.BytesIO()
    # A software tag would change with the version.
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()

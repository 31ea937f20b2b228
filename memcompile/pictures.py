"""Pictures drawn by matplotlib, an optional dependency, and the colours that all pictures and pages share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcompile.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#a69a00", "#7a6fd0")
"""Colours that people with any colour vision tell apart (Okabe and Ito, the yellow darkened and one added)."""
SUFFIXES = (".png", ".svg", ".pdf")
"""Endings of files that a picture can be written to."""
PLACES = 5
"""Decimal places of positions in a figure, whose width and height are 1."""
# Neither times nor the version of a program change the bytes of a picture.
_NO_MARKS: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def colour_of(number: int) -> str:
    """Colour of a layer, or of a series; they begin again after eight."""
    return COLOURS[number % len(COLOURS)]


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
    return picture_of(figure, dpi)


def suffix_of(path: Path) -> str:
    """The ending of a file that a picture is to be written to.

    Raises
    ------
    UsageError
        It is none of a kind of picture.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path} is no kind of picture; give it one of the endings {', '.join(SUFFIXES)}")
    return suffix


def _settle(figure: Figure) -> None:
    """Lay a figure out to a fraction of a pixel; the last digits of the solver hang on the order of its constraints."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        axes.set_position((round(left, PLACES), round(bottom, PLACES), round(width, PLACES), round(height, PLACES)))


def picture_of(figure: Figure, dpi: int, suffix: str = ".png", description: str = "") -> bytes:
    """A figure as a file with an ending; the same one gives the same bytes.

    ``description`` is a line that the file says of itself.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - an extra, and slow to import

    said = {"Subject" if suffix == ".pdf" else "Description": description} if description else {}
    stream = io.BytesIO()
    # Names of parts in an SVG are random numbers otherwise.
    with rc_context({"svg.hashsalt": "memcompile"}):
        _settle(figure)
        figure.savefig(stream, format=suffix[1:], dpi=dpi, metadata={**_NO_MARKS[suffix], **said})
    return stream.getvalue()

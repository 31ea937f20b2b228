"""Weights outside a model's own file: in regular files beside or below it, nowhere else.

A model names those files itself, and may have come from anywhere. Each name is therefore followed
to what it leads to, and each size is compared with the file's, before a byte is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from memcompile.errors import ModelError


def external_bytes(model: Path, tensor: str, entries: Mapping[str, str]) -> int:
    """Check the place that a model gives for a tensor's values, and return their number of bytes.

    Parameters
    ----------
    model
        The model file.
    tensor
        Name of the tensor, for messages.
    entries
        ``location`` and, if given, ``offset`` and ``length`` as the model has them.

    Raises
    ------
    ModelError
        The file is missing, not a regular one, outside the model's directory, or too short.
    """
    location = entries.get("location", "")
    where = f"{model}: tensor {tensor!r} is in external data {location!r}"
    size = _size(model.parent, location, where)
    offset, length = (_number(entries.get(key, ""), f"{where}, {key}") for key in ("offset", "length"))
    start = offset or 0
    wanted = max(size - start, 0) if length is None else length
    if start + wanted > size:
        raise ModelError(
            f"{where} from byte {start} to {start + wanted}, but the file has {size} bytes; copy it anew or export "
            "the model again"
        )
    return wanted


def _size(folder: Path, location: str, where: str) -> int:
    """Size of a file that must be inside a folder."""
    outside = ModelError(
        f"{where}, which is outside the model's directory; put the file beside the model and name it without a path"
    )
    # Either system's idea of a path is refused on both.
    for path in (PurePosixPath(location), PureWindowsPath(location)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            raise outside
    try:
        target = (folder / location).resolve(strict=True)
        if not target.is_relative_to(folder.resolve(strict=True)):
            raise outside
        if not target.is_file():
            raise ModelError(f"{where}, which is no regular file; give the file that the model was exported with")
        return os.stat(target).st_size
    except FileNotFoundError as error:
        raise ModelError(f"{where}, which does not exist; copy it beside the model") from error
    except (OSError, RuntimeError, ValueError) as error:  # unreadable, a loop of links, a name with a NUL
        raise ModelError(f"{where}, which cannot be read: {error}; copy it anew") from error


def _number(text: str, where: str) -> int | None:
    """A byte count; None where the model gives none."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{where} {text[:40]!r} is not a number of bytes; export the model again")
    return int(text)

"""Fits stored samples to a model's inputs: scaling, normalisation, layout and dtype.

uint8 arrays are images where a float input takes them, or where only another layout fits. All
other arrays must have the model's sample shape; they are cast to its dtype, never rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.data.files import ArrayHeader
from memcompile.errors import DataError
from memcompile.ir.graph import TensorType

__all__ = ["Normalisation", "fit_samples", "image_layout", "model_dtype", "shape_fits"]


def model_dtype(name: str, wanted: TensorType) -> np.dtype[Any]:
    """Dtype of a model input.

    Raises
    ------
    DataError
        If it is neither a number nor a boolean.
    """
    try:
        dtype = np.dtype(wanted.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise DataError(f"input '{name}' is {wanted}: only inputs of numbers and booleans can be fed")
    return dtype


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std for each channel of images scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalisation | None:
        """Check the two; one alone is completed by zeros or ones, none gives None.

        Raises
        ------
        DataError
            If the lengths differ, a value is not finite, or a std is not above 0.
        """
        if mean is None and std is None:
            return None
        means = tuple(mean) if mean is not None else (0.0,) * len(std or ())
        stds = tuple(std) if std is not None else (1.0,) * len(means)
        if len(means) != len(stds):
            raise DataError(f"mean has {len(means)} values and std {len(stds)}; give one of each per channel")
        if not np.isfinite(means + stds).all() or min(stds, default=1.0) <= 0:
            raise DataError(f"mean {means} and std {stds}: all must be finite numbers, and std above 0")
        return cls(means, stds)

    def apply(self, where: str, planes: NDArray[Any]) -> NDArray[Any]:
        """Normalise float images [N, C, H, W].

        Raises
        ------
        DataError
            If the images have another number of channels.
        """
        channels = planes.shape[1]
        if len(self.mean) != channels:
            raise DataError(
                f"{where}: mean and std have {len(self.mean)} values, the images have {channels} "
                f"channel{'s' if channels > 1 else ''}; give one value for each channel"
            )
        mean, std = (np.array(values, planes.dtype)[:, None, None] for values in (self.mean, self.std))
        normalised: NDArray[Any] = (planes - mean) / std
        return normalised


def fit_samples(
    source: str,
    samples: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, TensorType],
    normalisation: Normalisation | None,
    advice: str = "",
) -> dict[str, NDArray[Any]]:
    """Bring stored samples to the dtypes and layouts of the model's inputs.

    Parameters
    ----------
    source
        Name of the samples in messages.
    samples
        Stored samples by input name, each [N, ...].
    inputs
        Types of the model's inputs.
    normalisation
        Applied to the uint8 images of float inputs.
    advice
        Further advice in the message about shapes that do not fit.

    Raises
    ------
    DataError
        If a shape or dtype does not fit, a value is lost, or there is nothing to normalise.
    """
    images = {name for name, wanted in inputs.items() if _are_images(samples[name], wanted)}
    floats = {name for name in images if np.dtype(inputs[name].dtype).kind == "f"}
    if normalisation and not floats:
        raise DataError(
            f"{source}: mean and std are for uint8 images that a float input takes, and there are none; "
            "leave them out, or store the images as uint8"
        )
    fitted: dict[str, NDArray[Any]] = {}
    for name, wanted in inputs.items():
        where = f"{source}, input '{name}'"
        array = samples[name]
        if name in images:
            array = _fit_images(where, array, wanted, normalisation if name in floats else None, advice)
        elif not _matches(array.shape[1:], wanted.shape[1:]):
            raise _shape_error(where, array, wanted, advice)
        fitted[name] = _cast(where, array, np.dtype(wanted.dtype))
    return fitted


def shape_fits(header: ArrayHeader, wanted: TensorType) -> bool:
    """Return True if a stored array of numbers could be fitted, judged by its header alone."""
    if not header.shape:
        return False
    if _matches(header.shape[1:], wanted.shape[1:]):
        return True
    # A view of one value has the shape without the memory.
    stored = np.broadcast_to(np.zeros((), header.dtype), header.shape)
    if not _are_images(stored, wanted):
        return False
    return image_layout(_planes(stored).shape[1:], wanted.shape[1:]) is not None


@dataclass(frozen=True)
class _Layout:
    """Shape of a sample, and whether its channels come last."""

    shape: tuple[int, ...]
    channels_last: bool


def image_layout(planes: Sequence[int], wanted: tuple[int | None, ...]) -> _Layout | None:
    """Layout of [C, H, W] images that fits the wanted sample shape: ONNX's own C x H x W first."""
    channels, height, width = planes
    layouts = [
        _Layout((channels, height, width), channels_last=False),
        _Layout((height, width, channels), channels_last=True),
        _Layout((channels * height * width,), channels_last=False),
    ]
    if channels == 1:
        layouts.append(_Layout((height, width), channels_last=False))
    return next((layout for layout in layouts if _matches(layout.shape, wanted)), None)


def _are_images(array: NDArray[Any], wanted: TensorType) -> bool:
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4):
        return False
    # Whole-number inputs (tokens, bytes) are taken as they are wherever they fit.
    return np.dtype(wanted.dtype).kind == "f" or not _matches(array.shape[1:], wanted.shape[1:])


def _fit_images(
    where: str, images: NDArray[Any], wanted: TensorType, normalisation: Normalisation | None, advice: str
) -> NDArray[Any]:
    """Scale uint8 images to 0..1 for a float input, normalise them and lay them out."""
    planes = _planes(images)
    layout = image_layout(planes.shape[1:], wanted.shape[1:])
    if layout is None:
        raise _shape_error(where, images, wanted, advice)
    dtype = np.dtype(wanted.dtype)
    if dtype.kind == "f":
        # At least float32, so that a float16 input is rounded once, at the end.
        planes = planes.astype(np.promote_types(dtype, np.float32)) / 255
    if normalisation:
        planes = normalisation.apply(where, planes)
    if layout.channels_last:
        planes = planes.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(planes).reshape(len(planes), *layout.shape)


def _planes(images: NDArray[Any]) -> NDArray[Any]:
    """View of flat, grey, channels-first or channels-last images as [N, C, H, W]."""
    if images.ndim == 2:
        return images[:, None, None, :]
    if images.ndim == 3:
        return images[:, None]
    # Of the first and the last dimension the smaller is the channels.
    return images.transpose(0, 3, 1, 2) if images.shape[3] < images.shape[1] else images


def _matches(sizes: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(sizes) != len(wanted):
        return False
    return all(need in (None, size) for size, need in zip(sizes, wanted, strict=True))


def _cast(where: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Take values as they are, in the model's dtype."""
    if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DataError(f"{where}: cannot take {array.dtype} values as {dtype}; store the array as {dtype}")
    with np.errstate(over="ignore"):
        values = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{where}: has values that are no finite {dtype} numbers; remove NaN and infinity")
    if dtype.kind in "iu" and not np.array_equal(values, array):
        raise DataError(f"{where}: has values out of the range of {dtype}; store the array as {dtype}")
    return values


def _shape_error(where: str, array: NDArray[Any], wanted: TensorType, advice: str) -> DataError:
    need = ", ".join("any" if size is None else str(size) for size in wanted.shape[1:])
    return DataError(
        f"{where}: the model wants samples of shape [{need}], the data holds samples of shape "
        f"{list(array.shape[1:])}; give data of that shape{advice and f', or {advice}'}"
    )

"""Right answers: the class that a network's outputs name for each sample, against its label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.data.loader import Dataset
from memcompile.errors import DataError
from memcompile.frontend.values import Value, is_map_sequence, map_keys
from memcompile.noise.margins import as_often_wrong, class_margins, smoothed_loss
from memcompile.program.program import DigitalStage, Program

MOST_CLASSES_NAMED = 10
"""Classes that a message lists."""


def class_names(program: Program) -> tuple[str, ...]:
    """Names of the classes of a network whose classifier calls them by words, in the order of their scores."""
    for stage in reversed(program.stages):
        if not isinstance(stage, DigitalStage):
            continue
        operators, _ = stage.operators
        for operator in reversed(operators):
            names = operator.attributes.get("classlabels_strings", ())
            if names and operator.domain == "ai.onnx.ml":
                return tuple(names)
    return ()


def score_samples(outputs: Mapping[str, Value], dataset: Dataset, names: Sequence[str] = ()) -> float:
    """Share of right answers on a data set, wherever samples lie in outputs.

    The labels of a run without a batch axis are one for the run, or one for each of its rows of scores.

    Raises
    ------
    DataError
        As :func:`score`.
    """
    assert dataset.labels is not None
    batching, labels = dataset.batching, dataset.labels
    rows: dict[str, Value] = {}
    for name, value in outputs.items():
        axis = batching.join_axis(name)
        if not isinstance(value, np.ndarray):
            rows[name] = value
        elif not batching.whole:
            rows[name] = np.moveaxis(value, axis, 0) if axis else value
        elif labels.ndim == 1:
            rows[name] = value.reshape(len(labels), -1)
        else:
            rows[name] = value.reshape(-1, value.shape[-1]) if value.ndim else value
    return score(rows, labels.reshape(-1), names)


def score(outputs: Mapping[str, Value], labels: NDArray[Any], names: Sequence[str] = ()) -> float:
    """Share of samples for which the network's outputs name the class of their label.

    The class is that of the largest score: the key of a map for each sample, as ZipMap makes it, or the place in a row
    of scores. An output with one integer or word for each sample is the class itself, where there are no scores or
    where each of its values stands for one place in the row.

    Parameters
    ----------
    labels
        Class numbers or class names, [N].
    names
        Names of the classes, if the network has some, in the order of class numbers.

    Raises
    ------
    DataError
        No output tells a class for each sample, or a label is none of its classes.
    """
    found = _by_map(outputs.values(), labels) or _by_row(outputs.values(), labels, names)
    if found is None:
        shapes = ", ".join(f"{name} {_shape(value)}" for name, value in outputs.items())
        raise DataError(
            f"there are labels, but no output holds a row of scores, or a class, for each of {len(labels)} samples: "
            f"{shapes}"
        )
    classes, known = found
    wanted = _like(labels, classes, names)
    missing = [] if known is None else np.setdiff1d(wanted, np.asarray(known)).tolist()
    if missing:
        raise DataError(f"label {missing[0]!r} is none of the network's classes, which are {_listed(known or ())}")
    return float((classes == wanted).mean())


def lost_share(
    clean: Mapping[str, Value],
    noisy: Mapping[str, Value],
    dataset: Dataset,
    names: Sequence[str] = (),
    wrong: float = 0.0,
) -> tuple[float, float]:
    """Share of right answers that noise takes, and its standard error over samples.

    Smoothed over the samples where classes are told by scores, for samples of which a share is ``wrong`` (see
    :func:`~memcompile.noise.margins.as_often_wrong`), else counted.

    Raises
    ------
    DataError
        As :func:`score`.
    """
    assert dataset.labels is not None
    before, after = (class_margins(outputs, dataset.labels, names) for outputs in (clean, noisy))
    if before is not None and after is not None:
        return smoothed_loss(as_often_wrong(before, wrong), before, after)
    lost = score_samples(clean, dataset, names) - score_samples(noisy, dataset, names)
    # About as many samples become right as become wrong less the loss.
    changed = max(2 * abs(lost), 1 / dataset.count)
    return lost, math.sqrt(changed / dataset.count)


Classes = tuple[NDArray[Any], Sequence[Any] | None]
"""The class of each sample, [N], and all classes there are, if that is known."""


def _by_map(values: Iterable[Value], labels: NDArray[Any]) -> Classes | None:
    """Classes from a map of scores for each sample."""
    maps = next((value for value in values if is_map_sequence(value) and len(value) == len(labels)), None)
    if maps is None or not (keys := map_keys(maps)):
        return None
    scores = np.array([[each.get(key, -math.inf) for key in keys] for each in maps])
    return np.asarray(keys)[scores.argmax(axis=1)], keys


def _by_row(values: Iterable[Value], labels: NDArray[Any], names: Sequence[str]) -> Classes | None:
    """Classes from a row of scores for each sample, or from an output of their own."""
    tensors = [value for value in values if isinstance(value, np.ndarray) and value.shape[:1] == labels.shape]
    rows = [value for value in tensors if value.ndim >= 2 and value.size > len(value) and value.dtype.kind in "biuf"]
    told = [value.reshape(-1) for value in tensors if value.size == len(value) and value.dtype.kind in "iuO"]
    marks = None if not told else told[0].astype(str) if told[0].dtype.kind == "O" else told[0]
    if not rows:
        return None if marks is None else (marks, None)
    scores = rows[0].reshape(len(labels), -1)
    places = scores.argmax(axis=1)
    if marks is not None and _stand_for(marks, places):
        return marks, None
    if labels.dtype.kind == "U":
        return (np.asarray(names)[places], names) if len(names) == scores.shape[1] else (places, None)
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but the output has {scores.shape[1]} scores"
        )
    return places, None


def _stand_for(marks: NDArray[Any], places: NDArray[np.int64]) -> bool:
    """Return True if values and places of the largest score correspond one to one, and there are several."""
    pairs = set(zip(marks.tolist(), places.tolist(), strict=True))
    return 1 < len(pairs) == len({mark for mark, _ in pairs}) == len({place for _, place in pairs})


def _like(labels: NDArray[Any], classes: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
    """Labels as the network calls its classes, by number or by name."""
    by_name = classes.dtype.kind == "U"
    if by_name == (labels.dtype.kind == "U"):
        return labels
    if not by_name:
        raise DataError(f"labels are names such as {labels[0]!r}, but the network's classes are numbers; give numbers")
    if not names or labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"labels are the numbers {labels.min()} to {labels.max()}, but the network's classes have names "
            f"({_listed(names or sorted(set(classes.tolist())))}); give names"
        )
    named: NDArray[Any] = np.asarray(names)[labels]
    return named


def _listed(classes: Sequence[Any]) -> str:
    shown = ", ".join(map(str, classes[:MOST_CLASSES_NAMED]))
    return shown if len(classes) <= MOST_CLASSES_NAMED else f"{shown} and {len(classes) - MOST_CLASSES_NAMED} more"


def _shape(value: Value) -> str:
    if isinstance(value, np.ndarray):
        return str(list(value.shape))
    if isinstance(value, list):
        return f"a sequence of {len(value)}"
    return "a map" if isinstance(value, dict) else "nothing"

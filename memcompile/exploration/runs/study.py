"""Study: everything that the points of an exploration share, in a form that travels to workers once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcompile.data.loader import Dataset
from memcompile.data.source import Source
from memcompile.errors import ModelError
from memcompile.exploration.knobs import Design
from memcompile.frontend.batch_axes import Found
from memcompile.hardware.target import Target
from memcompile.pipelines import compiler_version
from memcompile.report.evaluation import whole_batches

USUAL_IMAGES = 1_000
"""Samples that points are scored on by default."""


@dataclass(frozen=True, eq=False)
class Study:
    """A network, its data, and the targets that points may name.

    ``model`` is the whole model as onnxruntime reads it, ``dataset`` holds the samples that are scored and no others.
    ``seed`` is that of the first chip. ``digest`` names all of it but the targets.
    """

    name: str
    sha256: str
    model: bytes
    dataset: Dataset
    found: Found
    targets: Mapping[str, Target]
    seed: int
    calibrate: bool
    digest: str
    frozen: str = ""
    """Inputs of the model that were made constants, as text."""

    @classmethod
    def of(
        cls, source: Source, targets: Mapping[str, Target], *, images: int | None, seed: int, calibrate: bool
    ) -> Study:
        """Study of a network that was read.

        Raises
        ------
        DataError
            The samples make no batch.
        ModelError
            The model is too large to travel.
        """
        file = source.model
        dataset = whole_batches(source.dataset, images or min(source.dataset.count, USUAL_IMAGES), file)
        try:
            model = file.serialized()
        except ValueError as error:  # protobuf writes 2 GiB at most
            raise ModelError(f"{file.name}: a model of more than 2 GiB cannot be sent to workers") from error
        facts = [compiler_version(), file.name, file.sha256, data_digest(dataset), seed, calibrate]
        digest = digest_of([*facts, file.frozen] if file.frozen else facts)
        return cls(
            file.name, file.sha256, model, dataset, source.found, dict(targets), seed, calibrate, digest, file.frozen
        )

    def key(self, design: Design) -> str:
        """Name of a point: the same for the same network, data, target and options, and for no others."""
        target = self.targets[design.target].model_dump(mode="json")
        return digest_of([self.digest, target, design.facts()])[:16]


def digest_of(facts: Any) -> str:
    """Digest of plain facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def data_digest(dataset: Dataset) -> str:
    """Digest of samples, labels and calibration samples."""
    found = hashlib.sha256(dataset.name.encode())
    labels = {} if dataset.labels is None else {"": dataset.labels}
    known = {} if dataset.calibration_labels is None else {"": dataset.calibration_labels}
    for part in (dataset.inputs, labels, dataset.calibration, known):
        for name, array in part.items():
            found.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            found.update(array.tobytes())
        found.update(b"|")
    return found.hexdigest()

"""Runs of a network with noise in one layer or in all of them, on ideal devices.

Runs with noise in one layer tell what it does to the outputs; runs with noise in all layers what answers it takes.
Images with large margins have nothing to lose, so that answers are looked at on images with small ones. Networks with
many products take fewer images, chips and runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.data.loader import Dataset
from memcompile.frontend.values import Value
from memcompile.noise.margins import class_margins, closest
from memcompile.noise.output_noise import noise_to_signal, output_noise
from memcompile.noise.program_noise import LayerRatios
from memcompile.program.program import Program

Item = TypeVar("Item")
T = TypeVar("T")
SENSITIVITY_IMAGES, SENSITIVITY_CHIPS = (8, 96), (2, 12)
"""Least and most images and chips on which the sensitivity to a layer is measured."""
SENSITIVITY_PRODUCTS = 4_000_000_000
"""Multiply-adds of all layers' runs together, beyond which they take fewer images."""
CURVE_FACTORS = (0.5, 1.0, 1.0, 2.0, 1.0) * 4
"""Factors on the power of all layers, one a run, each with a chip of its own."""
CURVE_IMAGES = (32, 96)
"""Least and most images of a run of the curve, and as many whose margins are small."""
SEEN_PRODUCTS, MOST_SEEN = 40_000_000_000, 1000
"""Multiply-adds of the images whose margins are looked at, and these images at most."""
BATCH = 64
"""Images of them at once."""
CURVE_PRODUCTS = 2_000_000_000
"""Multiply-adds of a run of the curve beyond which it takes fewer images."""
MOST_CURVE_PRODUCTS = 8_000_000_000
"""Multiply-adds of a run of the curve beyond which there are half as many runs."""
STUDY_PRODUCTS, FEWEST_IMAGES = 1_500_000_000_000, 4
"""Multiply-adds of all runs for sensitivities, and of those for the curve, beyond which images are fewer than least."""
SETS = 3
"""Sets of images that runs of the curve share, one after the other."""
COUNTED = 4
"""Factor on the images of a run where answers are counted."""
INJECTED = (0.003, 0.3)
"""Noise-to-signal ratios between which a layer's noise is scaled to measure the sensitivity to it."""


@dataclass(frozen=True, eq=False)
class NoisyRun:
    """A run with noise: ratio of the outputs, loss counted in answers, margins of samples without and with noise.

    All are against inputs that are not rounded; ``rounding`` is the ratio that ideal devices have. Ratio and count are
    those of any ``images``; margins are those of as many with small ones, too.
    """

    factor: float
    noise: float
    rounding: float
    counted: float
    images: int
    margins: tuple[NDArray[np.float64], NDArray[np.float64]] | None


@dataclass(frozen=True, eq=False)
class LayerAlone:
    """Runs with noise in one layer, each with a chip of its own.

    Noise-to-signal ratios of the layer's output and of the network's, summed over chips, and margins of the samples
    without and with noise.
    """

    of_layer: float
    of_output: float
    margins: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]

    @property
    def sensitivity(self) -> float:
        """Ratio of the network's output by that of the layer's."""
        return self.of_output / self.of_layer if self.of_layer > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of some runs, by their numbers: ``any`` ones first, then others with small margins.

    ``any`` ones tell how much noise there is, and how many answers change where there are no margins. All tell how
    noise moves margins: where it is small, only images with small margins have something to lose, and those with large
    ones have more noise. ``exact`` are outputs where inputs are not rounded, ``rounded`` outputs of the network and of
    its layers on ideal devices, which chips are calibrated to; ``rounding`` is the ratio of one to the other.
    """

    numbers: NDArray[np.int64]
    any: int
    exact: Mapping[str, Any]
    rounded: Mapping[str, Any]
    rounding: float


class NetworkStudy:
    """Runs of a network with noise on ideal devices.

    Parameters
    ----------
    network
        The network, with noise where a run asks for it.
    dataset
        Samples to run; with labels, margins and answers are looked at.
    ratios
        Noise-to-signal ratios of the layers.
    calibrated
        Of chips whose output lines have a scale and an offset each.
    """

    def __init__(
        self, network: NoisyNetwork, dataset: Dataset, ratios: Sequence[LayerRatios], calibrated: bool
    ) -> None:
        self.network, self.dataset, self.ratios, self.calibrated = network, dataset, ratios, calibrated
        self.names = class_names(network.program)
        self.products = max(expanded_products(network.program), 1)
        layers, chips = len(network.program.layers), SENSITIVITY_CHIPS[0]
        images = SENSITIVITY_PRODUCTS // (self.products * layers)
        # Only layers behind the noisy one run again.
        ends = _fewer_of_many(SENSITIVITY_IMAGES, self.products * layers * chips // 2)
        self.sensitivity_images = _between(ends, images // chips)
        self.chips = _between(SENSITIVITY_CHIPS, images // self.sensitivity_images)
        ends = _fewer_of_many(CURVE_IMAGES, self.products * len(CURVE_FACTORS))
        self.curve_images = _between(ends, CURVE_PRODUCTS // self.products)
        self.runs = len(CURVE_FACTORS) // (1 if self.curve_images * self.products <= MOST_CURVE_PRODUCTS else 2)
        self._kept: tuple[int, _Images] | None = None
        self._making = threading.Lock()
        self._first = np.arange(min(self.sensitivity_images, dataset.count))
        self._clean = network.run(self._inputs(self._first), {}, 0, rounded=False)

    def each(self, work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Results of independent runs, in order, on as many threads as there are processors.

        Each run draws random numbers of its own, so that threads change no bit.
        """
        tasks = [partial(copy_context().run, work, item) for item in items]
        return self.network.ideal.machine.workers.in_order(tasks)

    def layer_alone(self, number: int) -> LayerAlone:
        """Run some images with noise in one layer."""
        program, ratio = self.network.program, self.ratios[number].ratio(self.calibrated)
        if ratio <= 0:
            return LayerAlone(0.0, 0.0, ())
        layer, clean = program.layers[number], self._clean
        wanted = tuple(dict.fromkeys((layer.outputs[0], *program.outputs)))
        factor = min(max(ratio, INJECTED[0]), INJECTED[1]) / ratio
        axis = 1 if layer.geometry.layout == "channels_first" else -1
        before = self._margins(clean, self._first)
        of_layer, of_output, margins = 0.0, 0.0, []
        for chip in range(self.chips):
            found = self.network.run(
                clean,
                {layer.name: factor},
                chip,
                fitted_to=clean if self.calibrated else None,
                first_stage=program.stages.index(layer),
                rounded=False,
                wanted=wanted,
            )
            of_layer += noise_to_signal(clean[layer.outputs[0]], found[layer.outputs[0]], axis)
            of_output += self._noise(clean, found)
            after = self._margins(found, self._first)
            if before is not None and after is not None:
                margins.append((before, after))
        return LayerAlone(of_layer, of_output, margins)

    def run(self, number: int, factor: float) -> NoisyRun:
        """Run some images with noise in all layers."""
        network, program, images = self.network, self.network.program, self._images_of(number * SETS // self.runs)
        factors = dict.fromkeys((layer.name for layer in program.layers), factor)
        fitted_to, count = (images.rounded if self.calibrated else None), images.any
        chip = SENSITIVITY_CHIPS[1] + number
        noisy = network.run(self._inputs(images.numbers), factors, chip, fitted_to=fitted_to, wanted=program.outputs)
        ends = images.exact, noisy
        before, after = (self._margins(self._outputs(one), images.numbers) for one in ends)
        clean, found = (_rows(one, slice(count)) for one in ends)
        of_any = images.numbers[:count]
        return NoisyRun(
            factor,
            self._noise(clean, found),
            images.rounding,
            self._score(clean, of_any) - self._score(found, of_any),
            count,
            None if before is None or after is None else (before, after),
        )

    def _images_of(self, number: int) -> _Images:
        """A set of images; only the last one is kept."""
        with self._making:
            if self._kept is None or self._kept[0] != number:
                self._kept = number, self._new_images(number)
            return self._kept[1]

    def _new_images(self, number: int) -> _Images:
        count = self.curve_images * (COUNTED if self.margins is None else 1)
        first = number * count % max(self.dataset.count - count + 1, 1)
        any_images = np.arange(first, min(first + count, self.dataset.count))
        close = np.zeros(0, np.int64) if self.margins is None else closest(self.margins)
        taken = np.random.default_rng(number).permutation(len(close))[: self.curve_images]
        numbers = np.concatenate([any_images, np.sort(close[taken])])
        inputs, program = self._inputs(numbers), self.network.program
        exact = self.network.run(inputs, {}, 0, rounded=False, wanted=program.outputs)
        kept = (*program.outputs, *(layer.outputs[0] for layer in program.layers))
        rounded = self.network.run(inputs, {}, 0, wanted=tuple(dict.fromkeys(kept)))
        of_any = (_rows(self._outputs(one), slice(len(any_images))) for one in (exact, rounded))
        return _Images(numbers, len(any_images), exact, rounded, self._noise(*of_any))

    def _outputs(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {name: values[name] for name in self.network.program.outputs}

    @cached_property
    def margins(self) -> NDArray[np.float64] | None:
        """Margins of many images where inputs are not rounded, [images]; None where classes are not told by scores."""
        return self._seen_margins(rounded=False)

    def rounding_loss(self) -> tuple[float, int] | None:
        """Share of right answers that rounded inputs take on ideal devices, counted on so many images.

        None where there are no margins.
        """
        exact = self.margins
        rounded = None if exact is None else self._seen_margins(rounded=True)
        if exact is None or rounded is None:
            return None
        return float((exact > 0).mean() - (rounded > 0).mean()), len(exact)

    def _seen_margins(self, rounded: bool) -> NDArray[np.float64] | None:
        """Margins of as many images as are looked at."""
        if self.dataset.labels is None:
            return None
        program = self.network.program
        each = sum(layer.geometry.macs for layer in program.layers)
        count = min(self.dataset.count, MOST_SEEN, max(SEEN_PRODUCTS // max(each, 1), CURVE_IMAGES[0]))

        def of_some(images: NDArray[np.int64]) -> NDArray[np.float64] | None:
            outputs = self.network.run(self._inputs(images), {}, 0, rounded=rounded, wanted=program.outputs)
            return self._margins(outputs, images)

        found = list[NDArray[np.float64]]()
        for margins in self.each(of_some, np.split(np.arange(count), range(BATCH, count, BATCH))):
            if margins is None:
                return None
            found.append(margins)
        return np.concatenate(found)

    def _margins(self, values: Mapping[str, Value], images: NDArray[np.int64]) -> NDArray[np.float64] | None:
        if self.dataset.labels is None:
            return None
        return class_margins(self._outputs(values), self.dataset.labels[images], self.names)

    def _inputs(self, images: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {name: array[images] for name, array in self.dataset.inputs.items()}

    def _score(self, values: Mapping[str, Value], images: NDArray[np.int64]) -> float:
        assert self.dataset.labels is not None
        some = Dataset(
            self.dataset.name,
            self._inputs(images),
            self.dataset.labels[images],
            {},
            False,
            self.dataset.layout,
        )
        return score_samples(self._outputs(values), some, self.names)

    def _noise(self, clean: Mapping[str, Value], noisy: Mapping[str, Value]) -> float:
        return output_noise(self.network.program, clean, noisy, classes=self.dataset.labels is not None)


def _between(ends: tuple[int, int], number: int) -> int:
    return max(ends[0], min(ends[1], number))


def _fewer_of_many(ends: tuple[int, int], products: int) -> tuple[int, int]:
    """Least and most images, fewer at least where an image of all runs takes so many multiply-adds that it must be."""
    return _between((FEWEST_IMAGES, ends[0]), STUDY_PRODUCTS // max(products, 1)), ends[1]


def _rows(values: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    return {name: value[rows] for name, value in values.items()}


def expanded_products(program: Program) -> int:
    """Multiply-adds of an image with the matrices as they lie on the arrays, blank cells included."""
    return sum(
        replica.unrolling.matrices * replica.unrolling.rows * replica.unrolling.columns * len(replica.windows)
        for layer in program.layers
        for replica in layer.replicas
    )

"""Ways to compile a network under an accuracy budget, and what their losses are predicted from.

A plan says for each layer how many slices it has, how they are filled, and whether it may have parallel windows; cells
may be written again or not, and converters may have a range that is calibrated. :class:`Candidates` maps the network
with any plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memcompile.accuracy.loss_model import loss_model
from memcompile.accuracy.loss_prediction import LossPredictor, Reference
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.data.loader import Dataset
from memcompile.hardware.target import Target
from memcompile.ir.graph import TiledLayer
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.ir.slicing import SliceChoice
from memcompile.program.program import Program

ONE_SLICE = SliceChoice(1)
CHOICES = (
    ONE_SLICE,
    SliceChoice(2),
    SliceChoice(2, "equal"),
    SliceChoice(3),
    SliceChoice(3, "equal"),
    SliceChoice(4, "equal"),
)
"""Slices of a layer that are tried."""
FINEST = 3
"""Slices, filled to the most, whose rounding stands for none."""
WRITE_AGAIN_SHARE = 1.0
"""Corrections of a weight on average where writing again makes the mapping cheaper."""
SCORED = 1000
"""Samples at most on which the answers of the float network are counted."""


@dataclass(frozen=True)
class LayerPlan:
    """Slices of a layer, and whether it may have parallel windows."""

    slices: SliceChoice = ONE_SLICE
    windows: bool = True


Plans = Mapping[str, LayerPlan]
"""Plans of layers by name."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Ways to compile a network.

    ``tiled`` gives its layers with some slices, by name; ``mapped`` a program with these plans on a target of
    ``targets``. These differ in what costs neither cells nor steps, the quietest last; the first is the one that was
    asked for. ``slices`` are those that a layer has at least, by its name, and without ``windows`` no layer has
    parallel windows. ``reference`` runs the float network.
    """

    tiled: Callable[[SliceChoice], Mapping[str, TiledLayer]]
    mapped: Callable[[Plans, Target], Program]
    targets: Sequence[Target]
    slices: Callable[[str], SliceChoice]
    windows: bool
    reference: Reference

    @property
    def first(self) -> Program:
        """The mapping without a budget, on the target that was asked for."""
        return self.mapped({}, self.targets[0])


def most_slices(target: Target) -> int:
    """Slices of which an output line each fits an array."""
    return target.array.output_lines // target.array.lines_per_pair


def slices_to_try(target: Target, least: SliceChoice) -> list[SliceChoice]:
    """Slices of a layer that are tried: what it has at least, and those that are more and fit an array."""
    more = [one for one in CHOICES if least.count <= one.count <= most_slices(target) and one != least]
    return [least, *more]


def quieter_targets(target: Target, *, ranges: bool) -> list[Target]:
    """A target as it is, and with what makes it quieter for no cells and no steps, one after the other.

    Where the range of converters is a free choice and ``ranges`` can be calibrated, they are first; the worst pairs are
    written again last, which takes pulses.
    """
    found = [target]
    if ranges and target.adc.range == "aligned":
        found.append(_chosen(found[-1], "adc", range="calibrated"))
    if target.can_write_again and target.programming.write_again_share < WRITE_AGAIN_SHARE:
        found.append(_chosen(found[-1], "programming", write_again_share=WRITE_AGAIN_SHARE))
    return found


def _chosen(target: Target, section: str, **fields: float | str) -> Target:
    """A target with other fields of a section."""
    own = getattr(target, section).model_copy(update=fields)
    sources = {f"{section}.{name}": "chosen under the accuracy budget" for name in fields}
    return target.model_copy(update={section: own, "sources": {**target.sources, **sources}})


def predictor_of(
    candidates: Candidates,
    first: Program,
    dataset: Dataset,
    samples: Dataset,
    progress: ProgressBar = no_progress,
) -> LossPredictor:
    """Measure what losses are predicted from on ``first``, the mapping without a budget.

    ``samples`` are calibration samples with labels, see :func:`~memcompile.accuracy.labelled_samples.labelled`; losses
    are wanted for those of ``dataset``.
    """
    wrong = wrong_share(dataset, candidates, first)
    model, inputs = loss_model(first, samples, wrong=wrong, progress=progress)
    finest = candidates.tiled(SliceChoice(min(FINEST, most_slices(first.target))))
    return LossPredictor(first, model, inputs, finest, samples, candidates.reference)


def wrong_share(dataset: Dataset, candidates: Candidates, program: Program) -> float:
    """Share of wrong answers of the float network on the samples that score it; 0 without labels."""
    if dataset.labels is None or dataset.calibration_labels is None:
        return 0.0
    some = dataset.head(SCORED)
    return 1.0 - score_samples(candidates.reference(some.inputs), some, class_names(program))

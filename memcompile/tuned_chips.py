"""Hybrid training of several emulated chips of one program, each scored on the same test samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from memcompile.data.loader import Dataset
from memcompile.ir.pass_manager import Advance, ProgressBar, no_progress
from memcompile.program.program import Program
from memcompile.progress.phases import SCORE_CHIP, TUNE_CHIPS
from memcompile.report.emulated_chips import measured_accuracy
from memcompile.report.evaluation import TunedAccuracy
from memcompile.runtime.emulator import Emulator
from memcompile.tuning import TuningPlan, TuningResult, tune


@dataclass(frozen=True, eq=False)
class TunedChips:
    """Accuracies of tuned chips, and how the first of them was tuned."""

    accuracy: TunedAccuracy
    first: TuningResult


def tune_chips(
    program: Program,
    training: Dataset,
    scored: Dataset,
    seeds: Sequence[int],
    plan: TuningPlan,
    *,
    images: int | None = None,
    progress: ProgressBar = no_progress,
    notify: Callable[[str], None] = lambda line: None,
) -> TunedChips:
    """Tune the chip of each seed as :func:`memcompile.tuning.tune` does it, and score it.

    Parameters
    ----------
    training
        Samples with labels; ``images`` of them to fit with, as for :func:`memcompile.tuning.tune`.
    scored
        Samples with labels, none of which is among those to train with.
    seeds
        Seeds of the chips, at least one; they take the place of that of the plan.
    notify
        Gets lines for the user, of the first chip.

    Raises
    ------
    MemcompileError
        The program cannot be tuned, or the samples do not fit it.
    """
    shares = list[float]()
    first: TuningResult | None = None
    with progress(TUNE_CHIPS, len(seeds)) as tuned:
        for seed in seeds:

            def of_chip(description: str, total: int, seed: int = seed) -> AbstractContextManager[Advance]:
                return progress(f"chip {seed}: {description}", total)

            result = tune(
                program,
                training.inputs,
                training.labels,
                replace(plan, seed=seed),
                images=images,
                progress=of_chip,
                notify=notify if first is None else lambda line: None,
            )
            with of_chip(SCORE_CHIP, scored.count) as advance:
                shares.append(measured_accuracy(Emulator(result.program, seed), scored, advance))
            # Programs of all chips together may be large; one is enough to go on with.
            first = first or result
            tuned(1)
    assert first is not None
    return TunedChips(TunedAccuracy(np.array(shares), training.name, first.fitted_images), first)

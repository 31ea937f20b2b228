"""``memcompile MODEL --tune``: what hybrid training of the emulated chips trains with, and what it is scored on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memcompile.cli.advice import training_share
from memcompile.cli.console import Output
from memcompile.cli.tune import training_samples
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.program.program import Program
from memcompile.report.evaluation import Evaluation
from memcompile.tuned_chips import TunedChips, tune_chips
from memcompile.tuning import check_tuning, usual_plan

OWN_DATA = ""
"""Value of ``--tune`` without samples of its own: it takes the training part of those of ``--data``."""


@dataclass(frozen=True, eq=False)
class TuningStudy:
    """Samples to train with, and those to score on, which are none of them."""

    program: Program
    training: Dataset
    scored: Dataset
    skipped: int = 0

    @classmethod
    def of(cls, program: Program, dataset: Dataset, options: dict[str, Any]) -> TuningStudy:
        """Find the samples as ``memcompile tune`` does; an archive is cut in two.

        Raises
        ------
        UsageError, DataError
            There are none, or the program cannot be tuned with them.
        """
        data, given = options["data"], Path(options["tune"])
        own = options["tune"] == OWN_DATA or (data is not None and given.resolve() == data.resolve())
        source = data if own else given
        if dataset.labels is None:
            raise UsageError(f"--tune scores the tuned chips, and {dataset.name} has no labels; give data with labels")
        training, scored, skipped = training_samples(program, source, options), dataset, 0
        if own and data is not None and not data.is_dir():
            skipped = training_share(dataset)
            if not skipped:
                raise UsageError(
                    f"{data} holds too few samples to train with some and score the others: {dataset.count}"
                )
            training, scored = training.head(skipped), dataset.after(skipped)
        check_tuning(program, training.labels, usual_plan(training.count, options["seed"]))
        return cls(program, training, scored, skipped)

    def tuned(self, evaluation: Evaluation, options: dict[str, Any], out: Output) -> tuple[Evaluation, TunedChips]:
        """Tune the chips of an evaluation, and add their accuracies to it."""
        accuracy = evaluation.accuracy
        assert accuracy is not None
        seeds = range(options["seed"], options["seed"] + options["seeds"])
        found = tune_chips(
            self.program,
            self.training,
            self.scored.head(accuracy.emulated_images),
            seeds,
            usual_plan(self.training.count, options["seed"]),
            images=options["tune_images"],
            progress=out.progress,
            notify=out.say,
        )
        return replace(evaluation, accuracy=replace(accuracy, tuned=found.accuracy)), found

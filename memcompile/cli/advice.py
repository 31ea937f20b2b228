"""Next steps that commands print: command lines that run as they stand, on the same data with the same options."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memcompile.accuracy.labelled_samples import can_budget
from memcompile.data.loader import Dataset, has_training_part
from memcompile.errors import MemcompileError
from memcompile.hardware.target import builtin_targets
from memcompile.program.program import Program
from memcompile.report.facts import Facts
from memcompile.tuning import check_tuning, usual_plan

LOSS_WORTH_A_WORD = 0.01
"""Least share of right answers lost to noisy devices at which the report gives advice."""


def program_path(model: Path, target: str) -> Path:
    """Default program file, MODEL.TARGET.mcp in the working directory; a target file gives its own name."""
    name = target
    if target.endswith(".toml"):
        name = Path(target).stem
        name = f"{name}.toml" if name in builtin_targets() else name
    return Path(f"{model.stem}.{name}.mcp")


def derived_path(program: Path, word: str) -> Path:
    """Default path of a file that is made from a program: PROGRAM.WORD.mcp beside it."""
    return program.with_name(f"{program.name.removesuffix('.mcp')}.{word}.mcp")


def command_line(words: Sequence[str | Path]) -> str:
    """Words of a command line, quoted for a shell; a path that looks like an option gets its folder."""
    texts = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    return shlex.join(["memcompile", *texts])


def _without(words: Sequence[str], option: str) -> list[str]:
    """Words without an option that takes a value."""
    values = {number + 1 for number, word in enumerate(words) if word == option}
    return [
        word
        for number, word in enumerate(words)
        if number not in values and word != option and not word.startswith(f"{option}=")
    ]


def _with(words: Sequence[str], *options: str) -> list[str]:
    """Words with further options, which take the place of earlier ones; what follows ``--`` is no option."""
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *options, *words[end:]]


def with_option(words: Sequence[str], option: str, value: str) -> list[str]:
    """Words with an option of this value in place of any other."""
    return _with(_without(words, option), option, value)


def training_share(dataset: Dataset) -> int:
    """Samples of an archive, which has one part, that train: three quarters, so that the rest is scored."""
    return dataset.count * 3 // 4


@dataclass(frozen=True)
class DataOptions:
    """Options of a command that decide its data, as the next command needs them."""

    data: Path | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    seed: int = 0
    skip: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> DataOptions:
        """Those among a command's options."""
        return cls(options["data"], options["mean"], options["std"], options["seed"], options.get("skip"))

    def words(self, *between: str | Path) -> list[str | Path]:
        """The options as words of a command line, with further ones after those of the samples."""
        words: list[str | Path] = [] if self.data is None else ["--data", self.data]
        words += between
        words += ["--skip", str(self.skip)] if self.skip else []
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            words += [name, ",".join(map(_number, values))] if values else []
        return words + (["--seed", str(self.seed)] if self.seed else [])


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def front_lines(facts: Facts, arguments: Sequence[str]) -> Iterator[str]:
    """Command that compiles each mapping of a front; ``arguments`` are the words that the command was called with."""
    yield "losses are predicted for calibrated chips, not measured; each mapping is compiled by"
    words = [word for word in arguments if word != "--pareto"]
    for number, row in enumerate(facts["pareto"]["mappings"], start=1):
        options = row["options"]
        # Those of a mapping name the layers that differ from most, so that one named earlier would keep its number.
        kept = _without(words, "--slices") if "--slices" in options else words
        yield f"{number}: {command_line(_with(kept, *options))}"


@dataclass(frozen=True)
class CompileAdvice:
    """Next steps after a program was compiled.

    ``arguments`` are the words that the command was called with.
    """

    program: Program
    path: Path
    options: DataOptions
    arguments: Sequence[str] = field(default=())

    def run(self) -> str:
        """The command that runs the program on the data it was scored on."""
        return command_line(["run", self.path, *self.options.words()])

    def lines(self, facts: Facts, dataset: Dataset, objective: str) -> Iterator[str]:
        """Lines of advice where noisy devices cost more than a point of accuracy."""
        accuracy = facts["accuracy"]
        if accuracy is None or accuracy["ideal_emulated"] - accuracy["emulated_mean"] < LOSS_WORTH_A_WORD:
            return
        tuning = None if accuracy["tuned"] else self._tune(dataset)
        if tuning is not None:
            yield f"accuracy lost to devices can be won back on a chip: {command_line(tuning)}"
        if facts["accuracy_budget"] is None and can_budget(self.program, dataset):
            again = command_line(_with(_without(self.arguments, "--max-loss"), "--max-loss", "1"))
            yield f"layers can get slices and windows that lose a point at most, in more steps: {again}"
            return
        windows = any(math.prod(window) > 1 for layer in facts["layers"] for window in layer["parallel_windows"])
        if windows and objective != "accuracy":
            again = command_line(_with(self.arguments, "--optimise", "accuracy"))
            yield f"parallel windows take part of it; without them, in more steps: {again}"

    def _tune(self, dataset: Dataset) -> list[str | Path] | None:
        """The command that tunes the program on training samples and scores it on others; None where it cannot."""
        try:
            check_tuning(self.program, dataset.labels, usual_plan())
        except MemcompileError:
            return None
        data = self.options.data
        if data is None:
            return ["tune", self.path, *self.options.words()]
        if data.is_dir():
            return ["tune", self.path, *self.options.words()] if has_training_part(data) else None
        training = training_share(dataset)
        if not training:
            return None
        kept = ("--images", str(training), "--test", data, "--skip", str(training))
        return ["tune", self.path, *self.options.words(*kept)]

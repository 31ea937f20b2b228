"""Ablation of the mapping search: what each stage adds to the interval, its bound, and the time.

    python -m benchmarks.ablation --json FILE [--models ONNX ...] [--wild ONNX ...] [--only WORD ...] [--markdown FILE]

Every network is mapped with all stages and then with each stage left out whose turn comes. Networks are those of
``benchmarks/mapping.py``; ``--models`` are mapped for `yao2020` and `pimcomp`, ``--wild`` for `yao2020`, each on as
many chips as it needs. ``--only`` takes rows whose name contains one of the words. Results are kept in the JSON file
after each search, and what it holds already is not searched again. Values and bounds are the same on every machine.

The table has a row a stage: on how many networks its turn came, on how many value or bound got worse without it and by
how much at most, how often either got better (the time goes to other stages), and the seconds of a processor that it
took, less what other stages took in its place.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.mapping import networks
from memcompile.errors import MemcompileError
from memcompile.ir.graph import Graph, TiledLayer
from memcompile.ir.pass_contract import Effort
from memcompile.ir.pass_manager import PassContext
from memcompile.passes.replicate import NESTED_STAGES, STAGES, WORK, Replicate, Stage, chips_for, shorten
from memcompile.passes.search.problem import Bracket, MappingProblem
from memcompile.passes.solving.clock import Clock, running
from memcompile.pipelines import compile_model

ALL = "all stages"
Tiled = tuple[Graph, PassContext]
Results = dict[str, dict[str, dict[str, Any]]]
"""Value, bound, seconds and the stages whose turn came, by network and by the stage that was left out."""


def name_of(stage: Stage) -> str:
    """Name of a stage: that of its function."""
    return stage.narrow.__name__.replace("_", " ")


class Tiles:
    """Instrument that keeps the graph before the search."""

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        """Keep the graph after ``tile_matrices``."""
        if name == "tile_matrices":
            self.found = graph, context


def tiled_model(path: Path, target: str) -> Tiled:
    """Graph and context of an ONNX file before the search."""
    tiles = Tiles()
    quick = ("replicate.objective=arrays", "replicate.effort=fast")
    compile_model(path, target, settings=quick, instruments=[tiles], check=False)
    return tiles.found


def watched(stage: Stage, turns: list[str]) -> Stage:
    """A stage that notes when its turn comes."""

    def narrow(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
        turns.append(name_of(stage))
        return stage.narrow(problem, bracket, effort)

    return replace(stage, narrow=narrow)


def search(tiled: Tiled, replicate: Replicate, without: str) -> dict[str, Any]:
    """Search the shortest interval without a stage."""
    graph, context = tiled
    layers = [node for node in graph.nodes if isinstance(node, TiledLayer)]
    turns: list[str] = []
    stages, nested = (
        [watched(stage, turns) for stage in each if name_of(stage) != without] for each in (STAGES, NESTED_STAGES)
    )
    began = time.process_time()
    with running(Clock.after(math.inf, WORK[replicate.effort])):
        single = replicate.single(layers, context.target)
        problem = replicate.problem(layers, context.target, chips_for(layers, single, context))
        bracket = shorten(problem, single, replicate.effort, stages, nested)
    seconds = time.process_time() - began
    return {"value": bracket.interval, "bound": bracket.bound, "seconds": round(seconds, 2), "turns": turns}


def ablate(name: str, load: Callable[[], tuple[Tiled, Replicate]], results: Results, keep: Callable[[], None]) -> None:
    """Search a network with all stages, and without each of those whose turn came."""
    found = results.get(name, {})
    if ALL in found and all(stage in found for stage in found[ALL]["turns"]):
        return
    try:
        tiled, replicate = load()
    except MemcompileError:
        return  # onnxruntime refuses it, too
    if not any(isinstance(node, TiledLayer) for node in tiled[0].nodes):
        return

    def add(stage: str) -> None:
        if stage not in found:
            found[stage] = search(tiled, replicate, stage)
            results[name] = found
            keep()
            print(f"{name:45}{stage:26}", *(found[stage][key] for key in ("value", "bound", "seconds")), flush=True)

    add(ALL)
    for stage in found[ALL]["turns"]:
        add(stage)


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A row a stage, as Markdown."""
    lines = [
        "| stage left out | networks | value worse | at most | bound worse | at most | either better | seconds saved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in (name_of(stage) for stage in (*STAGES, *NESTED_STAGES)):
        pairs = [(found[ALL], found[stage]) for found in results.values() if stage in found]
        value = [less["value"] / every["value"] - 1 for every, less in pairs]
        bound = [1 - less["bound"] / every["bound"] for every, less in pairs]
        better = sum(v < 0 or b < 0 for v, b in zip(value, bound, strict=True))
        saved = sum(every["seconds"] - less["seconds"] for every, less in pairs)
        facts = (stage, len(pairs), *_worse(value), *_worse(bound), better, f"{saved:.0f}")
        lines.append(f"| {' | '.join(map(str, facts))} |")
    return "\n".join(lines) + "\n"


def _worse(changes: Sequence[float]) -> tuple[int, str]:
    """Number of changes for the worse, and the largest."""
    most = max([0.0, *changes])
    return sum(change > 0 for change in changes), f"{most:.1%}" if most < 10 else f"{1 + most:.0f} times"


def rows(models: Iterable[Path], wild: Iterable[Path]) -> dict[str, Callable[[], tuple[Tiled, Replicate]]]:
    """Every network's name with what makes its tiles and its search."""
    found: dict[str, Callable[[], tuple[Tiled, Replicate]]] = {
        name: lambda network=network: (network.tiled(), network.replicate) for name, network in networks().items()
    }
    files = [*itertools.product(models, ("yao2020", "pimcomp")), *((path, "yao2020") for path in wild)]
    for path, target in files:
        found[f"{path.stem}, {target}"] = lambda path=path, target=target: (tiled_model(path, target), Replicate())
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="results, old and new")
    parser.add_argument("--models", type=Path, nargs="*", default=[], metavar="ONNX", help="further networks")
    parser.add_argument("--wild", type=Path, nargs="*", default=[], metavar="ONNX", help="the same for yao2020 alone")
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD", help="rows whose name contains a word")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    options = parser.parse_args()
    results: Results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}

    def keep() -> None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    search(networks()["five-layer CNN, eight arrays"].tiled(), Replicate(), ALL)  # imports libraries before the clock
    for name, load in rows(options.models, options.wild).items():
        if any(word in name for word in options.only):
            ablate(name, load, results, keep)
    print(table(results))
    if options.markdown is not None:
        options.markdown.write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Compile a network, measure its accuracy, and draw both: the picture of the README.

    python benchmarks/draw_mapping.py examples/five_layer_cnn.onnx -o mapping.png

`memcompile draw` draws programs that are there already. Needs matplotlib (`pip install memcompile[plot]`). What the
picture says is also written into the file, as the PNG text ``Description``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from memcompile.errors import MemcompileError
from memcompile.export.mapping_picture import described, mapping_figure
from memcompile.pictures import picture_of, suffix_of
from memcompile.pipelines import AUTO, compile_model
from memcompile.report.evaluation import evaluate
from memcompile.report.facts import program_facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, evaluate, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="ONNX file")
    parser.add_argument("--target", default="yao2020", help="name or file (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="as for memcompile (default: embedded digits)")
    parser.add_argument("-o", "--output", type=Path, default=Path("mapping.png"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        suffix = suffix_of(options.output)
        compilation = compile_model(options.model, options.target, data=options.data, max_loss=AUTO)
        evaluation = evaluate(compilation.program, compilation.model, compilation.dataset, budget=False)
        facts = program_facts(compilation.program, evaluation)
        figure = mapping_figure(compilation.program, facts)
    except MemcompileError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    text = described(compilation.program, facts)
    options.output.write_bytes(picture_of(figure, 140, suffix, text))
    print(f"{text}; drawn in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compile the five-layer CNN for the eight-array chip and read the report's facts.

Run it from anywhere: `python examples/01_compile_and_report.py`.
"""

from pathlib import Path

import memcompile
from memcompile.report.facts import program_facts

MODEL = Path(__file__).with_name("five_layer_cnn.onnx")


def main() -> None:
    """Compile, measure on the embedded handwritten digits, print."""
    program = memcompile.compile(MODEL, target="yao2020")
    facts = program_facts(program, memcompile.evaluate(program, MODEL))

    for layer in facts["layers"]:
        copies = f"{layer['replicas']} copies" if layer["replicas"] > 1 else "1 copy"
        matrix = f"{layer['rows']} x {layer['columns']}"
        print(f"{layer['name']:4} {matrix:>9} weights, {copies}, {layer['tiles']} tiles in {layer['arrays']} arrays")

    steps, bound = facts["initiation_interval_steps"], facts["initiation_interval_bound"]
    print(f"one image every {steps} steps; no mapping with these arrays needs fewer than {bound}")

    accuracy = facts["accuracy"]
    print(f"float     {accuracy['float']:.2%}")
    print(f"ideal     {accuracy['ideal']:.2%}")
    print(f"emulated  {accuracy['emulated_mean']:.2%} +- {accuracy['emulated_std']:.2%} ({accuracy['seeds']} chips)")


if __name__ == "__main__":
    main()

"""Compile for chips of your own: the same network on arrays of other sizes and cells of other resolution.

Run it from anywhere: `python examples/04_own_target.py`.
"""

from pathlib import Path
from typing import Any

from memcompile import Target, compile_model, load_target
from memcompile.hardware.target import parse_target
from memcompile.report.evaluation import evaluate

MODEL = Path(__file__).with_name("five_layer_cnn.onnx")
IMAGES = 300


def variant(name: str, **changes: Any) -> Target:
    """The reference chip with some values changed, such as ``array__input_lines=64``."""
    values = load_target("yao2020").model_dump()
    values["name"] = name
    for key, value in changes.items():
        section, _, field = key.partition("__")
        values[section][field] = value
    # Checks everything, as for a target file; all errors come in one message.
    return parse_target(values, name)


def main() -> None:
    """Print arrays, interval and accuracy for some chips."""
    targets = [
        load_target("yao2020"),
        variant("square", array__input_lines=64, array__output_lines=64, adc__bits=10),
        variant("2-levels", cell__levels=2),
        variant("16-levels", cell__levels=16),
        variant("half-the-error", programming__sigma_us=load_target("yao2020").programming.sigma_us / 2),
    ]
    print(f"{'target':16}{'arrays':>7}{'steps':>7}{'bound':>7}{'float':>9}{'ideal':>9}{'emulated':>10}")
    for target in targets:
        compilation = compile_model(MODEL, target)
        program = compilation.program
        accuracy = evaluate(program, compilation.model, compilation.dataset, images=IMAGES).accuracy
        assert accuracy is not None, "the embedded digits have labels"
        proof = {item.quantity: item for item in program.placement.certificates}["initiation_interval"]
        print(
            f"{target.name:16}{program.arrays_used:7}{proof.value:7}{proof.bound:7}"
            f"{accuracy.reference:9.2%}{accuracy.ideal:9.2%}{accuracy.emulated_mean:10.2%}"
        )


if __name__ == "__main__":
    main()

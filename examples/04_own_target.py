"""Compile for chips of your own: the same network on arrays of other sizes and cells of other resolution.

Run it from anywhere: `python examples/04_own_target.py`.
"""

from pathlib import Path

import memcompile

MODEL = Path(__file__).with_name("five_layer_cnn.onnx")
IMAGES = 300


def main() -> None:
    """Print arrays, interval and accuracy for some chips."""
    # Everything is checked, as for a target file; all errors come in one message.
    chip = memcompile.Target.load("yao2020")
    targets = [
        chip,
        chip.with_(name="square", array__input_lines=64, array__output_lines=64, adc__bits=10),
        chip.with_(name="2-levels", cell__levels=2),
        chip.with_(name="16-levels", cell__levels=16),
        chip.with_(name="half-the-error", programming__sigma_us=chip.programming.sigma_us / 2),
    ]
    print(f"{'target':16}{'arrays':>7}{'steps':>7}{'bound':>7}{'float':>9}{'ideal':>9}{'emulated':>10}")
    for target in targets:
        # Without an accuracy budget each weight is one pair on every chip, and accuracies tell the chips apart.
        program = memcompile.compile(MODEL, target, max_loss=None)
        accuracy = memcompile.evaluate(program, MODEL, images=IMAGES, budget=False).accuracy
        assert accuracy is not None, "the embedded digits have labels"
        proof = {item.quantity: item for item in program.placement.certificates}["initiation_interval"]
        print(
            f"{target.name:16}{program.arrays_used:7}{proof.value:7}{proof.bound:7}"
            f"{accuracy.reference:9.2%}{accuracy.ideal:9.2%}{accuracy.emulated_mean:10.2%}"
        )


if __name__ == "__main__":
    main()

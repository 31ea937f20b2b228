"""Run one program on several emulated chips, and see which imperfection costs what.

Run it from anywhere: `python examples/02_run_on_noisy_devices.py`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

import memcompile
from memcompile.data import DIGITS_TRAINING_SAMPLES, digits28
from memcompile.runtime.effects.switches import Effects

MODEL = Path(__file__).with_name("five_layer_cnn.onnx")
CHIPS = 3
IMAGES = 300

NONE = Effects.none()
CASES = {
    "none (integer arithmetic)": NONE,
    "converter": replace(NONE, adc=True),
    "programming error": replace(NONE, programming_error=True),
    "stuck cells": replace(NONE, stuck_cells=True),
    "read noise": replace(NONE, read_noise=True),
    "all": Effects(),
}


def main() -> None:
    """Print the accuracy of each case, mean and spread over chips."""
    program = memcompile.compile(MODEL)
    images, labels = digits28()
    part = slice(DIGITS_TRAINING_SAMPLES, DIGITS_TRAINING_SAMPLES + IMAGES)
    x = images[part, None].astype(np.float32) / 255

    print(f"{'imperfections':28}accuracy over {CHIPS} chips")
    for name, effects in CASES.items():
        # The seed picks the chip: its programmed cells, its stuck cells and its noise.
        shares = []
        for seed in range(CHIPS):
            logits = memcompile.Emulator(program, seed, effects=effects).run(x)["logits"]
            shares.append(np.mean(logits.argmax(axis=1) == labels[part]))
        print(f"{name:28}{np.mean(shares):.2%} +- {np.std(shares):.2%}")


if __name__ == "__main__":
    main()

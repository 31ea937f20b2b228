"""Sensitivity of a network to noise in a layer, by the layout of the layer.

    python -m benchmarks.layout_sensitivity cifar_resnet20.onnx --data cifar10_train10k.npz --target hermes --slices 2

Errors of weights are the same for all images and for all positions that a line works on. A layer of one copy without
parallel windows errs alike at all positions of an image, others in a way of their own at each. Sensitivity is the
noise-to-signal ratio of the network's outputs by that of the layer's, on calibrated chips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from memcompile.accuracy.network_study import NetworkStudy
from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.blas import one_blas_thread
from memcompile.noise.program_noise import layer_ratios
from memcompile.pipelines import compile_model

NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OBJECTIVES = ("throughput", "accuracy", "arrays")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each layer and objective of the mapping."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="samples that calibrate")
    parser.add_argument("--target", default="hermes")
    parser.add_argument("--slices", default="2")
    parser.add_argument("--layers", type=int, default=3, help="first layers that get noise, one at a time")
    options = parser.parse_args(argv)
    print("| layer | mapped for | copies | window | steps | sensitivity |\n|---|---|---|---|---|---|")
    for objective in OBJECTIVES:
        settings = (f"replicate.objective={objective}",)
        compilation = compile_model(
            options.model,
            options.target,
            data=options.data,
            slices=options.slices,
            settings=settings,
            **NORMALISATION,
        )
        program, dataset = compilation.program, compilation.dataset
        with one_blas_thread():
            network = NoisyNetwork(program, dataset.calibration)
            ratios = [layer_ratios(program, number, own, stand_in=True) for number, own in enumerate(network.inputs)]
            study = NetworkStudy(network, dataset, ratios, calibrated=True)
            for number, layer in enumerate(program.layers[: options.layers]):
                window = "x".join(map(str, layer.replicas[0].unrolling.window))
                steps = max(len(replica.windows) for replica in layer.replicas)
                cells = (layer.name, objective, len(layer.replicas), window, f"{steps:,}")
                print("| " + " | ".join(map(str, (*cells, f"{study.layer_alone(number).sensitivity:.2f}"))) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

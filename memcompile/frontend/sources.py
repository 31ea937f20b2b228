"""Networks as users have them: a file, a model in memory, or a PyTorch module."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import ArrayLike

from memcompile.errors import ModelError, UsageError
from memcompile.frontend.frozen_inputs import frozen
from memcompile.frontend.importer import ModelFile, read_model, read_proto
from memcompile.frontend.sandbox import Limits


class TorchModule(Protocol):
    """Interface that is needed of a ``torch.nn.Module``."""

    training: bool

    def eval(self) -> Any:
        """Switch to inference."""

    def train(self, mode: bool = True) -> Any:
        """Switch back."""


Network = Path | str | onnx.ModelProto | TorchModule
"""A path of an ONNX file, a model in memory, or a PyTorch module."""


def open_network(
    network: Network,
    limits: Limits | None = None,
    example_inputs: Sequence[Any] | None = None,
    frozen_inputs: Mapping[str, ArrayLike] | None = None,
) -> ModelFile:
    """Read and check a network.

    Parameters
    ----------
    example_inputs
        Tensors or arrays of one batch, one per input; only a PyTorch module needs them, to be exported. Its batch
        stays open.
    frozen_inputs
        Values of inputs that are constants from then on.

    Raises
    ------
    ModelError
        The network is no ONNX file, onnxruntime refuses it, or PyTorch cannot export it.
    UsageError
        A PyTorch module comes without example inputs, other objects are given, or a frozen input does not fit.
    """
    return frozen(_opened(network, limits, example_inputs), frozen_inputs or {})


def _opened(network: Network, limits: Limits | None, example_inputs: Sequence[Any] | None) -> ModelFile:
    if isinstance(network, Path | str):
        return read_model(Path(network), limits)
    if isinstance(network, onnx.ModelProto):
        return read_proto(network, network.graph.name or "model", limits)
    if not _is_torch_module(network):
        raise UsageError(
            f"a network is a path, an onnx.ModelProto or a torch.nn.Module, and this is a {type(network).__name__}"
        )
    if example_inputs is None:
        raise UsageError(
            f"{type(network).__name__} is a PyTorch module, which has to run once to be exported; "
            "give example_inputs=(tensor,), one tensor or array per input"
        )
    return read_proto(_exported(network, example_inputs), type(network).__name__, limits)


def _is_torch_module(network: object) -> bool:
    torch = sys.modules.get("torch")  # a module exists only where PyTorch was imported
    return torch is not None and isinstance(network, torch.nn.Module)


def _exported(module: TorchModule, example_inputs: Sequence[Any]) -> onnx.ModelProto:
    """Export a module in evaluation mode, with an open batch along axis 0 of all inputs."""
    torch: Any = sys.modules["torch"]
    tensors = tuple(torch.as_tensor(np.asarray(value)) if _is_array(value) else value for value in example_inputs)
    names = [f"input{number}" if number else "input" for number in range(len(tensors))]
    export = _export_graph if find_spec("onnxscript") else _export_trace
    training = module.training
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own deprecations
            return export(torch, module, tensors, names)
    except Exception as error:  # PyTorch raises whatever the module's own code raises, too
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{type(module).__name__} cannot be exported by PyTorch: {reason}; export it by torch.onnx.export with "
            "options of your own and give the file"
        ) from error
    finally:
        module.train(training)


def _export_graph(torch: Any, module: TorchModule, tensors: tuple[Any, ...], names: list[str]) -> onnx.ModelProto:
    """Export by torch.export, which needs the package onnxscript."""
    shapes = tuple({0: "batch"} for _ in tensors)
    exported = torch.onnx.export(
        module, tensors, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False
    ).model_proto
    assert isinstance(exported, onnx.ModelProto)
    return exported


def _export_trace(torch: Any, module: TorchModule, tensors: tuple[Any, ...], names: list[str]) -> onnx.ModelProto:
    """Export by tracing one run."""
    stream, axes = io.BytesIO(), {name: {0: "batch"} for name in names}
    torch.onnx.export(module, tensors, stream, dynamo=False, input_names=names, dynamic_axes=axes)
    return onnx.load_from_string(stream.getvalue())


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | list | tuple | float | int)

"""An ONNX backend: models run as programs for the built-in target ``ideal``.

Conductances are continuous and converters exact there, so a model computes what onnxruntime
computes, while its linear operators go through selection, tiling, placement, schedule and the
emulator like those of any other target. ONNX's own test suite runs against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
from numpy.typing import NDArray
from onnx.backend.base import Backend, BackendRep

from memcompile.errors import DataError, ModelError, UsageError
from memcompile.frontend.importer import ModelFile, import_graph, model_in_memory
from memcompile.hardware.target import Target, load_target
from memcompile.ir.graph import Graph, OtherType
from memcompile.ir.pass_manager import PassContext, run_passes, with_options
from memcompile.pipelines import compiler_version, default_passes, emit_program
from memcompile.program.program import Program, Provenance
from memcompile.runtime.emulator import Emulator
from memcompile.verify.verifier import Verifier

# One replica of each layer: nobody waits for these programs.
_SETTINGS = ("replicate.objective=arrays", "replicate.effort=fast")


class IdealRep(BackendRep):
    """A model that is compiled for the shapes of its inputs when it is first run on them."""

    def __init__(self, file: ModelFile, target: Target) -> None:
        self.file = file
        self.target = target
        self._emulators: dict[tuple[object, ...], Emulator] = {}

    def program(self, inputs: Sequence[Any] | Mapping[str, Any]) -> Program:
        """The program that these inputs run on."""
        return self._emulator(self._named(inputs)).program

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the model's order.

        Parameters
        ----------
        inputs
            Values in the order of the model's inputs, or by name; one array if there is one input.

        Raises
        ------
        DataError
            There are more or fewer inputs than the model has.
        ModelError
            onnxruntime cannot run the model on inputs of these shapes.
        """
        values = self._named(inputs)
        outputs = self._emulator(values).run_whole(values)
        return tuple(outputs[value.name] for value in self.file.model.graph.output)

    def _named(self, inputs: Any) -> dict[str, Any]:
        names = list(self.file.inputs)
        if not isinstance(inputs, Mapping):
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(given) != len(names):
                raise DataError(f"{len(given)} inputs are given, the model has {len(names)}: {', '.join(names)}")
            inputs = dict(zip(names, given, strict=True))
        if set(inputs) != set(names):
            raise DataError(f"inputs {', '.join(inputs)} are given, the model has {', '.join(names)}")
        return {name: self._value(name, inputs[name]) for name in names}

    def _value(self, name: str, value: Any) -> Any:
        return value if isinstance(self.file.inputs[name], OtherType) else np.asarray(value)

    def _emulator(self, values: Mapping[str, Any]) -> Emulator:
        key = tuple((name, *_shape(value)) for name, value in values.items())
        if key not in self._emulators:
            self._emulators[key] = Emulator(self._compile(values), whole=True)
        return self._emulators[key]

    def _compile(self, values: Mapping[str, Any]) -> Program:
        graph: Graph = import_graph(self.file, values)
        # No pass looks at data for this target: nothing has to be calibrated.
        context = PassContext(self.target, {})
        graph = run_passes(graph, with_options(default_passes(), _SETTINGS), context, (Verifier(),))
        return emit_program(graph, context, Provenance(self.file.name, self.file.sha256, compiler_version(), {}))


def _shape(value: Any) -> tuple[object, ...]:
    array: NDArray[Any] | None = value if isinstance(value, np.ndarray) else None
    return (type(value).__name__,) if array is None else (array.dtype.name, array.shape)


class IdealBackend(Backend):
    """ONNX's backend interface over the target ``ideal``."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Return True if onnxruntime, and so memcompile, can run the model."""
        try:
            model_in_memory(model, _name(model))
        except ModelError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> IdealRep:
        """Check a model; it is compiled when it is first run.

        Raises
        ------
        UsageError
            The device is not ``CPU``.
        ModelError
            onnxruntime refuses the model.
        """
        if not cls.supports_device(device):
            raise UsageError(f"there is no device {device!r}; the emulator runs on CPU")
        return IdealRep(model_in_memory(model, _name(model)), load_target("ideal"))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run one operator; ``inputs`` in the order of its inputs, without those left out.

        ``opset_version`` among the keywords selects the operator set; it is the newest by default.

        Raises
        ------
        ModelError
            onnxruntime refuses the operator.
        """
        values = [np.asarray(value) for value in inputs]
        names = [name for name in node.input if name]
        version = int(kwargs.get("opset_version", onnx.defs.onnx_opset_version()))
        graph = onnx.helper.make_graph(
            [node],
            node.op_type or "node",
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in zip(names, values, strict=True)
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, values, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the CPU."""
        return device.split(":", maxsplit=1)[0] == "CPU"


def _name(model: onnx.ModelProto) -> str:
    return model.graph.name or "model"


is_compatible = IdealBackend.is_compatible
prepare = IdealBackend.prepare
run_model = IdealBackend.run_model
run_node = IdealBackend.run_node
supports_device = IdealBackend.supports_device

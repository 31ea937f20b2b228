"""Schema of ``program.json``: strict types, no unknown keys, numbers within reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LARGEST = 2**53
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Axes = Annotated[tuple[Count, ...], Field(max_length=8)]
Pads = Annotated[tuple[Natural, ...], Field(max_length=8)]
Edges = Annotated[tuple[Natural, ...], Field(min_length=2)]
Dtype = Literal[
    "bool", "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "object",
]  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TensorPart(_Part):
    """Type of a program input; a dimension of null is free."""

    dtype: Dtype
    shape: tuple[Natural | None, ...]


class GeometryPart(_Part):
    """Shape of a layer; all axes tuples have one entry per spatial axis."""

    in_channels: Count
    out_channels: Count
    kernel: Axes
    input_size: Axes
    groups: Count
    strides: Axes
    dilations: Axes
    pads_begin: Pads
    pads_end: Pads
    layout: Literal["channels_first", "channels_last"]

    @model_validator(mode="after")
    def _axes_agree(self) -> GeometryPart:
        axes = (self.kernel, self.input_size, self.strides, self.dilations, self.pads_begin, self.pads_end)
        if len({len(axis) for axis in axes}) != 1:
            raise ValueError("the axes have different lengths")
        return self


class QuantizerPart(_Part):
    """Input quantiser of a layer; null where inputs are exact."""

    scale: float
    bits: Annotated[int, Field(ge=1, le=16)]
    signed: bool
    bits_per_phase: Annotated[int, Field(ge=1, le=8)]


class ReplicaPart(_Part):
    """One replica of a layer."""

    window: Axes
    bundle: Count
    row_cuts: Edges
    column_cuts: Edges
    windows: str


class CrossbarPart(_Part):
    """A crossbar layer."""

    kind: Literal["crossbar"]
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtype: Literal["float16", "float32", "float64", "int32"]
    geometry: GeometryPart
    quantizer: QuantizerPart | None
    base: Annotated[int, Field(ge=2, le=1024)]
    cells: str
    scale: str
    bias: str
    replicas: tuple[ReplicaPart, ...]
    range_share: float | None
    shares_with: str = ""
    shared_replicas: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = ()

    @model_validator(mode="after")
    def _windows_have_all_axes(self) -> CrossbarPart:
        if any(len(replica.window) != len(self.geometry.kernel) for replica in self.replicas):
            raise ValueError("a window has other axes than the kernel")
        if len(self.shared_replicas) != (len(self.replicas) if self.shares_with else 0):
            raise ValueError("a layer that shares cells has a number for each replica, any other layer none")
        return self


class DigitalPart(_Part):
    """A digital subgraph."""

    kind: Literal["digital"]
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: str


class CertificatePart(_Part):
    """Value found and bound proven."""

    quantity: str
    value: Natural
    bound: Natural
    method: str
    limited_by: str = ""


class SegmentPart(_Part):
    """Interval and latencies of one segment."""

    initiation_interval_steps: Natural
    latency_steps: Natural
    pipelined_latency_steps: Natural


class PlacementPart(_Part):
    """Placement and schedule of the tiles."""

    chips: Natural
    tiles: str
    tile_columns: tuple[str, ...]
    certificates: tuple[CertificatePart, ...]
    initiation_interval_steps: Natural
    latency_steps: Natural
    pipelined_latency_steps: Natural
    pauses: str
    crossing_values: Natural
    segments: tuple[SegmentPart, ...]
    batch: Natural


class ProvenancePart(_Part):
    """Origin of the program."""

    model: str
    model_sha256: str
    compiler: str
    options: dict[str, str | int | float | bool | None]
    notes: tuple[str, ...]
    multiply_adds: Natural | None = None
    multiply_adds_on_arrays: Natural | None = None


class ChipPart(_Part):
    """The chip that the program was transferred to."""

    seed: Natural
    conductances_us: str


class CorrectionsPart(_Part):
    """Corrections of the output lines of a layer."""

    gain: str
    offset: str


class CalibrationPart(_Part):
    """Corrections of all crossbar layers, fitted to one chip."""

    seed: Natural
    layers: tuple[CorrectionsPart, ...]


class LayoutPart(_Part):
    """Axes of samples; only in a program in which that is not axis 0 of all inputs and outputs."""

    inputs: dict[str, Natural | None]
    outputs: dict[str, Natural | None]
    size: Count | None
    whole: bool


class MemberPart(_Part):
    """Size and digest of another member of the file."""

    bytes: Natural
    sha256: str


class Document(_Part):
    """All of ``program.json``."""

    format: str
    version: int
    target: dict[str, Any]
    provenance: ProvenancePart
    inputs: dict[str, TensorPart]
    outputs: tuple[str, ...]
    stages: tuple[Annotated[CrossbarPart | DigitalPart, Field(discriminator="kind")], ...]
    constants: dict[str, str]
    placement: PlacementPart
    chip: ChipPart | None = None
    calibration: CalibrationPart | None = None
    layout: LayoutPart | None = None
    members: dict[str, MemberPart]

    @model_validator(mode="after")
    def _layout_fits_the_inputs(self) -> Document:
        if self.layout is None:
            return self
        if self.layout.inputs.keys() != self.inputs.keys() or not self.layout.outputs.keys() <= set(self.outputs):
            raise ValueError("the layout has other inputs or outputs than the program")
        for name, axis in self.layout.inputs.items():
            shape = self.inputs[name].shape
            batch = () if axis is None else shape[axis : axis + 1]
            if (axis is not None and axis >= len(shape)) or any(size != self.layout.size for size in batch):
                raise ValueError(f"the layout does not fit the shape of input {name!r}")
            if (None in shape) != (batch == (None,)):
                raise ValueError(f"input {name!r} has an open size that is not the batch")
        return self

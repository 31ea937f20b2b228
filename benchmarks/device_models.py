"""Mean and spread of conductances of the built-in devices, beside those of aihwkit and CrossSim.

    python benchmarks/device_models.py

Each tool that is installed draws the same cells: 200,000 at each of eleven goals over the window. The
table has, for each device and time, the largest difference of the means as a share of the goal, and of the spreads as
a share of the spread. aihwkit counts time from the first read, which is some seconds after programming; here time is
counted from programming. Neither tool is needed for anything else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import Conditions
from memcompile.hardware.target import Target, load_target
from memcompile.runtime.effects.effect import WrittenArray
from memcompile.runtime.effects.programming_error import with_programming_error
from memcompile.runtime.effects.switches import Effects

Array = NDArray[np.float64]
CELLS = 200_000
HOUR_S, DAY_S = 3600.0, 86_400.0
Draw = Callable[[Array, float], Array]


def ours(target: Target, goals_us: Array, time_s: float) -> Array:
    """Conductances of cells some time after they were programmed, in microsiemens."""
    cells = with_programming_error(goals_us, target.programming, target.cell, 0, 1)
    array = WrittenArray(target, 0, 1, 1, Conditions(time_s), goals_us, cells)
    for effect in Effects().aging():
        cells = effect.moved_us(cells, array)
    return cells


def aihwkit_model(model: Any, later_s: float = 0.0) -> Draw:
    """Cells of a noise model of aihwkit; ``later_s`` is the time of its first read after programming."""
    import torch  # noqa: PLC0415 - only where aihwkit is

    def draw(goals_us: Array, time_s: float) -> Array:
        torch.manual_seed(0)
        goals = torch.from_numpy(goals_us.copy())
        written = model.apply_programming_noise_to_conductance(goals.clone())
        state = model.generate_drift_coefficients(goals.clone())
        aged: Array = model.apply_drift_noise_to_conductance(written, state, time_s - later_s).numpy()
        return aged

    return draw


def crosssim_model(name: str, g_max_us: float, g_min_us: float, voltage_v: float = 0.1) -> Draw:
    """Cells of a device class of CrossSim."""
    from simulator.backend import ComputeBackend  # noqa: PLC0415 - only where CrossSim is
    from simulator.devices import device as models  # noqa: PLC0415 - only where CrossSim is
    from simulator.parameters.xbar_parameters import (  # noqa: PLC0415 - only where CrossSim is
        DeviceParameters,
        WeightErrorParameters,
    )

    ComputeBackend(use_gpu=False)
    parameters = DeviceParameters(Rmin=1e6 / g_max_us, Rmax=1e6 / max(g_min_us, 1e-6), Vread=voltage_v)
    parameters.nonlinear_IV = WeightErrorParameters()
    device = getattr(models, name)(parameters, WeightErrorParameters())
    low, span = device.Gmin_norm, device.Gmax_norm - device.Gmin_norm
    bottom = max(g_min_us, 1e-6)

    def draw(goals_us: Array, time_s: float) -> Array:
        np.random.seed(0)
        normal = low + span * (goals_us - bottom) / (g_max_us - bottom)
        days = time_s / DAY_S
        cells = device.drift_error(normal, days) if name == "SONOS" else device.programming_error(normal)
        cells = cells.clip(0.0, None)
        moved: Array = bottom + (cells - low) / span * (g_max_us - bottom)
        return moved

    return draw


def cases() -> list[tuple[str, str, tuple[float, ...], Draw]]:
    """Device, tool, times after programming, and the tool's cells, for the tools that are installed."""
    found: list[tuple[str, str, tuple[float, ...], Draw]] = []
    if importlib.util.find_spec("aihwkit"):
        from aihwkit.inference.noise.hermes import HermesNoiseModel  # noqa: PLC0415 - aihwkit
        from aihwkit.inference.noise.pcm import PCMLikeNoiseModel  # noqa: PLC0415 - aihwkit
        from aihwkit.inference.noise.reram import ReRamCMONoiseModel, ReRamWan2022NoiseModel  # noqa: PLC0415 - aihwkit

        for device, first_s, model in (
            ("pcm", 20.0, PCMLikeNoiseModel(g_max=25.0)),
            ("hermes-unit-cell", 300.0, HermesNoiseModel(num_devices=2)),
            ("hermes-one-device", 200.0, HermesNoiseModel(num_devices=1)),
        ):
            times = (first_s + 1.0, first_s + HOUR_S, first_s + DAY_S)
            found.append((device, "aihwkit", times, aihwkit_model(model, first_s)))
        found.append(
            ("rram-wan2022", "aihwkit", (1.0, DAY_S, 2 * DAY_S), aihwkit_model(ReRamWan2022NoiseModel(g_max=40.0)))
        )
        for share in (0.2, 2):
            model = ReRamCMONoiseModel(acceptance_range=share, g_max=1e9, g_min=0.0)
            found.append((f"cmo-hfox-{share:g}", "aihwkit", (1.0, HOUR_S, DAY_S), aihwkit_model(model)))
    if importlib.util.find_spec("simulator"):
        found.append(("sonos", "CrossSim", (1.0, HOUR_S, DAY_S, 5 * DAY_S), crosssim_model("SONOS", 16.0, 0.0)))
        found.append(("rram-milo2021", "CrossSim", (1.0,), crosssim_model("RRAMMilo", 225.0, 50.0)))
        found.append(("pcm-joshi2020", "CrossSim", (1.0,), crosssim_model("PCMJoshi", 25.0, 0.25)))
        found.append(("rram-wan2022", "CrossSim", (1.0,), crosssim_model("RRAMWan", 39.25, 1.0)))
    return found


def differences(device: str, times: tuple[float, ...], draw: Draw) -> list[tuple[float, float, float]]:
    """Time, and the largest difference of means and spreads, in shares."""
    target = load_target("yao2020").with_(cell__device=device)
    cell, rows = target.cell, []
    window = np.linspace(cell.g_min_us, cell.g_max_us, 11)
    if device == "rram-wan2022":
        window = np.minimum(window, 39.25)
    for time_s in times:
        means, spreads = [], []
        for goal_us in window:
            goals_us = np.full(CELLS, goal_us)
            a, b = ours(target, goals_us, time_s), draw(goals_us, time_s)
            means.append(abs(a.mean() - b.mean()) / max(goal_us, cell.g_max_us / 10))
            spreads.append(abs(a.std() - b.std()) / max(b.std(), 1e-3 * cell.g_max_us))
        rows.append((time_s, max(means), max(spreads)))
    return rows


def main() -> None:
    """Print the table."""
    print("| device | beside | s after programming | mean differs by | spread differs by |")
    print("|---|---|---|---|---|")
    for device, tool, times, draw in cases():
        for time_s, mean, spread in differences(device, times, draw):
            print(f"| {device} | {tool} | {time_s:,.0f} | {mean:.2%} | {spread:.2%} |", flush=True)
    for tool, package in (("aihwkit", "aihwkit"), ("CrossSim", "cross-sim")):
        try:
            print(f"{tool} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{tool}: no installed distribution")


if __name__ == "__main__":
    main()

"""``memcompile targets``: what there is to compile for, and complete files to edit."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from memcompile.atomic import write_atomically
from memcompile.cli.console import Output, check_writable
from memcompile.errors import UsageError
from memcompile.hardware.devices import builtin_devices, load_device
from memcompile.hardware.target import builtin_targets, load_target
from memcompile.hardware.target_settings import with_target_settings
from memcompile.hardware.target_text import device_text, target_text


@click.command("targets")
@click.argument("name", required=False)
@click.option("-o", "--output", type=Path, metavar="FILE.toml", help="Write the file instead of printing it.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE", help="Change a field (repeatable).")
def targets_command(name: str | None, output: Path | None, settings: tuple[str, ...]) -> None:
    """List the built-in targets and devices, or print NAME as a complete file, ready to edit.

    NAME is a target, a target file, which is completed, or a device.
    """
    if name is None:
        if output is not None or settings:
            raise UsageError("-o and --set are for one target; name it, such as `memcompile targets yao2020`")
        _list()
        return
    if output is not None:
        check_writable(output)
    text = _text(name, settings)
    if output is None:
        click.echo(text, nl=False)
        return
    write_atomically(output, text.encode())


def _text(name: str, settings: tuple[str, ...]) -> str:
    if name in builtin_devices() and name not in builtin_targets():
        if settings:
            raise UsageError(f"{name} is a device; fields are set in a target, such as --set cell.device={name}")
        return device_text(name)
    target, others = with_target_settings(load_target(name), settings)
    if others:
        raise UsageError(f"{others[0]!r} names no field of a target; write it as array.input_lines=128")
    return target_text(target)


def _list() -> None:
    out = Output(quiet=False, json_path=None)
    table = Table()
    for heading in ("name", "arrays a chip", "array", "levels", "what it is"):
        table.add_column(heading, overflow="fold")
    for name in builtin_targets():
        target = load_target(name)
        size = f"{target.array.input_lines} x {target.array.output_lines}"
        levels = "any" if target.cell.continuous else str(target.cell.levels)
        table.add_row(name, f"{target.chip.arrays:,}", size, levels, target.title)
    out.print(table)
    devices = Table(title="devices, for cell.device of a target", title_justify="left")
    for heading in ("name", "window (uS)", "what it is"):
        devices.add_column(heading, overflow="fold")
    for name in builtin_devices():
        values = load_device(name)
        devices.add_row(name, f"{values['cell']['g_min_us']:g} to {values['cell']['g_max_us']:g}", values["title"])
    out.print(devices)

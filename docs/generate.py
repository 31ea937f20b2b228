"""Write the generated parts of the documentation.

    python docs/generate.py            rewrite the parts that come from the code
    python docs/generate.py --outputs  run every command shown, and rewrite what it prints
    python docs/generate.py --check    change nothing, name pages that are out of date

A page marks a generated part with `<!-- begin NAME -->` and `<!-- end NAME -->`. What a command
prints stands in a `text` block right after its `bash` block; see pages.py beside this file.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pages import NEEDS_TORCH, PAGES, WIDTH, Processes, outputs_of, prepare
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import memcompile
from memcompile import errors
from memcompile.cli.main import cli
from memcompile.errors import EXIT_CODES, MemcompileError
from memcompile.hardware.devices import builtin_devices, load_device
from memcompile.hardware.target import Target, builtin_targets, load_target
from memcompile.hardware.target_sections import meanings
from memcompile.ir.pass_contract import Amount, Count, Form, Forms, Share
from memcompile.ir.pass_manager import Pass
from memcompile.pipelines import default_passes
from memcompile.runtime.emulator import Effects

PART = re.compile(r"(<!-- begin (?P<name>\w+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


# --- parts that come from the code ---------------------------------------------------------------


def commands_part() -> str:
    """Usage, arguments and options of every command."""
    top = click.Context(cli, info_name="memcompile", **cli.context_settings)
    parts = [_command_text(top)]
    parts += [
        _command_text(click.Context(command, info_name=name, parent=top, **cli.context_settings))
        for name, command in cli.commands.items()
    ]
    return "\n".join(parts)


def _command_text(context: click.Context) -> str:
    command, path = context.command, context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f"## {path}", "", *_paragraphs(command.help or ""), "```text", usage, "```", ""]
    rows = [row for item in command.get_params(context) if (row := item.get_help_record(context))]
    lines += ["| option | meaning |", "|---|---|"]
    lines += [_row(f"`{_option_name(name)}`", _markdown(_ranges(text))) for name, text in rows if text]
    return "\n".join([*lines, ""])


def _option_name(text: str) -> str:
    return re.sub(r"INTEGER RANGE|INTEGER", "N", text).replace("N|AUTO", "N|auto")


def _ranges(text: str) -> str:
    """Say limits in words."""
    return re.sub(r"x>=(\d+)", r"at least \1", text)


def _paragraphs(text: str) -> list[str]:
    return [_markdown(inspect.cleandoc(text)), ""]


def _markdown(text: str) -> str:
    """Text of a docstring as Markdown."""
    parts = re.split(r"(``?[^`]+``?)", text)
    plain = [re.sub(r"([*<])", r"\\\1", part) if place % 2 == 0 else part for place, part in enumerate(parts)]
    return re.sub(r":\w+:(?=`)", "", "".join(plain)).replace("``", "`")


def _row(*cells: str) -> str:
    """One row of a table."""
    clean = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(clean)} |"


def exit_codes_part() -> str:
    """Exit codes with the error classes that cause them."""
    # Others that share a code are no class of their own for who catches them.
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MemcompileError)]
    classes = {kind.exit_code: kind.__name__ for kind in reversed(kinds)}
    lines = ["| exit code | in Python | meaning |", "|---|---|---|"]
    for code, text in sorted(EXIT_CODES.items()):
        name = f"`{classes[code]}`" if code in classes else ""
        lines.append(_row(str(code), name, text))
    return "\n".join([*lines, ""])


def passes_part() -> str:
    """Every pass of the default pipeline, in order, with its options."""
    return "\n".join(_pass_text(number, item) for number, item in enumerate(default_passes(), start=1))


def _pass_text(number: int, item: Pass) -> str:
    kind = type(item)
    file = kind.__module__.rpartition(".")[2]
    lines = [f"## {number}. {item.pass_name()}", "", f"*{item.summary}* ([source](../passes/{file}.py))", ""]
    lines += _paragraphs(_without_raises(kind.__doc__ or ""))
    contract = f"Consumes {_forms(item.consumes)}; produces {_forms(item.produces)}; {item.fidelity}."
    lines += [*textwrap.wrap(contract, WIDTH), ""]
    options = item.option_types()
    if options:
        texts = attribute_docstrings(kind)
        lines += ["| option | default | takes | meaning |", "|---|---|---|---|"]
        for option, wanted in options.items():
            name, default = f"`{item.pass_name()}.{option}`", f"`{getattr(item, option)}`"
            lines.append(_row(name, default, _option_type(wanted), _markdown(texts.get(option, ""))))
        lines.append("")
    return "\n".join(lines)


def _forms(forms: Forms) -> str:
    return " and ".join(form.value for form in sorted(forms, key=list(Form).index))


def _option_type(wanted: Any) -> str:
    """A type of an option in words."""
    if get_origin(wanted) is Literal:
        return ", ".join(get_args(wanted))
    limits = {Count: "whole number from 1", Amount: "number from 0", Share: "number above 0, to 1"}
    return limits.get(wanted) or {bool: "true, false", int: "whole number", float: "number"}[wanted]


def _without_raises(docstring: str) -> str:
    """Turn a NumPy-style section of errors into a sentence."""
    text = inspect.cleandoc(docstring)
    head, mark, tail = text.partition("\nRaises\n------\n")
    if not mark:
        return text
    errors = re.findall(r"^(\w+)\n((?:    .*\n?)+)", tail + "\n", re.MULTILINE)
    said = [f"Raises `{name}`: {' '.join(why.split())}" for name, why in errors]
    return "\n\n".join([head.rstrip(), *said])


def attribute_docstrings(kind: type) -> dict[str, str]:
    """Strings that follow the fields of a class in its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


COMMON_LIMITS = {1e-9: "above 0", 1e12: "", -1e12: ""}
"""Limits that all numbers of a target have and that the page names once."""
_WITHOUT = {
    "write_verify": "`[programming]` says what error is left, and writes have no price",
    "energy": "the report gives no energy",
    "area": "the report gives no area",
}
"""Meaning of a missing section that no effect of the emulator is behind."""


def target_fields_part() -> str:
    """Every key of a target file with its limits."""
    leaves = {name: field for name, field in Target.model_fields.items() if _section(field) is None}
    lines = ["### Top level", "", *_field_table("", leaves, meanings(Target))]
    for name, field in Target.model_fields.items():
        section = _section(field)
        if section is not None:
            lines += [f"### [{name}]", "", *_paragraphs(section.__doc__ or "")]
            if not field.is_required():
                lines += [f"This section may be left out; then {_WITHOUT.get(name, 'the effect is off')}.", ""]
            lines += _field_table(name, section.model_fields, meanings(section))
    return "\n".join(lines)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _field_table(section: str, fields: dict[str, FieldInfo], meaning: dict[str, str]) -> list[str]:
    rows = []
    for name, field in fields.items():
        key = f"{section}.{name}" if section else name
        default = "required" if field.is_required() else f"`{_toml(field.default)}`"
        rows.append(_row(f"`{key}`", _type_name(field), _limits(field), default, _markdown(meaning.get(name, ""))))
    return ["| key | type | limits | default | meaning |", "|---|---|---|---|---|", *rows, ""]


def _toml(value: object) -> str:
    if value is None:
        return "not given"
    return str(list(value)) if isinstance(value, tuple) else json.dumps(value)


def _type_name(field: FieldInfo) -> str:
    names: dict[object, str] = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    kind = _plain(field)[0]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return _list_name(get_args(get_args(kind)[0])[0])
    return names.get(kind) or "table of texts"


def _list_name(entry: object) -> str:
    """A list in words, from the type of an entry without its limits."""
    if get_origin(entry) is not tuple:
        return "list of numbers"
    return "list of lists of numbers" if Ellipsis in get_args(entry) else "list of pairs of numbers"


def _plain(field: FieldInfo) -> tuple[object, Sequence[object]]:
    """Type and limits of a field's value, without the None of a field that may be left out."""
    kind: object = field.annotation
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if type(None) not in get_args(kind):
        return kind, field.metadata
    kind, *marks = get_args(kinds[0]) or kinds
    return kind, [each for mark in marks for each in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def _limits(field: FieldInfo) -> str:
    """The limits of a number, in words."""
    low: str | None = None
    high: str | None = None
    for mark in _plain(field)[1]:
        if isinstance(mark, Ge):
            low = COMMON_LIMITS.get(mark.ge, f"{mark.ge:,} or more")
        elif isinstance(mark, Gt):
            low = f"above {mark.gt:,}"
        elif isinstance(mark, Le):
            high = COMMON_LIMITS.get(mark.le, f"{mark.le:,} or less")
        elif isinstance(mark, Lt):
            high = f"below {mark.lt:,}"
        elif isinstance(mark, MaxLen):
            high = f"at most {mark.max_length}"
    return ", ".join(limit for limit in (low, high) if limit)


def builtin_targets_part() -> str:
    """The built-in target files, and where each of their values is from."""
    parts = []
    for name in builtin_targets():
        target = load_target(name)
        text = (resources.files("memcompile.hardware") / "targets" / f"{name}.toml").read_text(encoding="utf-8")
        values = text.partition("[sources]")[0].strip()
        lines = [f"### {name}", "", f"{target.title}.", "", "```text", values, "```", ""]
        lines += ["| value | where it is from |", "|---|---|"]
        lines += [_row(f"`{key}`", why) for key, why in target.sources.items()]
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def devices_part() -> str:
    """Devices of the literature: window, what they have, and what they are."""
    lines = ["| `cell.device` | window | has | what it is |", "|---|---|---|---|"]
    for name in builtin_devices():
        values = load_device(name)
        has = [f"`{section}`" for section in values if section not in ("name", "title", "cell", "sources")]
        window = f"{values['cell']['g_min_us']:g} to {values['cell']['g_max_us']:g} uS"
        lines.append(_row(f"`{name}`", window, ", ".join(has), values["title"]))
    return "\n".join([*lines, ""])


def effects_part() -> str:
    """The switches of the emulator."""
    texts = attribute_docstrings(Effects)
    rows = [_row(f"`{switch.name}`", _markdown(texts.get(switch.name, ""))) for switch in dataclasses.fields(Effects)]
    return "\n".join(["| effect | meaning |", "|---|---|", *rows, ""])


def modules_part() -> str:
    """Every folder with its modules, each with the first line of its docstring."""
    package = Path(memcompile.__file__).parent
    folders = [path.parent for path in sorted(package.rglob("__init__.py"))]
    folders += [
        path.parent for link in ("passes", "runtime") for path in sorted((package.parent / link).rglob("__init__.py"))
    ]
    parts = []
    for folder in folders:
        place = folder.relative_to(package.parent).as_posix()
        parts += [
            f"### `{place}/`",
            "",
            _first_line(folder / "__init__.py"),
            "",
            "| module | what it does |",
            "|---|---|",
        ]
        for path in sorted(folder.glob("[a-z]*.py")):
            parts.append(_row(f"[{path.name}](../{place}/{path.name})", _markdown(_first_line(path))))
        parts.append("")
    return "\n".join(parts)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0]


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands_part,
    "effects": effects_part,
    "modules": modules_part,
    "exit_codes": exit_codes_part,
    "passes": passes_part,
    "target_fields": target_fields_part,
    "builtin_targets": builtin_targets_part,
    "devices": devices_part,
}


# --- pages --------------------------------------------------------------------------------------


def with_parts(text: str) -> str:
    """A page with its generated parts written anew."""
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n{found[3]}", text)


def with_outputs(text: str) -> str:
    """A page with what its commands print written anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with Processes(folder) as runs:
            replaced = [(shown, printed) for _, shown, printed in outputs_of(text, runs) if shown]
    for shown, printed in reversed(replaced):
        text = text[: shown.start] + trimmed(printed) + text[shown.end :]
    return text


def trimmed(printed: str) -> str:
    """Printed text without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"


def main() -> int:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", action="store_true", help="also run the commands")
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="default: all")
    options = parser.parse_args()
    stale = []
    for page in options.pages:
        text = page.read_text(encoding="utf-8")
        written = with_parts(text)
        if options.outputs and NEEDS_TORCH in text and find_spec("torch") is None:
            print(f"{page}: what its commands print stays as it is, because PyTorch is not installed")
        elif options.outputs:
            written = with_outputs(written)
        if written != text:
            stale.append(str(page))
            if not options.check:
                page.write_text(written, encoding="utf-8")
    print(f"{'out of date' if options.check else 'rewritten'}: {', '.join(stale) or 'none'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

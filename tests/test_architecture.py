"""The shape of the house: imports go downward, one pass a file, one importer."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from places import REPOSITORY, TESTS

import memcompile
from memcompile.ir.pass_manager import Pass
from memcompile.pipelines import default_passes

PACKAGE = Path(memcompile.__file__).resolve().parent
SOURCES = sorted(path for folder in ("memcompile", "passes", "runtime") for path in (REPOSITORY / folder).rglob("*.py"))
FOLDERS = sorted({path.parent for path in SOURCES})
MOST_MODULES = 20
"""Of a folder, beside its ``__init__``."""
TEST_SOURCES = sorted(TESTS.rglob("*.py"))
TEST_FOLDERS = sorted({path.parent for path in TEST_SOURCES})
NAMES = [str(path.relative_to(REPOSITORY)) for path in SOURCES]


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names of the modules a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
    return frozenset(found)


def test_the_links_make_one_package() -> None:
    assert (REPOSITORY / "memcompile" / "passes").is_symlink()
    assert (REPOSITORY / "memcompile" / "runtime").is_symlink()
    for name in ("passes", "runtime"):
        folder = REPOSITORY / "memcompile" / name
        assert folder.readlink() == Path("..") / name
        assert folder.resolve() == REPOSITORY / name
    assert len(SOURCES) > 40


def test_layers_import_only_downward() -> None:
    """The contracts of import-linter in pyproject.toml."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "KEPT" in result.stdout
    assert "BROKEN" not in result.stdout


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_passes_and_runtime_are_never_imported_bare(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"passes", "runtime", "tests"}


@pytest.fixture(scope="module")
def loaded_at_start() -> frozenset[str]:
    """Modules that a process holds once the command line is imported."""
    code = "import sys, memcompile.cli.main; print(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    return frozenset(listed.stdout.split())


@pytest.mark.parametrize("library", ["jinja2", "matplotlib", "numba", "ortools", "pandas", "plotly"])
def test_the_command_line_starts_without_what_few_commands_need(library: str, loaded_at_start: frozenset[str]) -> None:
    assert "memcompile.cli.main" in loaded_at_start
    assert library not in loaded_at_start


def test_tests_import_them_by_their_full_names_too() -> None:
    for path in TEST_SOURCES:
        assert not {name.split(".")[0] for name in imports(path)} & {"passes", "runtime"}, path.name


@pytest.mark.parametrize("path", TEST_SOURCES, ids=lambda path: str(path.relative_to(TESTS)))
def test_nothing_is_imported_from_test_modules(path: Path) -> None:
    """Helpers of several test modules lie in ``tests/support``."""
    parts = {part for name in imports(path) for part in name.split(".")}
    assert not {part for part in parts if part.startswith("test_") or part == "conftest"}


def test_test_modules_lie_in_folders_named_like_wings() -> None:
    """Beside tests of the house as a whole, of documents, and of modules on the top floor."""
    for path in TEST_SOURCES:
        folder = path.parent.relative_to(TESTS)
        wings = [PACKAGE / folder, REPOSITORY / folder]
        assert folder in (Path("."), Path("docs"), Path("support")) or any(wing.is_dir() for wing in wings), folder


@pytest.mark.parametrize("folder", TEST_FOLDERS, ids=lambda folder: str(folder.relative_to(REPOSITORY)))
def test_a_folder_of_tests_has_few_modules(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


def test_only_front_end_and_exporters_know_onnx() -> None:
    found = {path.parent.name for path in SOURCES if any(name.split(".")[0] == "onnx" for name in imports(path))}
    assert found == {"frontend", "export"}


def wing_of(path: Path) -> str:
    """Top-level folder of a module; that of the package for its own modules."""
    return path.relative_to(REPOSITORY).parts[0]


def test_passes_and_runtime_know_nothing_of_each_other() -> None:
    for path in SOURCES:
        other = {"passes": "memcompile.runtime", "runtime": "memcompile.passes"}.get(wing_of(path))
        assert other is None or not any(name.startswith(other) for name in imports(path)), path.name


def test_what_passes_share_imports_no_pass() -> None:
    passes = {f"memcompile.passes.{path.stem}" for path in PASS_FILES}
    for path in SOURCES:
        if wing_of(path) == "passes" and path.parent.name != "passes":
            assert passes.isdisjoint(imports(path)), path.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(REPOSITORY)))
def test_a_folder_has_a_docstring_and_few_modules(folder: Path) -> None:
    assert len(list(folder.glob("[a-z]*.py"))) <= MOST_MODULES
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_nothing_prints_but_the_command_line() -> None:
    for path in SOURCES:
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), path.name


def passes_in(path: Path) -> list[type[Pass]]:
    """The pass classes that a file defines."""
    module = import_module(f"memcompile.passes.{path.stem}")
    found = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Pass)]
    return [item for item in found if item.__module__ == module.__name__]


PASS_FILES = sorted((REPOSITORY / "passes").glob("[a-z]*.py"))
"""Beside passes, nothing lies on this floor."""


def test_a_file_holds_one_pass_and_is_named_after_it() -> None:
    for path in PASS_FILES:
        (item,) = passes_in(path)
        assert item.pass_name() == path.stem


def test_every_pass_is_in_the_default_pipeline_once() -> None:
    names = [item.pass_name() for item in default_passes()]
    assert sorted(names) == [path.stem for path in PASS_FILES]


@pytest.mark.parametrize("item", default_passes(), ids=lambda item: item.pass_name())
def test_a_pass_is_a_frozen_dataclass_with_a_summary(item: Pass) -> None:
    assert is_dataclass(item)
    assert type(item).__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert item.summary
    assert item == type(item)(), "the pipeline uses the defaults"
    assert all(isinstance(getattr(item, option.name), int | float | bool | str) for option in fields(item))


def test_every_module_says_what_it_is_for() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path.name

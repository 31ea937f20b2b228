"""README and docs: what they show runs and prints what they say, and what is generated is up to date."""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import struct
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept import Kept
from places import REPOSITORY
from scripts import run_script

from memcompile.cli.main import main
from memcompile.data.files import MAX_BYTES as MAX_DATA_BYTES
from memcompile.frontend.sandbox import GIB, Limits
from memcompile.frontend.validation import MAX_MODEL_BYTES
from memcompile.hardware.target import MAX_TARGET_BYTES
from memcompile.ir.graph import TILE_COLUMNS
from memcompile.pipelines import compile_model
from memcompile.program.file import VERSION, encode_program
from memcompile.program.line_corrections import Calibration, LineCorrections
from memcompile.report.evaluation import evaluate
from memcompile.report.facts import Facts, program_facts
from memcompile.runtime.training.transfer import transfer

MODEL = REPOSITORY / "examples" / "five_layer_cnn.onnx"
PICTURE = Path("docs") / "images" / "mapping.png"

sys.path.insert(0, str(REPOSITORY / "docs"))
generate = importlib.import_module("generate")
pages = importlib.import_module("pages")
stand_ins = importlib.import_module("stand_ins")

PROSE = (*pages.PAGES, REPOSITORY / "CHANGELOG.md")
DECIDED = re.compile(r": (kept|undone, not shown to help)$", re.MULTILINE)
UNDOING = re.compile(r"^undoing .*\n", re.MULTILINE)
"""Outcome of a tuning step; only undone steps print a line of writes to undo them."""
ADVICE = re.compile(
    r"^(accuracy lost to devices|parallel windows take part of it|layers can get slices).*\n?", re.MULTILINE
)
"""Advice of the report where noisy devices cost accuracy."""
BUDGET = re.compile(
    r"^(?:error budget\n(?:[┏┃┡│└].*\n)+)?(?:\w[\w ]* \d+\.\d(?:, [\w ]+ \d+\.\d)* points.*|no device effect .*)\n?",
    re.MULTILINE,
)
"""Causes that the error budget lists: those that cost something."""
SMALL = re.compile(
    r"^│ [\w ]+│ +0\.[0-2] │ +0\.[0-2] │\n|^(?:\w[\w ]* \d+\.\d(?:, [\w ]+ \d+\.\d)* points\b|no device effect ).*\n?",
    re.MULTILINE,
)
"""Causes that cost next to nothing, which rounding lists on one machine and not on another, and their sentence."""
GAIN = re.compile(r"(?:(?<=: predicted )|(?<=, emulated )|(?<= predicted, ))-")
"""Sign of a loss that is none: chips that are right more often than ideal devices."""
INTERVAL = re.compile(
    r" instead of [\d,]+(?:;\s+proven\s[\w\s,:]*?\sor\smore(?:\son\s[\d,]+)?)?$|, as without it$", re.MULTILINE
)
"""Interval without the accuracy budget, which may be the same, and what is proven where it is not."""
NUMBER = re.compile(rf"(?:{GAIN.pattern})?\d[\d,]*(?:\.\d+)?")
QUANTITY = re.compile(rf"(?P<number>{NUMBER.pattern}) (?P<prefix>[pnumk]?)(?P<unit>[JsW])\b")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
PATH = re.compile(r"`(?P<path>(?:memcompile|passes|runtime|tests|docs|examples|benchmarks)/[\w./]*)`")


def page_ids(paths: tuple[Path, ...]) -> list[Any]:
    return [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in paths]


every_page = pytest.mark.parametrize("page", page_ids(pages.PAGES))


# --- what is shown runs --------------------------------------------------------------------------


def runnable(page: Path) -> bool:
    blocks = pages.blocks(page.read_text(encoding="utf-8"))
    return any(block.language == "python" or (block.language == "bash" and not block.is_setup) for block in blocks)


SCRIPTS = ("benchmarks/", "examples/")
"""Folders whose scripts write to the current folder only; those of docs would write to the repository's pages."""


class PythonHere:
    """Runs Python scripts and Python blocks in this process, and commands of memcompile as a reader does."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self._others = pages.Processes(folder)
        self._scope: dict[str, Any] = {"__name__": "__main__"}

    def command(self, command: str) -> str:
        line, wanted = pages.split_command(command)
        run = self._own(*shlex.split(line))
        if run is None:
            return str(self._others.command(command))
        self._capsys.readouterr()
        code = run()
        return str(pages.checked_output(line, code, wanted, *self._capsys.readouterr()))

    def python(self, body: str) -> str:
        self._capsys.readouterr()
        exec(compile(body, "<block>", "exec", dont_inherit=True), self._scope)
        return self._capsys.readouterr().out

    def _own(self, name: str, *arguments: str) -> Callable[[], int] | None:
        """Function that runs a command in this process; None where another process has to."""
        if name == "python" and arguments[0].startswith(SCRIPTS):
            return lambda: run_script(Path(arguments[0]), *arguments[1:])
        return None


class AllHere(PythonHere):
    """Runs Python scripts, memcompile's commands and Python blocks in this process; other commands get one."""

    def _own(self, name: str, *arguments: str) -> Callable[[], int] | None:
        if name == "memcompile":
            return lambda: main(list(arguments))
        return super()._own(name, *arguments)


RUNNABLE = tuple(page for page in pages.PAGES if runnable(page))
FIRST = REPOSITORY / "README.md"
"""Its commands of memcompile run as a reader runs them, in processes."""


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("page", page_ids(tuple(page for page in RUNNABLE if page != FIRST)))
def test_page_shows_what_its_commands_print(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    pages.prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(pages.WIDTH))
    # A network that is trained on the way is another one on another processor.
    without, figures = None, pages.NEEDS_TORCH not in text
    if pages.NEEDS_TORCH in text and find_spec("torch") is None:
        without = pages.NEEDS_TORCH
        stand_ins.write_digits_cnn(tmp_path / "digits_cnn.onnx")
    for block, shown, printed in pages.outputs_of(text, AllHere(tmp_path, capsys), without):
        if shown is not None:
            assert_alike(shown.body, generate.trimmed(printed), block.body, figures=figures)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_the_first_page_shows_what_its_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages.prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(pages.WIDTH))
    text = FIRST.read_text(encoding="utf-8")
    assert text.count("--runs 3") == 1
    once = text.replace("--runs 3", "--runs 1")  # a median of three tells a test no more
    for block, shown, printed in pages.outputs_of(once, PythonHere(tmp_path, capsys)):
        if shown is not None:
            assert_alike(shown.body, generate.trimmed(printed), block.body, figures=True)
    committed, drawn = (description(folder / PICTURE) for folder in (REPOSITORY, tmp_path))
    assert_alike(committed, drawn, "the picture", figures=True)


def assert_alike(shown: str, printed: str, source: str, *, figures: bool) -> None:
    """The same text around the numbers, and numbers that differ by little.

    Other versions of the solver may map a little otherwise, and other processors may round a float
    so that an image changes its class; a page is stale only beyond that. Without ``figures`` the
    network is another one, and whether devices cost it accuracy or a step of tuning helps says nothing of the page.
    """
    if not figures:
        for dropped in (ADVICE, UNDOING, BUDGET, GAIN, INTERVAL):
            shown, printed = dropped.sub("", shown), dropped.sub("", printed)
        shown, printed = DECIDED.sub(": decided", shown), DECIDED.sub(": decided", printed)
    shown, printed = (QUANTITY.sub(in_pico, SMALL.sub("", text)) for text in (shown, printed))
    assert skeleton(shown) == skeleton(printed), f"{source}: python docs/generate.py --outputs writes it anew"
    if figures:
        for old, new in zip(numbers(shown), numbers(printed), strict=True):
            assert abs(old - new) <= max(1.5, 0.1 * old), f"{source}: shows {old}, prints {new}\n{printed}"


def in_pico(quantity: re.Match[str]) -> str:
    """A quantity with the same prefix as all others: 0.98 nJ and 1,010 pJ differ by little."""
    factor = 1000 ** ("pnum k".index(quantity["prefix"] or " "))
    return f"{float(quantity['number'].replace(',', '')) * factor:.0f} p{quantity['unit']}"


def skeleton(text: str) -> str:
    """Text without numbers and without what depends on their width."""
    return re.sub(r"[\s─━]+", " ", NUMBER.sub("#", text)).strip()


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def description(path: Path) -> str:
    """The text ``Description`` of a PNG file."""
    for kind, content in png_chunks(path.read_bytes()):
        if kind == b"tEXt" and content.startswith(b"Description\0"):
            return content.partition(b"\0")[2].decode("latin-1")
        if kind == b"iTXt" and content.startswith(b"Description\0"):
            compressed, text = content[12], content[14:].split(b"\0", 2)[2]
            return (zlib.decompress(text) if compressed else text).decode()
    raise AssertionError(f"{path} has no description")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += length + 12


def test_python_blocks_of_a_page_share_a_process(tmp_path: Path) -> None:
    with pages.Processes(tmp_path) as runs:
        assert runs.python("import os\nplace, x = os.getcwd(), 3\n") == ""
        assert runs.python("print(place)\nprint(x + 1)\n") == f"{tmp_path}\n4\n"


def test_alike_tells_stale_output_from_rounding() -> None:
    assert_alike("44 steps, 98.37%", "44 steps, 98.24%", "ok", figures=True)
    assert_alike("0.1 predicted, 0.2, emulated -0.1", "0.1 predicted, -0.1, emulated 0.2", "ok", figures=True)
    with pytest.raises(AssertionError, match="shows -1"):
        assert_alike("1.0 predicted, emulated -1.0", "1.0 predicted, emulated 1.0", "stale", figures=True)
    with pytest.raises(AssertionError, match="shows 56"):
        assert_alike("56 steps", "44 steps", "stale", figures=True)
    with pytest.raises(AssertionError, match="writes it anew"):
        assert_alike("44 steps", "44 turns", "stale", figures=True)


def test_quantities_are_alike_whatever_their_prefix() -> None:
    assert_alike("endurance 0.98 nJ, 1.2 ms", "endurance 1,010 pJ, 1,230 us", "ok", figures=True)
    with pytest.raises(AssertionError, match="shows 980"):
        assert_alike("endurance 0.98 nJ", "endurance 98 nJ", "stale", figures=True)


def test_ci_runs_the_readme_command() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    first, second = (block for block in pages.blocks(readme) if block.is_setup)
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert second.commands == [script[-1]]
    *setup, job = first.commands[0].split(" && .venv/bin/")
    assert setup == ["python3 -m venv .venv", "pip install ."]
    assert script[-1].startswith("python3 -m venv .venv && .venv/bin/pip install ")
    shown = [command for block in pages.blocks(readme) if not block.is_setup for command in block.commands]
    assert job in shown, "the main job of the first command is not run by a test"


def test_python_examples_fit_the_page_width() -> None:
    for page in pages.PAGES:
        for block in pages.blocks(page.read_text(encoding="utf-8")):
            if block.language == "python":
                assert max(map(len, block.body.splitlines())) <= pages.WIDTH, page


# --- what is generated is up to date ---------------------------------------------------------------


@every_page
def test_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.with_parts(text) == text, "python docs/generate.py writes it anew"


def test_every_part_is_on_a_page() -> None:
    used = [found["name"] for page in pages.PAGES for found in generate.PART.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(generate.PARTS)


def test_every_pass_option_is_explained() -> None:
    assert " |  |\n" not in generate.passes_part()


def test_every_target_key_is_explained() -> None:
    rows = [line for line in generate.target_fields_part().splitlines() if line.startswith("| `")]
    assert rows
    assert not [row for row in rows if row.endswith("|  |")]


# --- what is written by hand is true ---------------------------------------------------------------


@pytest.fixture(scope="module")
def facts(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, Facts]:
    """Facts with labels, and without."""
    compilation = kept.compilation(MODEL)
    labelled = evaluate(compilation.program, compilation.model, compilation.dataset, images=4, seeds=2)
    archive = tmp_path_factory.mktemp("data") / "unlabelled.npz"
    np.savez(archive, image=compilation.dataset.inputs["image"][:4])
    other = compile_model(MODEL, data=archive)
    unlabelled = evaluate(other.program, other.model, other.dataset)
    return program_facts(compilation.program, labelled), program_facts(other.program, unlabelled)


def documented_keys(page: str) -> dict[str, list[str]]:
    """First column of each table of a page, by heading."""
    keys: dict[str, list[str]] = {}
    heading = ""
    for line in (REPOSITORY / "docs" / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip("`")
        elif found := re.match(r"\| `([^`]+)` \|", line):
            keys.setdefault(heading, []).append(found[1])
    return keys


def test_json_keys_are_documented(facts: tuple[Facts, Facts]) -> None:
    documented = documented_keys("json.md")
    labelled, unlabelled = facts
    for given in facts:
        assert list(given) == documented["Top level"]
        assert all(list(layer) == documented["layers[]"] for layer in given["layers"])
        assert all(list(item) == documented["certificates[]"] for item in given["certificates"])
    assert list(labelled["accuracy"]) == documented["accuracy"]
    assert labelled["output_sqnr_db"] is None
    assert unlabelled["accuracy"] is None
    assert unlabelled["output_sqnr_db"]


def test_program_file_is_documented(kept: Kept) -> None:
    documented = documented_keys("program_file.md")
    program, _ = transfer(kept.program(MODEL), seed=0)
    calibration = Calibration(0, tuple(map(LineCorrections.none, program.layers)))
    data = encode_program(replace(program, layout=program.batching, calibration=calibration))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        document = json.loads(archive.read("program.json"))
        members = {re.sub(r"/\d+", "/N", re.sub(r"_\d+", "_R", name)) for name in archive.namelist()}
    assert set(document) == set(documented["Keys of program.json"])
    assert members <= set(documented["Members"])
    text = (REPOSITORY / "docs" / "program_file.md").read_text(encoding="utf-8")
    assert f"| `version` | {VERSION};" in text
    assert not [name for name in TILE_COLUMNS if name not in text]


def test_security_page_names_the_limits() -> None:
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    limits = Limits()
    assert f"{limits.seconds:g} s a step" in text
    assert f"{limits.memory_bytes // GIB} GiB beyond" in text
    assert f"{MAX_MODEL_BYTES // GIB} GiB at most; parsed" in text
    assert f"{MAX_DATA_BYTES // GIB} GiB at most as declared" in text
    assert f"TOML of {MAX_TARGET_BYTES // 10**6} MB at most" in text


def test_citation_names_this_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {project['version']}" in lines
    assert f"license: {project['license']}" in lines


def test_the_workflow_runs_the_gate() -> None:
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"- run: (.*)", workflow) == ["bash .ci/run"]


@pytest.mark.parametrize("page", page_ids(PROSE))
def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for found in LINK.finditer(text):
        target, _, anchor = found["target"].partition("#")
        if target.startswith("https://"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), found[0]
        if anchor:
            assert anchor in anchors(path), found[0]
    for found in PATH.finditer(text):
        assert (REPOSITORY / found["path"]).exists() or "NAME" in found["path"], found["path"]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    text = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {found["target"] for found in LINK.finditer(text)}
    assert {page.name for page in pages.PAGES if page.parent.name == "docs"} - {"index.md"} <= linked


def test_architecture_names_every_module() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = sorted((REPOSITORY / "memcompile").glob("[a-z]*.py")) + sorted((REPOSITORY / "runtime").glob("[a-z]*.py"))
    assert not [path.name for path in modules if path.stem not in text]


@pytest.mark.parametrize("page", page_ids((*PROSE, REPOSITORY / ".ci" / "run")))
def test_no_leftovers_and_no_local_paths(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    local = [path for path in (REPOSITORY, *REPOSITORY.parents, Path.home()) if len(path.parts) > 1]
    for word in ("TODO", "FIXME", "XXX", "FIGURES", *(f"{path}/" for path in local)):
        assert word not in text, word
    prose = pages.BLOCK.sub("", text).splitlines()
    assert not [
        line for line in prose if len(line) > pages.WIDTH and not line.startswith(("|", "![", "python3 -m venv"))
    ]

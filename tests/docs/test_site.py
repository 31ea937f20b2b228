"""The documentation as a site: it builds without a warning, and has what the repository's pages have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

import memcompile

for package in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(package, reason="the site needs the packages of the extra dev")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; with ``--strict`` a broken link, a missing anchor or a page outside the navigation fails."""
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(REPOSITORY / "mkdocs.yml"), "-d", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def html(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text(encoding="utf-8")


def test_every_page_is_built(site: Path) -> None:
    pages = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_reference_has_every_public_name(site: Path) -> None:
    text = html(site, "api")
    for name in set(memcompile.__all__) - {"__version__"}:
        assert f'id="memcompile.{name}"' in text, name
    assert "&lt;!-- reference" not in text
    assert ":class:" not in text


def test_parameters_described_together_have_types_of_their_own(site: Path) -> None:
    """``slices, slice_base`` in the docstring of ``compile``: an int and an optional one."""
    table = html(site, "api").partition('id="memcompile.compile"')[2].partition("</table>")[0]
    rows = {found[1]: found[0] for found in re.finditer(r"<tr.*?<code>(\w+)</code>.*?</tr>", table, re.DOTALL)}
    assert "None" not in rows["slices"]
    assert rows["slice_base"].count("None") == 2, "its type allows None, which is its default"


def test_links_that_leave_the_pages_lead_somewhere(site: Path) -> None:
    assert 'href="source/passes/place.py.txt"' in html(site, "passes")
    copied = (site / "source" / "passes" / "place.py.txt").read_text(encoding="utf-8")
    assert copied == (REPOSITORY / "passes" / "place.py").read_text(encoding="utf-8")
    assert 'href="overview.html"' in html(site, "index")
    assert 'href="01_compile_and_report.py.txt"' in (site / "source" / "examples" / "index.html").read_text("utf-8")
    assert 'src="images/mapping.png"' in html(site, "overview")
    assert (site / "images" / "mapping.png").is_file()


def test_bars_in_tables_are_plain(site: Path) -> None:
    assert "<code>--chips N|auto</code>" in html(site, "command_line")


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?:', text), path.name

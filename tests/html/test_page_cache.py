"""Parts of pages that are kept beside the compiled modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memcompile.html import page, page_cache
from memcompile.html.page_cache import cache_folder, kept_text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page_cache, "cache_folder", lambda: tmp_path)
    return tmp_path


def test_text_is_made_once_a_key(folder: Path) -> None:
    made = list[str]()

    def make(text: str) -> str:
        made.append(text)
        return text

    assert [kept_text("a", "1", lambda: make("one")) for _ in range(3)] == ["one"] * 3
    assert [kept_text("a", "2", lambda: make("two")) for _ in range(3)] == ["two"] * 3
    assert kept_text("b", "1", lambda: make("other")) == "other"
    assert made == ["one", "two", "other"]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_what_cannot_be_kept_is_made(folder: Path) -> None:
    (folder / "a").mkdir()
    assert kept_text("a", "1", lambda: "one") == "one"


def test_templates_that_cannot_be_kept_are_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on a full disk, or in a folder that goes away."""
    monkeypatch.setattr(page, "cache_folder", lambda: folder / "gone")
    page._environment.cache_clear()
    try:
        assert b"<title>empty</title>" in page.Page("empty", "base.html.j2", {}).render()
    finally:
        page._environment.cache_clear()
    assert not list(folder.iterdir())


def test_nothing_is_kept_where_python_writes_no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    cache_folder.cache_clear()
    assert cache_folder() is None
    assert kept_text("a", "1", lambda: "one") == "one"
    monkeypatch.undo()
    cache_folder.cache_clear()


def test_no_folder_outside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that nobody made is not made either."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    cache_folder.cache_clear()
    assert cache_folder() is None
    monkeypatch.undo()
    cache_folder.cache_clear()

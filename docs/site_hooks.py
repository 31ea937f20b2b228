"""Hooks of the site: links that leave docs/, and the reference of the public names.

The pages are written for the repository, where `../README.md` and `../passes/place.py` lead somewhere. The site has no
such folders. So pages from above docs/ become pages of the site, and every other file that a page links to is copied
as text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
TOP_PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
"""Pages above docs/, and their names in the site."""
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?=[)#])")
REFERENCE = re.compile(r"^<!-- reference (?P<name>[\w.]+)(?:: (?P<members>[\w,\s]+))? -->$", re.MULTILINE)
"""The place of a public name's reference, and which of its members are shown if not all."""
ROLE = re.compile(r":\w+:(?=<code>)")
"""A Sphinx role before a name in a docstring."""
CELL = re.compile(r"<td>.*?</td>", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages above docs/, and the files that pages link to."""
    for path, name in TOP_PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(REPOSITORY / path)))
    linked = {path for file in files.documentation_pages() for path in _linked(file)}
    for path in sorted(linked):
        if (REPOSITORY / path).is_dir():
            files.append(File.generated(config, _in_site(path), content=_listing(path)))
            linked.update(_members(path))
    for path in sorted(linked):
        if (REPOSITORY / path).is_file() and _in_site(path) not in files.src_uris:
            files.append(File.generated(config, _in_site(path), abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to the site's, and marks into references."""
    uri = page.file.src_uri
    folder = posixpath.dirname(_in_repository(uri))

    def rewritten(found: re.Match[str]) -> str:
        target = _resolved(folder, found["target"])
        return posixpath.relpath(_in_site(target), posixpath.dirname(uri) or ".") if target else found["target"]

    return REFERENCE.sub(_directive, LINK.sub(rewritten, markdown))


def _directive(found: re.Match[str]) -> str:
    """The mark of a reference as mkdocstrings reads it."""
    options = f"\n    options:\n      members: [{' '.join(found['members'].split())}]" if found["members"] else ""
    return f"::: {found['name']}{options}"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take Sphinx roles out of rendered docstrings, and what escapes a bar in the code of a table's cell."""
    return CELL.sub(lambda found: found[0].replace(r"\|", "|"), ROLE.sub("", html))


def _linked(file: File) -> Iterator[str]:
    """Paths in the repository that a page links to."""
    folder = posixpath.dirname(_in_repository(file.src_uri))
    for found in LINK.finditer(file.content_string):
        target = _resolved(folder, found["target"])
        if target:
            yield target


def _resolved(folder: str, target: str) -> str | None:
    """Path of a link's target in the repository; None if there is nothing."""
    path = posixpath.normpath(posixpath.join(folder, target))
    return path if not path.startswith("..") and (REPOSITORY / path).exists() else None


def _in_site(path: str) -> str:
    """Path in the site of a file of the repository."""
    if path in TOP_PAGES:
        return TOP_PAGES[path]
    if path.startswith("docs/") and not path.endswith(".py"):
        return path.removeprefix("docs/")
    return f"source/{path}/index.md" if (REPOSITORY / path).is_dir() else f"source/{path}.txt"


def _in_repository(uri: str) -> str:
    """Path in the repository of a page of the site."""
    return next((path for path, name in TOP_PAGES.items() if name == uri), f"docs/{uri}")


def _members(folder: str) -> list[str]:
    """Files of a folder in the repository."""
    return [f"{folder}/{path.name}" for path in sorted((REPOSITORY / folder).iterdir()) if path.suffix == ".py"]


def _listing(folder: str) -> str:
    """A page that lists a folder's files."""
    names = map(posixpath.basename, _members(folder))
    return f"# {folder}\n\n" + "".join(f"- [{name}]({name}.txt)\n" for name in names)

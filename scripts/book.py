#!/usr/bin/env python3
"""Lays the documentation out for mdBook: `python3 scripts/book.py FOLDER`, then `mdbook build FOLDER`.

The pages link to each other as they lie in the repository, and some lie outside of docs/. So the tree is copied as it is,
and the table of contents, docs/SUMMARY.md, is moved to its root. Two things are changed on the way: mdBook serves a README as
the index of its folder but leaves links to it alone, and what is no page (code, folders) is not in the book.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ["README.md", "bucket-layout.md", "CONTRIBUTING.md", "CHANGELOG.md", "terraform/README.md"]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def index(page: str) -> str:
    """Where a page of the repository lies in the book."""
    return re.sub(r"(^|/)README\.md$", r"\1index.md", page)


def relinked(text: str, page: str, pages: set[str]) -> str:
    """The text of `page` with links as the book needs them."""

    def link(match: re.Match) -> str:
        words, target = match.groups()
        if re.match(r"https?:|mailto:|#", target):
            return match.group()
        path, _, anchor = target.partition("#")
        if posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) not in pages:
            return words
        return f"[{words}]({index(path)}{'#' + anchor if anchor else ''})"

    return LINK.sub(link, text)


def lay_out(folder: Path) -> None:
    """Fills `folder`, over what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")
    shutil.copy(ROOT / "docs" / "book.toml", folder / "book.toml")
    inside = (path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    pages = {*OUTSIDE, *inside} - {"docs/SUMMARY.md"}
    for page in pages:
        place = folder / index(page)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(relinked((ROOT / page).read_text(), page, pages))

    def moved(match: re.Match) -> str:
        words, target = match.groups()
        return f"[{words}]({index(posixpath.normpath(posixpath.join('docs', target)))})"

    summary = (ROOT / "docs" / "SUMMARY.md").read_text()
    (folder / "SUMMARY.md").write_text(LINK.sub(moved, summary))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lay_out(Path(sys.argv[1]))

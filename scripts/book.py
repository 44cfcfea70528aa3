#!/usr/bin/env python3
"""Lays the documentation out for mdBook: `python3 scripts/book.py FOLDER`, then `mdbook build FOLDER`.

The pages link to each other as they lie in the repository, and some lie outside of docs/. So the tree is copied as it is,
and the table of contents, docs/SUMMARY.md, is moved to its root.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "bucket-layout.md", "CONTRIBUTING.md", "CHANGELOG.md", "terraform/README.md"]


def lay_out(folder: Path) -> None:
    """Fills `folder`, over what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder / "docs")
    for page in PAGES:
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, folder / page)
    (folder / "docs" / "book.toml").rename(folder / "book.toml")
    summary = (folder / "docs" / "SUMMARY.md").read_text()
    (folder / "docs" / "SUMMARY.md").unlink()

    def moved(link: re.Match) -> str:
        path = link.group(1)
        return f"]({path[3:] if path.startswith('../') else 'docs/' + path})"

    (folder / "SUMMARY.md").write_text(re.sub(r"\]\(([^)]+)\)", moved, summary))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lay_out(Path(sys.argv[1]))

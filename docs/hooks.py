"""What mkdocs needs to make a site of pages that were written to be read in a clone.

Pages lie where they belong to, also outside docs/, and link to each other and to files of the code by relative paths.
Here they get a place in the site, links between them follow, and links to files that are no pages become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "checkpoints/README.md": "checkpoints.md",
    "checkpoints/i2vpp-demo.md": "i2vpp-demo.md",
    "test_pvs/README.md": "test_pvs.md",
    "sav_dataset/README.md": "sav_dataset.md",
    "i2vpp/assets/README.md": "demo-clip.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    ".github/SECURITY.md": "security.md",
    ".github/CODE_OF_CONDUCT.md": "conduct.md",
}
"""File of the repository -> page of the site; the files of docs/ keep their names."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```|``[^`]+``|`[^`]+`", re.DOTALL | re.MULTILINE)


def pages() -> dict[str, str]:
    """Return the pages and pictures of the site by their path in the repository, in POSIX form."""
    found = [path for kind in ("md", "jpg", "svg", "json") for path in (REPO / "docs").glob(f"**/*.{kind}")]
    here = {path.relative_to(REPO / "docs").as_posix() for path in found if "site" not in path.parts[len(REPO.parts) :]}
    return {**{f"docs/{name}": name for name in sorted(here)}, **ELSEWHERE}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of the site's own folder."""
    for source, name in pages().items():
        files.append(File.generated(config, name, abs_src_path=str(REPO / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links within the repository into links within the site."""
    places = pages()
    sources = {name: source for source, name in places.items()}
    source = sources.get(page.file.src_uri)
    if source is None:
        return markdown

    def moved(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        meant = posixpath.normpath(str(PurePosixPath(source).parent / path))
        if meant not in places:
            if not (REPO / meant).exists():
                raise ValueError(f"{source} links to {target}, which does not exist")
            return text
        return f"{mark}[{text}]({places[meant]}{'#' + anchor if anchor else ''})"

    kept = CODE.findall(markdown)  # no links there; put aside, and back afterwards
    places_of_code = iter(range(len(kept)))
    text = LINK.sub(moved, CODE.sub(lambda _: f"\0{next(places_of_code)}\0", markdown))
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])], text)

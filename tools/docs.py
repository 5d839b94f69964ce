"""Builds the documentation into out/docs, warnings as errors, and checks its links: ``python -m tools.docs``.

``--links`` asks the web for those that lead outside as well: by night, since the web is not always there.

The papers at the top of the project (README.md, CHANGELOG.md, …) are pages too. Sphinx reads one folder, so
the pages and the papers are put together in out/docs-source, where ``../README.md`` becomes ``README.md``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SITE = ROOT / "out" / "docs-source", ROOT / "out" / "docs"
PAPERS = ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT")
NOT_PAGES = ("LICENSE",)
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def stage() -> None:
    """Put pages and papers together."""
    if SOURCE.exists():
        shutil.rmtree(SOURCE)
    shutil.copytree(ROOT / "docs", SOURCE, ignore=shutil.ignore_patterns("__pycache__"))
    for page in SOURCE.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        to_top = "../" * len(page.relative_to(SOURCE).parts)
        papers = "|".join(PAPERS)
        text = re.sub(rf"\]\({re.escape(to_top)}({papers})\.md", rf"]({to_top[3:]}\1.md", text)
        page.write_text(re.sub(rf"(?<=[<\n])\.\./({papers})(?=[>\n])", r"\1", text), encoding="utf-8")
    for paper in PAPERS:
        text = (ROOT / f"{paper}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        for other in NOT_PAGES:
            text = re.sub(rf"\[([^\]]*)\]\({other}\)", r"\1", text)
        (SOURCE / f"{paper}.md").write_text(text, encoding="utf-8")
    (SOURCE / "index.md").write_text(
        with_the_rest((SOURCE / "index.md").read_text(encoding="utf-8")), encoding="utf-8"
    )


def with_the_rest(index: str) -> str:
    """The index, with a last table of contents for pages that none of its own names."""
    named = {line for block in TOCTREE.findall(index) for line in block.split()}
    for pattern in (line for line in named if line.endswith("/*")):
        if not list(SOURCE.glob(f"{pattern}.md")):
            index = index.replace(f"\n{pattern}\n", "\n")
    for page in sorted(SOURCE.glob("*.md")):
        # The pages of a folder stand under the page of its name, unless the index names them itself.
        below = [f"{page.stem}/{one.stem}" for one in sorted((SOURCE / page.stem).glob("*.md"))]
        if below and not named.intersection((*below, f"{page.stem}/*")):
            table = "\n```{toctree}\n:hidden:\n\n" + "\n".join(below) + "\n```\n"
            page.write_text(page.read_text(encoding="utf-8") + table, encoding="utf-8")
            named.update(below)
    of_their_own = [folder.parent for folder in SOURCE.rglob("index.*") if folder.parent != SOURCE]
    rest = [
        str(page.relative_to(SOURCE).with_suffix(""))
        for page in sorted(SOURCE.rglob("*.md"))
        if page.parent not in of_their_own and page.stem != "index"
    ]
    rest = [page for page in rest if page not in named and f"{page.rpartition('/')[0]}/*" not in named]
    return index + (
        "\n```{toctree}\n:caption: More\n:hidden:\n\n" + "\n".join(rest) + "\n```\n" if rest else ""
    )


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect them."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def broken_links(site: Path) -> tuple[list[str], int]:
    """Links between the pages of a site that lead nowhere, and how many were looked at."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken, count = [], 0
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken, count


def from_elsewhere(site: Path) -> list[str]:
    """What a page loads from the web: it could not be read offline."""
    loads = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
    return [
        f"{path.relative_to(site)}: {found}"
        for path in sorted(site.rglob("*.html"))
        for found in loads.findall(path.read_text(encoding="utf-8"))
    ]


def sphinx(builder: str, *more: str) -> int:
    """Run Sphinx, warnings as errors."""
    target = SITE if builder == "html" else SITE.parent / f"docs-{builder}"
    command = [sys.executable, "-m", "sphinx", "-b", builder, "-W", "--keep-going", "-n", "-q", "-E", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, str(SOURCE), str(target)], env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    """Build and check; returns the exit status."""
    stage()
    if SITE.exists():
        shutil.rmtree(SITE)
    if sphinx("html"):
        return 1
    broken, count = broken_links(SITE)
    loaded = from_elsewhere(SITE)
    for problem in (*broken, *(f"not offline: {one}" for one in loaded)):
        print(problem, file=sys.stderr)
    if broken or loaded:
        return 1
    if not (SITE / "searchindex.js").exists():
        print("there is no search index", file=sys.stderr)
        return 1
    print(f"{len(list(SITE.rglob('*.html')))} pages, {count} links: {SITE.relative_to(ROOT)}/index.html")
    return sphinx("linkcheck") if "--links" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

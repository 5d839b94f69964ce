"""Whoever looks for the file of a change finds it from the tree alone: each package says what stands in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDERS = sorted(
    path.parent for top in ("lifecycle", "integrations") for path in (ROOT / top).rglob("__init__.py")
)


def named(folder: Path) -> list[str]:
    """The modules and folders that the docstring of the package lists: "- `one`, `two`: what they are for"."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    lines = re.findall(r"^- (`\w+`(?:, `\w+`)*): \S", text, re.MULTILINE)
    return sorted(name for line in lines for name in re.findall(r"\w+", line))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_each_module_is_listed_and_nothing_else(folder: Path) -> None:
    there = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    there += [path.name for path in folder.iterdir() if (path / "__init__.py").exists()]
    assert named(folder) == sorted(there)

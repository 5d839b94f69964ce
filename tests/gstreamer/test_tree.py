"""Whoever looks for the file of a change finds it: the integration and each of its rooms say what stands in them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "integrations" / "gstreamer"
FOLDERS = [PACKAGE, *sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))]


def named(folder: Path) -> list[str]:
    """The modules and folders that the docstring of the package lists: "- `one`, `two`: what they are for"."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    lines = [line.partition(":")[0] for line in text.splitlines() if line.startswith("- ")]
    return sorted(name for line in lines for name in re.findall(r"`(\w+)`", line))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_module_is_listed_and_nothing_else(folder: Path) -> None:
    there = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    there += [path.parent.name for path in folder.glob("*/__init__.py")]
    assert named(folder) == sorted(there)

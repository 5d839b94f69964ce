"""The design's layers hold, and the contracts that say so (pyproject.toml) do notice when they are broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip(
    "importlinter", reason="needs import-linter: run the tests with `make test`, which installs it"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages and of the contracts, to be spoilt."""
    for package in ("lifecycle", "integrations"):
        # With its link: of two real folders the copy would spoil the one that nobody reads.
        shutil.copytree(
            ROOT / package, tmp_path / package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> tuple[int, str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    code = f"import sys; sys.path.insert(0, '.'); {code}"
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code, "--no-cache"],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_layers_hold(tree: Path) -> None:
    status, output = lint(tree)
    assert status == 0, output
    assert re.search(r"\b[1-9]\d* kept, 0 broken", output)


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        (
            "lifecycle/_core/record.py",
            "from lifecycle.manager import shutdown",
            "lifecycle._core is not allowed to import lifecycle.manager",
        ),
        (
            "lifecycle/states.py",
            "from lifecycle._core import record",
            "lifecycle.states is not allowed to import lifecycle._core",
        ),
        (
            "lifecycle/places/loops.py",
            "from lifecycle.places import queues",
            "lifecycle.places.loops is not allowed to import lifecycle.places.queues",
        ),
        (
            "lifecycle/manager/manager.py",
            "import lifecycle.integrations.prometheus",
            "lifecycle.manager is not allowed to import lifecycle.integrations",
        ),
        (
            "integrations/gstreamer/frames/planes.py",
            "from lifecycle.integrations.gstreamer.pipelines import guard",
            "lifecycle.integrations.gstreamer.frames is not allowed to import lifecycle.integrations.gstreamer.pipelines",
        ),
    ],
)
def test_a_planted_import_is_found(tree: Path, module: str, line: str, broken: str) -> None:
    path = tree / module
    path.write_text(f"{path.read_text()}\n\n{line}  # planted\n")
    status, output = lint(tree)
    assert status != 0
    assert broken in " ".join(output.split()), output


LEFT_TO_CURE = 7
IMPORTS_LEFT_TO_CURE = 12

PRIVATE = re.compile(r"\._(registry|record|cell|kinds|machinery|keeper|any_thread)\b")
CORE_ROOMS = ("_core", "manager", "observe", "places", "testing", "recorder", "inspection")
"""Those that are the core, and those that watch it."""


def test_what_is_built_on_the_manager_touches_fewer_private_attributes_each_time() -> None:
    """Outside the core nobody reaches into a handle or a manager: `lifecycle.lowlevel` has what is needed.
    The number only shrinks."""
    touched: dict[str, int] = {}
    for top in ("lifecycle", "integrations"):
        for path in (ROOT / top).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(tuple(f"lifecycle/{room}/" for room in CORE_ROOMS)):
                continue
            count = len(PRIVATE.findall(path.read_text(encoding="utf-8")))
            if count:
                touched[name] = count
    assert sum(touched.values()) <= LEFT_TO_CURE, touched


def test_the_list_of_private_imports_only_shrinks() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"ignore_imports = \[\n(.*?)\]", text, re.DOTALL)
    assert listed.count(" -> ") <= IMPORTS_LEFT_TO_CURE

"""The examples that are projects of their own: their tests, which use the pytest plugin, pass. Those of the
service fail where it forgets something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

EXAMPLES = ROOT / "examples"
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None or not sys.platform.startswith("linux"),
    reason="needs a C compiler (apt-get install gcc): the project's tests build a stand-in for a C library",
)


def what_pytest_says(folder: Path, *options: str, path: Path | None = None) -> str:
    """What pytest says in `folder`, in a process of its own that has none of this suite's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Of the plugins that are installed here these projects know one.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(str(one) for one in (path, ROOT) if one is not None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "lifecycle.testing.plugin",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    return f"{done.stdout}{done.stderr}"


@pytest.mark.needs("prometheus_client")
def test_the_service_with_metrics(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "notes", tmp_path / "notes"))
    assert "4 passed" in what_pytest_says(folder)

    service = folder / "notes.py"
    text = service.read_text(encoding="utf-8")
    careful = "with self.connections.item() as connection:\n            rows"
    assert careful in text
    careless = (
        "self.kept = self.connections.get()\n        with self.kept.lease() as connection:\n            rows"
    )
    service.write_text(text.replace(careful, careless), encoding="utf-8")
    said = what_pytest_says(folder, "-k", "added")
    assert "1 error" in said
    assert "left behind: connections" in said, said


@needs_compiler
def test_the_package_that_wraps_a_c_library(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "meter", tmp_path / "meter"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True, timeout=100)
    (wheel,) = (folder / "dist").glob("acmemeter-1.0.0-*.whl")
    # The tests see what is installed, not what lies beside them.
    shutil.rmtree(folder / "src")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert "6 passed" in what_pytest_says(folder, path=tmp_path / "site")

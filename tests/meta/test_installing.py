"""What is installed where: an extra brings what it says, and a line that is printed for a reader works on a
machine that has nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support import ROOT

PROSE = [
    *(ROOT / "README.md", ROOT / ".ci" / "run"),
    *(
        path
        for top in ("integrations", "examples", "tools", "docs")
        for path in sorted((ROOT / top).rglob("*.*"))
    ),
]


def requirements(folder: Path) -> list[str]:
    """As the wheel has them, hence as pip sees them."""
    pytest.importorskip(
        "hatchling", reason="needs hatchling: run the tests with `make test`, which installs it"
    )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    return Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []


def of_extra(lines: list[str], extra: str) -> list[str]:
    return [line for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]


def test_what_the_wheel_requires(tmp_path: Path) -> None:
    """Read in the wheel: hatchling resolves requirements on our own extras, and drops their markers on the
    way."""
    lines = requirements(tmp_path)
    assert [line for line in lines if "extra ==" not in line] == ["attrs>=22.2", "structlog>=22.3"]
    assert {extra for line in lines for extra in re.findall(r"extra == '(\w+)'", line)} == {
        *(
            "all",
            "gl",
            "gstreamer",
            "iceoryx2",
            "memory",
            "moderngl",
            "opengl",
            "opentelemetry",
            "prometheus",
            "pyglet",
            "qt",
            "uvloop",
            "vispy",
            "wgpu",
        ),
        "zenoh",
    }, "what a checkout alone needs is a group of dependencies, and is not published"
    for extra, packages in {"all": ("prometheus-client", "psutil", "wgpu"), "qt": ("pyside6",)}.items():
        for package in packages:
            assert [line for line in of_extra(lines, extra) if line.lower().startswith(package)], package
    assert not [line for line in lines if line.lower().startswith(("pygobject", "pycairo"))], (
        "it has no wheel for Linux"
    )
    assert all("!=6.12.0" in line for line in lines if line.lower().startswith("pyside6"))
    assert not [line for line in of_extra(lines, "all") if line.lower().startswith(("pyside6", "pytest"))]


def test_a_printed_line_brings_the_package_lists_first() -> None:
    """A bare machine has none, and `apt-get install` alone finds nothing there."""
    bare = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in PROSE
        if path.suffix in (".md", ".py")
        for line in re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")).splitlines()
        if "apt-get install" in line and "apt-get update && " not in line
    ]
    assert bare == []


def test_the_demo_installs_no_more_than_it_uses() -> None:
    """What WebRTC needs is half a gigabyte."""
    script = (ROOT / "tools" / "environment.sh").read_text(encoding="utf-8")
    assert re.search(r"^  demo\) group=demo parts=\(python gstreamer\) ;;$", script, re.MULTILINE)
    parts = (ROOT / "tools" / "system-packages.sh").read_text(encoding="utf-8")
    (small,) = re.findall(r"^    gstreamer\).*?;;", parts, re.MULTILINE | re.DOTALL)
    assert "gstreamer1.0-plugins-base" in small
    assert not re.search(
        r"plugins-(good|bad)\b(?<!gst-plugins-base)", small.replace("gst-plugins-base", "")
    ), small

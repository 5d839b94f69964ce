"""Tries the wheel in clean environments, one for each extra: ``python tools/ci/smoke.py dist``.

In each: the wheel is installed with the extra, as a user would; ``pip check`` has nothing to say; a program
that knows no checkout imports the adapter and releases an object, with every warning an error.

``--extras "prometheus memory"`` tries these alone, ``""`` none but the bare wheel; ``--lowest`` installs the
lowest versions that the wheel allows (CPython 3.10 alone: newer ones have no such wheels); ``--sbom FILE``
writes the parts of the bare installation as CycloneDX, which needs cyclonedx-py beside this interpreter.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

PROGRAM = """
import importlib.metadata, sys
from lifecycle import ANY_THREAD, SafetyManager, __version__
import lifecycle

assert not [path for path in sys.path if path.endswith({root!r})], sys.path
assert lifecycle.__file__.startswith(sys.prefix), lifecycle.__file__
assert importlib.metadata.version("native-lifecycle") == __version__
gone = []
with SafetyManager(name="smoke") as manager:
    handle = manager.register(7, "thing", release=gone.append, release_on=ANY_THREAD, native=7)
    with handle.lease() as obj:
        assert obj == 7
        assert not handle.close()
    assert handle.close(timeout=20)
    timed = manager.register(8, "thing", release=gone.append)
    assert timed.close(timeout=20)
assert gone == [7, 8], gone
assert manager.stats().released == 2
{more}
"""
PROMETHEUS = """
from prometheus_client import CollectorRegistry, generate_latest
from lifecycle.integrations.prometheus import LifecycleCollector
registry = CollectorRegistry()
registry.register(LifecycleCollector(manager))
assert b'lifecycle_ended_total{end="released",manager="smoke",type="thing"} 2.0' in generate_latest(registry)
"""
MEMORY = """
from lifecycle import MemoryManager
manager = SafetyManager(name="memory")
memory = MemoryManager(manager)
assert memory.stats().resident > 0
memory.close(), manager.close()
"""
UVLOOP = """
import asyncio, uvloop
from lifecycle.integrations.event_loops.asyncio import release_queue
async def main():
    with SafetyManager(name="uvloop") as manager:
        queue = release_queue()
        handle = manager.register(9, release=gone.append, release_on=queue)
        handle.close()
        while gone[-1] != 9:
            await asyncio.sleep(0.01)
loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""
GSTREAMER = """
import numpy
from lifecycle import LifecycleError
try:
    import lifecycle.integrations.gstreamer
except ImportError as error:
    assert isinstance(error, LifecycleError), error
    assert "apt-get update && apt-get install" in str(error), error
"""
MORE = {
    "": "import lifecycle.lowlevel, lifecycle.pools, lifecycle.distribution, lifecycle.proxies",
    "prometheus": PROMETHEUS,
    "opentelemetry": "from lifecycle.integrations.opentelemetry import LifecycleInstruments\n"
    "LifecycleInstruments(manager).close()",
    "memory": MEMORY,
    "uvloop": UVLOOP if sys.platform != "win32" else "",
    "gstreamer": GSTREAMER,
    "opengl": "import numpy, OpenGL, lifecycle.integrations.opengl",
    "gl": "import numpy, OpenGL, lifecycle.integrations.opengl",
    "moderngl": "import moderngl, lifecycle.integrations.moderngl",
    "pyglet": "import pyglet\npyglet.options['headless'] = True\nimport lifecycle.integrations.pyglet",
    "vispy": "import lifecycle.integrations.vispy",
    "wgpu": "import numpy, lifecycle.integrations.wgpu",
    "qt": "import lifecycle.integrations.event_loops.qt",
    "iceoryx2": "import lifecycle.integrations.iceoryx2",
    "zenoh": "import lifecycle.integrations.zenoh",
    "all": f"import lifecycle.integrations.gpu.opengl, lifecycle.integrations.gpu.wgpu\n{PROMETHEUS}{MEMORY}",
}
# Frameworks that warn as they are imported.
LOUD = {"opengl", "gl", "moderngl", "pyglet", "vispy", "wgpu", "qt", "iceoryx2", "zenoh", "all"}


def told_by(wheel: Path, field: str) -> list[str]:
    """What the metadata of the wheel say under `field`."""
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(archive.read(metadata).decode()).get_all(field) or []


def lowest_of(wheel: Path, extra: str) -> list[str]:
    """The lowest version of each requirement of the wheel and of the extra, as pip takes it."""
    lines = told_by(wheel, "Requires-Dist")
    wanted = [line for line in lines if "extra ==" not in line or f"extra == '{extra}'" in line]
    found = []
    for line in wanted:
        requirement = re.match(r"([\w.-]+)>=([\w.]+)", line)
        if requirement and "native-lifecycle" not in line:
            found.append(f"{requirement[1]}=={requirement[2]}")
    return found


def run(command: list[str], **more: object) -> None:
    """Run it; whatever it says is shown where it fails, and ends this program."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, **more)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"smoke: {' '.join(command)[:300]}\n{done.stdout}{done.stderr}")


def attempt(wheel: Path, extra: str, folder: Path, lowest: bool) -> Path:
    """Make an environment with the wheel, and run the program in it; its interpreter."""
    run([sys.executable, "-m", "venv", str(folder)])
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    # Newer wheels have metadata that an old pip does not read.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--upgrade", "pip"])
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    run([*pip, what, *(lowest_of(wheel, extra) if lowest else ())])
    run([str(python), "-m", "pip", "check"])
    program = PROGRAM.replace("{root!r}", repr(str(Path(__file__).resolve().parents[2])))
    program = program.replace("{more}", MORE[extra])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    warnings = [] if extra in LOUD else ["-W", "error"]
    run([str(python), *warnings, "-c", program], cwd=folder, env=environment)
    return python


def main() -> None:
    """Try each extra."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--extras", default=None)
    parser.add_argument("--lowest", action="store_true")
    parser.add_argument("--sbom", type=Path, default=None)
    asked = parser.parse_args()
    (wheel,) = asked.dist.resolve().glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"lifecycle"}, tops
    assert "lifecycle/integrations/prometheus/__init__.py" in names
    # An extra that is not tried could not be installed, and nobody would know.
    assert {*told_by(wheel, "Provides-Extra"), ""} == set(MORE), told_by(wheel, "Provides-Extra")
    extras = list(MORE) if asked.extras is None else ["", *asked.extras.split()]
    for extra in extras:
        with tempfile.TemporaryDirectory() as folder:
            python = attempt(wheel, extra, Path(folder) / "venv", asked.lowest)
            if asked.sbom and not extra:
                run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", "pip"])
                asked.sbom.parent.mkdir(parents=True, exist_ok=True)
                beside = Path(sys.executable).with_name("cyclonedx-py")
                run(
                    [
                        str(beside),
                        "environment",
                        "--output-reproducible",
                        "-o",
                        str(asked.sbom),
                        str(python),
                    ]
                )
        print(
            f"smoke: {'the wheel alone' if not extra else f'[{extra}]'}: installed, imported, released",
            flush=True,
        )


if __name__ == "__main__":
    main()

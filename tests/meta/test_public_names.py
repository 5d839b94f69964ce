"""What the packages say of themselves is true: their names, what importing them does, and what is shipped."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest

import lifecycle
from tests.support import ROOT, run_python

PUBLIC_MODULES = [
    "lifecycle",
    "lifecycle.distribution",
    "lifecycle.errors",
    "lifecycle.events",
    "lifecycle.fences",
    "lifecycle.lowlevel",
    "lifecycle.memory",
    "lifecycle.objects",
    "lifecycle.pools",
    "lifecycle.stats",
    "lifecycle.integrations.event_loops.asyncio",
    "lifecycle.integrations.prometheus",
]


def submodules() -> list[str]:
    """Those of the core; integrations import the frameworks that they are for."""
    found = ["lifecycle.integrations"]
    for module in pkgutil.iter_modules(lifecycle.__path__, "lifecycle."):
        if module.name != "lifecycle.integrations":
            found.append(module.name)
            if module.ispkg:
                path = importlib.import_module(module.name).__path__
                found += [below.name for below in pkgutil.walk_packages(path, f"{module.name}.")]
    return found


@pytest.mark.needs("prometheus_client")
@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_is_true(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"


def test_each_name_is_public_in_one_place() -> None:
    """But for the errors that everybody catches, which are in `lifecycle.errors` as well, with all others."""
    places: dict[str, list[str]] = {}
    for module in PUBLIC_MODULES:
        if not module.startswith("lifecycle.integrations"):
            for name in importlib.import_module(module).__all__:
                places.setdefault(name, []).append(module)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {tuple(where) for where in twice.values()} <= {("lifecycle", "lifecycle.errors")}, twice
    assert len(lifecycle.__all__) <= 50, "what few programs need stands in a module that says what it is"


def test_what_lifecycle_shows_is_in_all() -> None:
    for name in lifecycle.__all__:  # some come when they are asked for
        assert getattr(lifecycle, name) is not None
        assert name in dir(lifecycle)
    shown = {
        name
        for name, value in vars(lifecycle).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    assert shown == {name for name in lifecycle.__all__ if not name.startswith("_")}


def test_every_public_class_and_function_has_a_docstring() -> None:
    bare = [
        name
        for name in lifecycle.__all__
        if (inspect.isclass(value := getattr(lifecycle, name)) or inspect.isfunction(value))
        and not value.__doc__
    ]
    assert bare == []


FOREIGN = ("gi", "numpy", "prometheus_client", "opentelemetry", "OpenGL", "moderngl", "wgpu", "cupy", "torch")


def test_every_module_can_be_imported_first() -> None:
    """Whichever it is, `lifecycle` itself is imported before it; so it is those that this does not import
    that have to be tried."""
    code = f"import sys, lifecycle; print(*[name for name in {submodules()!r} if name not in sys.modules])"
    left_out = run_python(code).check().split()
    assert "lifecycle.testing.leaks" in left_out
    assert "lifecycle._core.record" not in left_out
    for chunk in (left_out[number::4] for number in range(4)):
        # A child of a process that has imported `lifecycle` and nothing else of ours.
        run_python(
            f"""
            import os, sys, lifecycle
            for module in {chunk!r}:
                child = os.fork()
                if not child:
                    try:
                        __import__(module)
                        sys.stdout.flush()
                        os._exit(0)
                    except BaseException:
                        sys.excepthook(*sys.exc_info())
                        os._exit(1)
                assert os.waitpid(child, 0)[1] == 0, module
            """
        ).check()


def test_importing_the_core_starts_no_thread_and_imports_no_framework() -> None:
    run_python(
        f"""
        import importlib, sys, threading
        for module in {submodules()!r}:
            importlib.import_module(module)
        assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
        loaded = sorted(name for name in {FOREIGN!r} if name in sys.modules)
        assert not loaded, loaded
        """
    ).check()


@pytest.mark.needs("prometheus_client")
def test_an_integration_imports_its_own_framework_only() -> None:
    run_python(
        """
        import sys, threading
        import lifecycle.integrations.prometheus
        assert "prometheus_client" in sys.modules
        assert not {"gi", "OpenGL", "wgpu"} & set(sys.modules)
        assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
        """
    ).check()


def built(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """The wheel or sdist of `source`, built into `folder`."""
    pytest.importorskip(
        "hatchling", reason="needs hatchling: run the tests with `make test`, which installs it"
    )
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (made,) = (path for path in folder.iterdir() if path.suffix in (".whl", ".gz"))
    return made


def test_the_wheel_holds_one_package_with_the_integrations_in_it(tmp_path: Path) -> None:
    names = zipfile.ZipFile(built("wheel", tmp_path / "wheel")).namelist()
    assert "lifecycle/py.typed" in names
    assert "lifecycle/integrations/prometheus/__init__.py" in names
    assert "lifecycle/integrations/gstreamer/__init__.py" in names
    assert len(names) == len(set(names))
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lifecycle"}


def test_the_wheel_that_is_built_from_the_sdist_is_the_same(tmp_path: Path) -> None:
    """Distributors build from the sdist, which holds no links."""
    with tarfile.open(built("sdist", tmp_path / "sdist")) as archive:
        assert [entry.name for entry in archive if entry.issym()] == []
        if sys.version_info >= (3, 12):
            archive.extractall(tmp_path / "source", filter="data")
        else:
            archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    ours = zipfile.ZipFile(built("wheel", tmp_path / "ours"))
    theirs = zipfile.ZipFile(built("wheel", tmp_path / "theirs", source))
    content = {name: ours.read(name) for name in ours.namelist()}
    assert content == {name: theirs.read(name) for name in theirs.namelist()}


def test_an_applications_own_integrations_are_found_beside_a_checkout(tmp_path: Path) -> None:
    """Every editable install puts the checkout on the path, and its folder must not shadow theirs."""
    (tmp_path / "integrations").mkdir()
    (tmp_path / "integrations" / "mine.py").write_text("HERE = True\n")
    alone = (
        "import os, sys\n"
        "sys.path[:] = [p for p in sys.path if not os.path.isdir(os.path.join(p or '.', 'integrations'))]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
    )
    beside = f"sys.path.append({str(tmp_path)!r})\nimport integrations.mine as mine\nprint(mine.HERE)"
    assert run_python(alone + beside).check().split() == ["True"]
    refused = "try:\n    import integrations\nexcept ImportError as error:\n    print(error)"
    assert "imported as lifecycle.integrations" in run_python(alone + refused).check()


@pytest.mark.parametrize("name", ["opengl", "moderngl", "pyglet", "qt", "vispy"])
def test_the_adapters_of_gpus_have_shorter_names(name: str) -> None:
    """Importing one imports no framework."""
    said = run_python(
        f"""
        import sys
        import lifecycle.integrations.gpu.{name} as long
        import lifecycle.integrations.{name} as short
        assert short.__all__ == long.__all__
        assert all(getattr(short, each) is getattr(long, each) for each in long.__all__)
        print(sorted({{"OpenGL", "PySide6", "moderngl", "numpy", "pyglet", "vispy"}} & set(sys.modules)))
        """
    ).check()
    assert said == "[]\n"

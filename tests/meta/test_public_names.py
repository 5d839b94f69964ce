"""What the packages say of themselves is true: their names, what importing them does, and what is shipped."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

import lifecycle
from tests.support import ROOT, run_python

PUBLIC_MODULES = ["lifecycle", "integrations.event_loops.asyncio", "integrations.prometheus"]


def submodules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(lifecycle.__path__, "lifecycle.")]


@pytest.mark.needs("prometheus_client")
@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_is_true(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"


def test_what_lifecycle_shows_is_in_all() -> None:
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


FOREIGN = ("gi", "numpy", "prometheus_client", "OpenGL", "moderngl", "wgpu", "cupy", "torch", "integrations")


def test_every_module_can_be_imported_first() -> None:
    """Whichever it is, `lifecycle` itself is imported before it; so it is those that this does not import
    that have to be tried."""
    code = f"import sys, lifecycle; print(*[name for name in {submodules()!r} if name not in sys.modules])"
    left_out = run_python(code).check().split()
    assert "lifecycle.testing.leaks" in left_out
    assert "lifecycle._core.record" not in left_out
    for module in left_out:
        run_python(f"import {module}").check()


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
        import integrations.prometheus
        assert "prometheus_client" in sys.modules
        assert not {"gi", "OpenGL", "wgpu"} & set(sys.modules)
        assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
        """
    ).check()


def test_integrations_is_a_namespace_package() -> None:
    assert not (ROOT / "integrations" / "__init__.py").exists()


def test_the_wheel_holds_the_two_packages_and_their_types(tmp_path: Path) -> None:
    pytest.importorskip(
        "hatchling", reason="needs hatchling: run the tests with `make test`, which installs it"
    )
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "lifecycle/py.typed" in names
    assert "integrations/prometheus.py" in names
    assert "integrations/__init__.py" not in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lifecycle", "integrations"}

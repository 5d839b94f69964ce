"""The distribution `lifecycle` (0.6, of 2015) installs into the same folder. Where it was first, the import says
so; where it was last, its own `__init__` is what is imported, and README.md has the error for search engines."""

from __future__ import annotations

from pathlib import Path

from tests.support import ROOT, run_python

CHECK = """
import sys
sys.path.insert(0, {folder!r})
try:
    import lifecycle
except ImportError as error:
    print(error)
else:
    print(lifecycle.__file__)
"""


def installed(folder: Path) -> Path:
    package = folder / "lifecycle"
    package.mkdir()
    for path in (ROOT / "lifecycle").iterdir():
        (package / path.name).symlink_to(path)
    return package


def test_it_is_refused_beside_the_other_one(tmp_path: Path) -> None:
    (installed(tmp_path) / "lifecycle.py").write_text("class Lifecycle: pass\n")
    said = run_python(CHECK.format(folder=str(tmp_path))).check()
    assert "pip uninstall --yes lifecycle native-lifecycle && pip install native-lifecycle" in said


def test_it_is_imported_alone(tmp_path: Path) -> None:
    package = installed(tmp_path)
    assert run_python(CHECK.format(folder=str(tmp_path))).check().strip() == str(package / "__init__.py")


def test_the_error_of_the_other_order_is_in_the_readme(tmp_path: Path) -> None:
    """As the old distribution has it: an implicit relative import, which Python 3 does not know."""
    package = tmp_path / "lifecycle"
    package.mkdir()
    (package / "__init__.py").write_text("from lifecycle import Lifecycle\n")
    (package / "lifecycle.py").write_text("class Lifecycle: pass\n")
    said = run_python(CHECK.format(folder=str(tmp_path))).check()
    words = "cannot import name 'Lifecycle' from partially initialized module 'lifecycle'"
    assert words in said
    assert f"ImportError: {words}" in (ROOT / "README.md").read_text(encoding="utf-8")

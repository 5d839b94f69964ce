"""A proxy of a `T` is a `T` for type checkers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("mypy", reason="needs mypy: run the tests with `make lint`, which installs it")

GOOD = """
from __future__ import annotations
import sqlite3
from typing_extensions import assert_type
from lifecycle import Handle, SafetyManager
from lifecycle.proxies import VIEW, Child, handle_of

def checks(manager: SafetyManager) -> None:
    connection = manager.proxy(
        sqlite3.connect(":memory:"),
        release="close",
        children={sqlite3.Cursor: None, "blobopen": Child("close", ends=("__exit__",)), "memory": VIEW},
        ends=("commit",),
        exclusive=("execute",),
    )
    assert_type(connection, sqlite3.Connection)
    assert_type(connection.cursor(), sqlite3.Cursor)
    assert_type(handle_of(connection), Handle[sqlite3.Connection])
    with handle_of(connection).lease() as real:
        assert_type(real, sqlite3.Connection)

    def make(path: str, *, size: int = 0) -> sqlite3.Connection:
        return sqlite3.connect(path, size)

    factory = manager.proxy_factory(make, release=lambda one: one.close())
    assert_type(factory("a", size=3), sqlite3.Connection)
    manager.proxy(connection, release=sqlite3.Connection.close)
"""
WRONG = {
    "no such method": ("connection.nothing()", "attr-defined"),
    "no release": ("manager.proxy(connection)", "call-arg"),
    "release of another type": ("manager.proxy(connection, release=sqlite3.Cursor.close)", "arg-type"),
    "arguments of a factory": (
        "manager.proxy_factory(sqlite3.connect, release=None)(3.5)",
        "arg-type|call-overload",
    ),
}


def check(folder: Path, text: str) -> tuple[int, str]:
    (folder / "program.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "program.py"],
        cwd=folder,
        env={"PATH": "", "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_proxy_is_of_its_objects_type(tmp_path: Path) -> None:
    status, output = check(tmp_path, GOOD)
    assert status == 0, output


def test_mistakes_are_found(tmp_path: Path) -> None:
    lines = "\n".join(f"    {line}" for line, _ in WRONG.values())
    text = (
        f"{GOOD}\n\ndef mistakes(manager: SafetyManager, connection: sqlite3.Connection) -> None:\n{lines}\n"
    )
    status, output = check(tmp_path, text)
    assert status == 1, output
    for what, (_, code) in WRONG.items():
        assert re.search(rf"\[({code})\]", output), (what, output)

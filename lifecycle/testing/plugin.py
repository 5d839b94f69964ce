"""A pytest plugin: no test leaves objects, leases, tickets or threads behind.

Installed with the library (entry point ``lifecycle``); it does nothing until asked:

- the fixture ``no_leaks`` checks one test; its value is the `assert_no_leaks` block, so
  ``no_leaks.ignore(handle)`` works;
- the fixture ``no_gpu_leaks`` checks that a test leaves no contexts, textures, buffers or devices, by the
  figures of OpenGL and wgpu as well; its value is the `assert_no_gpu_leaks` block;
- ``pytest --no-leaks``, or ``lifecycle_no_leaks = true`` in the configuration, checks every test but those
  marked ``may_leak("why")``.

The check comes after every other fixture of the test has been torn down, and only if the test itself did not
fail: what a failed test holds in its traceback is no leak. What fixtures of a wider scope made is theirs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lifecycle.testing.gpu import assert_no_gpu_leaks
    from lifecycle.testing.leaks import assert_no_leaks

OPTION = "lifecycle_no_leaks"
TIMEOUT = "lifecycle_leak_timeout"
MARK = "may_leak"

_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--no-leaks`` and its like in the configuration."""
    group = parser.getgroup("lifecycle", "native objects (lifecycle)")
    group.addoption(
        "--no-leaks",
        action="store_true",
        dest=OPTION,
        help="fail every test that leaves objects, leases, tickets or threads behind",
    )
    parser.addini(OPTION, "as --no-leaks", type="bool", default=False)
    parser.addini(TIMEOUT, "seconds for which what a test leaves behind may still end by itself", default="3")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers", f"{MARK}(reason): the test may leave natives, leases or threads behind"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test failed."""
    if call.when != "teardown" and call.excinfo is not None:
        item.stash[_failed] = True
    return (yield)


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Generator[assert_no_leaks, None, None]:
    """Fails the test when it leaves objects, leases, tickets or threads behind; `ignore` of its value exempts
    some."""
    from lifecycle.testing.leaks import assert_no_leaks

    __tracebackhide__ = True
    yield from _around(request, assert_no_leaks(timeout=float(request.config.getini(TIMEOUT))))


@pytest.fixture
def no_gpu_leaks(request: pytest.FixtureRequest) -> Generator[assert_no_gpu_leaks, None, None]:
    """Fails the test when it leaves contexts, textures, buffers, devices or their like behind, which OpenGL
    and wgpu are asked for besides; `ignore` of its value exempts some."""
    from lifecycle.testing.gpu import assert_no_gpu_leaks

    __tracebackhide__ = True
    yield from _around(request, assert_no_gpu_leaks(timeout=float(request.config.getini(TIMEOUT))))


def _around(request: pytest.FixtureRequest, block: Any) -> Generator[Any, None, None]:
    """A block around one test, which is not looked at where the test itself failed."""
    block.__enter__()
    try:
        yield block
    finally:
        # What was left behind is shown, and not how it was found.
        __tracebackhide__ = True
        failed = request.node.stash.get(_failed, False)
        block.leave(check=not failed)


@pytest.fixture(autouse=True)
def _no_leaks_anywhere(request: pytest.FixtureRequest) -> None:
    config = request.config
    wanted = config.getoption(OPTION) or config.getini(OPTION)
    if wanted and request.node.get_closest_marker(MARK) is None:
        request.getfixturevalue("no_leaks")

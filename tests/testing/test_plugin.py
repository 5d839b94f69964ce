"""The pytest plugin, on tests that really fail."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

import lifecycle.testing.leaks  # so that the runs inside this one share what this one has imported
from tests.support import ROOT

pytest_plugins = ["pytester"]

TESTS = """
    import threading
    import pytest
    from lifecycle import ANY_THREAD, ReleaseQueue, SafetyManager

    class Native:
        pass

    def free(native):
        pass

    @pytest.fixture(scope="module")
    def shared():
        with SafetyManager(name="shared") as manager:
            yield manager

    @pytest.fixture(scope="module")
    def texture(shared):
        with shared.register(Native(), "texture", release=free) as handle:
            yield handle

    @pytest.fixture
    def manager():
        with SafetyManager() as manager:
            yield manager

    kept = []
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\nlifecycle_leak_timeout = 0.2\n")
    return pytester


def run(inner: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    inner.makepyfile(TESTS + tests)
    return inner.runpytest_inprocess(
        "-p", "lifecycle.testing.plugin", "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning", *options
    )


CLEAN = """
    def test_clean(manager, texture):
        with manager.register(Native(), release=free) as handle, handle.lease():
            pass

    def test_the_shared_one(shared, texture):
        with texture.lease():
            pass
"""

LEAKING = """
    def test_object(shared):
        kept.append(shared.register(Native(), "camera.Frame", release=free))

    def test_lease(shared):
        with shared.register(Native(), "leased", release=free) as handle:
            kept.append(handle.lease())

    def test_ticket(shared):
        shared.register(Native(), "queued", release=free, release_on=ReleaseQueue("gl")).close()

    def test_thread():
        threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

    def test_manager():
        made = SafetyManager(name="unclosed")
        made.register(Native(), release=free).close()

    def test_dropped(shared):
        shared.register(Native(), "dropped", release=free, release_on=ANY_THREAD)
"""


def test_nothing_is_checked_unasked(inner: pytest.Pytester) -> None:
    run(inner, LEAKING).assert_outcomes(passed=6)


def test_clean_tests_pass(inner: pytest.Pytester) -> None:
    run(inner, CLEAN, "--no-leaks").assert_outcomes(passed=2)


def test_the_option_fails_every_test_that_leaves_something(inner: pytest.Pytester) -> None:
    result = run(inner, CLEAN + LEAKING, "--no-leaks")
    result.assert_outcomes(passed=8, errors=6)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines_random(
        [
            "*camera.Frame (object *): valid, made at test_the_option_fails_every_test_that_leaves_something.py:*",
            "*leases (1):",
            "*of leased (object *), taken at test_the_option*.py:*",
            "*tickets (1):",
            "*queued (object *): due *its queue 'gl' must be drained",
            "*'forgotten', started at test_the_option*.py:*",
            "*of manager 'unclosed', never closed, made at test_the_option*.py:*",
            "*dropped (1):",
        ]
    )
    # What was left behind, and not the fixture that looked for it.
    result.stdout.no_fnmatch_line("*def no_leaks*")
    result.stdout.no_fnmatch_line("*def leave*")


def test_the_configuration_does_what_the_option_does(inner: pytest.Pytester) -> None:
    inner.makeini("[pytest]\nlifecycle_no_leaks = true\nlifecycle_leak_timeout = 0.2\n")
    run(inner, CLEAN + LEAKING).assert_outcomes(passed=8, errors=6)


def test_the_fixture_checks_one_test_and_can_be_told_what_may_stay(inner: pytest.Pytester) -> None:
    result = run(
        inner,
        """
    def test_asked(shared, no_leaks):
        kept.append(shared.register(Native(), release=free))

    def test_not_asked(shared):
        kept.append(shared.register(Native(), release=free))

    def test_ignored(shared, no_leaks):
        kept.append(shared.register(Native(), release=free))
        no_leaks.ignore(kept[-1])
""",
    )
    result.assert_outcomes(passed=3, errors=1)


def test_a_marked_test_may_leak(inner: pytest.Pytester) -> None:
    result = run(
        inner,
        """
    @pytest.mark.may_leak("shows what a leak is")
    def test_marked(shared):
        kept.append(shared.register(Native(), release=free))
""",
        "--no-leaks",
        "--strict-markers",
    )
    result.assert_outcomes(passed=1)


def test_a_test_that_failed_is_not_blamed_for_what_its_traceback_holds(inner: pytest.Pytester) -> None:
    result = run(
        inner,
        """
    def test_failed(shared):
        handle = shared.register(Native(), release=free)
        assert handle.id == -1
""",
        "--no-leaks",
    )
    result.assert_outcomes(failed=1)


def test_a_leak_in_a_fixture_is_its_tests(inner: pytest.Pytester) -> None:
    result = run(
        inner,
        """
    @pytest.fixture
    def careless(shared):
        return shared.register(Native(), "careless", release=free)

    def test_uses_it(careless, shared):
        kept.append(careless)
""",
        "--no-leaks",
    )
    result.assert_outcomes(passed=1, errors=1)


def test_it_is_installed_with_the_library() -> None:
    """Under its module's name, so that ``-p`` names the same plugin and not a second one."""
    text = (ROOT / "pyproject.toml").read_text()
    assert (
        '[project.entry-points.pytest11]\n"lifecycle.testing.plugin" = "lifecycle.testing.plugin"\n' in text
    )
    assert lifecycle.testing.leaks.__name__ in sys.modules
    plugin = EntryPoint("lifecycle.testing.plugin", "lifecycle.testing.plugin", "pytest11").load()
    assert plugin.no_leaks

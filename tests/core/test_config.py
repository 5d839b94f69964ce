"""The configuration: frozen, validated by name, readable from the environment."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from lifecycle import LifecycleError, SafetyConfig, SafetyManager
from lifecycle.errors import ConfigError


def test_the_defaults() -> None:
    config = SafetyConfig()
    assert attrs.asdict(config) == {
        "cleanup_interval": 30.0,
        "state_retention": 300.0,
        "max_retained": config.max_retained,
        "finalizer_timeout": 5.0,
        "max_finalizer_retries": None,
        "enable_state_checking": True,
        "enable_finalizer_safety": True,
        "log_state_changes": False,
        "log_finalizers": False,
        "shutdown_timeout": 10.0,
        "max_stuck_finalizers": 4,
        "errors": (),
        "leak_level": "simple",
    }
    assert config.max_retained >= 1000
    assert SafetyManager().config == config


def test_it_is_frozen_and_compares() -> None:
    config = SafetyConfig(finalizer_timeout=2)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.finalizer_timeout = 3  # type: ignore[misc]
    assert attrs.evolve(config, leak_level="off") == SafetyConfig(finalizer_timeout=2, leak_level="off")


SECONDS = ("cleanup_interval", "state_retention", "finalizer_timeout", "shutdown_timeout")
COUNTS = ("max_retained", "max_finalizer_retries", "max_stuck_finalizers")
FLAGS = ("enable_state_checking", "enable_finalizer_safety", "log_state_changes", "log_finalizers")


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", None, True, [5]], ids=repr)
def test_impossible_seconds_are_refused_by_name(field: str, value: Any) -> None:
    """I9."""
    with pytest.raises(
        ConfigError, match=rf"SafetyConfig\.{field} .*seconds.*not {value!r}".replace("[", r"\[")
    ):
        SafetyConfig(**{field: value})


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [-1, 1.5, "3", None, False], ids=repr)
def test_impossible_counts_are_refused_by_name(field: str, value: Any) -> None:
    """I9."""
    if field == "max_finalizer_retries" and value is None:
        assert SafetyConfig(max_finalizer_retries=None).max_finalizer_retries is None  # no limit
        return
    with pytest.raises(ConfigError, match=rf"SafetyConfig\.{field} is a whole number.*not {value!r}"):
        SafetyConfig(**{field: value})


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [1, 0, "yes", None], ids=repr)
def test_impossible_flags_are_refused_by_name(field: str, value: Any) -> None:
    """I9."""
    with pytest.raises(ConfigError, match=rf"SafetyConfig\.{field} is True or False, not {value!r}"):
        SafetyConfig(**{field: value})


@pytest.mark.parametrize("value", ["loud", "", None, 3, []], ids=repr)
def test_impossible_leak_levels_are_refused_with_the_possible_ones(value: Any) -> None:
    """I9."""
    with pytest.raises(
        ConfigError, match=r"SafetyConfig\.leak_level is one of off, simple, detailed, paranoid, not"
    ):
        SafetyConfig(leak_level=value)


@pytest.mark.parametrize("value", [42, ("ValueError",), (int,), ValueError("an instance")], ids=repr)
def test_impossible_errors_are_refused(value: Any) -> None:
    """I9."""
    with pytest.raises(ConfigError, match=r"SafetyConfig\.errors takes exception classes"):
        SafetyConfig(errors=value)


def test_errors_may_be_one_class_or_a_list() -> None:
    assert SafetyConfig(errors=OSError).errors == (OSError,)  # type: ignore[arg-type]
    assert SafetyConfig(errors=[OSError, KeyError]).errors == (OSError, KeyError)  # type: ignore[arg-type]


def test_config_errors_are_both_ours_and_value_errors() -> None:
    assert issubclass(ConfigError, LifecycleError)
    assert issubclass(ConfigError, ValueError)


# -- the environment -----------------------------------------------------------------------------------------


def test_from_the_environment() -> None:
    environ = {
        "LIFECYCLE_FINALIZER_TIMEOUT": " 2.5 ",
        "LIFECYCLE_MAX_FINALIZER_RETRIES": "7",
        "LIFECYCLE_LOG_FINALIZERS": "yes",
        "LIFECYCLE_ENABLE_STATE_CHECKING": "Off",
        "LIFECYCLE_LEAK_LEVEL": "PARANOID",
        "UNRELATED": "x",
    }
    assert SafetyConfig.from_env(environ) == SafetyConfig(
        finalizer_timeout=2.5,
        max_finalizer_retries=7,
        log_finalizers=True,
        enable_state_checking=False,
        leak_level="paranoid",
    )
    assert SafetyConfig.from_env({}) == SafetyConfig()


def test_from_the_processs_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFECYCLE_SHUTDOWN_TIMEOUT", "1.5")
    assert SafetyConfig.from_env().shutdown_timeout == 1.5


def test_overrides_win() -> None:
    environ = {"LIFECYCLE_SHUTDOWN_TIMEOUT": "1.5", "LIFECYCLE_LEAK_LEVEL": "nonsense"}
    config = SafetyConfig.from_env(environ, shutdown_timeout=3, leak_level="off", errors=(OSError,))
    assert (config.shutdown_timeout, config.leak_level, config.errors) == (3, "off", (OSError,))


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("LIFECYCLE_FINALIZER_TIMEOUT", "soon", "a number of seconds"),
        ("LIFECYCLE_MAX_STUCK_FINALIZERS", "2.5", "a whole number"),
        ("LIFECYCLE_LOG_FINALIZERS", "maybe", "yes or no"),
        ("LIFECYCLE_LOG_FINALIZERS", "", "yes or no"),
    ],
)
def test_what_cannot_be_read_is_refused_by_the_variables_name(variable: str, text: str, wanted: str) -> None:
    """I9."""
    with pytest.raises(ConfigError, match=rf"{variable}={text!r} cannot be read: it takes {wanted}"):
        SafetyConfig.from_env({variable: text})


@pytest.mark.parametrize(
    ("variable", "text", "field"),
    [
        ("LIFECYCLE_FINALIZER_TIMEOUT", "-1", "finalizer_timeout"),
        ("LIFECYCLE_FINALIZER_TIMEOUT", "nan", "finalizer_timeout"),
    ],
)
def test_what_can_be_read_and_is_impossible_is_refused(variable: str, text: str, field: str) -> None:
    """I9."""
    with pytest.raises(ConfigError, match=field):
        SafetyConfig.from_env({variable: text})

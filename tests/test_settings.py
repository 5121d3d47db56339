"""Settings: where they come from, and what is said about those that cannot be used."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from roiservice.errors import SettingsError
from roiservice.settings import PREFIX, Settings, load_settings


def test_defaults_need_nothing() -> None:
    settings = load_settings({}, {})
    assert settings == load_settings(None, {"PATH": "/bin", "OTHER_PAGE_LIMIT": "x"})
    assert (settings.page_limit, settings.page_limit_max, settings.redis_url) == (200, 500, None)
    assert settings.catalog_dir.is_absolute()
    assert settings.state_dir.is_absolute()
    assert settings.catalog_dir != settings.state_dir


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PAGE_LIMIT", "17", 17),
        ("CHECK_INTERVAL", "2.5", 2.5),
        ("CHECK_INTERVAL", "1e3", 1000.0),
        ("SMOOTH", "true", True),
        ("SMOOTH", "Yes", True),
        ("SMOOTH", "1", True),
        ("SMOOTH", "0", False),
        ("SMOOTH", "", False),
        ("REDIS_URL", "redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("REDIS_URL", "rediss://h", "rediss://h"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("REDIS_URL", "", None),
        ("REGISTRY_URL", "postgresql://u:p%40@h:5433/d", "postgresql://u:p%40@h:5433/d"),
        ("REGISTRY_URL", "postgresql+psycopg:///d?host=/run", "postgresql+psycopg:///d?host=/run"),
        ("REGISTRY_URL", "", None),
        ("CATALOG_BYTES", "5000000000", 5_000_000_000),
        ("CATALOG_BYTES", "", None),
        ("SCRIPT_NAME", "/rois", "/rois"),
        ("SCRIPT_NAME", "", ""),
        ("CATALOG_DIR", "/somewhere/else", Path("/somewhere/else")),
    ],
)
def test_the_environment_is_read(variable: str, text: str, value: Any) -> None:
    settings = load_settings({}, {PREFIX + variable: text})
    found = getattr(settings, variable.lower())
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


def test_directories_of_the_environment_are_made_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings({}, {PREFIX + "STATE_DIR": "here", PREFIX + "CATALOG_DIR": "~/there"})
    assert settings.state_dir == tmp_path / "here"
    assert settings.catalog_dir == Path("/home/somebody/there")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PAGE_LIMIT", "many"),
        ("PAGE_LIMIT", ""),
        ("PAGE_LIMIT", "1.5"),
        ("PAGE_LIMIT", "0"),
        ("PAGE_LIMIT", "-3"),
        ("PAGE_LIMIT", "501"),
        ("CHECK_INTERVAL", "nan"),
        ("CHECK_INTERVAL", "inf"),
        ("CHECK_INTERVAL", "soon"),
        ("SIMPLIFY", "-1"),
        ("SIMPLIFY", "nan"),
        ("MIN_AREA", "-0.1"),
        ("SMOOTH", "perhaps"),
        ("CATALOG_BYTES", "0"),
        ("CATALOG_BYTES", "50G"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("SCRIPT_NAME", "rois"),
        ("SCRIPT_NAME", "/rois/"),
        ("SCRIPT_NAME", "/"),
        ("BUILD_WAITERS", "0"),
        ("FORWARDED_HOPS", "-1"),
        ("CATALOG_DIR", ""),
        ("STATE_DIR", ""),
    ],
)
def test_a_value_that_cannot_be_used_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=PREFIX + variable):
        load_settings({}, {PREFIX + variable: text})


@pytest.mark.parametrize(
    "text",
    [
        "mysql://u:secret@h/d",
        "secret",
        "postgresql://u:secret@h",
        "postgresql://u:secret@h:port/d",
        "postgresql://u:sec/ret@h/d",
        "postgresql://u:sec@ret@h/d",
        "postgresql://u:sec#ret@h/d",
        "postgresql://u:sec?ret@h/d",
        "postgresql://u:sec[ret@h/d",
    ],
)
def test_an_address_of_the_registry_that_cannot_be_used_is_not_quoted(text: str) -> None:
    with pytest.raises(SettingsError, match=f"{PREFIX}REGISTRY_URL: must be like") as told:
        load_settings({}, {PREFIX + "REGISTRY_URL": text})
    assert "ret" not in str(told.value)


def test_the_password_of_the_registry_is_not_shown() -> None:
    assert "secret" not in repr(Settings(registry_url="postgresql://u:secret@h/d"))


@pytest.mark.parametrize("variable", ["PAGELIMIT", "NO_SUCH", "", "PAGE_LIMIT_"])
def test_an_unknown_variable_is_refused_by_name(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"{PREFIX}{variable}: .*no such"):
        load_settings({}, {PREFIX + variable: "1"})


def test_overrides_win_unless_they_are_none() -> None:
    environ = {PREFIX + "SIMPLIFY": "2", PREFIX + "MIN_AREA": "7"}
    settings = load_settings({"simplify": 1.0, "min_area": None}, environ)
    assert (settings.simplify, settings.min_area) == (1.0, 7.0)


def test_an_override_that_contradicts_the_environment_is_named() -> None:
    with pytest.raises(SettingsError, match=f"{PREFIX}SMOOTH.*{PREFIX}SIMPLIFY"):
        load_settings({"smooth": True}, {PREFIX + "SIMPLIFY": "1"})


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("CATALOG_BYTES", "200K", "a whole number"),
        ("PAGE_LIMIT", "", "a whole number"),
        ("CHECK_INTERVAL", "nan", "a number"),
        ("BUILD_ON_POST", "maybe", "yes or no"),
        ("CATALOG_DIR", "", "a path"),
    ],
)
def test_what_a_value_should_be_is_said_in_words(name: str, text: str, wanted: str) -> None:
    with pytest.raises(SettingsError, match=f"ROISERVICE_{name}: '{text}' is not {wanted}$"):
        load_settings(environ={f"ROISERVICE_{name}": text})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["simplify", "min_area", "check_interval", "keep_replaced"])
def test_overrides_are_held_to_the_same_rules(name: str, value: float) -> None:
    """`--simplify nan` reaches the settings as a number already."""
    with pytest.raises(SettingsError, match=PREFIX + name.upper()):
        load_settings({name: value}, {})


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().page_limit = 3  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    for item in fields(Settings):
        assert len(item.metadata["help"]) > 10, item.name

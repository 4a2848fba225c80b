"""Flags and environment variables follow from the settings."""

from __future__ import annotations

from tpw.config import Override, environment_name, flags, overrides


def test_flags_are_those_of_the_contract() -> None:
    assert {(flag.name, flag.environment) for flag in flags()} == {
        ("state.dir", "TPW_STATE_DIR"),
        ("web.listen-address", "TPW_WEB_LISTEN_ADDRESS"),
        ("web.telemetry-path", "TPW_WEB_TELEMETRY_PATH"),
        ("web.config.file", "TPW_WEB_CONFIG_FILE"),
        ("web.enable-lifecycle", "TPW_WEB_ENABLE_LIFECYCLE"),
        ("web.external-url", "TPW_WEB_EXTERNAL_URL"),
        ("log.level", "TPW_LOG_LEVEL"),
        ("log.format", "TPW_LOG_FORMAT"),
    }


def test_environment_name_of_the_file_itself() -> None:
    assert environment_name("config.file") == "TPW_CONFIG_FILE"


def test_a_flag_overrides_the_environment() -> None:
    given = overrides({"log.level": "debug", "log.format": None}, {"TPW_LOG_LEVEL": "error", "TPW_LOG_FORMAT": "json"})
    assert given == (
        Override("log.level", "debug", "--log.level"),
        Override("log.format", "json", "TPW_LOG_FORMAT"),
    )


def test_an_empty_environment_variable_counts_as_unset() -> None:
    assert overrides({}, {"TPW_LOG_LEVEL": ""}) == ()


def test_an_empty_flag_is_a_value_and_is_checked() -> None:
    assert overrides({"log.level": ""}, {}) == (Override("log.level", "", "--log.level"),)

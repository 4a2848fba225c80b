"""Loading of valid and invalid files."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tpw.carbon import KINDS
from tpw.config import Config, ConfigError, Known, Override, Problem, load, load_file
from tpw.config.parts import GpuChoice, Gpus, Meter, MetricSelector
from tpw.settings.words import listed
from tpw.tariff import LAYERS
from tpw.tariff.intervals import PRESETS

CAPTURES = Path(__file__).parents[2] / "captures" / "config"
KNOWN = Known(
    accelerators=("nvml", "amdsmi", "dcgm", "hwmon"), host_meters=("rapl", "redfish"), engines=("vllm", "sglang")
)
BAD = sorted((CAPTURES / "bad").glob("*.yaml"))
GOOD = sorted((CAPTURES / "good").glob("*.yaml"))


def problems_of(text: str, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(text, "f.yaml", **options)  # type: ignore[arg-type]
    return [str(problem) for problem in raised.value.problems]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_file_has_exactly_the_expected_problems(path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(path.read_text(), path.name, known=KNOWN)
    actual = "".join(f"{problem}\n" for problem in raised.value.problems)
    for words, choices in (("{kinds}", LAYERS), ("{presets}", PRESETS), ("{carbon kinds}", KINDS)):
        actual = actual.replace(listed(tuple(choices)), words)  # a new kind or preset changes no golden
    golden = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(actual)
    assert actual == golden.read_text()


def test_every_golden_belongs_to_a_bad_file() -> None:
    assert sorted((CAPTURES / "bad").glob("*.txt")) == [path.with_suffix(".txt") for path in BAD]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_file_loads(path: Path) -> None:
    assert isinstance(load_file(path, known=Known()), Config)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n", "\ufeff"])
def test_an_empty_file_has_the_defaults(text: str) -> None:
    assert load(text) == Config()


def test_no_file_has_the_defaults() -> None:
    assert load_file(None) == Config()


def test_sections_with_every_line_commented_out_have_the_defaults() -> None:
    loaded = load((CAPTURES / "good" / "empty_sections.yaml").read_text())
    assert loaded == Config()


def test_defaults_are_those_of_the_contract() -> None:
    config = Config()
    assert (config.polling.interval, config.polling.window) == (1.0, 60.0)
    assert config.accelerators == (Meter("nvml", optional=True),)
    assert config.host.meters == (Meter("rapl", optional=True),)
    assert config.web.listen_address == ":10101"
    assert config.web.telemetry_path == "/metrics"
    assert config.discovery.processes is True
    assert config.tariff.energy == ()


def test_the_example_of_the_contract_is_read() -> None:
    config = load_file(CAPTURES / "good" / "contract.yaml", known=KNOWN)
    chat, edge, big = config.servers
    assert chat.gpus == Gpus(GpuChoice.LISTED, ("0", "GPU-5c1f..."))
    assert chat.headers_file == "/run/secrets/chat-headers"
    assert edge.gpus == Gpus(GpuChoice.AUTO)
    assert edge.tokens == {
        "output": MetricSelector(metric="my_generated_tokens_total"),
        "input": MetricSelector(metric="my_prompt_tokens_sum", match={"stage": "all"}),
    }
    assert (big.url, big.gpus.listed, big.model) == (None, ("4", "5"), "big-model")
    assert config.facility.pue == 1.3
    night, evening = config.tariff.energy[0].zones  # type: ignore[attr-defined]
    assert (night.price_per_kwh, night.hours, night.days) == (0.10, ((1320, 360),), frozenset())
    assert (evening.days, evening.months) == (frozenset(range(5)), frozenset({11, 12, 1, 2, 3}))
    assert config.costs.hardware.residual == 0.2  # type: ignore[union-attr]
    assert config.references[1].price_per_million.cached_input == 0.30  # type: ignore[union-attr]


def test_every_form_of_a_value_is_read() -> None:
    path = CAPTURES / "good" / "everything.yaml"
    config = load_file(path)
    here = str(path.parent)
    assert (config.polling.interval, config.polling.window) == (0.5, 90.0)
    assert config.accelerators[1] == Meter("hwmon", {"sysfs": "/host/sys", "poll": 5})
    assert config.host.meters[1] == Meter("redfish", {"credentials_file": "/run/secrets/bmc"})
    assert config.servers[0].gpus.listed[0] == "00000000:01:00.0"
    assert config.servers[0].headers_file == f"{here}/secrets/chat-headers"
    assert config.servers[0].tls.cert_file == f"{here}/client.pem"  # type: ignore[union-attr]
    assert config.servers[1].name == "7"
    assert config.servers[1].gpus == Gpus(GpuChoice.NONE)
    assert config.servers[2].tokens["cached_input"].match == {"kind": "hit", "no": "yes"}
    assert config.dialects == (
        {
            "name": "mine",
            "output": ("mine_tokens_total",),
            "finished": True,
            "scale": 0.5,
            "nothing": None,
            "limit": 12,
        },
    )
    assert config.discovery.processes is False
    energy: Any = config.tariff.energy[0]
    assert energy.price_per_kwh == -0.02
    night, winter, dated = energy.zones
    assert (night.price_per_kwh, night.hours) == (1.0005, ((1320, 1440), (0, 360)))
    assert (winter.price_per_kwh, winter.hours) == (0.75, night.hours)
    assert (winter.days, winter.months) == (frozenset({5, 6, 0}), frozenset({7, 11, 12, 1, 2}))
    assert (dated.valid_from, dated.valid_to, dated.days) == (date(2026, 1, 1), date(2026, 12, 31), frozenset({2, 4}))
    assert energy.holidays == {date(2026, 5, 17), date(2026, 12, 25)}
    assert config.tariff.levies[0].contains_vat is True
    assert config.references[0].price_per_million.cached_input is None  # type: ignore[union-attr]
    assert (config.state.dir, config.web.config_file) == (f"{here}/books", f"{here}/web.yml")
    assert config.log.level == "warning"


def test_a_configuration_compares_with_itself_loaded_again() -> None:
    path = CAPTURES / "good" / "everything.yaml"
    assert load_file(path) == load_file(path)


def test_problem_reads_as_file_line_column_path_message() -> None:
    assert str(Problem("a.yaml", 3, 5, "polling.interval", "no")) == "a.yaml:3:5: polling.interval: no"
    assert str(Problem("a.yaml", 3, 5, "", "no")) == "a.yaml:3:5: no"
    assert str(Problem("--log.level", 0, 0, "log.level", "no")) == "--log.level: log.level: no"


def test_error_text_is_all_problems() -> None:
    with pytest.raises(ConfigError) as raised:
        load("polling: {interval: 1, window: 2}", "f.yaml")
    assert str(raised.value).count("\n") == 1


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(ConfigError) as raised:
        load_file("/nowhere/tpw.yaml")
    assert str(raised.value) == "/nowhere/tpw.yaml: cannot be read: No such file or directory"


def test_a_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_file(tmp_path)


def test_a_binary_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tpw.yaml"
    path.write_bytes(b"polling:\n  \xff\xfe")
    with pytest.raises(ConfigError, match=r"tpw\.yaml:2:1: is not UTF-8 text"):
        load_file(path)


def test_a_control_character_is_reported_with_its_line() -> None:
    assert problems_of("polling:\n  interval: \x01s\n")[0].startswith("f.yaml:2:")


def test_oversized_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tpw.yaml"
    path.write_bytes(b"#" * (5 * 1024 * 1024))
    with pytest.raises(ConfigError, match="is larger than 4 MiB"):
        load_file(path)


@pytest.mark.parametrize("depth", [60, 900, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    [problem] = problems_of("dialects: " + "[" * depth + "]" * depth)
    assert "nested deeper than 40 levels" in problem


def test_list_without_entries_reads_none() -> None:
    assert load("accelerators: []").accelerators == ()
    assert load("accelerators: [nvml]").accelerators == (Meter("nvml"),)  # named: more than the default of that name


def test_names_are_checked_only_where_they_are_known() -> None:
    text = "servers: [{name: a, url: 'http://h', engine: never-heard}]"
    assert load(text).servers[0].engine == "never-heard"
    [problem] = problems_of(text, known=KNOWN)
    assert problem == ("f.yaml:1:38: servers[0].engine: unknown engine `never-heard`; available: custom, sglang, vllm")


class TestOverrides:
    """Flags and environment variables override the file."""

    def test_an_override_replaces_the_value_of_the_file(self) -> None:
        config = load("log: {level: debug, format: json}", overrides=[Override("log.level", "error", "--log.level")])
        assert (config.log.level, config.log.format) == ("error", "json")

    def test_override_without_a_file(self) -> None:
        config = load_file(None, overrides=[Override("web.listen_address", ":9", "TPW_WEB_LISTEN_ADDRESS")])
        assert config.web.listen_address == ":9"

    def test_override_of_an_empty_section(self) -> None:
        config = load("log:\n", overrides=[Override("log.level", "error", "--log.level")])
        assert config.log.level == "error"

    def test_two_overrides_of_one_section(self) -> None:
        given = [Override("log.level", "error", "--log.level"), Override("log.format", "json", "--log.format")]
        config = load("log: {level: debug}", overrides=given)
        assert (config.log.level, config.log.format) == ("error", "json")

    def test_bad_override_names_the_flag(self) -> None:
        given = [Override("log.level", "loud", "--log.level")]
        assert problems_of("", overrides=given) == [
            "--log.level: log.level: `loud` is not debug, info, warning or error",
        ]

    def test_bad_section_of_the_file_is_still_reported(self) -> None:
        given = [Override("log.level", "error", "--log.level")]
        assert problems_of("log: loud", overrides=given) == [
            "f.yaml:1:6: log: should be a mapping of settings, not `loud`",
        ]

    def test_path_of_a_flag_starts_at_the_working_directory(self) -> None:
        given = [Override("state.dir", "books", "--state.dir")]
        config = load("web: {config_file: web.yml}", "/etc/tpw/f.yaml", overrides=given)
        assert (config.state.dir, config.web.config_file) == ("books", "/etc/tpw/web.yml")

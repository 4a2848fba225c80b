"""Checks of a configuration that only meters and dialects can make."""

from __future__ import annotations

import pytest

from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.daemon.sources import known_names


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(text, "file", known=known_names())
    return [str(problem) for problem in raised.value.problems]


def test_all_unknown_and_missing_options_of_meters_are_reported_with_their_place() -> None:
    assert problems(
        "accelerators:\n"
        "  - nvml: {index: 1}\n"
        "  - external: {wats: {a: 1}}\n"
        "host:\n"
        "  meters:\n"
        "    - rapl\n"
        "    - redfish:\n"
        "        chasis: x\n"
    ) == [
        "file:2:12: accelerators[0].nvml.index: unknown option: this meter has none",
        "file:3:16: accelerators[1].external.wats: unknown option; did you mean `watts`?",
        "file:7:7: host.meters[1].redfish.url: is missing",
        "file:8:9: host.meters[1].redfish.chasis: unknown option; did you mean `chassis`?",
    ]


def test_an_unknown_option_that_resembles_none_is_reported_with_the_known_ones() -> None:
    assert problems("accelerators: [{simulated: {xyz: 1}}]") == [
        "file:1:29: accelerators[0].simulated.xyz: unknown option; there are gpus"
    ]


def test_a_value_that_a_meter_cannot_use_names_the_meter() -> None:
    [problem] = problems("accelerators: [{simulated: {gpus: many}}]")
    assert problem.startswith("file:1:17: accelerators[0].simulated: an option has an invalid value: ")


def test_problems_of_meters_and_dialects_are_reported_together() -> None:
    found = problems("accelerators: [{nvml: {index: 1}}]\ndialects: [{name: mine, outptu: x}]\n")
    assert [problem.split(": ")[1] for problem in found] == [
        "accelerators[0].nvml.index",
        "dialects[0].output",
        "dialects[0].outptu",
    ]


def test_a_configuration_with_none_of_them_is_fine() -> None:
    load("", known=known_names())

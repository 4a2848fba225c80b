"""From a configuration to its parts: what only the parts can tell of it."""

from __future__ import annotations

import pytest

from tpw.assembly import examine
from tpw.config.load import load


def problems(text: str) -> list[str]:
    with pytest.raises(ValueError, match=r"\[\d\]") as raised:
        examine(load(text))
    return str(raised.value).splitlines()


def test_options_that_meters_do_not_have_are_all_told_with_their_place() -> None:
    assert problems(
        """
        accelerators: [{nvml: {index: 1}}, {external: {wats: {a: 1}}}]
        host: {meters: [rapl, {redfish: {chasis: x}}]}
        """
    ) == [
        "accelerators[0].nvml.index: unknown option: this meter has none",
        "accelerators[1].external.wats: unknown option; did you mean `watts`?",
        "host.meters[1].redfish.chasis: unknown option; did you mean `chassis`?",
        "host.meters[1].redfish.url: is missing",
    ]


def test_an_option_that_is_like_none_is_told_which_there_are() -> None:
    assert problems("accelerators: [{simulated: {xyz: 1}}]") == [
        "accelerators[0].simulated.xyz: unknown option; there are gpus"
    ]


def test_a_value_that_a_meter_cannot_use_names_the_meter() -> None:
    [problem] = problems("accelerators: [{simulated: {gpus: many}}]")
    assert problem.startswith("accelerators[0].simulated: an option has a value that makes no sense: ")


def test_every_problem_of_a_dialect_names_the_dialect() -> None:
    found = problems("dialects: [{name: mine, output: x}, {name: other, outptu: x}]")
    assert [problem.split(":")[0] for problem in found] == ["dialects[1].outptu", "dialects[1].output"]


def test_meters_and_dialects_are_told_together() -> None:
    found = problems("{accelerators: [{nvml: {index: 1}}], dialects: [{name: mine}]}")
    assert [problem.split(".")[0] for problem in found] == ["accelerators[0]", "dialects[0]"]


def test_a_configuration_without_one_of_them_is_fine() -> None:
    examine(load(""))

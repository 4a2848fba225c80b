"""Recording rules: named as Prometheus wants, readable only from what is there, and right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from grafana.rules import HOUR_RECORDED, LEVELS, recorded, recording_groups, vocabulary
from grafana.values import Values

from support import recorded as recording
from support import ruletests

VALUES = Values()
GROUPS = recording_groups(VALUES)
RULES = tuple(rule for group in GROUPS for rule in group.rules)


@pytest.mark.rules
@pytest.mark.parametrize("case", ["recording", "recording-day", "recording-scopes", "recording-hours"])
def test_recorded_values_match_the_hand_calculation(case: str, tools: Path, root: Path):
    path = root / "tests" / "rules" / f"{case}.yaml"
    done = ruletests.promtool(tools, "test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_promised_name_is_recorded_with_its_labels():
    labels = recorded(GROUPS, VALUES)["model:tpw_tokens_per_joule:ratio_rate5m"]
    assert labels == {"cluster", "namespace", "job", "server", "model", "kind", "boundary"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.record}-{'-'.join(rule.labels.values())}")
def test_name_consists_of_level_metric_and_operation(rule):
    level, metric, operation = rule.record.split(":")
    assert level in LEVELS
    assert re.fullmatch(r"tpw_[a-z_]+", metric)
    assert re.fullmatch(r"(ratio_)?(rate|increase|avg|baseline|best|max|sum)?\d*[mhd]?|ratio", operation)
    expected = set(LEVELS[level]) | set(VALUES.labels)
    assert expected <= set(rule.carries) | set(VALUES.labels), "the level promises labels that the rule drops"


def test_ratios_guard_their_denominators():
    """Wherever a rule divides, the divisor is above zero."""
    unguarded = [rule.record for rule in RULES for divisor in re.split(r"\s/\s", rule.expr)[1:] if "> 0" not in divisor]
    assert unguarded == []


def test_no_rule_averages_a_ratio():
    averaged = [rule.record for rule in RULES if re.search(r"(?:sum|avg)(?: by \([^)]*\))? \([^()]*:ratio", rule.expr)]
    assert averaged == []


def test_groups_are_evaluated_well_within_the_lookback():
    seconds = {None: 0, "1m": 60, "2m": 120}
    assert {group.interval for group in GROUPS} <= set(seconds)
    assert len({group.name for group in GROUPS}) == len(GROUPS)


def test_a_rule_finds_what_it_reads_in_the_rules_before_it():
    """Rules of a group are evaluated in order; groups of one window hold their own inputs. Whether the hour is recorded is
    read as of before."""
    names = set(recorded(GROUPS, VALUES))
    words = vocabulary(VALUES)
    for group in GROUPS:
        seen: set[str] = set()
        inside = {rule.record for rule in group.rules}
        for rule in group.rules:
            reads = {name for name in words.names(rule.expr) if name in names} - {HOUR_RECORDED}
            assert reads & inside <= seen | {rule.record}, f"{rule.record} comes before what it reads"
            seen.add(rule.record)


def test_rules_can_be_layered():
    layers = recording.depths([{"rules": [{"record": rule.record, "expr": rule.expr} for rule in RULES]}])
    assert sum(map(len, layers)) == len(RULES)
    assert 2 <= len(layers) <= 7

"""A user can write in the configuration what a built-in row has."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import yaml

from support.pageserver import PageServer, answer, pages
from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.daemon import sources
from tpw.model import Cadence, Load, Role, Tier
from tpw.tokens.dialects import Candidate, Dialect, Kind
from tpw.tokens.engines import DIALECTS
from tpw.tokens.mapping import dialect_from_mapping


def labels_in_configuration(pairs: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {}
    for label, value in pairs:
        words.setdefault(label, []).append(value)
    return words


def metrics_in_configuration(
    candidates: tuple[Candidate, ...], *, is_prompt_list: bool = False
) -> list[dict[str, Any]]:
    return [
        {"metric": one.name}
        | ({"kind": one.kind.value} if one.kind is Kind.HISTOGRAM_SUM else {})
        | ({"match": labels_in_configuration(one.match)} if one.match else {})
        | ({"unless": labels_in_configuration(one.unless)} if one.unless else {})
        | ({"cadence": one.cadence.value} if one.cadence else {})
        | ({"tier": tiers_in_configuration(one.tiers)} if one.tiers else {})
        | ({"includes_cached": True} if one.role is Role.PROMPT and not is_prompt_list else {})
        for one in candidates
    ]


def tiers_in_configuration(tiers: tuple[tuple[str, str, Tier], ...]) -> Any:
    """As a user writes them: one tier of all series, or by label and value."""
    words: dict[str, dict[str, str]] = {}
    for label, value, tier in tiers:
        words.setdefault(label, {})[value] = tier.value
    return words[""][""] if "" in words else words


def entry_for(row: Dialect) -> dict[str, Any]:
    """A row as an entry of ``dialects:``."""
    words: dict[str, Any] = {
        "prefix": list(row.prefixes),
        "path": list(row.paths),
        "other_ports": list(row.other_ports),
        "level": row.level.value,
        "cadence": row.cadence.value,
        "recognised_by": {part: list(getattr(row.mark, part)) for part in row.mark.__slots__},
        "output": metrics_in_configuration(row.output),
        "input": metrics_in_configuration(row.input),
        "cached_input": metrics_in_configuration(row.cached_input),
        "prompt": metrics_in_configuration(row.prompt, is_prompt_list=True),
        "requests": metrics_in_configuration(row.requests),
        "uncounted": metrics_in_configuration(row.uncounted),
        "stored": metrics_in_configuration(row.stored),
        "external": metrics_in_configuration(row.external),
        "live_output": metrics_in_configuration(row.live_output),
        "running": metrics_in_configuration(row.running),
        "waiting": metrics_in_configuration(row.waiting),
        "work": {work.unit: metrics_in_configuration(work.candidates) for work in row.work},
        "model_label": list(row.model_labels),
        "pin": list(row.pin),
        "late": row.late,
        "ttft": list(row.ttft),
        "tpot": list(row.tpot),
        "e2e": list(row.e2e),
        "paired": row.paired,
        "model_source": [{"path": one.path, "pointer": list(one.pointer)} for one in row.model_source],
        "version_source": [{"path": one.path, "pointer": list(one.pointer)} for one in row.version_source],
        "processes": {
            "listener": list(row.processes.listener),
            "gpu": list(row.processes.gpu),
            "climb": row.processes.climb.value,
        },
        "enable": row.enable,
    }
    if row.port is not None:
        words["port"] = row.port
    if row.progress is not None:
        words["progress"] = {
            "path": row.progress.path,
            "busy": row.progress.busy,
            "identity": list(row.progress.identity),
            "tokens": [list(pointer) for pointer in row.progress.tokens],
            "note": row.progress.note,
        }
    return words


@pytest.mark.parametrize("row", DIALECTS, ids=lambda row: row.name)
def test_a_user_can_write_every_built_in_row(row: Dialect) -> None:
    document = yaml.safe_dump({"dialects": [{"name": f"my-{row.name}", **entry_for(row)}]}, sort_keys=False)
    [configured, *_] = sources.dialects(load(document))
    assert configured == replace(row, name=f"my-{row.name}", caveats="")


def test_t29_a_server_may_name_a_dialect_of_the_configuration_and_its_own_cadence() -> None:
    with PageServer(pages({"/metrics": answer("mine_output_total 5\nmine_running 2\n")})) as server:
        config = load(
            f"""
            dialects: [{{name: mine, prefix: mine_, output: output_total, running: running}}]
            servers: [{{name: chat, url: "{server.url}", engine: mine, gpus: none, model: m, cadence: step}}]
            """,
            known=sources.known_names(),
        )
        rows = sources.dialects(config)
        source = sources.token_source(config.servers[0], rows, time.monotonic, lambda: None)
        reading = source.read()
        source.close()
    assert source.dialect is rows[0]
    assert (reading.engine, reading.cadence, rows[0].cadence) == ("mine", Cadence.STEP, Cadence.UNKNOWN)
    assert [(one.role, one.model, one.value) for one in reading.series] == [(Role.OUTPUT, "m", 5.0)]
    assert reading.loads == (Load("m", 2.0, None),)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ({"progress": 5}, "progress"),
        ({"progress": {"path": "/slots", "busy": "b", "tokens": []}}, "progress.tokens"),
        ({"progress": {"path": "/slots", "busy": "b", "identity": [1], "tokens": ["n"]}}, "progress.identity[0]"),
        ({"progress": {"busy": "b", "tokens": ["n"]}}, "progress.path"),
        ({"model_source": "/v1/models"}, "model_source"),
        ({"model_source": {"path": "/v1/models", "pointer": [True]}}, "model_source.pointer"),
        ({"processes": {"listens": "x"}}, "processes.listens"),
        ({"processes": {"climb": "up"}}, "processes.climb"),
        ({"recognised_by": {"any": "x"}}, "recognised_by.any"),
        ({"late": "yes"}, "late"),
        ({"other_ports": [80, 0]}, "other_ports[1]"),
        ({"input": {"metric": "x", "includes_cached": "no"}}, "input.includes_cached"),
        ({"input": {"metric": "x", "kind": "sum"}}, "input.kind"),
        ({"input": {"metric": "x", "unless": "y"}}, "input.unless"),
        ({"input": "a", "prompt": "b", "cached_input": "c"}, "prompt"),
    ],
)
def test_an_invalid_key_is_reported_with_its_path(words: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        dialect_from_mapping({"output": "x_total", **words})
    assert str(caught.value).partition(":")[0] == where


def test_problems_of_a_dialect_are_reported_with_their_lines() -> None:
    lines = [
        "dialects:",
        "- name: mine",
        "  output: output_total",
        "  progress:",
        "    path: /slots",
        "    bussy: works",
    ]
    with pytest.raises(ConfigError) as caught:
        load("\n".join([*lines, "  late: perhaps"]), known=sources.known_names())
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (4, "dialects[0].progress.busy"),
        (4, "dialects[0].progress.tokens"),
        (6, "dialects[0].progress.bussy"),
        (7, "dialects[0].late"),
    ]

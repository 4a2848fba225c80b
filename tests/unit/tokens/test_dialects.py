"""Every engine's page read by its row, and held against a reviewed reading.

A page in ``tests/captures/servers`` is called ``<engine>-<where from>.txt``; its reading is beside the other goldens.
After a change that is meant: ``UPDATE_GOLDEN=1 pytest tests/unit/tokens/test_dialects.py``, and review the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tpw.model import Cadence, Role
from tpw.tokens.dialects import Candidate, Climb, Dialect, Kind, Level
from tpw.tokens.engines import DIALECTS, ENGINES, KNOWN_PATHS
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, recognise

TESTS = Path(__file__).parents[2]
PAGES = sorted((TESTS / "captures" / "servers").glob("*.txt"))
GOLDEN = TESTS / "golden" / "servers"
WRITTEN = "# Written from the names in the engine's own source and documentation, not captured from a running server.\n"

NEVER_COUNTED = (
    *("iteration_tokens_total", "n_tokens_max", "n_past_max", "n_busy_slots_per_decode", "batch_current_max_tokens"),
    *("xinference:generate_tokens_total", "_created", "_bucket", "prompt_tokens_seconds", "predicted_tokens_seconds"),
    *("spec_decode", "reasoning", "total_context_tokens", "skipped_tokens", "external_kv_transfer"),
)
"""What looks like a token counter and is none, or is a part of one that is counted."""


def page_id(path: Path) -> str:
    return path.stem


def engine_of(path: Path) -> Dialect:
    return ENGINES[path.stem.partition("-")[0]]


def reading_of(path: Path) -> dict[str, Any]:
    page = Page(path.read_bytes())
    dialect = engine_of(path)
    found = DialectReader(dialect, lambda: "the-model").read(page)
    recognised = recognise(page, DIALECTS)
    return {
        "recognised": recognised.name if recognised else None,
        "engine": dialect.name,
        "level": dialect.level.value,
        "cadence": found.cadence.value,
        "started": found.started_wall_seconds,
        "series": [
            {"role": one.role.value, "model": one.model, "key": one.key, "value": one.value} for one in found.series
        ],
        "loads": [{"model": one.model, "running": one.running, "waiting": one.waiting} for one in found.loads],
        "work": [{"unit": one.unit, "model": one.model, "key": one.key, "value": one.value} for one in found.work],
    }


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_a_page_reads_as_reviewed(path: Path):
    golden = GOLDEN / f"{path.stem}.json"
    reading = reading_of(path)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(json.dumps(reading, indent=1, ensure_ascii=False) + "\n")
    assert reading == json.loads(golden.read_text())


def test_every_reading_has_its_page():
    assert {golden.stem for golden in GOLDEN.glob("*.json")} == {path.stem for path in PAGES}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_every_engine_has_a_page(dialect: Dialect):
    assert any(engine_of(path) is dialect for path in PAGES)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_a_page_that_was_not_captured_says_so(path: Path):
    assert path.stem.endswith("-documented") == path.read_text().startswith(WRITTEN)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_t14_a_page_is_recognised_as_its_own_engine(path: Path):
    """Rows without a mark of their own are other names for one that has it, or are never recognised."""
    aliases = {"kserve": "vllm", "envoy_ai_gateway": "otel_genai", "infinity": None}
    engine = engine_of(path).name
    assert reading_of(path)["recognised"] == aliases.get(engine, engine)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_t11_what_only_looks_like_a_counter_is_never_counted(path: Path):
    keys = [one["key"] for one in reading_of(path)["series"]]
    assert [key for key in keys for name in NEVER_COUNTED if name in key] == []


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_a_reading_says_input_in_one_way_only(path: Path):
    """Computed prompt tokens, or all of them. Both only where cached ones are their difference and counted nowhere."""
    series = reading_of(path)["series"]
    assert not {"input", "prompt", "cached_input"} <= {one["role"] for one in series}
    assert len({one["key"] for one in series}) == len(series)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_a_row_is_sound(dialect: Dialect):
    lists = (dialect.output, dialect.input, dialect.cached_input, dialect.prompt, dialect.requests)
    counters = [*(one for each in lists for one in each), *(one for work in dialect.work for one in work.candidates)]
    assert counters
    assert all(one.kind is not Kind.GAUGE for one in counters)
    assert all(one.kind is Kind.GAUGE for one in (*dialect.running, *dialect.waiting))
    assert all(one.role in (None, Role.PROMPT) for one in dialect.input)
    assert all(one.role is Role.PROMPT for one in dialect.prompt)
    assert not (dialect.prompt and dialect.cached_input)
    assert not {one.name for one in dialect.prompt} & {one.name for one in dialect.input}
    assert all(one.cadence is Cadence.STEP and one.kind is Kind.COUNTER for one in dialect.live_output)
    assert all(one.role is None for one in (*dialect.output, *dialect.cached_input, *dialect.requests))
    assert dialect.enable or dialect.name == "infinity"
    assert all(path.startswith("/") for path in dialect.paths)
    assert dialect.mark.any_prefix or dialect.mark.all_prefix or dialect.mark.all_series or dialect.port is not None


def test_names_are_unique():
    assert len(ENGINES) == len(DIALECTS)


def test_the_known_paths_hold_the_path_of_every_engine():
    assert {path for dialect in DIALECTS for path in dialect.paths} == set(KNOWN_PATHS)


# ------------------------------------------------------------------------------------------------------- a user's words


def test_the_configuration_s_mapping():
    dialect = Dialect.from_mapping(
        {"output": "my_generated_tokens_total", "input": {"metric": "my_prompt_tokens_sum", "match": {"stage": "all"}}}
    )
    assert dialect.name == "custom"
    assert dialect.output == (Candidate("my_generated_tokens_total"),)
    assert dialect.input == (Candidate("my_prompt_tokens_sum", match=(("stage", "all"),)),)


def test_prompt_stands_for_input_with_cached_tokens():
    dialect = Dialect.from_mapping({"prompt": "p_total", "cached_input": "c_total"})
    assert dialect.input == (Candidate("p_total", role=Role.PROMPT),)


def test_a_whole_engine_in_a_user_s_words():
    dialect = Dialect.from_mapping(
        {
            "prefix": ["mine_", "old_mine_"],
            "recognised_by": "mine_",
            "path": "/stats/prometheus",
            "port": 9000,
            "output": [{"metric": "live_tokens_total", "match": {"kind": "out"}, "cadence": "step"}, "tokens_total"],
            "prompt": "prompt_total",
            "requests": "requests_total",
            "running": "running",
            "waiting": "waiting",
            "work": {"images": "images_total"},
            "model_label": "served",
            "pin": ["rank"],
            "cadence": "finish",
            "level": "engine",
            "enable": "start it with --stats",
        },
        name="mine",
    )
    page = Page(
        b'mine_live_tokens_total{kind="out",rank="0",served="m"} 5\n'
        b'mine_live_tokens_total{kind="out",rank="1",served="m"} 5\n'
        b"mine_running 2\nmine_images_total 3\n"
    )
    assert recognise(page, (dialect, *DIALECTS)) is dialect
    found = DialectReader(dialect).read(page)
    assert [(one.role, one.model, one.value) for one in found.series] == [(Role.OUTPUT, "m", 5.0)]
    assert [(one.unit, one.value) for one in found.work] == [("images", 3.0)]
    assert (found.loads[0].running, found.cadence, dialect.level) == (2.0, Cadence.STEP, Level.ENGINE)
    assert (dialect.paths, dialect.port, dialect.processes.climb) == (("/stats/prometheus",), 9000, Climb.ANCESTOR)


def test_every_problem_of_a_mapping_is_told_at_once():
    with pytest.raises(ValueError, match="outptu") as caught:
        Dialect.from_mapping(
            {
                "outptu": "x",
                "input": {"metric": "", "matches": {}},
                "prompt": "p",
                "running": 5,
                "cadence": "sometimes",
                "level": "roof",
                "port": 99999,
                "path": 7,
                "work": ["x"],
                "output": [{"metric": "a", "match": "b"}, {"metric": "a", "cadence": "x"}],
            }
        )
    told = str(caught.value).split("\n")
    assert [problem.partition(":")[0] for problem in told] == [
        "outptu",
        "output[0].match",
        "output[1].cadence",
        "input.matches",
        "input.metric",
        "running",
        "path",
        "port",
        "level",
        "cadence",
        "work",
    ]


def test_a_mapping_that_counts_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one of output, input, prompt or work"):
        Dialect.from_mapping({"requests": "x_total"})


def test_t03_input_and_prompt_together_tell_the_cached_tokens():
    dialect = Dialect.from_mapping({"input": "x_total", "prompt": "y_total"})
    assert (dialect.input, dialect.prompt) == (
        (Candidate("x_total"),),
        (Candidate("y_total", role=Role.PROMPT),),
    )

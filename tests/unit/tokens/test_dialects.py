"""Every engine's page, read by its row and compared with a reviewed reading in ``tests/golden/servers``.

A page in ``tests/captures/servers`` is named ``<engine>-<version>-<moment>.txt`` if it was captured from a server, and
``<engine>-documented.txt`` if it was written from the engine's source or documentation.
After an intended change: ``make goldens ONLY=tests/unit/tokens/test_dialects.py``, then review the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tpw.model import Cadence, Role
from tpw.tokens.dialects import Candidate, Climb, Dialect, Kind, Level, Mark
from tpw.tokens.engines import DIALECTS, ENGINES, KNOWN_PATHS
from tpw.tokens.mapping import dialect_from_mapping
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, recognise

TESTS = Path(__file__).parents[2]
PAGES = sorted((TESTS / "captures" / "servers").glob("*.txt"))
GOLDEN = TESTS / "golden" / "servers"
CAPTURES = "tests/captures/servers"
UPDATE = "make goldens ONLY=tests/unit/tokens/test_dialects.py"

NEVER_COUNTED = (
    *("iteration_tokens_total", "n_tokens_max", "n_past_max", "n_busy_slots_per_decode", "batch_current_max_tokens"),
    *("xinference:generate_tokens_total", "_created", "_bucket", "prompt_tokens_seconds", "predicted_tokens_seconds"),
    *("spec_decode", "reasoning", "total_context_tokens", "skipped_tokens", "external_kv_transfer"),
)
"""Samples that resemble a token counter and are not one, or are a part of one that is counted."""


def page_id(path: Path) -> str:
    return path.stem


def engine_of(path: Path) -> Dialect:
    name = path.stem.partition("-")[0]
    assert name in ENGINES, (
        f"{path.name}: no row of tpw/tokens/engines.py is named {name!r}; name it <engine>-<version>.txt"
    )
    return ENGINES[name]


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
            {"role": one.role.value, "model": one.model, "key": one.key, "value": one.value}
            | ({} if one.tier is None else {"tier": one.tier.value})
            for one in found.series
        ],
        "loads": [{"model": one.model, "running": one.running, "waiting": one.waiting} for one in found.loads],
        **({"uncounted": {one.path: one.value for one in found.uncounted}} if found.uncounted else {}),
        "work": [{"unit": one.unit, "model": one.model, "key": one.key, "value": one.value} for one in found.work],
    }


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_a_page_reads_as_reviewed(path: Path):
    golden = GOLDEN / f"{path.stem}.json"
    reading = reading_of(path)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(json.dumps(reading, indent=1, ensure_ascii=False) + "\n")
    assert golden.exists(), f"{path.name} has no reviewed reading: run {UPDATE}"
    assert reading == json.loads(golden.read_text())


def test_every_reading_has_its_page():
    assert {golden.stem for golden in GOLDEN.glob("*.json")} <= {path.stem for path in PAGES}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_every_engine_has_a_page(dialect: Dialect):
    pages = [path for path in PAGES if path.stem.partition("-")[0] == dialect.name]
    assert pages, (
        f"add a page of {dialect.name} to {CAPTURES}: {dialect.name}-<version>.txt, or {dialect.name}-documented.txt"
    )


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_t14_a_page_is_recognised_as_its_own_engine(path: Path):
    """A page of a row without a mark is another row's or is not recognised: see its reviewed reading."""
    engine = engine_of(path)
    assert reading_of(path)["recognised"] == engine.name or engine.mark == Mark()


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_t11_a_sample_that_only_resembles_a_counter_is_never_counted(path: Path):
    keys = [one["key"] for one in reading_of(path)["series"]]
    assert [key for key in keys for name in NEVER_COUNTED if name in key] == []


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_a_reading_counts_input_in_one_way_only(path: Path):
    """Computed prompt tokens, or all of them. Both only if nothing else counts the cached ones, their difference."""
    series = reading_of(path)["series"]
    assert not {"input", "prompt", "cached_input"} <= {one["role"] for one in series}
    assert len({one["key"] for one in series}) == len(series)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_a_row_is_valid(dialect: Dialect):
    lists = (dialect.output, dialect.input, dialect.cached_input, dialect.prompt, dialect.requests)
    counters = [
        *(one for candidates in lists for one in candidates),
        *(one for work in dialect.work for one in work.candidates),
    ]
    assert counters
    assert all(one.kind is not Kind.GAUGE for one in counters)
    assert all(one.kind is Kind.GAUGE for one in (*dialect.running, *dialect.waiting))
    assert all(one.role in (None, Role.PROMPT) for one in dialect.input)
    assert all(one.role is Role.PROMPT for one in dialect.prompt)
    assert not (dialect.prompt and dialect.cached_input)
    assert not {one.name for one in dialect.prompt} & {one.name for one in dialect.input}
    live = (Cadence.STEP, Cadence.CHUNK)
    assert all(one.cadence in live and one.kind is Kind.COUNTER for one in dialect.live_output)
    assert all(one.role is None for one in (*dialect.output, *dialect.cached_input, *dialect.requests))
    assert dialect.enable, "`enable` is the hint of an error: which setting of the engine publishes the counters"
    assert all(path.startswith("/") for path in dialect.paths)
    assert dialect.mark.any_prefix or dialect.mark.all_prefix or dialect.mark.all_series or dialect.port is not None


def test_names_are_unique():
    assert len(ENGINES) == len(DIALECTS)


def test_the_known_paths_hold_the_path_of_every_engine():
    assert {path for dialect in DIALECTS for path in dialect.paths} == set(KNOWN_PATHS)


# ------------------------------------------------------------------------------------------------------- a user's mapping


def test_the_configuration_s_mapping():
    dialect = dialect_from_mapping(
        {"output": "my_generated_tokens_total", "input": {"metric": "my_prompt_tokens_sum", "match": {"stage": "all"}}}
    )
    assert dialect.name == "custom"
    assert dialect.output == (Candidate("my_generated_tokens_total"),)
    assert dialect.input == (Candidate("my_prompt_tokens_sum", match=(("stage", "all"),)),)


def test_prompt_is_input_with_cached_tokens():
    dialect = dialect_from_mapping({"prompt": "p_total", "cached_input": "c_total"})
    assert dialect.input == (Candidate("p_total", role=Role.PROMPT),)


def test_a_mapping_can_describe_a_whole_engine():
    dialect = dialect_from_mapping(
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


def test_all_problems_of_a_mapping_are_reported_at_once():
    with pytest.raises(ValueError, match="outptu") as caught:
        dialect_from_mapping(
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
    problems = str(caught.value).split("\n")
    assert [problem.partition(":")[0] for problem in problems] == [
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
        dialect_from_mapping({"requests": "x_total"})


def test_t03_input_and_prompt_together_count_the_cached_tokens():
    dialect = dialect_from_mapping({"input": "x_total", "prompt": "y_total"})
    assert (dialect.input, dialect.prompt) == (
        (Candidate("x_total"),),
        (Candidate("y_total", role=Role.PROMPT),),
    )


def test_the_router_of_vllm_is_not_taken_for_vllm():
    """It has neither tokens nor GPUs."""
    assert recognise(Page(b'vllm_router_requests_total{route="/v1/completions"} 7\n'), DIALECTS) is None


def test_old_and_new_names_of_llm_d_on_one_page_count_once():
    """inference_objective_* is deprecated in favour of llm_d_epp_*; for a while the scheduler publishes both."""
    page = Page((TESTS / "captures" / "servers" / "llm_d-documented.txt").read_bytes())
    found = DialectReader(ENGINES["llm_d"]).read(page)
    assert [(one.role, one.value) for one in found.series if one.role is Role.OUTPUT] == [(Role.OUTPUT, 450.0)]

"""What token counters do to those who read them carelessly; each test is named after its number in the list of traps.

Those that are about HTTP are in ``test_scrape.py``, about names in ``test_dialects.py``, about processes with discovery.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tpw.ledger.books import ServerAccount
from tpw.ledger.counting import count
from tpw.model import Cadence, Load, ProcessIdentity, Role, ServerReading, TokenKind
from tpw.tokens.engines import (
    DIALECTS,
    ENGINES,
    LLAMACPP,
    MISTRALRS,
    MLC_LLM,
    RAY_SERVE,
    SGLANG,
    TGI,
    TRITON_TRTLLM,
    TRITON_VLLM,
    VLLM,
)
from tpw.tokens.mapping import dialect_from_mapping
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, PageReading, recognise, summary

CAPTURES = Path(__file__).parents[2] / "captures" / "servers"


def read(dialect, body: str | bytes, reader: DialectReader | None = None) -> PageReading:
    return (reader or DialectReader(dialect)).read(Page(body.encode() if isinstance(body, str) else body))


def totals(dialect, body: str | bytes) -> dict[Role, float]:
    return dict(summary(read(dialect, body).series))


def looked_at(found: PageReading) -> ServerReading:
    """As the ledger sees a server that has just begun."""
    return ServerReading("m", 1.0, "e", found.cadence, "", ProcessIdentity(1.0), found.series, started_wall_seconds=1.0)


def captured(name: str) -> bytes:
    return (CAPTURES / f"{name}.txt").read_bytes()


@pytest.mark.parametrize(
    ("engine", "cadence"),
    [
        ("vllm", Cadence.STEP),
        ("lmdeploy", Cadence.STEP),
        ("dynamo_frontend", Cadence.CHUNK),
        ("llamacpp", Cadence.FINISH),
        ("tgi", Cadence.FINISH),
        ("trtllm_serve", Cadence.FINISH),
        ("xinference", Cadence.FINISH),
        ("localai", Cadence.FINISH),
        ("litellm", Cadence.FINISH),
    ],
)
def test_t01_counters_that_move_at_request_end_are_marked(engine: str, cadence: Cadence):
    [path, *_] = sorted(CAPTURES.glob(f"{engine}-*.txt"))
    assert read(ENGINES[engine], path.read_bytes()).cadence is cadence


def sglang(live: float, ended: float) -> str:
    """SGLang counts output at every decode step, and again, exactly, when a request has finished."""
    return (
        f'sglang:realtime_tokens_total{{mode="decode",model_name="m",tp_rank="0"}} {live}\n'
        f'sglang:generation_tokens_total{{model_name="m"}} {ended}\n'
    )


def in_flight(*pages: tuple[float, float]) -> list[float]:
    reader = DialectReader(SGLANG)
    return [sum(one.output_tokens for one in read(SGLANG, sglang(*each), reader).in_flight) for each in pages]


def test_t01_what_a_live_counter_is_ahead_of_the_exact_one_is_in_flight():
    body = captured("sglang-0.5.23-collectors")
    assert (read(SGLANG, body).cadence, totals(SGLANG, body)[Role.OUTPUT]) == (Cadence.STEP, 240.0)
    older = body.replace(b"sglang:realtime_tokens_total", b"sglang:something_else_total")
    assert (read(SGLANG, older).cadence, totals(SGLANG, older)[Role.OUTPUT]) == (Cadence.FINISH, 240.0)
    # Three requests of 50: the first token of each is made by its prefill and is not in the live counter.
    assert in_flight((0, 0), (100, 0), (147, 50), (147, 150)) == [0.0, 100.0, 97.0, 0.0]


def test_t01_what_was_in_flight_before_the_first_look_is_told_when_it_ends():
    assert in_flight((1500, 1000), (1600, 1000), (1700, 1700)) == [0.0, 100.0, 0.0]


def test_t01_two_counters_that_drift_apart_meet_again_when_nothing_moves():
    """A live counter that counts too much leaves nothing in flight once all is done."""
    assert in_flight((0, 0), *[(108, 100)] * 7) == [0.0] + [8.0] * 5 + [0.0] * 2


def test_t01_a_restarted_server_has_nothing_in_flight_at_its_first_look():
    assert in_flight((500, 100), (600, 100), (20, 0), (30, 0)) == [0.0, 100.0, 0.0, 10.0]


def test_t02_a_prompt_is_read_where_the_engine_counts_it_when_its_prefill_has_ended():
    """Until then nothing moves but the requests running: that they run is what keeps its joules from being parked (see
    the ledger's test of the same number)."""
    page = (
        'vllm:prompt_tokens_by_source_total{{source="local_compute"}} {}\n'
        "vllm:generation_tokens_total {}\nvllm:num_requests_running 1\n"
    )
    during, after = read(VLLM, page.format(0, 0)), read(VLLM, page.format(100_000, 1))
    assert summary(during.series) == {Role.OUTPUT: 0.0, Role.INPUT: 0.0}
    assert during.loads == (Load("unknown", 1.0, None),)
    assert summary(after.series) == {Role.OUTPUT: 1.0, Role.INPUT: 100_000.0}


def test_t03_cached_tokens_are_inside_or_outside_of_input_and_the_role_says_which():
    assert totals(LLAMACPP, captured("llamacpp-b11669-after-16-requests")) == {
        Role.OUTPUT: 384.0,
        Role.INPUT: 252.0,
        Role.CACHED_INPUT: 99.0,
    }
    older = "vllm:prompt_tokens_total 720\nvllm:prefix_cache_hits_total 640\nvllm:generation_tokens_total 1\n"
    assert totals(VLLM, older) == {Role.OUTPUT: 1.0, Role.PROMPT: 720.0, Role.CACHED_INPUT: 640.0}
    newer = (
        'vllm:prompt_tokens_by_source_total{source="local_compute"} 80\n'
        'vllm:prompt_tokens_by_source_total{source="local_cache_hit"} 640\n'
        "vllm:prompt_tokens_total 720\nvllm:prompt_tokens_cached_total 640\nvllm:generation_tokens_total 1\n"
    )
    assert totals(VLLM, newer) == {Role.OUTPUT: 1.0, Role.INPUT: 80.0, Role.CACHED_INPUT: 640.0}


def test_t03_cached_tokens_that_are_counted_nowhere_are_the_difference():
    """MLC: ``prefill_tokens_sum`` leaves cached prompt tokens out, ``prompt_tokens_sum`` has them."""
    reading = read(MLC_LLM, captured("mlc_llm-documented"))
    found = dict(summary(reading.series))
    account = count(ServerAccount("m", since_wall_seconds=0.0), looked_at(reading)).account
    kinds = {kind: value for (_, kind), value in account.tokens.items()}
    assert kinds[TokenKind.INPUT] == found[Role.INPUT]
    assert kinds[TokenKind.CACHED_INPUT] == found[Role.PROMPT] - found[Role.INPUT] > 0.0


def test_t03_blocks_are_not_taken_for_tokens():
    """The first releases counted prefix-cache hits in blocks, under another name."""
    body = "vllm:prompt_tokens_total 720\nvllm:gpu_prefix_cache_hits_total 40\n"
    assert totals(VLLM, body) == {Role.PROMPT: 720.0}


def test_t04_tensor_parallel_ranks_are_replicas():
    lines = [
        f'sglang:realtime_tokens_total{{mode="prefill_compute",model_name="m",pp_rank="{pp}",tp_rank="{tp}"}} 100\n'
        for pp in (0, 1)
        for tp in (0, 1, 2, 3)
    ]
    assert totals(SGLANG, "".join(lines)) == {Role.INPUT: 100.0}


def test_t04_of_replicas_the_one_that_is_furthest_is_kept_whatever_the_order_on_the_page():
    def line(rank: int) -> str:
        return f'sglang:realtime_tokens_total{{mode="prefill_cache",tp_rank="{rank}"}} {100 + rank}\n'

    for ranks in ((10, 2, 9), (2, 10, 9), (9, 10, 2)):
        found = read(SGLANG, "".join(line(rank) for rank in ranks))
        assert [(one.key, one.value) for one in found.series] == [
            ('sglang:realtime_tokens_total{mode="prefill_cache"}', 110.0)
        ]


def test_t04_a_replica_that_appears_later_is_still_a_replica():
    """Each process writes a file of its own: rank 1 may be on the page a moment before rank 0, and neither is new work."""
    line = 'sglang:realtime_tokens_total{{mode="prefill_compute",model_name="m",tp_rank="{}"}} {}\n'
    account = ServerAccount("m")
    reader = DialectReader(SGLANG)
    for ranks in ({}, {1: 100}, {0: 90, 1: 100}, {0: 120, 1: 110}):
        page = "sglang:num_running_reqs 0\n" + "".join(line.format(rank, value) for rank, value in ranks.items())
        account = count(account, looked_at(read(SGLANG, page, reader))).account
    assert account.tokens == {("m", TokenKind.INPUT): 120.0}


def test_t04_replicas_of_a_gauge_are_not_added():
    body = "".join(f'sglang:num_running_reqs{{model_name="m",tp_rank="{rank}"}} 3\n' for rank in range(4))
    assert read(SGLANG, body).loads == (Load("m", 3.0, None),)


def test_t05_data_parallel_ranks_are_shards():
    body = "".join(
        f'vllm:generation_tokens_total{{engine="{rank}",model_name="m"}} {value}\n' for rank, value in enumerate((5, 7))
    )
    assert totals(VLLM, body) == {Role.OUTPUT: 12.0}
    body = "".join(
        f'sglang:realtime_tokens_total{{dp_rank="{dp}",mode="prefill_compute",tp_rank="{tp}"}} {5 + 2 * dp}\n'
        for dp in (0, 1)
        for tp in (0, 1)
    )
    assert totals(SGLANG, body) == {Role.INPUT: 12.0}


def test_t05_versions_of_a_model_side_by_side_are_shards():
    body = "".join(f'vllm:generation_tokens_total{{model="m",version="{version}"}} 5\n' for version in (1, 2))
    assert totals(TRITON_VLLM, body) == {Role.OUTPUT: 10.0}


def test_t05_replicas_of_ray_are_shards():
    assert totals(RAY_SERVE, captured("ray_serve-documented"))[Role.OUTPUT] == 500.0


def test_t06_a_prompt_that_was_computed_elsewhere_is_counted_there_alone():
    def instance(compute: int, transferred: int) -> str:
        return (
            f'vllm:prompt_tokens_by_source_total{{source="local_compute"}} {compute}\n'
            f'vllm:prompt_tokens_by_source_total{{source="local_cache_hit"}} 0\n'
            f'vllm:prompt_tokens_by_source_total{{source="external_kv_transfer"}} {transferred}\n'
            f"vllm:prompt_tokens_total {compute + transferred}\nvllm:prompt_tokens_cached_total {transferred}\n"
        )

    prefill, decode = totals(VLLM, instance(1000, 0)), totals(VLLM, instance(0, 1000))
    assert prefill[Role.INPUT] + decode[Role.INPUT] == 1000.0
    assert prefill[Role.CACHED_INPUT] + decode[Role.CACHED_INPUT] == 0.0


def test_t06_the_one_token_of_a_prefill_instance_is_counted_where_the_rest_is():
    line = 'sglang:generation_tokens_total{{engine_type="{}",model_name="m"}} {}\n'
    assert totals(SGLANG, line.format("prefill", 7)) == {}
    assert totals(SGLANG, line.format("decode", 350)) == {Role.OUTPUT: 350.0}
    assert totals(SGLANG, line.format("unified", 350)) == {Role.OUTPUT: 350.0}


def test_t06_a_prompt_that_a_decode_instance_counts_again_is_left_to_the_prefill_instance():
    """Releases without scheduler-side counters: both instances count the prompt when the request has finished."""
    page = (
        'sglang:prompt_tokens_total{{engine_type="{0}",model_name="m"}} 500\n'
        'sglang:cached_tokens_total{{engine_type="{0}",model_name="m"}} 90\n'
    )
    assert totals(SGLANG, page.format("decode")) == {}
    for engine_type in ("prefill", "unified"):
        assert totals(SGLANG, page.format(engine_type)) == {Role.PROMPT: 500.0, Role.CACHED_INPUT: 90.0}


def test_t06_a_frontend_is_of_another_level_than_its_workers():
    assert [ENGINES[name].level.value for name in ("dynamo_frontend", "dynamo_worker", "litellm", "vllm")] == [
        "frontend",
        "engine",
        "gateway",
        "engine",
    ]


def test_t07_a_rounded_counter_is_read_as_it_stands():
    assert totals(LLAMACPP, "llamacpp:tokens_predicted_total 1.23457e+06\n") == {Role.OUTPUT: 1234570.0}


def test_t08_labels_in_another_order_or_with_blanks_are_the_same_series():
    keys = {
        one.key
        for labels in (
            'engine="0",model_name="a \\"b\\""',
            'model_name="a \\"b\\"", engine="0",',
            ' engine = "0" , model_name="a \\"b\\"" ',
        )
        for one in read(VLLM, f"vllm:generation_tokens_total{{{labels}}} 5\n").series
    }
    assert keys == {'vllm:generation_tokens_total{engine="0",model_name="a \\"b\\""}'}


def test_t08_a_series_that_stands_twice_on_a_page_is_one():
    body = 'vllm:generation_tokens_total{model_name="m"} 5\nvllm:generation_tokens_total{model_name="m"} 6\n'
    assert totals(VLLM, body) == {Role.OUTPUT: 6.0}
    assert totals(LLAMACPP, "llamacpp:tokens_predicted_total 5\nllamacpp:tokens_predicted_total 6\n") == {
        Role.OUTPUT: 6.0
    }


def test_t08_every_series_keeps_its_own_key():
    body = 'vllm:generation_tokens_total{engine="0"} 5\nvllm:generation_tokens_total{engine="1"} 7\n'
    keys = [one.key for one in read(VLLM, body).series]
    assert keys == ['vllm:generation_tokens_total{engine="0"}', 'vllm:generation_tokens_total{engine="1"}']


def test_t09_a_page_of_several_processes_has_no_start_time():
    """Its counters may go on from the files of processes that are gone."""
    body = (
        'process_start_time_seconds{pid="1"} 5\nprocess_start_time_seconds{pid="2"} 6\nvllm:generation_tokens_total 1\n'
    )
    assert read(VLLM, body).started_wall_seconds is None


def test_t10_a_counter_that_appears_later_does_not_change_the_choice():
    """Declared is enough: the counter without re-counts is chosen before its first sample, and stays chosen."""
    reader = DialectReader(SGLANG)
    declared = "# TYPE sglang:prefill_effective_tokens_total counter\n"
    other = 'sglang:realtime_tokens_total{mode="prefill_compute",model_name="m"} 9\n'
    assert read(SGLANG, declared + other, reader).series == ()
    effective = 'sglang:prefill_effective_tokens_total{mode="input",model_name="m"} 7\n'
    assert dict(summary(read(SGLANG, declared + effective + other, reader).series)) == {Role.INPUT: 7.0}


@pytest.mark.parametrize("kind", ["histogram", "summary"])
def test_t10_a_histogram_that_is_declared_is_chosen_before_its_first_sample(kind: str):
    """An exporter without buckets writes summaries in their place."""
    reader = DialectReader(ENGINES["tei"])
    declared = f"# TYPE te_batch_next_tokens {kind}\n"
    other = "te_request_input_length_sum 9\n"
    assert read(ENGINES["tei"], declared + other, reader).series == ()
    sampled = read(ENGINES["tei"], declared + "te_batch_next_tokens_sum 7\n" + other, reader)
    assert dict(summary(sampled.series)) == {Role.INPUT: 7.0}


@pytest.mark.parametrize("kind", ["histogram", "summary"])
def test_t11_what_is_declared_as_something_else_is_no_counter(kind: str):
    """``iteration_tokens_total`` of vLLM is a histogram: a name does not make a counter."""
    dialect = dialect_from_mapping({"output": ["steps_tokens_total", "tokens_total"]})
    page = f"# TYPE steps_tokens_total {kind}\nsteps_tokens_total_sum 5\ntokens_total 7\n"
    assert totals(dialect, page) == {Role.OUTPUT: 7.0}


def test_t10_what_was_chosen_stays_chosen_when_something_better_appears():
    reader = DialectReader(SGLANG)
    other = 'sglang:realtime_tokens_total{mode="prefill_compute",model_name="m"} 9\n'
    effective = 'sglang:prefill_effective_tokens_total{mode="input",model_name="m"} 7\n'
    assert dict(summary(read(SGLANG, other, reader).series)) == {Role.INPUT: 9.0}
    assert dict(summary(read(SGLANG, other + effective, reader).series)) == {Role.INPUT: 9.0}


def test_t10_a_server_replaced_by_another_version_is_chosen_for_anew():
    reader = DialectReader(VLLM)
    older = "vllm:prompt_tokens_total 720\nvllm:prefix_cache_hits_total 640\n"
    newer = 'vllm:prompt_tokens_by_source_total{source="local_compute"} 8\nvllm:prompt_tokens_cached_total 2\n'
    assert dict(summary(read(VLLM, older, reader).series)) == {Role.PROMPT: 720.0, Role.CACHED_INPUT: 640.0}
    assert dict(summary(read(VLLM, newer, reader).series)) == {Role.INPUT: 8.0}


def test_t10_a_series_that_vanishes_for_a_while_is_not_replaced():
    reader = DialectReader(RAY_SERVE)
    read(RAY_SERVE, 'ray_vllm_generation_tokens_total{WorkerId="1"} 9\n', reader)
    assert read(RAY_SERVE, "ray_vllm_num_requests_running 0\n", reader).series == ()
    again = read(RAY_SERVE, 'ray_vllm_generation_tokens_total{WorkerId="2"} 1\n', reader)
    assert [one.value for one in again.series] == [1.0]


@pytest.mark.parametrize("name", ["tgi_request_success", "tgi_request_success_total"])
def test_t12_a_counter_is_found_with_and_without_total(name: str):
    assert totals(TGI, f"# TYPE {name} counter\n{name} 5\n") == {Role.REQUESTS: 5.0}


def test_t12_a_counter_that_is_exported_both_ways_is_counted_once():
    """Ray exports counters a second time as gauges without the suffix."""
    body = (
        "# TYPE ray_vllm_generation_tokens_total counter\nray_vllm_generation_tokens_total 9\n"
        "# TYPE ray_vllm_generation_tokens gauge\nray_vllm_generation_tokens 9\n"
    )
    assert totals(RAY_SERVE, body) == {Role.OUTPUT: 9.0}


@pytest.mark.parametrize(
    ("prefix", "engine"),
    [
        ("vllm:", "vllm"),
        ("vllm_", "vllm"),
        ("ray_vllm_", "ray_serve"),
        ("ray_vllm:", "ray_serve"),
        ("aphrodite:", "aphrodite"),
    ],
)
def test_t14_every_spelling_of_a_prefix_is_read(prefix: str, engine: str):
    page = Page(f'{prefix}generation_tokens_total{{model_name="m"}} 5\n'.encode())
    dialect = recognise(page, DIALECTS)
    assert dialect is not None
    assert (dialect.name, dict(summary(DialectReader(dialect).read(page).series))) == (engine, {Role.OUTPUT: 5.0})


def test_t14_names_without_a_prefix_need_more_than_one_witness():
    assert recognise(Page(b"generation_tokens_total 5\nprompt_tokens_total 5\n"), DIALECTS) is None


def test_t15_models_of_one_page_are_kept_apart():
    body = 'vllm:generation_tokens_total{model_name="a"} 5\nvllm:generation_tokens_total{model_name="b"} 7\n'
    assert [(one.model, one.value) for one in read(VLLM, body).series] == [("a", 5.0), ("b", 7.0)]


def test_t16_what_an_engine_counts_twice_is_not_put_right():
    """vLLM counts a prompt once for each of its n answers, and offers nothing to undo it: the counter is told as it is."""
    page = "vllm:prompt_tokens_total 15\nvllm:generation_tokens_total 12\nvllm:request_success_total 3\n"
    assert totals(VLLM, page) == {Role.PROMPT: 15.0, Role.OUTPUT: 12.0, Role.REQUESTS: 3.0}


def test_t17_tokens_of_aborted_requests_are_counted_though_their_requests_are_not():
    """Between the two pages one request of 400 tokens finished, and one was dropped by its client after 5."""
    before = totals(VLLM, captured("vllm-0.32.0-after-16-requests"))
    after = totals(VLLM, captured("vllm-0.32.0-after-abort"))
    assert after[Role.REQUESTS] - before[Role.REQUESTS] == 1.0
    assert after[Role.OUTPUT] - before[Role.OUTPUT] > 400.0


def test_t18_work_that_is_done_again_is_counted_once():
    """vLLM counts the tokens of a preempted request once; SGLang twice, and once where it says so."""
    page = "vllm:prompt_tokens_total 100\nvllm:num_preemptions_total 3\nvllm:prompt_tokens_recomputed_total 90\n"
    assert totals(VLLM, page) == {Role.PROMPT: 100.0}
    counted_again = (
        'sglang:realtime_tokens_total{mode="prefill_compute"} 190\n'
        'sglang:realtime_tokens_total{mode="prefill_cache"} 60\n'
    )
    counted_once = (
        'sglang:prefill_effective_tokens_total{mode="input"} 100\n'
        'sglang:prefill_effective_tokens_total{mode="device_hit"} 30\n'
        'sglang:prefill_effective_tokens_total{mode="host_hit"} 8\n'
        'sglang:prefill_effective_tokens_total{mode="storage_hit"} 2\n'
    )
    assert totals(SGLANG, counted_again) == {Role.INPUT: 190.0, Role.CACHED_INPUT: 60.0}
    assert totals(SGLANG, counted_again + counted_once) == {Role.INPUT: 100.0, Role.CACHED_INPUT: 40.0}


def test_t19_draft_tokens_are_no_output():
    body = (
        "vllm:generation_tokens_total 100\nvllm:spec_decode_num_draft_tokens_total 400\n"
        "vllm:spec_decode_num_accepted_tokens_total 60\n"
    )
    assert totals(VLLM, body) == {Role.OUTPUT: 100.0}


def test_t20_reasoning_tokens_are_part_of_output():
    found = totals(ENGINES["litellm"], captured("litellm-documented"))
    assert found[Role.OUTPUT] == 460.0


def test_t21_what_cannot_be_separated_into_kinds_is_work():
    found = read(MISTRALRS, captured("mistralrs-documented"))
    assert [(one.unit, one.value) for one in found.work] == [("tokens_processed", 4200.0)]
    assert {one.role for one in found.series} == {Role.REQUESTS}


def test_t22_embeddings_have_input_alone():
    found = totals(ENGINES["tei"], captured("tei-documented"))
    assert found == {Role.INPUT: 2050.0, Role.REQUESTS: 10.0}


def test_t23_an_idle_server_reads_zero_not_nothing():
    found = totals(VLLM, captured("vllm-0.32.0-start"))
    assert found == {Role.OUTPUT: 0.0, Role.INPUT: 0.0, Role.CACHED_INPUT: 0.0, Role.REQUESTS: 0.0}


def test_t24_gauges_that_every_reader_resets_are_not_wanted():
    wanted = [one.name for one in (*LLAMACPP.running, *LLAMACPP.waiting, *LLAMACPP.output, *LLAMACPP.input)]
    assert not {"prompt_tokens_seconds", "predicted_tokens_seconds"} & set(wanted)


def test_t25_a_headless_node_is_told_where_its_counters_are():
    assert "--headless" in VLLM.enable


def test_t28_steps_of_an_ensemble_are_one_request():
    found = totals(TRITON_TRTLLM, captured("triton_trtllm-documented"))
    assert found[Role.REQUESTS] == 20.0


def test_t30_of_gauges_with_a_pid_the_highest_is_taken():
    body = "".join(
        f'vllm:num_requests_running{{model_name="m",pid="{pid}"}} {value}\n' for pid, value in ((1, 0), (2, 6))
    )
    assert read(VLLM, body).loads == (Load("m", 6.0, None),)


def test_a_page_of_ever_new_labels_does_not_fill_memory():
    reader = DialectReader(VLLM)
    for start in range(0, 20_000, 1000):
        lines = (f'vllm:generation_tokens_total{{model_name="m{n}"}} 1\n' for n in range(start, start + 1000))
        read(VLLM, "".join(lines), reader)
    assert len(reader._roles[Role.OUTPUT].heads) <= 4096


def test_a_label_that_cannot_be_read_costs_only_its_series():
    body = 'vllm:generation_tokens_total{model_name=broken} 5\nvllm:generation_tokens_total{model_name="m"} 7\n'
    assert totals(VLLM, body) == {Role.OUTPUT: 7.0}

"""What a server's counters rose by."""

from __future__ import annotations

from dataclasses import replace

from tpw.ledger.books import ServerAccount
from tpw.ledger.counting import count
from tpw.model import (
    Cadence,
    InFlight,
    ProcessIdentity,
    Role,
    ServerReading,
    TokenKind,
    TokenSeries,
    UncountedSeries,
    WorkSeries,
)

ONE = ProcessIdentity(1.0)


def reading(
    series: dict[str, float],
    *,
    identity: ProcessIdentity | None = ONE,
    started: float | None = None,
    role: Role = Role.OUTPUT,
) -> ServerReading:
    return ServerReading(
        "chat",
        1.0,
        "vllm",
        Cadence.STEP,
        "1",
        identity,
        tuple(TokenSeries(role, "m", key, value) for key, value in series.items()),
        started_wall_seconds=started,
    )


def output(account: ServerAccount) -> float:
    return account.tokens.get(("m", TokenKind.OUTPUT), 0.0)


def after(*readings: ServerReading, since: float | None = None) -> ServerAccount:
    account = ServerAccount("chat", since_wall_seconds=since)
    for one in readings:
        account = count(account, one).account
    return account


def test_the_first_reading_is_a_baseline() -> None:
    assert output(after(reading({"a": 1000.0}))) == 0.0


def test_the_first_reading_of_a_server_that_started_while_observed_counts_from_zero() -> None:
    assert output(after(reading({"a": 40.0}, started=100.0), since=99.0)) == 40.0
    assert output(after(reading({"a": 40.0}, started=98.0), since=99.0)) == 0.0


def test_rises_are_taken_series_by_series() -> None:
    """One rank restarts while the other grows: the sum of the two would have hidden it."""
    account = after(reading({"a": 1000.0, "b": 10.0}), reading({"a": 50.0, "b": 2000.0}))

    assert output(account) == 50.0 + 1990.0


def test_a_series_that_appears_later_counts_from_zero() -> None:
    one, two = 'a{engine="0"}', 'a{engine="1"}'
    assert output(after(reading({one: 5.0}), reading({one: 5.0, two: 7.0}))) == 7.0


def test_a_series_that_is_missing_for_a_while_is_not_counted_again() -> None:
    assert output(after(reading({"a": 5.0, "b": 7.0}), reading({"a": 5.0}), reading({"a": 5.0, "b": 9.0}))) == 2.0


def test_a_restart_that_the_page_reports_counts_from_zero_even_above_the_old_value() -> None:
    account = after(reading({"a": 100.0}), reading({"a": 150.0}, identity=ProcessIdentity(2.0)))

    assert output(account) == 150.0


def test_another_server_in_its_place_that_was_there_before_is_met_anew() -> None:
    """An address that was changed to that of a replica that had made millions, or behind which two answer in turn."""
    account = after(reading({"a": 1000.0}, identity=ProcessIdentity(500.0), started=500.0))
    replica, itself = (ProcessIdentity(400.0), 400.0), (ProcessIdentity(500.0), 500.0)
    for (identity, started), made in ((replica, 5e6), (itself, 1010.0), (replica, 5e6 + 70.0), (replica, 5e6 + 90.0)):
        account = count(account, reading({"a": made}, identity=identity, started=started), 1000.0).account
    assert output(account) == 20.0


def test_a_server_that_was_started_anew_counts_from_zero_though_its_clock_is_behind() -> None:
    account = after(reading({"a": 1000.0}, identity=ProcessIdentity(500.0), started=500.0))
    counted = count(account, reading({"a": 1200.0}, identity=ProcessIdentity(970.0), started=970.0), 1000.0)
    assert output(counted.account) == 1200.0


def test_counters_that_another_process_restores_from_files_are_not_counted_twice() -> None:
    account = after(
        reading({"a": 100.0, "b": 30.0}, identity=ProcessIdentity(0.0, 1)),
        reading({"a": 110.0, "b": 30.0}, identity=ProcessIdentity(0.0, 2)),
    )

    assert output(account) == 10.0


def test_another_process_with_a_lower_counter_began_at_zero_in_all_of_them() -> None:
    account = after(
        reading({"a": 100.0, "b": 30.0}, identity=ProcessIdentity(0.0, 1)),
        reading({"a": 20.0, "b": 40.0}, identity=ProcessIdentity(0.0, 2)),
    )

    assert output(account) == 20.0 + 40.0


def test_prompt_minus_cached_never_falls_while_the_two_are_out_of_step() -> None:
    def both(prompt: float, cached: float) -> ServerReading:
        return ServerReading(
            "chat",
            1.0,
            "vllm",
            Cadence.STEP,
            "1",
            ProcessIdentity(1.0),
            (
                TokenSeries(Role.PROMPT, "m", "p", prompt),
                TokenSeries(Role.CACHED_INPUT, "m", "c", cached),
            ),
        )

    account = after(both(0.0, 0.0), both(100.0, 0.0))
    assert account.tokens[("m", TokenKind.INPUT)] == 100.0
    # The next prompt's cached part is counted when it is admitted, the prompt itself later.
    account = count(account, both(100.0, 64.0)).account
    assert account.tokens[("m", TokenKind.INPUT)] == 100.0
    account = count(account, both(200.0, 64.0)).account

    assert account.tokens[("m", TokenKind.INPUT)] == 136.0
    assert account.tokens[("m", TokenKind.CACHED_INPUT)] == 64.0


def test_computed_input_is_taken_as_it_is_where_the_engine_counts_it() -> None:
    account = after(reading({"a": 0.0}, role=Role.INPUT), reading({"a": 9.0}, role=Role.INPUT))

    assert account.tokens == {("m", TokenKind.INPUT): 9.0}


def test_t10_another_counter_for_what_was_counted_before_is_a_baseline() -> None:
    """An exporter that knows an engine better takes a better counter of it: the server's whole life is in that one."""
    account = after(reading({'old{model="m"}': 1000.0}), reading({'old{model="m"}': 1010.0}))
    account = count(account, reading({'better{model="m"}': 990.0})).account
    assert output(account) == 10.0
    account = count(account, reading({'better{model="m"}': 1000.0})).account
    assert output(account) == 20.0


def test_t10_the_same_counter_with_other_labels_counts_from_zero() -> None:
    account = after(reading({'a{worker="1"}': 1000.0}), reading({'a{worker="2"}': 30.0}))

    assert output(account) == 30.0


def test_t10_prompts_with_and_without_cached_tokens_are_the_same_tokens() -> None:
    account = after(reading({"prompt": 500.0}, role=Role.PROMPT), reading({"computed": 400.0}, role=Role.INPUT))

    assert account.tokens[("m", TokenKind.INPUT)] == 0.0


def test_t10_what_was_not_counted_before_counts_from_zero() -> None:
    account = after(reading({"output": 500.0}), reading({"computed": 40.0}, role=Role.INPUT))

    assert account.tokens[("m", TokenKind.INPUT)] == 40.0


def test_t10_another_counter_of_another_process_counts_from_zero() -> None:
    account = after(reading({"old": 1000.0}), reading({"better": 40.0}, identity=ProcessIdentity(2.0)))

    assert output(account) == 40.0


# ------------------------------------------------------------------------------------------------- requests in work


def working(counter: float, made: float) -> ServerReading:
    return replace(reading({"a": counter}), in_flight=(InFlight("m", made),) if made else ())


def test_t01_tokens_in_flight_come_on_top_of_the_counter_until_it_takes_them_over() -> None:
    account = ServerAccount("chat")
    seen = []
    for one in (working(0, 0), working(0, 30), working(0, 70), working(75, 0), working(75, 0)):
        counted = count(account, one)
        account = counted.account
        seen.append((output(account), counted.risen.get(("m", TokenKind.OUTPUT), 0.0), counted.moved))

    assert seen == [(0.0, 0.0, False), (30.0, 30.0, True), (70.0, 40.0, True), (75.0, 5.0, True), (75.0, 0.0, False)]


def test_t17_tokens_in_flight_that_are_never_counted_are_filled_up_by_the_next() -> None:
    account = after(working(0, 0), working(10, 50), working(10, 0))
    assert output(account) == 60.0
    assert output(count(account, working(40, 0)).account) == 60.0
    assert output(count(account, working(90, 0)).account) == 90.0


def test_tokens_in_flight_of_a_server_without_a_counter_yet() -> None:
    first = replace(reading({"p": 9.0}, role=Role.INPUT), in_flight=(InFlight("m", 5.0),))
    account = after(reading({"p": 9.0}, role=Role.INPUT), first)
    assert output(account) == 5.0
    both = replace(first, in_flight=(), series=(*first.series, *reading({"a": 8.0}).series))
    assert output(count(account, both).account) == 8.0


# ---------------------------------------------------------------------------------- series that come late, and new servers


def test_t10_counters_that_come_with_the_first_request_count_from_zero_though_the_server_had_none_before() -> None:
    """SGLang, TGI and others publish no counter before their first request: what it then shows was made under watch."""
    idle = reading({}, identity=ProcessIdentity(100.0, 7), started=100.0)
    account = after(idle, idle, replace(idle, series=reading({"a": 7.0}).series), since=5000.0)

    assert output(account) == 7.0


def test_t10_a_late_counter_of_a_restarted_server_counts_from_zero_though_it_is_above_the_old_one() -> None:
    account = after(
        reading({"a": 100.0}),
        reading({}, identity=ProcessIdentity(2.0)),
        reading({"a": 150.0}, identity=ProcessIdentity(2.0)),
        reading({"a": 160.0}, identity=ProcessIdentity(2.0)),
    )

    assert output(account) == 160.0


def test_t10_a_late_counter_of_a_restarted_server_counts_from_zero_though_others_were_there_before() -> None:
    other = TokenSeries(Role.CACHED_INPUT, "m", "cached", 0.0)
    restarted = replace(reading({}, identity=ProcessIdentity(2.0)), series=(other,))
    account = after(
        reading({'a{rank="0"}': 100.0}),
        restarted,
        replace(restarted, series=(other, *reading({'a{rank="0"}': 150.0}).series)),
    )

    assert output(account) == 150.0


def test_t10_a_late_counter_of_a_server_that_took_the_place_of_another_counts_from_zero() -> None:
    account = after(reading({"a": 1000.0}, identity=ProcessIdentity(500.0), started=500.0))
    for made in ({}, {"a": 30.0}):
        account = count(account, reading(made, identity=ProcessIdentity(400.0), started=400.0), 1000.0).account

    assert output(account) == 30.0


def test_a_page_that_starts_to_report_its_process_start_is_no_restart() -> None:
    """Nor is one that no longer reports it: the process was known by its pid before."""
    account = after(
        reading({"a": 100.0}, identity=ProcessIdentity(990.0, 7), started=990.0),
        reading({"a": 110.0}, identity=ProcessIdentity(990.0), started=990.0),
        reading({"a": 120.0}, identity=ProcessIdentity(990.0, 7), started=990.0),
    )

    assert output(account) == 20.0


def test_another_process_that_was_there_before_is_another_server_though_its_counters_are_higher() -> None:
    """The address of llama-server was changed to that of another one, which had made millions."""
    account = after(reading({"a": 100.0, "b": 5.0}, identity=ProcessIdentity(500.0, 7), started=500.0))
    other = reading({"a": 5e6, "b": 4e6}, identity=ProcessIdentity(400.0, 8), started=400.0)
    account = count(account, other, 1000.0).account
    assert output(account) == 0.0
    account = count(account, replace(other, series=reading({"a": 5e6 + 9.0, "b": 4e6}).series), 1001.0).account
    assert output(account) == 9.0


def test_another_process_that_started_after_the_last_reading_counts_from_zero_though_its_counters_are_higher() -> None:
    """The daemon was down for a day. A process that may restore its counters from files reports no start."""
    account = after(reading({"a": 100.0, "b": 30.0}, identity=ProcessIdentity(500.0, 7), started=500.0))
    new = reading({"a": 150.0, "b": 40.0}, identity=ProcessIdentity(1500.0, 8), started=1500.0)
    assert output(count(account, new, 1000.0).account) == 190.0
    assert output(count(account, replace(new, started_wall_seconds=None), 1000.0).account) == 60.0
    # Its identity may be known some seconds after its counters: what was read of them meanwhile is not counted again.
    assert output(count(account, new, 1501.0).account) == 60.0


def test_the_same_process_after_the_clock_was_set_is_no_other() -> None:
    """The kernel dates the start of a process by the wall clock: after it is set, the same process has another start."""
    account = after(reading({"a": 100.0}, identity=ProcessIdentity(500.0, 7), started=500.0))
    account = count(account, reading({"a": 130.0}, identity=ProcessIdentity(400.0, 7), started=400.0), 1000.0).account

    assert output(account) == 30.0


def test_another_address_of_a_server_without_an_identity_is_a_new_server() -> None:
    one, two = (replace(reading({}, identity=None), address=f"http://{host}:8080") for host in "ab")
    pages = [(one, 100.0), (two, 5e6), (two, 5e6 + 7.0)]
    assert output(after(*(replace(at, series=reading({"a": made}).series) for at, made in pages))) == 7.0


def test_of_a_server_met_anew_the_process_that_becomes_known_later_loses_nothing() -> None:
    account = after(
        replace(reading({"a": 100.0}, identity=ProcessIdentity(500.0, 7), started=500.0), address="http://a")
    )
    there = replace(reading({"a": 5e6}, identity=None), address="http://b")
    known = replace(reading({"a": 5e6 + 7.0}, identity=ProcessIdentity(400.0, 8), started=400.0), address="http://b")
    for one in (there, known):
        account = count(account, one, 1000.0).account

    assert output(account) == 7.0


def test_another_spelling_of_the_same_server_s_address_loses_nothing() -> None:
    one, two = (replace(reading({}), address=f"http://{host}:8080") for host in ("127.0.0.1", "localhost"))
    pages = [(one, 100.0), (two, 110.0)]
    assert output(after(*(replace(at, series=reading({"a": made}).series) for at, made in pages))) == 10.0


def test_work_that_goes_on_is_no_sign_of_a_restart() -> None:
    def both(worked: float, made: float, pid: int) -> ServerReading:
        one = reading({"a": made}, identity=ProcessIdentity(990.0, pid), started=990.0)
        return replace(one, work=(WorkSeries("images", "m", "images:i", worked),))

    assert output(after(both(50.0, 100.0, 1), both(51.0, 110.0, 2))) == 10.0


# ------------------------------------------------------------------------------------------ an engine of another release


def prompts(identity: ProcessIdentity, cached: float, **by_role: float) -> ServerReading:
    """Of a release that counts prompts in one way: ``prompt`` with cached tokens inside, ``input`` without."""
    series = tuple(TokenSeries(Role(role), "m", role, value) for role, value in by_role.items())
    return replace(
        reading({}, identity=identity), series=(*series, TokenSeries(Role.CACHED_INPUT, "m", "cached", cached))
    )


def inputs(account: ServerAccount) -> tuple[float, float]:
    return account.tokens[("m", TokenKind.INPUT)], account.tokens[("m", TokenKind.CACHED_INPUT)]


def test_t03_a_release_that_counts_prompts_without_cached_tokens_goes_on_where_the_one_before_was() -> None:
    account = after(
        prompts(ProcessIdentity(1.0), 0.0, prompt=0.0),
        prompts(ProcessIdentity(1.0), 300.0, prompt=1000.0),
        prompts(ProcessIdentity(2.0), 20.0, input=40.0),
    )
    assert inputs(account) == (740.0, 320.0)
    account = count(account, prompts(ProcessIdentity(2.0), 25.0, input=100.0)).account
    assert inputs(account) == (800.0, 325.0)
    # And back to the older one.
    account = count(account, prompts(ProcessIdentity(3.0), 10.0, prompt=60.0)).account
    assert inputs(account) == (850.0, 335.0)
    account = count(account, prompts(ProcessIdentity(3.0), 10.0, prompt=70.0)).account
    assert inputs(account) == (860.0, 335.0)


def test_t03_an_older_release_invents_no_cached_tokens() -> None:
    """Where no cached tokens are counted, prompts of before less input of now is nothing that was cached."""
    account = after(
        replace(reading({"prompt": 0.0}, role=Role.PROMPT)),
        replace(reading({"prompt": 1000.0}, role=Role.PROMPT)),
        reading({"input": 40.0}, role=Role.INPUT, identity=ProcessIdentity(2.0)),
    )
    assert account.tokens == {("m", TokenKind.INPUT): 1040.0}


def test_t03_a_reading_without_prompts_changes_no_count() -> None:
    account = after(
        prompts(ProcessIdentity(1.0), 0.0, prompt=0.0),
        prompts(ProcessIdentity(1.0), 300.0, prompt=1000.0),
        reading({"a": 1.0}),
        prompts(ProcessIdentity(1.0), 310.0, prompt=1020.0),
    )
    assert inputs(account) == (710.0, 310.0)


def test_cached_tokens_that_are_counted_before_their_prompt_enter_with_it() -> None:
    account = after(prompts(ProcessIdentity(1.0), 0.0, prompt=0.0), prompts(ProcessIdentity(1.0), 150.0, prompt=100.0))
    assert inputs(account) == (0.0, 100.0)
    assert inputs(count(account, prompts(ProcessIdentity(1.0), 150.0, prompt=200.0)).account) == (50.0, 150.0)


def test_requests_without_usage_are_counted_by_path_and_never_fall() -> None:
    def uncounted(**paths: float) -> ServerReading:
        series = tuple(UncountedSeries(f"/{path}", path, value) for path, value in paths.items())
        return replace(reading({"a": 1.0}), uncounted=series)

    account = after(uncounted(x=5.0), uncounted(x=7.0, y=2.0), uncounted(y=3.0), uncounted(x=7.0, y=3.0))
    assert account.uncounted == {"/x": 2.0, "/y": 3.0}
    assert output(account) == 0.0


def test_the_paths_of_requests_without_usage_are_bounded() -> None:
    many = tuple(UncountedSeries(f"/{n}", f"k{n}", 1.0) for n in range(200))
    account = after(reading({"a": 1.0}), replace(reading({"a": 1.0}), uncounted=many))
    assert (len(account.uncounted), account.uncounted["other"]) == (51, 150.0)

"""What a server's counters rose by."""

from __future__ import annotations

from tpw.ledger.books import ServerAccount
from tpw.ledger.counting import count
from tpw.model import Cadence, Role, ServerReading, TokenKind, TokenSeries


def reading(
    series: dict[str, float], *, identity: str = "page:1", started: float | None = None, role: Role = Role.OUTPUT
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


def test_the_first_look_is_a_baseline() -> None:
    assert output(after(reading({"a": 1000.0}))) == 0.0


def test_the_first_look_at_a_server_that_began_under_watch_counts_from_zero() -> None:
    assert output(after(reading({"a": 40.0}, started=100.0), since=99.0)) == 40.0
    assert output(after(reading({"a": 40.0}, started=98.0), since=99.0)) == 0.0


def test_rises_are_taken_series_by_series() -> None:
    """One rank restarts while the other grows: the sum of the two would have hidden it."""
    account = after(reading({"a": 1000.0, "b": 10.0}), reading({"a": 50.0, "b": 2000.0}))

    assert output(account) == 50.0 + 1990.0


def test_a_series_that_appears_later_counts_from_zero() -> None:
    assert output(after(reading({"a": 5.0}), reading({"a": 5.0, "b": 7.0}))) == 7.0


def test_a_series_that_is_missing_for_a_while_is_not_counted_again() -> None:
    assert output(after(reading({"a": 5.0, "b": 7.0}), reading({"a": 5.0}), reading({"a": 5.0, "b": 9.0}))) == 2.0


def test_a_restart_the_page_itself_tells_counts_from_zero_even_above_the_old_value() -> None:
    account = after(reading({"a": 100.0}), reading({"a": 150.0}, identity="page:2"))

    assert output(account) == 150.0


def test_another_process_whose_counters_go_on_from_files_is_not_counted_twice() -> None:
    account = after(
        reading({"a": 100.0, "b": 30.0}, identity="process:1"), reading({"a": 110.0, "b": 30.0}, identity="process:2")
    )

    assert output(account) == 10.0


def test_another_process_with_a_lower_counter_began_at_zero_in_all_of_them() -> None:
    account = after(
        reading({"a": 100.0, "b": 30.0}, identity="process:1"), reading({"a": 20.0, "b": 40.0}, identity="process:2")
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
            "page:1",
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

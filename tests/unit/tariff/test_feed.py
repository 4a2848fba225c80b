"""Patience: when a feed is asked, what is kept, and what is never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path

import pytest

from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff.feed import Feed
from tpw.tariff.sanity import refuse_implausible
from tpw.tariff.schedule import Attempts, Publication, Schedule, is_due

HOUR = 3600.0
DAY = 86400.0
NOON = datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()  # 14:00 in Berlin
MIDNIGHT = datetime(2026, 6, 14, 22, tzinfo=UTC).timestamp()  # of that day, in Berlin
DAY_AHEAD = Schedule(Publication("Europe/Berlin", time(13, 0)), jitter=0.0)
ANY_TIME = Schedule(every_seconds=HOUR, jitter=0.0)


def hourly(start: float, hours: int, price: float = 0.1) -> tuple[PriceInterval, ...]:
    return tuple(PriceInterval(start + n * HOUR, start + (n + 1) * HOUR, price + (n % 5) / 1000) for n in range(hours))


class Service:
    """A reader whose answers are set by the test."""

    name = "service"

    def __init__(self, *answers: Sequence[PriceInterval] | SourceError, identity: str = "area X") -> None:
        self.identity = identity
        self.answers = list(answers)
        self.asked: list[tuple[float, float]] = []

    def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        self.asked.append((start_seconds, end_seconds))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, SourceError):
            raise answer
        return answer


def believe(fresh: Sequence[PriceInterval], known: Sequence[PriceInterval]) -> None:
    """Judge nothing."""


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


DOWN = SourceError(Reason.UNREACHABLE, "connection refused")
NOT_YET = SourceError(Reason.NOT_YET, "not published")


def feed(service: Service, clock: Clock, schedule: Schedule = DAY_AHEAD, **options: object) -> Feed:
    judge = partial(refuse_implausible, currency="EUR")
    return Feed(service, clock=clock, unit="EUR", schedule=schedule, judge=judge, **options)  # type: ignore[arg-type]


def test_prices_are_what_the_service_says_clipped_to_the_question() -> None:
    service = Service(hourly(MIDNIGHT, 48))
    found = feed(service, Clock()).intervals(NOON, NOON + 1.5 * HOUR)
    assert [(each.start_seconds - NOON, each.end_seconds - NOON) for each in found] == [(0, HOUR), (HOUR, 1.5 * HOUR)]


def test_while_all_is_known_nobody_is_asked_again_until_corrections_are_due() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48)), Clock()
    source = feed(service, clock)
    for minute in range(0, 6 * 60, 5):
        clock.now = NOON + minute * 60
        source.intervals(clock.now - HOUR, clock.now + DAY)
    assert len(service.asked) == 1
    clock.now = NOON + 6 * HOUR
    source.intervals(clock.now - HOUR, clock.now + DAY)
    assert len(service.asked) == 2


def test_tomorrow_is_asked_for_after_its_publication_until_it_is_there() -> None:
    clock = Clock(NOON - 2 * HOUR)  # 12:00 in Berlin: not out
    service = Service(hourly(MIDNIGHT, 24), hourly(MIDNIGHT, 24), hourly(MIDNIGHT, 48))
    source = feed(service, clock)
    asked_at = []
    for minute in range(0, 180, 1):
        clock.now = NOON - 2 * HOUR + minute * 60
        before = len(service.asked)
        source.intervals(clock.now, clock.now + DAY)
        if len(service.asked) > before:
            asked_at.append(minute)
    assert asked_at == [0, 60, 70]
    assert source.trouble is None


def test_jitter_spreads_the_askers_after_publication() -> None:
    for jitter, expected in ((0.0, 60), (0.5, 65), (0.99, 70)):
        clock, service = Clock(NOON - 2 * HOUR), Service(hourly(MIDNIGHT, 24))
        source = feed(service, clock, Schedule(DAY_AHEAD.publication, jitter=jitter))
        source.intervals(clock.now, clock.now + DAY)
        minute = 0
        while len(service.asked) == 1:
            minute += 1
            clock.now = NOON - 2 * HOUR + minute * 60
            source.intervals(clock.now, clock.now + DAY)
        assert minute == expected


def test_failures_are_retried_with_growing_patience() -> None:
    service, clock = Service(DOWN), Clock()
    source = feed(service, clock)
    asked_at = []
    for minute in range(300):
        clock.now = NOON + minute * 60
        before = len(service.asked)
        with pytest.raises(SourceError, match="connection refused"):
            source.intervals(clock.now, clock.now + HOUR)
        if len(service.asked) > before:
            asked_at.append(minute)
    assert asked_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_what_is_known_holds_while_the_feed_is_down() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48), DOWN), Clock()
    source = feed(service, clock)
    before = source.intervals(NOON, NOON + DAY)
    clock.now = NOON + 7 * HOUR
    assert source.intervals(NOON, NOON + DAY) == before
    assert source.trouble is DOWN


def test_time_without_a_price_is_not_covered() -> None:
    service, clock = Service(hourly(MIDNIGHT, 24)), Clock()
    found = feed(service, clock).intervals(NOON, NOON + 2 * DAY)
    assert found[-1].end_seconds == MIDNIGHT + DAY


def test_fallback_covers_the_rest_and_says_so() -> None:
    service, clock = Service(hourly(MIDNIGHT, 24)), Clock()
    source = feed(service, clock, fallback_price_per_kwh=0.25)
    found = source.intervals(NOON, NOON + DAY)
    assert found[-1] == PriceInterval(MIDNIGHT + DAY, NOON + DAY, 0.25, PriceState.FALLBACK)
    assert found[0].state is PriceState.FINAL
    down = feed(Service(DOWN), clock, fallback_price_per_kwh=0.25)
    assert down.intervals(0, 10) == (PriceInterval(0, 10, 0.25, PriceState.FALLBACK),)
    assert down.trouble is DOWN


def test_feed_that_has_not_published_is_no_trouble_while_now_is_known() -> None:
    service, clock = Service(hourly(MIDNIGHT, 24), NOT_YET), Clock(NOON - 2 * HOUR)
    source = feed(service, clock)
    source.intervals(clock.now, clock.now + DAY)
    clock.now = NOON
    source.intervals(clock.now, clock.now + DAY)
    assert len(service.asked) == 2
    assert source.trouble is None


def test_feed_that_knows_no_price_for_now_says_so() -> None:
    source = feed(Service(hourly(MIDNIGHT - 5 * DAY, 24)), Clock())
    with pytest.raises(SourceError, match="no price for now") as raised:
        source.intervals(NOON, NOON + HOUR)
    assert raised.value.reason is Reason.NOT_YET


def test_corrected_prices_replace_what_was_known() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48), hourly(MIDNIGHT, 48, 0.2)), Clock()
    source = feed(service, clock)
    assert source.intervals(NOON, NOON + 1)[0].price_per_kwh < 0.2
    clock.now = NOON + 6 * HOUR
    assert source.intervals(NOON, NOON + 1)[0].price_per_kwh >= 0.2


def test_history_is_asked_for_once_when_joules_come_late() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48), hourly(MIDNIGHT - 3 * DAY, 5 * 24)), Clock()
    source = feed(service, clock)
    source.intervals(NOON, NOON + DAY)
    assert service.asked[0][0] == NOON // DAY * DAY
    found = source.intervals(NOON - 2 * DAY, NOON + DAY)
    assert service.asked[1][0] == (NOON - 2 * DAY) // DAY * DAY
    assert found[0].start_seconds == NOON - 2 * DAY
    source.intervals(NOON - 2 * DAY, NOON + DAY)
    assert len(service.asked) == 2


def test_history_that_the_service_has_not_is_not_asked_for_again_and_again() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48)), Clock()
    source = feed(service, clock)
    for minute in range(120):
        clock.now = NOON + minute * 60
        source.intervals(clock.now - 3 * DAY, clock.now + DAY)
    assert len(service.asked) == 1


START = MIDNIGHT - 2 * DAY


def cached(row: str) -> str:
    """A file that is as it should be, but for what is in its one row."""
    return f'{{"layout": 1, "identity": "area X", "unit": "EUR", "intervals": [[{START}, {row}]]}}'


class TestCache:
    """The file that keeps prices over a restart."""

    def test_restart_knows_what_was_known_without_asking(self, tmp_path: Path) -> None:
        clock, cache = Clock(), tmp_path / "prices" / "a.json"
        first = feed(Service(hourly(MIDNIGHT, 48)), clock, cache=cache)
        known = first.intervals(NOON, NOON + DAY)
        again = feed(Service(DOWN), clock, cache=cache)
        assert again.intervals(NOON, NOON + DAY) == known

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "7",
            "\x00\x00\x00",
            "[" * 100_000,
            '{"layout": 1}',
            '{"layout": 99, "identity": "area X"}',
            cached(f'{START + 60}, NaN, "final"'),
            cached('Infinity, 0.1, "final"'),
            cached(f'{START + 60}, 1{"0" * 400}, "final"'),
            cached(f'{START - 60}, 0.1, "final"'),
            cached(f'{START + 60}, 0.1, "cheap"'),
            cached(f'{START + 60}, 0.1, "final", [[100, NaN]]'),
            cached(f"{START + 60}"),
        ],
        ids=lambda text: text[:60],
    )
    def test_broken_cache_is_as_none(self, tmp_path: Path, text: str) -> None:
        cache = tmp_path / "a.json"
        cache.write_text(text)
        source = feed(Service(hourly(MIDNIGHT, 48)), Clock(), cache=cache)
        assert source.intervals(START, NOON + HOUR) == hourly(MIDNIGHT, 15)

    @pytest.mark.parametrize(("identity", "currency"), [("area Y", "EUR"), ("area X", "GBP")])
    def test_prices_of_somebody_else_are_not_ours(self, tmp_path: Path, identity: str, currency: str) -> None:
        clock, cache = Clock(), tmp_path / "a.json"
        feed(Service(hourly(MIDNIGHT, 48)), clock, cache=cache).intervals(NOON, NOON + DAY)
        other = Feed(
            Service(DOWN, identity=identity),
            clock=clock,
            unit=currency,
            schedule=DAY_AHEAD,
            judge=lambda fresh, known: None,
            cache=cache,
        )
        with pytest.raises(SourceError):
            other.intervals(NOON, NOON + DAY)

    def test_cache_that_cannot_be_written_costs_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        source = feed(Service(hourly(MIDNIGHT, 48)), Clock(), cache=tmp_path / "file" / "a.json")
        assert len(source.intervals(NOON, NOON + HOUR)) == 1

    def test_old_prices_are_dropped(self, tmp_path: Path) -> None:
        clock, cache = Clock(), tmp_path / "a.json"
        service = Service(hourly(MIDNIGHT - 60 * DAY, 62 * 24))
        source = feed(service, clock, cache=cache)
        source.intervals(NOON, NOON + DAY)
        again = feed(Service(DOWN), clock, cache=cache)
        assert again.intervals(NOON - 100 * DAY, NOON)[0].start_seconds == NOON - 45 * DAY


class TestSanity:
    """What cannot be prices per kWh."""

    def test_price_per_mwh_is_refused(self) -> None:
        source = feed(Service(hourly(MIDNIGHT, 48, 80.0)), Clock())
        with pytest.raises(SourceError, match="is no price") as raised:
            source.intervals(NOON, NOON + HOUR)
        assert raised.value.reason is Reason.MALFORMED

    @pytest.mark.parametrize("factor", [100, 1000, 1 / 1000])
    def test_unit_that_changes_overnight_is_refused_and_the_old_prices_hold(self, factor: float) -> None:
        good = hourly(MIDNIGHT, 48, 0.1)
        slipped = tuple(
            PriceInterval(each.start_seconds, each.end_seconds, each.price_per_kwh * factor) for each in good
        )
        clock = Clock()
        source = feed(Service(good, slipped), clock)
        before = source.intervals(NOON, NOON + DAY)
        clock.now = NOON + 6 * HOUR
        assert source.intervals(NOON, NOON + DAY) == before
        assert source.trouble is not None
        assert source.trouble.reason is Reason.MALFORMED

    def test_cheap_day_and_a_spike_are_believed(self) -> None:
        known = hourly(MIDNIGHT, 24, 0.1)
        cheap = hourly(MIDNIGHT + DAY, 24, -0.0005)
        spike = (*hourly(MIDNIGHT + DAY, 23, 0.1), PriceInterval(MIDNIGHT + DAY + 23 * HOUR, MIDNIGHT + 2 * DAY, 4.0))
        refuse_implausible(cheap, known, "EUR")
        refuse_implausible(spike, known, "EUR")

    def test_dear_day_after_days_of_nothing_is_believed_where_the_prices_told_before_still_stand(self) -> None:
        """A feed in another unit would tell today's prices in that, too. In the north a week may cost next to nothing."""

        def day(start: float, price: float) -> list[PriceInterval]:
            return [
                PriceInterval(start + n * HOUR, start + (n + 1) * HOUR, price * (1 + n % 3 / 10)) for n in range(24)
            ]

        today = day(MIDNIGHT, 0.0008)
        known, dear = [*day(MIDNIGHT - DAY, 0.0008), *today], day(MIDNIGHT + DAY, 0.12)
        refuse_implausible([*today, *dear], known, "EUR")
        corrected = PriceInterval(NOON, NOON + HOUR, 0.02)
        refuse_implausible([*today[:12], corrected, *today[13:], *dear], known, "EUR")
        with pytest.raises(SourceError, match="changed its unit"):
            refuse_implausible(dear, known, "EUR")
        with pytest.raises(SourceError, match="changed its unit"):
            refuse_implausible([*day(MIDNIGHT, 0.08), *dear], known, "EUR")

    def test_bound_depends_on_the_currency_and_can_be_set(self) -> None:
        thirty = hourly(MIDNIGHT, 24, 30.0)
        refuse_implausible(thirty, (), "JPY")
        refuse_implausible(thirty, (), "XTS")
        refuse_implausible(thirty, (), "EUR", 40.0)
        with pytest.raises(SourceError):
            refuse_implausible(thirty, (), "EUR")
        with pytest.raises(SourceError):
            refuse_implausible(hourly(MIDNIGHT, 24, 0.3), (), "EUR", 0.2)

    def test_overlapping_prices_are_refused(self) -> None:
        bad = (PriceInterval(MIDNIGHT, MIDNIGHT + DAY, 0.1), PriceInterval(NOON, NOON + DAY, 0.2))
        with pytest.raises(SourceError, match="out of order"):
            feed(Service(bad), Clock()).intervals(NOON, NOON + 1)


class TestSchedule:
    """When asking is due."""

    @pytest.mark.parametrize(
        ("moment", "until"),
        [
            ("2026-06-15T10:59+00:00", "2026-06-15T22:00+00:00"),
            ("2026-06-15T11:00+00:00", "2026-06-16T22:00+00:00"),
            ("2026-10-24T12:00+00:00", "2026-10-25T23:00+00:00"),
            ("2026-03-28T13:00+00:00", "2026-03-29T22:00+00:00"),
        ],
    )
    def test_prices_are_wanted_to_the_end_of_the_local_day_that_is_out(self, moment: str, until: str) -> None:
        wanted = DAY_AHEAD.wanted_until(datetime.fromisoformat(moment).timestamp())
        assert wanted == datetime.fromisoformat(until).timestamp()

    def test_clock_that_was_set_back_does_not_silence_the_feed(self) -> None:
        assert is_due(ANY_TIME, Attempts().succeeded(NOON), NOON - DAY, NOON + DAY) is True

    def test_not_yet_is_no_failure(self) -> None:
        attempts = Attempts().failed(NOON, Reason.NOT_YET)
        assert attempts.failures == 0
        assert is_due(ANY_TIME, attempts, NOON + 599, None) is False
        assert is_due(ANY_TIME, attempts, NOON + 600, None) is True

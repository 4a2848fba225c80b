"""Feeds: when they are fetched, what is kept, and which prices are refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tpw.config import load
from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.tariff import octopus
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import AHEAD_SECONDS, HISTORY_SECONDS, Feed
from tpw.tariff.sanity import refuse_implausible
from tpw.tariff.schedule import Attempts, Publication, Schedule, is_due

HOUR = 3600.0
DAY = 86400.0
NOON = datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()  # 14:00 in Berlin
MIDNIGHT = datetime(2026, 6, 14, 22, tzinfo=UTC).timestamp()  # of that day, in Berlin
DAY_AHEAD = Schedule(Publication("Europe/Berlin", time(13, 0)), jitter=0.0)
UNPUBLISHED = Schedule(refresh_seconds=HOUR, jitter=0.0)


def hourly(start: float, hours: int, price: float = 0.1) -> tuple[PriceInterval, ...]:
    return tuple(PriceInterval(start + n * HOUR, start + (n + 1) * HOUR, price + (n % 5) / 1000) for n in range(hours))


class Service:
    """A reader with the answers of the test."""

    name = "service"

    def __init__(self, *answers: Sequence[PriceInterval] | SourceError, identity: str = "area X") -> None:
        self.identity = identity
        self.answers = list(answers)
        self.requests: list[tuple[float, float]] = []

    def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        self.requests.append((start_seconds, end_seconds))
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, SourceError):
            raise answer
        return answer


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


DOWN = SourceError(Reason.UNREACHABLE, "connection refused")
NOT_YET = SourceError(Reason.NOT_YET, "not published")


def feed(service: Service, clock: Clock, schedule: Schedule = DAY_AHEAD, **options: object) -> Feed:
    check = partial(refuse_implausible, currency="EUR")
    return Feed(service, clock=clock, unit="EUR", schedule=schedule, check=check, **options)  # type: ignore[arg-type]


def test_prices_are_those_of_the_service_clipped_to_the_range() -> None:
    service = Service(hourly(MIDNIGHT, 48))
    found = feed(service, Clock()).intervals(NOON, NOON + 1.5 * HOUR)
    assert [(price.start_seconds - NOON, price.end_seconds - NOON) for price in found] == [
        (0, HOUR),
        (HOUR, 1.5 * HOUR),
    ]


def test_known_prices_are_fetched_again_after_six_hours_for_corrections() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48)), Clock()
    source = feed(service, clock)
    for minute in range(0, 6 * 60, 5):
        clock.now = NOON + minute * 60
        source.intervals(clock.now - HOUR, clock.now + DAY)
    assert len(service.requests) == 1
    clock.now = NOON + 6 * HOUR
    source.intervals(clock.now - HOUR, clock.now + DAY)
    assert len(service.requests) == 2


def test_after_the_time_of_publication_tomorrow_is_fetched_every_ten_minutes_until_it_is_published() -> None:
    clock = Clock(NOON - 2 * HOUR)  # 12:00 in Berlin: not published
    service = Service(hourly(MIDNIGHT, 24), hourly(MIDNIGHT, 24), hourly(MIDNIGHT, 48))
    source = feed(service, clock)
    fetched_at = []
    for minute in range(0, 180, 1):
        clock.now = NOON - 2 * HOUR + minute * 60
        before = len(service.requests)
        source.intervals(clock.now, clock.now + DAY)
        if len(service.requests) > before:
            fetched_at.append(minute)
    assert fetched_at == [0, 60, 70]
    assert source.error is None


def test_jitter_spreads_the_requests_after_publication() -> None:
    for jitter, expected in ((0.0, 60), (0.5, 65), (0.99, 70)):
        clock, service = Clock(NOON - 2 * HOUR), Service(hourly(MIDNIGHT, 24))
        source = feed(service, clock, Schedule(DAY_AHEAD.publication, jitter=jitter))
        source.intervals(clock.now, clock.now + DAY)
        minute = 0
        while len(service.requests) == 1:
            minute += 1
            clock.now = NOON - 2 * HOUR + minute * 60
            source.intervals(clock.now, clock.now + DAY)
        assert minute == expected


def test_failures_are_retried_with_exponential_back_off() -> None:
    service, clock = Service(DOWN), Clock()
    source = feed(service, clock)
    fetched_at = []
    for minute in range(300):
        clock.now = NOON + minute * 60
        before = len(service.requests)
        with pytest.raises(SourceError, match="connection refused"):
            source.intervals(clock.now, clock.now + HOUR)
        if len(service.requests) > before:
            fetched_at.append(minute)
    assert fetched_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def asked_at(source: Feed, service: Service, clock: Clock, hours: float) -> list[float]:
    """Hours after now at which a feed asks its service, when it is read every minute."""
    start, found = clock.now, []
    for minute in range(round(hours * 60)):
        clock.now, before = start + minute * 60, len(service.requests)
        with suppress(SourceError):
            source.intervals(clock.now - 2 * HOUR, clock.now + 2 * DAY)
        found += [minute / 60] * (len(service.requests) - before)
    return found


def half_hours(start: float, until: float) -> tuple[PriceInterval, ...]:
    """Different prices of half-hours."""
    count = round((until - start) / 1800)
    return tuple(PriceInterval(start + n * 1800, start + (n + 1) * 1800, 0.1 + n % 7 / 100) for n in range(count))


DAYS_OF_A_SERVICE: dict[str, tuple[Schedule, Callable[[float], Sequence[PriceInterval] | SourceError]]] = {
    "published in time": (
        DAY_AHEAD,
        lambda now: hourly(MIDNIGHT - DAY, 24 * (2 + (now % DAY >= 11 * HOUR) + (now >= MIDNIGHT + DAY))),
    ),
    "tomorrow never published": (DAY_AHEAD, lambda now: hourly(MIDNIGHT - DAY, 48)),
    "Agile: its days end at 23:00": (
        Schedule(octopus.PUBLICATION),
        lambda now: half_hours(MIDNIGHT, MIDNIGHT + DAY * (1 + (now >= AGILE) + (now >= MIDNIGHT + DAY))),
    ),
    "a market after the fact": (
        Schedule(refresh_seconds=2400.0),
        lambda now: hourly(MIDNIGHT - DAY, round((now - MIDNIGHT + DAY) / HOUR)),
    ),
    "empty lists": (DAY_AHEAD, lambda now: NOT_YET),
    "down": (DAY_AHEAD, lambda now: DOWN),
    "in turn up and down": (DAY_AHEAD, lambda now: DOWN if now // 600 % 2 else hourly(MIDNIGHT - DAY, 48)),
    "a list that is behind": (Schedule(), lambda now: hourly(MIDNIGHT - DAY, round((now - MIDNIGHT + DAY) / HOUR) - 2)),
    "history that the service lacks": (DAY_AHEAD, lambda now: hourly(now // HOUR * HOUR, 48)),
}
AGILE = datetime(2026, 6, 15, 15, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("name", DAYS_OF_A_SERVICE)
@pytest.mark.parametrize("jitter", [0.0, 0.99])
def test_a_service_is_asked_at_most_40_times_in_any_24_hours(name: str, jitter: float) -> None:
    schedule, answer = DAYS_OF_A_SERVICE[name]
    clock = Clock(MIDNIGHT)

    class OfTheDay(Service):
        def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
            self.answers = [answer(clock.now)]
            return super().read(start_seconds, end_seconds)

    service = OfTheDay()
    hold = 2 * HOUR if name == "a market after the fact" else 0.0
    source = feed(service, clock, replace(schedule, jitter=jitter), hold_seconds=hold)
    found = asked_at(source, service, clock, 36)
    assert max(sum(at <= other < at + 24 for other in found) for at in found) <= 40
    if name in {"published in time", "Agile: its days end at 23:00"}:
        assert len(found) <= 12


def test_a_fleet_does_not_ask_for_a_publication_at_once() -> None:
    """100 exporters that were started together, an hour around the time of publication, which is late by half an hour."""
    numbers = random.Random(16)
    by_minute = [0] * 120
    for _ in range(100):
        clock = Clock(NOON - 2 * HOUR)
        service = Service(hourly(MIDNIGHT, 24))
        source = feed(service, clock, replace(DAY_AHEAD, jitter=numbers.random()))
        for hours in asked_at(source, service, clock, 2.0):
            by_minute[round(hours * 60)] += 1
    assert by_minute[0] == 100, "each needs a price when it starts"
    assert sum(by_minute[60:90]) >= 200
    assert max(by_minute[1:]) <= 25


def test_a_restart_is_no_reason_to_ask_again_and_the_limit_outlives_it(tmp_path: Path) -> None:
    clock, service = Clock(), Service(hourly(MIDNIGHT, 48))
    for _ in range(50):
        clock.now += 60
        feed(service, clock, cache=tmp_path / "a.json").intervals(clock.now, clock.now + DAY)
    assert len(service.requests) == 1
    crashing = Service(DOWN, identity="area Y")
    for _ in range(50):
        clock.now += 60
        with pytest.raises(SourceError):
            feed(crashing, clock, cache=tmp_path / "b.json").intervals(clock.now, clock.now + DAY)
    assert len(crashing.requests) == 40


def test_a_source_of_the_operator_is_read_every_minute_however_far_it_is_behind() -> None:
    service, clock = Service(hourly(MIDNIGHT - DAY, 24)), Clock()
    own = Schedule(refresh_seconds=60.0, pending_seconds=60.0, max_backoff_seconds=60.0, daily_limit=None)
    assert len(asked_at(feed(service, clock, own), service, clock, 3)) == 180


def test_every_request_of_a_reader_counts() -> None:
    class Paged(Service):
        requests_made = 0

        def read(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
            self.requests_made += 3
            return super().read(start_seconds, end_seconds)

    service, clock = Paged(hourly(MIDNIGHT, 24)), Clock()
    asked_at(feed(service, clock), service, clock, 24)
    assert service.requests_made <= 42


def test_a_service_is_left_alone_for_as_long_as_it_asks() -> None:
    busy = SourceError(Reason.BROKEN, "HTTP 429", retry_after_seconds=5400.0)
    service, clock = Service(busy), Clock()
    assert asked_at(feed(service, clock), service, clock, 5) == [0, 1.5, 3, 4.5]


def test_the_last_price_is_held_as_a_preliminary_one_until_the_next_is_published() -> None:
    """A market after the fact: what is published is replaced, and after the hold there is no price."""
    clock = Clock()
    service = Service(hourly(NOON - 3 * HOUR, 2, 0.1), hourly(NOON - 3 * HOUR, 3, 0.2), DOWN)
    source = feed(service, clock, Schedule(refresh_seconds=2400.0), hold_seconds=2 * HOUR)
    *_, held = source.intervals(NOON - 2 * HOUR, NOON + DAY)
    assert held == PriceInterval(NOON - HOUR, NOON + HOUR, 0.101, PriceState.PRELIMINARY)
    assert source.error is None

    clock.now = NOON + 2400.0
    found = source.intervals(NOON - 2 * HOUR, NOON + DAY)
    assert [(price.start_seconds, price.state) for price in found[-2:]] == [
        (NOON - HOUR, PriceState.FINAL),
        (NOON, PriceState.PRELIMINARY),
    ]
    clock.now = NOON + 2.5 * HOUR
    assert source.intervals(NOON - 2 * HOUR, NOON + DAY)[-1].end_seconds == NOON + 2 * HOUR
    assert source.error is DOWN


def test_a_held_price_is_not_kept_on_disk(tmp_path: Path) -> None:
    cache = tmp_path / "a.json"
    options: dict[str, Any] = {"schedule": Schedule(), "hold_seconds": 2 * HOUR, "cache": cache}
    feed(Service(hourly(NOON - 3 * HOUR, 2)), Clock(), **options).intervals(NOON - HOUR, NOON)
    assert "preliminary" not in cache.read_text()
    again = feed(Service(DOWN), Clock(), **options)
    assert again.intervals(NOON, NOON + 1)[0].state is PriceState.PRELIMINARY


def test_an_empty_list_is_an_answer() -> None:
    """Also for the past: it was asked for again at every read."""
    service, clock = Service(NOT_YET), Clock()
    assert asked_at(feed(service, clock), service, clock, 1) == [0, 10 / 60, 20 / 60, 30 / 60, 40 / 60, 50 / 60]


def test_known_prices_remain_in_force_while_the_feed_is_down() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48), DOWN), Clock()
    source = feed(service, clock)
    before = source.intervals(NOON, NOON + DAY)
    clock.now = NOON + 7 * HOUR
    assert source.intervals(NOON, NOON + DAY) == before
    assert source.error is DOWN


def test_time_without_a_price_is_not_covered() -> None:
    service, clock = Service(hourly(MIDNIGHT, 24)), Clock()
    found = feed(service, clock).intervals(NOON, NOON + 2 * DAY)
    assert found[-1].end_seconds == MIDNIGHT + DAY


def test_fallback_covers_time_without_a_price_and_is_marked() -> None:
    service, clock = Service(hourly(MIDNIGHT, 24)), Clock()
    source = feed(service, clock, fallback_price_per_kwh=0.25)
    found = source.intervals(NOON, NOON + DAY)
    assert found[-1] == PriceInterval(MIDNIGHT + DAY, NOON + DAY, 0.25, PriceState.FALLBACK)
    assert found[0].state is PriceState.FINAL
    down = feed(Service(DOWN), clock, fallback_price_per_kwh=0.25)
    assert down.intervals(0, 10) == (PriceInterval(0, 10, 0.25, PriceState.FALLBACK),)
    assert down.error is DOWN


def test_unpublished_prices_are_no_error_while_the_price_of_now_is_known() -> None:
    service, clock = Service(hourly(MIDNIGHT, 24), NOT_YET), Clock(NOON - 2 * HOUR)
    source = feed(service, clock)
    source.intervals(clock.now, clock.now + DAY)
    clock.now = NOON
    source.intervals(clock.now, clock.now + DAY)
    assert len(service.requests) == 2
    assert source.error is None


def test_a_feed_without_a_price_for_now_is_not_yet_published() -> None:
    source = feed(Service(hourly(MIDNIGHT - 5 * DAY, 24)), Clock())
    with pytest.raises(SourceError, match="has no price for now") as raised:
        source.intervals(NOON, NOON + HOUR)
    assert raised.value.reason is Reason.NOT_YET


def test_corrected_prices_replace_known_ones() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48), hourly(MIDNIGHT, 48, 0.2)), Clock()
    source = feed(service, clock)
    assert source.intervals(NOON, NOON + 1)[0].price_per_kwh < 0.2
    clock.now = NOON + 6 * HOUR
    assert source.intervals(NOON, NOON + 1)[0].price_per_kwh >= 0.2


def test_history_is_fetched_once_for_late_energy() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48), hourly(MIDNIGHT - 3 * DAY, 5 * 24)), Clock()
    source = feed(service, clock)
    source.intervals(NOON, NOON + DAY)
    assert service.requests[0][0] == NOON // DAY * DAY
    found = source.intervals(NOON - 2 * DAY, NOON + DAY)
    assert service.requests[1][0] == (NOON - 2 * DAY) // DAY * DAY
    assert found[0].start_seconds == NOON - 2 * DAY
    source.intervals(NOON - 2 * DAY, NOON + DAY)
    assert len(service.requests) == 2


def test_history_that_the_service_lacks_is_fetched_once() -> None:
    service, clock = Service(hourly(MIDNIGHT, 48)), Clock()
    source = feed(service, clock)
    for minute in range(120):
        clock.now = NOON + minute * 60
        source.intervals(clock.now - 3 * DAY, clock.now + DAY)
    assert len(service.requests) == 1


def test_history_is_fetched_for_eight_days_and_no_more() -> None:
    """For the whole time for which late energy is still priced. A longer request would be refused by some services."""
    for days, expected in ((7.5, NOON - 7.5 * DAY), (8, NOON - 8 * DAY), (62, NOON - 8 * DAY)):
        service, clock = Service(hourly(MIDNIGHT - 10 * DAY, 12 * 24)), Clock()
        feed(service, clock).intervals(NOON - days * DAY, NOON + DAY)
        assert service.requests[0][0] == expected // DAY * DAY


def test_history_covers_the_days_for_which_late_energy_is_priced() -> None:
    from tpw.ledger.rows import LATE_SECONDS

    assert HISTORY_SECONDS >= LATE_SECONDS


@pytest.mark.parametrize("moment", ["2026-06-15T11:00+00:00", "2026-10-24T11:00+00:00", "2026-10-24T22:00+00:00"])
def test_a_fetch_reaches_past_every_published_day(moment: str) -> None:
    clock = Clock(datetime.fromisoformat(moment).timestamp())
    service = Service(hourly(clock.now - DAY, 72))
    feed(service, clock).intervals(clock.now, clock.now + HOUR)
    assert service.requests[0][1] == clock.now + AHEAD_SECONDS
    assert clock.now + AHEAD_SECONDS > DAY_AHEAD.wanted_until(clock.now)


START = MIDNIGHT - 2 * DAY


def cached(row: str) -> str:
    """A valid file except for the rest of its one row."""
    return f'{{"layout": 1, "identity": "area X", "unit": "EUR", "intervals": [[{START}, {row}]]}}'


class TestCache:
    """The file that keeps prices over a restart."""

    def test_known_prices_survive_a_restart_without_a_request(self, tmp_path: Path) -> None:
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
    def test_a_damaged_cache_is_ignored(self, tmp_path: Path, text: str) -> None:
        cache = tmp_path / "a.json"
        cache.write_text(text)
        source = feed(Service(hourly(MIDNIGHT, 48)), Clock(), cache=cache)
        assert source.intervals(START, NOON + HOUR) == hourly(MIDNIGHT, 15)

    @pytest.mark.parametrize(("identity", "currency"), [("area Y", "EUR"), ("area X", "GBP")])
    def test_a_cache_of_another_identity_or_unit_is_ignored(self, tmp_path: Path, identity: str, currency: str) -> None:
        clock, cache = Clock(), tmp_path / "a.json"
        feed(Service(hourly(MIDNIGHT, 48)), clock, cache=cache).intervals(NOON, NOON + DAY)
        other = Feed(
            Service(DOWN, identity=identity),
            clock=clock,
            unit=currency,
            schedule=DAY_AHEAD,
            check=lambda fresh, known: None,
            cache=cache,
        )
        with pytest.raises(SourceError):
            other.intervals(NOON, NOON + DAY)

    def test_a_cache_that_cannot_be_written_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        source = feed(Service(hourly(MIDNIGHT, 48)), Clock(), cache=tmp_path / "file" / "a.json")
        assert len(source.intervals(NOON, NOON + HOUR)) == 1

    def test_prices_older_than_45_days_are_dropped(self, tmp_path: Path) -> None:
        clock, cache = Clock(), tmp_path / "a.json"
        service = Service(hourly(MIDNIGHT - 60 * DAY, 62 * 24))
        source = feed(service, clock, cache=cache)
        source.intervals(NOON, NOON + DAY)
        again = feed(Service(DOWN), clock, cache=cache)
        assert again.intervals(NOON - 100 * DAY, NOON)[0].start_seconds == NOON - 45 * DAY


class TestPlausibility:
    """Prices that are refused."""

    def test_price_per_mwh_is_refused(self) -> None:
        source = feed(Service(hourly(MIDNIGHT, 48, 80.0)), Clock())
        with pytest.raises(SourceError, match="is implausible") as raised:
            source.intervals(NOON, NOON + HOUR)
        assert raised.value.reason is Reason.MALFORMED

    @pytest.mark.parametrize("factor", [100, 1000, 1 / 1000])
    def test_a_change_of_unit_is_refused_and_the_known_prices_remain(self, factor: float) -> None:
        good = hourly(MIDNIGHT, 48, 0.1)
        slipped = tuple(
            PriceInterval(price.start_seconds, price.end_seconds, price.price_per_kwh * factor) for price in good
        )
        clock = Clock()
        source = feed(Service(good, slipped), clock)
        before = source.intervals(NOON, NOON + DAY)
        clock.now = NOON + 6 * HOUR
        assert source.intervals(NOON, NOON + DAY) == before
        assert source.error is not None
        assert source.error.reason is Reason.MALFORMED

    @pytest.mark.parametrize("factor", [60, 1 / 300])
    def test_a_change_below_that_of_a_unit_is_accepted(self, factor: float) -> None:
        flat = PriceInterval(MIDNIGHT, MIDNIGHT + HOUR, 0.1)
        known = [replace(flat, start_seconds=MIDNIGHT + n, end_seconds=MIDNIGHT + n + 1) for n in range(24)]
        refuse_implausible([replace(price, price_per_kwh=0.1 * factor) for price in known], known, "EUR")

    def test_a_few_spikes_are_no_change_of_unit(self) -> None:
        spikes = hourly(MIDNIGHT + DAY, 2, 14.0)
        refuse_implausible((*spikes, *hourly(MIDNIGHT + DAY + 2 * HOUR, 22, 0.1)), hourly(MIDNIGHT, 24, 0.1), "EUR")

    def test_a_cheap_day_and_a_spike_are_accepted(self) -> None:
        known = hourly(MIDNIGHT, 24, 0.1)
        cheap = hourly(MIDNIGHT + DAY, 24, -0.0005)
        spike = (*hourly(MIDNIGHT + DAY, 23, 0.1), PriceInterval(MIDNIGHT + DAY + 23 * HOUR, MIDNIGHT + 2 * DAY, 4.0))
        refuse_implausible(cheap, known, "EUR")
        refuse_implausible(spike, known, "EUR")

    def test_an_expensive_day_after_cheap_ones_is_accepted_where_the_feed_repeats_the_known_prices(self) -> None:
        """After a change of unit the prices of today would change too. In the north a week may cost almost nothing."""

        def day(start: float, price: float) -> list[PriceInterval]:
            return [
                PriceInterval(start + n * HOUR, start + (n + 1) * HOUR, price * (1 + n % 3 / 10)) for n in range(24)
            ]

        today = day(MIDNIGHT, 0.0008)
        known, expensive = [*day(MIDNIGHT - DAY, 0.0008), *today], day(MIDNIGHT + DAY, 0.12)
        refuse_implausible([*today, *expensive], known, "EUR")
        corrected = PriceInterval(NOON, NOON + HOUR, 0.02)
        refuse_implausible([*today[:12], corrected, *today[13:], *expensive], known, "EUR")
        with pytest.raises(SourceError, match="may have changed its unit"):
            refuse_implausible(expensive, known, "EUR")
        with pytest.raises(SourceError, match="may have changed its unit"):
            refuse_implausible([*day(MIDNIGHT, 0.08), *expensive], known, "EUR")

    def test_bound_depends_on_the_currency_and_can_be_set(self) -> None:
        thirty = hourly(MIDNIGHT, 24, 30.0)
        refuse_implausible(thirty, (), "JPY")
        refuse_implausible(thirty, (), "XTS")
        refuse_implausible(thirty, (), "EUR", 40.0)
        with pytest.raises(SourceError):
            refuse_implausible(thirty, (), "EUR")
        with pytest.raises(SourceError):
            refuse_implausible(hourly(MIDNIGHT, 24, 0.3), (), "EUR", 0.2)

    def test_fresh_prices_are_compared_with_those_of_three_days(self) -> None:
        for age, is_refused in ((2, True), (4, False)):
            clock = Clock(NOON - age * DAY)
            source = feed(Service(hourly(clock.now, 6, 0.0001), hourly(MIDNIGHT, 48, 0.5)), clock)
            source.intervals(clock.now, clock.now + HOUR)
            clock.now = NOON
            if is_refused:
                with pytest.raises(SourceError, match="may have changed its unit"):
                    source.intervals(NOON, NOON + HOUR)
            else:
                assert source.intervals(NOON, NOON + HOUR)

    def test_overlapping_prices_are_refused(self) -> None:
        bad = (PriceInterval(MIDNIGHT, MIDNIGHT + DAY, 0.1), PriceInterval(NOON, NOON + DAY, 0.2))
        with pytest.raises(SourceError, match="out of order"):
            feed(Service(bad), Clock()).intervals(NOON, NOON + 1)


class TestSchedule:
    """When a fetch is due."""

    @pytest.mark.parametrize(
        ("moment", "until"),
        [
            ("2026-06-15T10:59+00:00", "2026-06-15T22:00+00:00"),
            ("2026-06-15T11:00+00:00", "2026-06-16T22:00+00:00"),
            ("2026-10-24T12:00+00:00", "2026-10-25T23:00+00:00"),
            ("2026-03-28T13:00+00:00", "2026-03-29T22:00+00:00"),
        ],
    )
    def test_prices_are_wanted_to_the_end_of_the_last_published_local_day(self, moment: str, until: str) -> None:
        wanted = DAY_AHEAD.wanted_until(datetime.fromisoformat(moment).timestamp())
        assert wanted == datetime.fromisoformat(until).timestamp()

    def test_a_clock_that_was_set_back_does_not_stop_the_feed(self) -> None:
        assert is_due(UNPUBLISHED, Attempts().succeeded(NOON), NOON - DAY, NOON + DAY) is True

    def test_not_yet_published_is_no_failure_and_is_retried_after_ten_minutes(self) -> None:
        attempts = Attempts().failed(NOON, Reason.NOT_YET)
        assert attempts.failures == 0
        assert is_due(UNPUBLISHED, attempts, NOON + 599, None) is False
        assert is_due(UNPUBLISHED, attempts, NOON + 600, None) is True

    @pytest.mark.parametrize(
        ("attempts", "seconds"),
        [
            (Attempts().succeeded(NOON), 3600),
            (Attempts().failed(NOON, Reason.NOT_YET), 600),
            (Attempts().failed(NOON, Reason.BROKEN), 60),
        ],
    )
    def test_jitter_delays_every_request_by_up_to_a_quarter(self, attempts: Attempts, seconds: float) -> None:
        late = Schedule(refresh_seconds=HOUR, jitter=0.8)
        assert is_due(late, attempts, NOON + 1.2 * seconds - 1, NOON + DAY) is False
        assert is_due(late, attempts, NOON + 1.2 * seconds, NOON + DAY) is True

    def test_a_feed_that_has_failed_for_months_is_still_retried_every_hour(self) -> None:
        attempts = Attempts(NOON, failures=5000, last_reason=Reason.BROKEN)
        assert is_due(UNPUBLISHED, attempts, NOON + HOUR - 1, None) is False
        assert is_due(UNPUBLISHED, attempts, NOON + HOUR, None) is True


@dataclass(frozen=True)
class Times:
    """Intervals of a source in seconds, and the time of its publication."""

    refresh: float
    pending: float = 600.0
    max_backoff: float = HOUR
    publication: Publication | None = None


CURRENCIES = {"octopus": "GBP", "urdb": "USD", "swiss": "CHF"}
DAILY = Publication("Europe/Berlin", time(13, 0))


@pytest.mark.parametrize(
    ("layer", "times"),
    [
        ("{kind: entsoe, area: DE-LU, token_file: t}", Times(6 * HOUR, publication=DAILY)),
        (
            "{kind: octopus, tariff_code: E-1R-AGILE-24-10-01-C}",
            Times(6 * HOUR, publication=Publication("Europe/London", time(16, 0), time(23, 0))),
        ),
        ("{kind: intervals, preset: elering, area: ee}", Times(6 * HOUR, publication=DAILY)),
        ("{kind: intervals, preset: elering, area: ee, every: 2h}", Times(2 * HOUR, publication=DAILY)),
        (
            "{kind: intervals, preset: swiss, url: 'https://u.example'}",
            Times(6 * HOUR, publication=Publication("Europe/Zurich", time(18, 0))),
        ),
        ("{kind: intervals, url: 'https://u.example', time: t, price: p}", Times(6 * HOUR)),
        ("{kind: intervals, url: 'https://u.example', time: t, price: p, hold: 2h}", Times(2400)),
        (
            "{kind: intervals, url: 'https://u.a', time: t, price: p, published_at: '14:30', published_until: '23:00'}",
            Times(6 * HOUR, publication=Publication("Europe/Berlin", time(14, 30), time(23, 0))),
        ),
        (
            "{kind: intervals, url: 'https://u.example', time: t, price: p, published_at: '14:30', timezone: UTC}",
            Times(6 * HOUR, publication=Publication("UTC", time(14, 30))),
        ),
        ("{kind: intervals, file: p.json, time: t, price: p}", Times(60, 60, 60)),
        ("{kind: intervals, format: prometheus, url: 'http://p:9090', query: q}", Times(60, 60, 60)),
        ("{kind: intervals, format: prometheus, url: 'http://p:9090', query: q, every: 5m}", Times(300, 60, 60)),
        ("{kind: urdb, label: 68c0cb49d7afaa668b0dc6fc, api_key_file: k}", Times(DAY)),
        ("{kind: urdb, file: rate.json}", Times(60, 60)),
    ],
)
def test_times_of_each_price_source(layer: str, times: Times) -> None:
    """Files and a local Prometheus are read every minute. Services get few requests; a rate changes a few times a year."""
    currency = next((code for word, code in CURRENCIES.items() if word in layer), "EUR")
    config = load(f"tariff: {{currency: {currency}, timezone: Europe/Berlin, energy: {layer}}}")
    source: Any = config.tariff.energy[0].source(config.tariff, FeedContext(jitter=0.5))
    schedule: Schedule = source._schedule
    assert (schedule.refresh_seconds, schedule.pending_seconds) == (times.refresh, times.pending)
    assert (schedule.min_backoff_seconds, schedule.max_backoff_seconds) == (60, times.max_backoff)
    assert schedule.publication == times.publication
    is_own = ", file:" in layer or "prometheus" in layer
    assert (schedule.daily_limit is None) == is_own, "only services get a limited number of requests"

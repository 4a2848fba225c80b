"""Shapes of durations, zones, currencies, addresses, hours and days."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from tpw.settings import times
from tpw.settings.addresses import check_no_secret
from tpw.settings.shapes import ListOf, Scalar
from tpw.settings.words import did_you_mean, shortened


def duration(minimum: float, maximum: float) -> Scalar:
    """A duration within bounds, in seconds."""
    bounds = f"between {times.duration_text(minimum)} and {times.duration_text(maximum)}"

    def parse(value: str) -> float:
        seconds = times.duration_seconds(value)
        if not minimum <= seconds <= maximum:
            raise ValueError(f"{value} is not {bounds}")
        return seconds

    pattern = r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"
    return Scalar(f"a duration {bounds}", parse, {"type": "string", "pattern": pattern})


def currency() -> Scalar:
    """An ISO 4217 code."""

    def parse(value: str) -> str:
        if re.fullmatch(r"[A-Z]{3}", value):
            return value
        if re.fullmatch(r"[A-Za-z]{3}", value):
            raise ValueError(f"`{value}`: write {value.upper()}: a currency code has capital letters")
        raise ValueError(
            f"`{shortened(value)}` is not a currency code (ISO 4217): write three capitals such as EUR or USD"
        )

    return Scalar("a currency code such as EUR", parse, {"type": "string", "pattern": "^[A-Z]{3}$"})


def time_zone() -> Scalar:
    """An IANA time zone."""

    def parse(value: str) -> str:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            hint = did_you_mean(value, zoneinfo.available_timezones())
            raise ValueError(
                f"`{shortened(value)}` is not a time zone; write one such as Europe/Berlin{hint}"
            ) from None
        return value

    return Scalar("a time zone such as Europe/Berlin", parse, {"type": "string", "minLength": 1})


def http_url() -> Scalar:
    """An http or https address without secrets."""

    def parse(value: str) -> str:
        words = "an address such as http://127.0.0.1:8000"
        check_no_secret(value)  # before any message that quotes the address
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ValueError(f"`{shortened(value)}` should be {words}; its host or port cannot be read") from None
        if parts.scheme not in {"http", "https"}:
            start = value.partition("://")[0] if "://" in value else ""
            advice = f"`{start}` is not http or https" if start else f"write http://{shortened(value)}"
            raise ValueError(f"`{shortened(value)}` should be {words}: {advice}")
        if not parts.hostname or port == 0 or re.search(r"\s", value):
            raise ValueError(f"`{shortened(value)}` should be {words}")
        if parts.fragment:
            raise ValueError(f"`#{parts.fragment}` has no effect in an address: remove it")
        return value

    return Scalar("an http or https address", parse, {"type": "string", "pattern": "^https?://[^\\s@]+$"})


def server_url() -> Scalar:
    """An http or https address without secrets, or a Unix socket."""
    http = http_url()

    def parse(value: str) -> str:
        if not value.startswith("unix:"):
            return str(http.parse(value))
        if not re.fullmatch(r"unix:/[^\s:]+(:/\S*)?", value):
            raise ValueError(f"`{shortened(value)}` should be a path such as unix:/run/server.sock")
        return value

    pattern = r"^(https?://[^\s@]+|unix:/[^\s:]+(:/\S*)?)$"
    return Scalar("an http or https address, or unix:/PATH", parse, {"type": "string", "pattern": pattern})


def listen_address() -> Scalar:
    """host:port to listen on; the host is optional."""

    def parse(value: str) -> str:
        match = re.fullmatch(r"(?:\[[0-9a-fA-F:.%\w]*\]|[\w.-]*):(\d{1,5})", value)
        if match is None:
            advice = f": write :{value}" if value.isdigit() else ""
            raise ValueError(f"`{shortened(value)}` should be host:port, such as :10101 or 127.0.0.1:10101{advice}")
        if int(match.group(1)) > 65535:
            raise ValueError(f"{match.group(1)} is not a port: ports end at 65535")
        return value

    return Scalar("host:port", parse, {"type": "string", "pattern": r"^.*:\d{1,5}$"})


def clock_time() -> Scalar:
    """A time of day; minutes after midnight."""

    def parse(value: str) -> int:
        match = re.fullmatch(r"(\d{1,2}):(\d{2})", value)
        if match is None or int(match.group(1)) > 23 or int(match.group(2)) > 59:
            raise ValueError(f"`{shortened(value)}` is not a time of day: write 13:00")
        return int(match.group(1)) * 60 + int(match.group(2))

    return Scalar("a time of day such as 13:00", parse, {"type": "string", "pattern": r"^\d{1,2}:\d{2}$"})


def local_time() -> Scalar:
    """A local day and time of day, without an offset."""

    def parse(value: str) -> datetime:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}", value):
            raise ValueError(f"`{shortened(value)}` is not a local time: write 2026-07-20T16:45")
        return datetime.fromisoformat(value)

    return Scalar(
        "a local time such as 2026-07-20T16:45", parse, {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}[T ]"}
    )


def calendar_date() -> Scalar:
    """A local calendar day."""
    return Scalar("a date such as 2026-12-25", times.calendar_date, {"type": "string", "format": "date"})


def _ranges(parse: Any, words: str, json: Mapping[str, Any], example: str) -> ListOf:
    def gather(values: tuple[tuple[int, ...], ...]) -> frozenset[int]:
        return frozenset(value for part in values for value in part)

    return ListOf(Scalar(words, parse, json), f"a list such as [{example}]", or_one=True, gather=gather)


WORD = {"type": "string", "minLength": 1}
HOURS = ListOf(
    Scalar(
        "a range of hours such as 22:00-06:00",
        times.hour_range,
        {"type": "string", "pattern": r"^\d{1,2}:\d{2}\s*-\s*\d{1,2}:\d{2}$"},
    ),
    "a range of hours such as 22:00-06:00, or a list of them",
    or_one=True,
)
DAYS = _ranges(times.day_range, "a day or a range of days such as mon-fri", WORD, "mon-fri")
MONTHS = _ranges(
    times.month_range,
    "a month or a range of months such as 11-3",
    {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 12}, WORD]},
    "11-3",
)

"""Readers of lists of prices: from an address and from a file.

An address may name a time, ``{start}`` and ``{end}`` in UTC or ``{local_start}`` and ``{local_end}``, or a day, ``{date}``,
``{week}`` (its Monday) or ``{fiscal_year}`` (from April); a day needs one request for each address that it makes. A format
may follow a colon: ``{date:%Y/%m-%d}``, ``{week:unix_ms}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request
from tpw.http.secrets import bearer, read_headers
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.layout import Layout, read_table
from tpw.tariff.spans import united

PLACEHOLDER = re.compile(r"\{(local_start|local_end|start|end|date|week|fiscal_year)(?::([^{}]*))?\}")
_DAYS = ("date", "week", "fiscal_year")
_AHEAD = 3
"""So many addresses at the end of a range may be of days that are not published yet."""


@dataclass(slots=True)
class FromAddress:
    """Reads a list over HTTP. ``url`` may name times and days."""

    url: str
    layout: Layout
    fetch: Fetch
    stamp: str = "%Y-%m-%dT%H:%M:%SZ"
    stamp_zone: str = "UTC"
    token_file: str | None = None
    """A bearer token."""
    headers_file: str | None = None
    """Lines of ``Name: value``."""
    body: str = ""
    name: str = "intervals"
    requests_made: int = 0

    @property
    def identity(self) -> str:
        """The configured address, and the fields of the price."""
        return f"{self.url} {self.layout.price} {','.join(self.layout.rows)}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        urls = self._urls(start_seconds, end_seconds)
        if len(urls) == 1:
            return self._read(urls[0], end_seconds)
        found: list[tuple[PriceInterval, ...]] = []
        missing: SourceError | None = None
        for number, url in enumerate(urls, 1):
            try:
                found.append(self._read(url, end_seconds, is_one_of_many=True))
            except SourceError as error:
                if error.reason not in (Reason.NOT_YET, Reason.ABSENT):
                    raise
                missing = error
                if found and number > len(urls) - _AHEAD:
                    break  # later days are not published either
        if missing is not None and not found:
            raise missing
        return united(found)

    def _read(self, url: str, end_seconds: float, *, is_one_of_many: bool = False) -> tuple[PriceInterval, ...]:
        headers = read_headers(self.headers_file)
        if self.token_file is not None:
            headers.update(bearer(self.token_file))
        body = None
        if self.body:
            body = self.body.encode()
            headers["Content-Type"] = "application/json"
        request = Request(url, headers, body)
        self.requests_made += 1
        text = body_of(request, self.fetch(request))
        if is_one_of_many and text.lstrip()[:1] == b"<":
            raise SourceError(Reason.ABSENT, f"{request.address} is a page, not a list of prices")
        return read_table(text, self.layout, until_seconds=end_seconds)

    def _urls(self, start_seconds: float, end_seconds: float) -> list[str]:
        """The addresses of a range, in order of time."""
        zone = ZoneInfo(self.layout.timezone or self.stamp_zone)
        first, last = (datetime.fromtimestamp(at, UTC).astimezone(zone) for at in (start_seconds, end_seconds - 1))
        moments = {
            "start": datetime.fromtimestamp(start_seconds, UTC).astimezone(ZoneInfo(self.stamp_zone)),
            "end": datetime.fromtimestamp(end_seconds, UTC).astimezone(ZoneInfo(self.stamp_zone)),
            "local_start": first,
            "local_end": datetime.fromtimestamp(end_seconds, UTC).astimezone(zone),
        }
        count = (last.date() - first.date()).days + 1
        if not any(match[1] in _DAYS for match in PLACEHOLDER.finditer(self.url)):
            count = 1
        urls: dict[str, None] = {}
        for n in range(count):
            day = datetime.combine(first.date() + timedelta(days=n), time(), zone)
            monday = datetime.combine(day.date() - timedelta(days=day.weekday()), time(), zone)
            days = {"date": day, "week": monday, "fiscal_year": day.replace(year=day.year - (day.month < 4), day=1)}
            named = {**moments, **days}
            urls[PLACEHOLDER.sub(lambda match: self._stamp(match, named[match[1]]), self.url)] = None  # noqa: B023
        return list(urls)

    def _stamp(self, place: re.Match[str], moment: datetime) -> str:
        plain = {"date": "%Y-%m-%d", "week": "%Y-%m-%d", "fiscal_year": "%Y"}.get(place[1], self.stamp)
        match place[2] or plain:
            case "unix":
                return str(int(moment.timestamp()))
            case "unix_ms":
                return str(int(moment.timestamp() * 1000))
            case pattern:
                return quote(moment.strftime(pattern))


@dataclass(frozen=True, slots=True)
class FromFile:
    """Reads a list from a file, which another program keeps up to date."""

    path: str
    layout: Layout
    name: str = "intervals"

    @property
    def identity(self) -> str:
        """The path, and the fields of the price."""
        return f"{self.path} {self.layout.price} {','.join(self.layout.rows)}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        del start_seconds  # a file is read whole
        try:
            body = Path(self.path).read_bytes()
        except OSError as error:
            reason = Reason.PERMISSION if isinstance(error, PermissionError) else Reason.ABSENT
            raise SourceError(reason, f"{self.path} cannot be read: {error.strerror or error}") from error
        return read_table(body, self.layout, until_seconds=end_seconds)

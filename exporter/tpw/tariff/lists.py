"""Readers of lists of prices: from an address and from a file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request
from tpw.http.secrets import bearer, read_headers
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.layout import Layout, read_table


@dataclass(frozen=True, slots=True)
class FromAddress:
    """Reads a list over HTTP. ``url`` may contain ``{start}`` and ``{end}``."""

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

    @property
    def identity(self) -> str:
        """The configured address, and the fields of the price."""
        return f"{self.url} {self.layout.price} {','.join(self.layout.rows)}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        url = self.url.replace("{start}", self._stamp(start_seconds)).replace("{end}", self._stamp(end_seconds))
        headers = read_headers(self.headers_file)
        if self.token_file is not None:
            headers.update(bearer(self.token_file))
        body = None
        if self.body:
            body = self.body.encode()
            headers["Content-Type"] = "application/json"
        request = Request(url, headers, body)
        return read_table(body_of(request, self.fetch(request)), self.layout, until_seconds=end_seconds)

    def _stamp(self, seconds: float) -> str:
        if self.stamp == "unix_ms":
            return str(int(seconds * 1000))
        return quote(datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(self.stamp_zone)).strftime(self.stamp))


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

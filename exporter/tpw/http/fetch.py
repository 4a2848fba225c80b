"""One request to any address on a connection of its own: price feeds, intensity feeds."""

from __future__ import annotations

import os
import time

from tpw.http.messages import MAX_BYTES, Answer, Request, status_error
from tpw.model import Reason, SourceError

TIMEOUT_SECONDS = 20.0

_HINTS = {
    400: "The service rejects the request: check area, tariff or product code.",
    404: "Check area, tariff or product code. Services also move or close.",
    410: "Check area, tariff or product code. Services also move or close.",
    429: "Too many requests from this address or key. The request is repeated later.",
}


def fetch(request: Request, timeout_seconds: float = TIMEOUT_SECONDS, max_bytes: int = MAX_BYTES) -> Answer:
    """Send a request and return the answer, whatever its status. See :data:`tpw.http.messages.Fetch`.

    The proxies of the environment are used. A GET follows redirects: within the server with the request's headers, to
    another server without them, and never from https to http.

    Raises:
        SourceError: see :meth:`tpw.http.client.Client.request`.
    """
    from tpw.http.client import MAX_REDIRECTS, Client, RedirectError

    deadline = time.monotonic() + timeout_seconds
    url, headers = request.url, request.headers
    for hop in range(MAX_REDIRECTS + 1):
        try:
            client = Client(url, max_bytes=max_bytes, proxy=_proxy(url))
        except ValueError as error:
            raise SourceError(Reason.UNREACHABLE, f"{request.address} cannot be requested: {error}") from None
        try:
            left = max(deadline - time.monotonic(), 0.001)
            method = "GET" if request.body is None else "POST"
            return client.request(method=method, body=request.body, headers=headers, timeout_seconds=left)
        except RedirectError as redirect:
            is_downgrade = url.startswith("https:") and not redirect.url.startswith("https:")
            if is_downgrade or hop == MAX_REDIRECTS:
                raise
            url, headers = redirect.url, {}
        finally:
            client.close()
    raise AssertionError("unreachable")


def body_of(request: Request, answer: Answer) -> bytes:
    """The body of a feed's answer with the status 200. Raises SourceError for every other; 204 is NOT_YET."""
    status = answer.status
    if status == 200:
        return answer.body
    if status in (204, 401, 403, 404, 410):
        reason = None
    else:
        reason = Reason.MALFORMED if status < 500 and status != 429 else Reason.BROKEN
    raise status_error(request.address, answer, reason=reason, hint=_HINTS.get(status, ""))


def _proxy(url: str) -> str:
    """The proxy that the environment names for a URL; "" for none. Loads urllib.request only where there is one."""
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return ""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme, "")
    return "" if proxy_bypass(parts.netloc.rpartition("@")[2]) else proxy

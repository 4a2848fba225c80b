"""Numbers formatted for people: three significant digits, a unit, and a dash for unknown; and the owners of a GPU."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tpw.exposition.status import GpuStatus

UNKNOWN = "\u2013"


def figure(value: float | None) -> str:
    """Three significant digits: 0.0042, 3.42, 34.2, 342, 3,420, 34.2k, 3.42M."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size == 0.0:
        return "0"
    for limit, unit in ((999.5e9, "T"), (999.5e6, "G"), (999.5e3, "M")):
        if size >= limit:
            return _digits(value / {"T": 1e12, "G": 1e9, "M": 1e6}[unit]) + unit
    if size >= 9_999.5:
        return _digits(value / 1e3) + "k"
    if size >= 999.5:
        return f"{value:,.0f}"
    return _digits(value)


def _digits(value: float) -> str:
    """Three significant digits; with an exponent below a millionth."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    if size < 1e-6:
        return f"{value:.1e}"
    places, bound = 3, 0.09995
    while size < bound:
        places, bound = places + 1, bound / 10.0
    return f"{value:.{places}f}"


def whole(value: float | None) -> str:
    """A count: 23, 1,204."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def watts(value: float | None) -> str:
    """612 W, 1.82 kW."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 9_999.5:
        return f"{_digits(value / 1e3)} kW"
    return f"{value:,.0f} W" if abs(value) >= 99.95 else f"{_digits(value)} W" if value else "0 W"


def money(value: float | None, currency: str, *, scale: float = 1.0) -> str:
    """0.418 EUR. ``scale`` multiplies the value (a million, for a price per million)."""
    if value is None or not currency:
        return UNKNOWN
    return f"{figure(value * scale)} {currency}"


def cost_per_million(full: float | None, energy: float | None) -> str:
    """The full cost of a million tokens; without one that of their electricity, marked as such."""
    if full is None and energy is not None:
        return f"{figure(1e6 * energy)} (energy)"
    return figure(None if full is None else 1e6 * full)


def percent(ratio: float | None) -> str:
    """97 %."""
    return UNKNOWN if ratio is None else f"{ratio * 100.0:.0f} %"


def gibibytes(value: float | None) -> str:
    """68.0, in GiB."""
    return UNKNOWN if value is None else f"{value / 2**30:.1f}"


def celsius(value: float | None) -> str:
    """71 degrees."""
    return UNKNOWN if value is None else f"{value:.0f} \u00b0C"


def duration(seconds: float) -> str:
    """42 s, 5 min, 3 h 10 min, 2 d 4 h."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        hours, rest = divmod(whole, 3600)
        return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"
    days, rest = divmod(whole, 86_400)
    return f"{days} d {rest // 3600} h" if rest >= 3600 else f"{days} d"


def clock(wall_seconds: float) -> str:
    """17:00:05 UTC."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(wall_seconds))


def minute(wall_seconds: float) -> str:
    """17:00 UTC."""
    return time.strftime("%H:%M UTC", time.gmtime(wall_seconds))


def moment(wall_seconds: float) -> str:
    """2026-01-01 17:00:05 UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall_seconds))


def plain(text: str) -> str:
    """External text with control characters replaced, safe to print on a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def is_shared(gpu: GpuStatus) -> bool:
    """Whether several servers or workloads are on the GPU, or one server owns only a part of it."""
    users = len(gpu["owners"]) + len(gpu["workloads"])
    return users > 1 or any(share < 0.9995 for share in gpu["shares"].values())


def owners(gpu: GpuStatus) -> str:
    """The owners, and the workloads that are no servers, with their shares if the GPU is shared: `chat`, `train.service`,
    `chat 75 %, code 25 %`."""
    names = [*gpu["owners"], *gpu["workloads"]]
    if not is_shared(gpu):
        return ", ".join(names) or UNKNOWN
    return ", ".join(f"{name} {percent({**gpu['workloads'], **gpu['shares']}.get(name))}" for name in names)

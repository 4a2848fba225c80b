"""``tpw-exporter prices``: known prices ahead, and the cheapest and cleanest hours in them, from a running daemon."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from tpw.cli.top import NoAnswerError, address_options, reader, url_of
from tpw.config.problems import ConfigError
from tpw.exposition.figures import duration, figure
from tpw.model import SourceError

if TYPE_CHECKING:
    from tpw.cli import Setting
    from tpw.exposition.ahead import PricesAhead, WindowStatus


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    group = parser.add_argument_group("prices")
    group.add_argument("--hours", metavar="N", default="", help="Find windows of so many hours. Default: 1.")
    group.add_argument(
        "--before",
        metavar="TIME",
        default="",
        help="By when a window ends: 07:00 (the next one), 2026-11-26T07:00, both in the time zone of the tariff, or Unix"
        " seconds. Default: the end of the known prices.",
    )
    group.add_argument(
        "--begin",
        choices=("cheapest", "cleanest"),
        help="Print only when that window begins, in Unix seconds. Exit status 1 where none is known.",
    )
    group.add_argument("--json", action="store_true", help="Print the answer of /api/v1/prices.")
    address_options(group)


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Exit status 1 without an answer, and with ``--begin`` without a window."""
    query = urlencode({"hours": arguments.hours or "1", "before": arguments.before})
    try:
        fetch = reader(
            url_of(arguments, setting),
            f"/api/v1/prices?{query}",
            "windows",
            headers_file=arguments.headers_file,
            ca_file=arguments.ca_file,
        )
        found = cast("PricesAhead", fetch())
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    except (SourceError, ValueError) as error:
        print(f"tpw-exporter prices: {error}", file=sys.stderr)
        return 2
    except NoAnswerError as error:
        print(f"tpw-exporter prices: {error}", file=sys.stderr)
        return 1
    if arguments.begin:
        return _begin(found, arguments.begin)
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(_lines(found)))
    return 0


def _begin(found: PricesAhead, which: str) -> int:
    windows = found["windows"]
    window: WindowStatus | None = None if windows is None else windows[which]  # type: ignore[literal-required]
    if windows is None or window is None:
        hours, until = (windows["hours"], _local(windows["before"], found)) if windows else (1.0, "?")
        print(f"tpw-exporter prices: no {hours:g} h before {until} are known without a gap", file=sys.stderr)
        return 1
    print(round(window["start"]))
    return 0


def _local(at: float, found: PricesAhead) -> str:
    return f"{datetime.fromtimestamp(at, ZoneInfo(found['timezone'])):%a %Y-%m-%d %H:%M}"


def _lines(found: PricesAhead) -> Iterator[str]:
    currency, windows = found["currency"], found["windows"]
    if currency is None:
        yield "No tariff is configured."
    elif not found["prices"]:
        yield "No price is known."
    else:
        yield f"{found['timezone']}, {currency} per kWh"
    for price in found["prices"]:
        note = "" if price["state"] == "final" else f"  {price['state']}"
        yield f"  {_local(price['start'], found)} to {_local(price['end'], found)[4:]}  {figure(price['per_kwh']):>7}{note}"
    if found["basis"] is not None:
        yield f"g CO2e per kWh, {found['basis'].replace('_', ' ')}"
    for one in found["intensities"]:
        yield f"  {_local(one['start'], found)} to {_local(one['end'], found)[4:]}  {figure(one['grams_per_kwh']):>7}"
    if found["rank_ratio"] is not None:
        share = f"{100.0 * found['rank_ratio']:.0f} %"
        yield f"Of the next 24 hours, {share} have a lower price than now."
    if windows is None:
        return
    yield f"Windows of {windows['hours']:g} h before {_local(windows['before'], found)}:"
    for name in ("now", "cheapest", "cleanest"):
        yield f"  {name:8}  {_window(windows[name], found)}"


def _window(window: WindowStatus | None, found: PricesAhead) -> str:
    if window is None:
        return "not known without a gap"
    wait = window["start"] - found["at"]
    begin = f"in {duration(wait)}" if wait >= 1.0 else "now"
    text = f"{_local(window['start'], found)} ({begin})"
    if window["per_kwh"] is not None:
        state = "" if window["state"] == "final" else f" ({window['state']})"
        text += f"  {figure(window['per_kwh'])} {found['currency']}/kWh{state}"
    if window["grams_per_kwh"] is not None:
        text += f"  {figure(window['grams_per_kwh'])} g/kWh"
    return text

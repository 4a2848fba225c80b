"""``tpw-exporter top``: a live table of a running daemon, from its ``/api/v1/status``.

ANSI only, within the width and height of the terminal, with the same numbers as the landing page. ``q`` or Ctrl-C ends it,
``s`` sorts the servers, ``/`` filters them, ``n`` shows those of one namespace; ``--once`` prints one table, for scripts.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import wrap
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, cast

from tpw.config.problems import ConfigError
from tpw.exposition import figures
from tpw.exposition.colours import BAD, GOOD, STATES, WARN
from tpw.exposition.figures import UNKNOWN, plain
from tpw.model import Reason, SourceError

if TYPE_CHECKING:
    from tpw.cli import Setting
    from tpw.exposition.status import GpuStatus, ModelStatus, ServerStatus, SourceEntry, Status

_DEFAULT_PORT = 10101
_MILLION = 1e6
_TIMEOUT_SECONDS = 5.0
_LONGEST_ANSWER_BYTES = 16 * 2**20

_HINTS = {
    Reason.UNREACHABLE: "Is the daemon running?",
    Reason.UNAUTHORIZED: "Give the secret with --headers-file.",
    Reason.MALFORMED: "Is it a tpw-exporter?",
}

_COLOURS = {
    **{state: ansi for state, (_, ansi) in STATES.items()},
    **dict.fromkeys(("ok", "good"), GOOD[1]),
    **dict.fromkeys(("warn",), WARN[1]),
    **dict.fromkeys(("lost", "down", "failing"), BAD[1]),
    **dict.fromkeys(("waiting", "unread", "soft"), STATES["idle"][1]),
    "strong": "1",
}


def _cost(model: ModelStatus) -> float | None:
    """The full cost of a token, or without one that of its electricity."""
    costs = model["cost_per_token"]
    return costs.get("full", costs.get("energy", {})).get("output")


_SPARKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_HISTORY = 20
"""Refreshes in the curve of tokens per second."""
_ORDERS: tuple[tuple[str, Callable[[ModelStatus], float | None]], ...] = (
    ("tokens per second", lambda model: model["tokens_per_second"].get("output")),
    ("tokens per watt", lambda model: model["tokens_per_watt"].get("gpu", {}).get("output")),
    ("cost per token", _cost),
    ("power", lambda model: model["watts"].get("gpu")),
)
"""Orders of the servers besides that of their names: (name, number), highest first."""


@dataclass(slots=True)
class View:
    """What the reader has chosen, and what was shown before."""

    order: int = 0
    """Index in ``_ORDERS``, plus one; 0 is by name."""
    filter: str = ""
    """Only servers with this in their name, state or namespace, or in the name of one of their models, are shown."""
    namespace: str = ""
    """Only servers of this namespace are shown; "" shows all."""
    namespaces: list[str] = field(default_factory=list)
    """Those of the last refresh, sorted."""
    typing: bool = False
    """Whether keys go to the filter."""
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    """Tokens per second of the last refreshes."""

    def press(self, key: str) -> bool:
        """Handle a key. Returns False where it ends the program."""
        if key in ("\x03", "\x04"):
            return False
        if self.typing:
            if key in ("\r", "\n", "\x1b"):
                self.typing = False
                self.filter = "" if key == "\x1b" else self.filter
            elif key in ("\x7f", "\b"):
                self.filter = self.filter[:-1]
            elif key.isprintable():
                self.filter += key
            return True
        if key in ("s", "S"):
            self.order = (self.order + 1) % (len(_ORDERS) + 1)
        if key in ("n", "N"):
            later = [name for name in self.namespaces if name > self.namespace]
            self.namespace = later[0] if later else ""
        self.typing = key == "/"
        return key not in ("q", "Q")

    def chosen(self, servers: Sequence[ServerStatus]) -> list[ServerStatus]:
        """The servers to show, in their order."""
        word = self.filter.lower()
        self.namespaces = sorted({server["namespace"] for server in servers} - {""})
        found = [
            server
            for server in servers
            if self.namespace in ("", server["namespace"])
            and any(
                word in text.lower()
                for text in (
                    server["name"],
                    server["state"],
                    server["namespace"],
                    *(model["model"] for model in server["models"]),
                )
            )
        ]
        if self.order:
            number = _ORDERS[self.order - 1][1]
            found.sort(
                key=lambda server: max((number(model) or 0.0 for model in server["models"]), default=0.0), reverse=True
            )
        return found

    def keys(self) -> str:
        """The line at the bottom."""
        order = _ORDERS[self.order - 1][0] if self.order else "name"
        shown = f"{self.filter}_" if self.typing else self.filter or "all"
        spaces = f"   n namespace: {self.namespace or 'all'}" if self.namespaces else ""
        return f"q quit   s sort: {order}   / filter: {shown}{spaces}"


class NoAnswerError(Exception):
    """The daemon did not answer with a status. The message has the cause and a hint."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a line: text without control characters, and a key of ``_COLOURS``."""

    text: str
    colour: str = ""


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    group = parser.add_argument_group("top")
    group.add_argument("--once", action="store_true", help="Print one table and exit.")
    group.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="Refresh interval. Default: 1.")
    address_options(group)


def address_options(group: argparse._ArgumentGroup) -> None:
    """How to reach the daemon."""
    group.add_argument(
        "--url",
        default="",
        help="Address of the daemon, such as http://127.0.0.1:10101. Default: http on the listen address of this"
        " configuration.",
    )
    group.add_argument(
        "--headers-file", metavar="FILE", help="Headers to send, one `Name: value` per line, such as Authorization."
    )
    group.add_argument("--ca-file", metavar="FILE", help="CA certificates (PEM) for https, instead of the system's.")


def url_of(arguments: argparse.Namespace, setting: Setting) -> str:
    """The address of the daemon. Raises ConfigError."""
    return str(arguments.url or _local(_listen_address(setting)))


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Show the table until it is ended. Exit status 1 when ``--once`` gets no answer."""
    try:
        url = url_of(arguments, setting)
        fetch = fetcher(url, headers_file=arguments.headers_file, ca_file=arguments.ca_file)
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    except (SourceError, ValueError) as error:
        print(f"tpw-exporter top: {error}", file=sys.stderr)
        return 2
    if arguments.once or not sys.stdout.isatty():
        return once(url, fetch)
    return live(url, fetch, max(0.1, arguments.interval))


def _listen_address(setting: Setting) -> str:
    """Where a daemon with this configuration listens. Raises ConfigError."""
    if setting.config_file is None:  # spares the import of the configuration package
        return next((override.text for override in setting.overrides if override.path == "web.listen_address"), "")
    from tpw.cli.configuration import configuration

    return configuration(setting).web.listen_address


def _local(listen_address: str) -> str:
    """The URL of a daemon on this host with that listen address."""
    host, _, port = listen_address.rpartition(":")
    if host in ("", "0.0.0.0", "[::]"):  # noqa: S104 (compared, not listened on)
        host = "127.0.0.1"
    return f"http://{host}:{port or _DEFAULT_PORT}"


# -------------------------------------------------------------------------------------------------------------- fetching


def fetcher(url: str, *, headers_file: str | None = None, ca_file: str | None = None) -> Callable[[], Status]:
    """A function that reads the status; see :func:`reader`."""
    read = reader(url, "/api/v1/status", "headline", headers_file=headers_file, ca_file=ca_file)
    return lambda: cast("Status", read())


def reader(
    url: str,
    path: str,
    key: str,
    *,
    headers_file: str | None = None,
    ca_file: str | None = None,
) -> Callable[[], object]:
    """A function that reads a document of the daemon, which has ``key``, and raises :class:`NoAnswerError`.

    Raises ValueError for an address and SourceError for a file that cannot be used.
    """
    from tpw.http.client import Client, Tls
    from tpw.http.messages import json_of, status_error
    from tpw.http.secrets import read_headers

    read_headers(headers_file)
    tls = Tls(ca_file or "")
    if url.startswith("https:"):
        tls.context()
    client = Client(
        url, timeout_seconds=_TIMEOUT_SECONDS, max_bytes=_LONGEST_ANSWER_BYTES, headers_file=headers_file, tls=tls
    )
    target = client.prefix + path
    address = client.where(target)

    def fetch() -> object:
        try:
            answer = client.request(target)
            if answer.status == 400:  # what was asked for, in a sentence
                raise NoAnswerError(answer.body.decode("utf-8", "replace").strip())
            if answer.status != 200:
                raise status_error(address, answer)
            found = json_of(answer.body, address)
        except SourceError as error:
            raise NoAnswerError(f"{error.detail}. {_HINTS.get(error.reason, error.hint)}".strip()) from error
        finally:
            client.close()
        if not isinstance(found, dict) or key not in found:
            raise NoAnswerError(f"{address} is not what was expected. {_HINTS[Reason.MALFORMED]}")
        return found

    return fetch


# --------------------------------------------------------------------------------------------------------------- showing


def once(url: str, fetch: Callable[[], Status]) -> int:
    """Print one table."""
    try:
        status = fetch()
    except NoAnswerError as error:
        print(f"tpw-exporter top: {error}", file=sys.stderr)
        return 1
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    for line in screen(status, url, width=width, colours=_wants_colours()):
        print(line)
    return 0


def live(url: str, fetch: Callable[[], Status], interval_seconds: float) -> int:
    """Redraw until ``q``, Ctrl-C or SIGTERM."""
    colours = _wants_colours()
    lines: list[str] = []
    view = View()
    with _terminal() as key_within:
        while True:
            size = shutil.get_terminal_size((80, 24))
            try:
                # One column stays free: some terminals erase the last character of a full line.
                status = fetch()
                view.rates.append(status["headline"]["tokens_per_second"] or 0.0)
                lines = screen(status, url, width=size.columns - 1, height=size.lines, colours=colours, view=view)
            except NoAnswerError as error:
                # The last table stays visible below the error.
                message = _line([_Part(plain(str(error)), "lost")], size.columns - 1, colours=colours)
                lines = [message, *lines[1:]] if lines else [message]
            sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(lines[: size.lines]) + "\x1b[K\x1b[J")
            sys.stdout.flush()
            if not view.press(key_within(interval_seconds)):
                break
    return 0


@contextmanager
def _terminal() -> Iterator[Callable[[float], str]]:
    """The alternate screen without a cursor, and single keys. Restores the terminal at the end. Ctrl-C and SIGTERM end the
    block.

    Yields a function that waits so many seconds for a key and returns it, or "".
    """
    import termios
    import tty

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    source = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = None if source is None else termios.tcgetattr(source)
    signal.signal(signal.SIGTERM, end)
    # Python leaves SIGINT ignored if its parent did (a non-interactive shell does so for `&`); Ctrl-C must end it anyway.
    signal.signal(signal.SIGINT, end)

    def key_within(seconds: float) -> str:
        if source is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([source], [], [], seconds)
        return os.read(source, 1).decode("latin-1") if ready else ""

    try:
        if source is not None:
            tty.setcbreak(source)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield key_within
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        if source is not None and before is not None:
            termios.tcsetattr(source, termios.TCSADRAIN, before)


def _wants_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# --------------------------------------------------------------------------------------------------------------- drawing


def screen(
    status: Status,
    url: str,
    *,
    width: int = 80,
    height: int | None = None,
    colours: bool = False,
    view: View | None = None,
) -> list[str]:
    """The lines of the table: none longer than ``width``, at most ``height`` of them. ``view`` adds its line of keys."""
    rows = [*_head(status, url, width, view.rates if view else ()), []]
    servers = [
        _server(server, model, first=position == 0, width=width)
        for server in (view.chosen(status["servers"]) if view else status["servers"])
        for position, model in enumerate(server["models"])
    ]
    gpus = [_gpu(gpu, width) for gpu in status["gpus"]]
    rows += [_server_heads(status, width), *(servers or [[_Part("no inference server found", "soft")]]), []]
    rows += [_gpu_heads(width), *(gpus or [[_Part("no GPU found", "soft")]])]
    failing = _failing(status)
    if failing:
        rows.append([])
        for source in failing:
            problem = f"{source['detail']}{': ' if source['hint'] else ''}{source['hint']}"
            for number, line in enumerate(_wrapped(problem, width - 17)):
                rows.append([_Part(_fit("" if number else source["name"], 16) + " ", "failing"), _Part(line)])
    if status["notes"]:
        rows += [[], *([_Part(line, "soft")] for note in status["notes"] for line in _wrapped(note, width))]
    if height is not None and view is not None:
        height -= 1
    if height is not None and len(rows) > height:
        hidden = len(rows) - height + 1
        rows = [*rows[: height - 1], [_Part(f"... {hidden} more lines: make the window taller", "soft")]]
    if view is not None:
        rows.append([_Part(plain(view.keys()), "soft")])
    return [_line(row, width, colours=colours) for row in rows]


def _failing(status: Status) -> list[SourceEntry]:
    return [source for source in status["sources"] if source["tried"] and not source["up"]]


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(plain(text), max(20, width), break_on_hyphens=False)


def _line(parts: Sequence[_Part], width: int, *, colours: bool) -> str:
    """The parts, concatenated and cut at the width."""
    out, left = [], width
    for part in parts:
        text = part.text[:left]
        left -= len(text)
        code = _COLOURS.get(part.colour, "") if colours else ""
        out.append(f"\x1b[{code}m{text}\x1b[0m" if code and text.strip() else text)
    line = "".join(out)
    return line if colours else line.rstrip()


def _fit(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly ``width`` columns: padded, or cut with a ``~``."""
    text = plain(text)
    if len(text) > width:
        text = text[: max(0, width - 1)] + "~"
    return text.rjust(width) if right else text.ljust(width)


def _head(status: Status, url: str, width: int, rates: Sequence[float]) -> list[list[_Part]]:
    head, currency = status["headline"], status["currency"] or ""
    failing = len(_failing(status))
    health = f"{failing} of {len(status['sources'])} sources failing" if failing else ""
    title = f"tpw-exporter  {plain(url)}  {figures.clock(status['at'])}"
    rate, total = head["tokens_per_second"], head["all_tokens_per_second"]
    cost, scope = head["cost_per_token"], ""
    if cost is None:
        cost, scope = head["energy_cost_per_token"], " (e: electricity alone)"
    with_input = f" ({figures.figure(total)} with input)" if total is not None else ""
    return [
        *_folded([[_Part(title, "strong")], [_Part(health, "warn")]], width, "  "),
        *_folded(
            [
                [_Part(f"{figures.figure(rate)} tok/s", "strong"), _Part(with_input), _Part(_sparks(rates), "active")],
                [_Part(figures.watts(head["power_watts"]), "strong")],
                [_Part(f"{figures.figure(head['tokens_per_watt'])} tok/s per W", "strong")],
                [
                    _Part(
                        f"{figures.money(cost, currency, scale=_MILLION)} per 1M{scope}" if cost is not None else "",
                        "strong",
                    )
                ],
            ],
            width,
        ),
        *_folded([[_Part(_price(status))], [_Part(_waste(status))]], width),
        *_folded([[_Part(text)] for text in _facility(status)], width),
    ]


def _sparks(rates: Sequence[float]) -> str:
    """Numbers as a curve of one line, after a space; "" where there is none to draw."""
    highest = max(rates, default=0.0)
    if highest <= 0.0 or len(rates) < 2 or not (sys.stdout.encoding or "").lower().startswith("utf"):
        return ""
    return " " + "".join(_SPARKS[min(len(_SPARKS) - 1, int(rate / highest * len(_SPARKS)))] for rate in rates)


def _folded(groups: Iterable[list[_Part]], width: int, between: str = "   ") -> list[list[_Part]]:
    """The groups on as few lines as they fit on; a group is never divided."""
    lines: list[list[_Part]] = []
    left = 0
    for group in groups:
        size = sum(len(part.text) for part in group)
        if not size:
            continue
        if lines and size + len(between) <= left:
            lines[-1] += [_Part(between), *group]
            left -= size + len(between)
        else:
            lines.append(list(group))
            left = width - size
    return lines


def _price(status: Status) -> str:
    price, currency = status["price"], status["currency"] or ""
    if price is None:
        return "no tariff: no cost"
    text = f"electricity {figures.money(price['per_kwh'], currency)}/kWh"
    if price["state"] != "final":
        text += f" ({price['state']})"
    if price["next_at"] is not None and price["next_per_kwh"] is not None:
        text += f", {figures.figure(price['next_per_kwh'])} in {figures.duration(price['next_at'] - status['at'])}"
    return text


def _waste(status: Status) -> str:
    head, currency = status["headline"], status["currency"] or ""
    gpus, cost = head["wasted_gpus"], head["wasted_cost_per_hour"]
    what = f"{gpus} GPU{'' if gpus == 1 else 's'}, {figures.watts(head['wasted_watts'] if gpus else 0.0)}"
    return f"wasted {figures.money(cost, currency)}/h ({what})" if cost is not None else f"wasted {what}"


def _facility(status: Status) -> tuple[str, ...]:
    """PUE, grid carbon and demand, if configured."""
    carbon, demand = status["carbon"], status["demand"]
    texts = []
    if status["pue"] != 1.0:
        texts.append(f"PUE {figures.figure(status['pue'])}")
    if carbon is not None:
        texts.append(f"grid {figures.figure(carbon['grams_per_kwh'])} gCO2e/kWh")
    if demand is not None:
        peak = figures.watts(demand["peak_watts"]) if demand["peak_watts"] else "none yet"
        texts.append(f"demand {figures.watts(demand['interval_watts'])}, peak {peak}")
    return tuple(texts)


def _server_heads(status: Status, width: int) -> list[_Part]:
    name, model = _widths(width)
    cost = f"{status['currency']}/1M" if status["currency"] else "cost/1M"
    heads = f"{'SERVER':{name}} {'STATE':7} " + (f"{'MODEL':{model}} " if model else "")
    heads += f"{'TOK/S':>7} {'TOK/S/W':>7} {cost:>7} "
    heads += f"{'RUN':>5} {'WAIT':>5} GPU" if width >= _WIDE else "GPU"
    return [_Part(heads, "soft")]


_WIDE = 76
"""Columns from which the table of servers has the model and the requests."""


def _widths(width: int) -> tuple[int, int]:
    """Widths of the columns for server and model: what the numbers leave. A narrow terminal has no column for the model."""
    if width < _WIDE:
        return max(8, width - 44), 0
    free = max(24, width - 57)
    name = max(8, min(40, free * 2 // 5))
    return name, free - name


def _server(server: ServerStatus, model: ModelStatus, *, first: bool, width: int) -> list[_Part]:
    name, model_width = _widths(width)
    cost = _cost(model)
    numbers = (
        (figures.figure(model["tokens_per_second"].get("output")), 7),
        (figures.figure(model["tokens_per_watt"].get("gpu", {}).get("output")), 7),
        (figures.figure(None if cost is None else cost * _MILLION) + _energy_mark(model, cost), 7),
        *(((figures.whole(model["running"]), 5), (figures.whole(model["waiting"]), 5)) if model_width else ()),
    )
    gpus = ",".join(map(str, server["gpus"])) or UNKNOWN
    return [
        _Part(_fit(server["name"] if first else "", name) + " "),
        _Part(_fit(server["state"] if first else "", 7) + " ", server["state"]),
        _Part(_fit(model["model"], model_width) + " " if model_width else ""),
        _Part(" ".join(_fit(text, columns, right=True) for text, columns in numbers)),
        _Part(f" {gpus}" if first else ""),
    ]


def _energy_mark(model: ModelStatus, cost: float | None) -> str:
    return "e" if cost is not None and "full" not in model["cost_per_token"] else ""


def _gpu_heads(width: int) -> list[_Part]:
    memory = f"{'MEM GiB':>12} {'TEMP':>6} " if width >= _WIDE else ""
    return [_Part(f"{'GPU':>3} {'STATE':7} {'POWER':<{_bar_width(width) + 14}} {'UTIL':>5} {memory}OWNER", "soft")]


def _bar_width(width: int) -> int:
    return max(6, min(30, width - (66 if width >= _WIDE else 52)))


def _gpu(gpu: GpuStatus, width: int) -> list[_Part]:
    state = gpu["state"] or "lost"
    power, limit = gpu["power_watts"], gpu["power_limit_watts"]
    columns = _bar_width(width)
    ratio = 0.0 if power is None or not limit else max(0.0, min(1.0, power / limit))
    filled = round(ratio * columns)
    drawn = f"{figures.whole(power)}/{figures.whole(limit)} W" if limit and power is not None else figures.watts(power)
    used, total = gpu["memory_used_bytes"], gpu["memory_total_bytes"]
    memory = UNKNOWN if used is None else f"{figures.gibibytes(used)}/{figures.gibibytes(total)}"
    rest = f"{memory:>12} {figures.celsius(gpu['temperature_celsius']):>6} " if width >= _WIDE else ""
    return [
        _Part(f"{gpu['index']:>3} "),
        _Part(f"{state:7} ", state),
        _Part(f"{drawn:>13} "),
        _Part("|" * filled, state),
        _Part("." * (columns - filled) + " ", "soft"),
        _Part(f"{figures.percent(gpu['utilization_ratio']):>5} {rest}"),
        _Part(plain(figures.owners(gpu))),
    ]

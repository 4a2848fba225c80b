"""Who uses a server, and how its energy and cost are divided among them (section ``tenants``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from tpw.settings.scalars import choice, number, text, whole_number
from tpw.settings.shapes import FilePath, ListOf, MapOf, Report, Section, setting
from tpw.settings.values import server_url

_LABEL_PATTERN = r"[a-zA-Z_][a-zA-Z0-9_]*"
_LABEL = text("the name of a label", pattern=_LABEL_PATTERN)
_WEIGHT = number("a weight, 0 or more", minimum=0.0, maximum=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeights:
    """What a token of each kind costs, relative to each other."""

    input: float = setting(_WEIGHT, "A computed prompt token.")
    cached_input: float = setting(_WEIGHT, "A prompt token from the prefix cache.")
    output: float = setting(_WEIGHT, "A generated token.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSource:
    """A page with counters of tokens by tenant."""

    source: str = setting(
        text("the name of an engine", pattern="[a-z][a-z0-9_.-]*"),
        "What publishes the page: `litellm`, `tpw_hook` (the proxy and the middleware of this project) or the name of any"
        " other engine or gateway.",
    )
    url: str | None = setting(
        server_url(),
        "Base address of the source, or the address of its page.",
        default=None,
        default_words="the server's own page",
    )
    labels: tuple[str, ...] = setting(
        ListOf(_LABEL, "a list of labels", or_one=True, unique=True),
        "Labels of the page that name a tenant; the first that is set is used. Labels with keys or persons, such as"
        " `hashed_api_key` or `user`, need `names_file` or `secret_file`.",
        default=(),
        default_words="`team_alias`, then `team` for litellm; `tenant` for tpw_hook",
    )
    match: Mapping[str, str] = setting(
        MapOf(text("the value of a label"), "a mapping of labels to values", _LABEL_PATTERN, "a label"),
        "Labels of the series to count, with these values: those of this server, where a gateway has several behind it."
        " They are then taken as the server's, whatever their model is called.",
        default=dict,
        default_words="all series; of a gateway, those with a model of the server",
    )
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` per line, or one bearer token. Lines that start with # are comments.",
        default=None,
    )
    names_file: str | None = setting(
        FilePath(),
        "File with names of tenants, one `name: value` per line, where the value is that of the label. Other values are"
        " summed as `other`, or hashed where there is a `secret_file`.",
        default=None,
        default_words="values are names",
    )
    secret_file: str | None = setting(
        FilePath(),
        "File with a secret on one line. Values are exposed and booked as their keyed hash (HMAC-SHA-256) with it.",
        default=None,
        default_words="values are not hashed",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTenants(TenantSource):
    """The tenants of one server."""

    server: str = setting(text("the name of a server"), "The server, configured or found. Each once.")
    idle: str = setting(
        choice("apart", "owner", "by_use"),
        "Who pays for the time in which the server is parked or starting: nobody (`apart`: it is `unattributed`), the"
        " `owner`, or all tenants by their recent use.",
        default="apart",
    )
    owner: str | None = setting(
        text("the name of a tenant"), "The tenant that pays for it, with `idle: owner`.", default=None
    )
    weights: TokenWeights | None = setting(
        Section(TokenWeights),
        "Cost of the kinds of tokens, relative to each other.",
        default=None,
        default_words="the energy of prefill and decode where it was estimated for the server; else input 0.2,"
        " cached_input 0.02, output 1",
    )
    limit: int = setting(
        whole_number("a number of tenants", minimum=1, maximum=10_000),
        "Tenants that are kept apart. Further ones are summed as `other`.",
        default=200,
    )
    checks: tuple[TenantSource, ...] = setting(
        ListOf(Section(TenantSource), "a list of sources"),
        "Other sources for the same server. They are only compared: a note is shown when their tokens differ from those"
        " of the source by more than 2 %.",
        default=(),
    )


def check(
    tenants: Collection[object], problems_of: Callable[[TenantSource], Iterable[str]] | None, report: Report
) -> None:
    """Report what contradicts itself.

    Args:
        tenants: the section; what could not be read is no object of it.
        problems_of: problems of a source, each after its key and a colon; None checks no names.
        report: receives the problems.
    """
    found: set[str] = set()
    for index, one in enumerate(tenants or ()):
        if not isinstance(one, ServerTenants):
            continue
        path = f"tenants[{index}]"
        if isinstance(one.server, str) and one.server in found:
            report(f"{path}.server", f"`{one.server}` has tenants already: give further sources as `checks`")
        found.add(one.server)
        if isinstance(one.idle, str) and (one.idle == "owner") != (one.owner is not None):
            report(path, "`idle: owner` and `owner` belong together: give both or none")
        for number_of, source in enumerate((one, *(one.checks or ()))):
            if isinstance(source, TenantSource) and problems_of is not None:
                where = path if source is one else f"{path}.checks[{number_of - 1}]"
                for problem in problems_of(source):
                    key, _, message = problem.partition(": ")
                    report(f"{where}.{key}", message)

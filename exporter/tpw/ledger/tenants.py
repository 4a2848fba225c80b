"""Who pays for a server: its energy, time, money and emissions divided among tenants, by their tokens. Pure functions.

A tenant is whoever a *source* names: a gateway in front of the server, the proxy, or a label of the engine's own page. One
source counts for one server. Counters of a source are followed as those of a server (:mod:`tpw.ledger.counting`), with a
tenant and a model in place of the model.

Once a minute what is booked for a server is divided, quarter-hour by quarter-hour:

- What is left of a row is what the books have for the server less what tenants have of it already. So tenants and what is
  left sum to the server, in every row and quantity, whatever was booked late.
- *Active* use is taken by claims. The tokens that the server has counted and nobody has claimed, weighted by what a kind
  costs, are the whole; a tenant that claims a part of them takes this part of all that is left. A source that counts at the
  end of a request claims what its tokens cost while they were made. Claims that are ahead of the server's own counters take
  what there is, and its next tokens are taken as claimed.
- *Parked* and *starting* time has no tokens: by the policy it is left apart, goes to the owner, or to all by their use.
- What is left when a row has been over for :data:`HOLD_SECONDS` is :data:`UNATTRIBUTED`.

While a server cannot be read its claims wait: its energy is not booked either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple, TypeVar

from tpw.ledger.amounts import NOTHING, NOTHING_SERVED, Amounts, Served
from tpw.ledger.books import ROW_SECONDS, Books, PostingKey, Postings, ServerAccount
from tpw.ledger.counting import count
from tpw.ledger.phases import phase_weights, pooled
from tpw.ledger.replacing import replace
from tpw.ledger.trust import Limits
from tpw.model import Role, ServerReading, State, TokenKind, TokenSeries, server_of_replica

UNATTRIBUTED = "unattributed"
"""In place of a tenant: what nobody claimed."""
OTHER = "other"
"""In place of tenants above the limit."""

SETTLE_SECONDS = 60.0
"""Between two divisions. Tuning: longer than meters and pages lag behind each other, short enough for a dashboard."""
HOLD_SECONDS = 600.0
"""What is left of a row waits so long for claims. Tuning: longer than requests run that are counted when they end."""

SEPARATOR = " | "
"""Between tenant and model in the names that a source's account has in place of models."""

CACHED_RATIO = 0.1
"""Cost of a cached prompt token relative to a computed one, where the phases are measured: they do not show it. Chosen: as
API price lists have it."""
DEFAULT_WEIGHTS: Mapping[TokenKind, float] = {
    TokenKind.INPUT: 0.2,
    TokenKind.CACHED_INPUT: 0.02,
    TokenKind.OUTPUT: 1.0,
}
"""Chosen: the usual ratios of API price lists (output five times input, cached a tenth of it)."""

_HALF_LIFE_SECONDS = 86400.0
"""Of a tenant's use, for time without tokens: nights are shared by the use of the day before."""
_NOTICED = 1e-9
"""Relative. Less is rounding."""


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Idle(StrEnum):
    """Who pays for time in which a server is parked or starting."""

    APART = "apart"
    """Nobody: it is unattributed."""
    OWNER = "owner"
    USE = "by_use"
    """All tenants by their recent use."""


class Method(StrEnum):
    """How an amount was divided."""

    MEASURED = "measured"
    """By tokens, weighted with the energy of prefill and decode that was estimated for the server."""
    CONFIGURED = "configured"
    """By tokens, weighted by the configuration."""
    DEFAULT = "default"
    """By tokens, weighted by :data:`DEFAULT_WEIGHTS`."""
    OWNER = "owner"
    USE = "use"
    """By recent use."""
    REST = "rest"
    """What is left."""


class TenantKey(NamedTuple):
    """What tenants' amounts are booked for."""

    server: str
    model: str
    state: State
    tenant: str
    method: Method


TenantModel = tuple[str, str, str]
"""(server, model, tenant)."""

TenantPostings = Mapping[TenantKey, Amounts]


@dataclass(frozen=True, slots=True)
class TenantRules:
    """How one server is divided."""

    weights: Mapping[TokenKind, float] = field(default_factory=dict)
    """Relative cost of a token of each kind; empty: as measured, else the default."""
    idle: Idle = Idle.APART
    owner: str = ""
    limit: int = 200
    """Tenants that are kept apart."""
    is_only_server: bool = False
    """Whether everything that the source counts was done by this server, whatever the model is called there."""


@dataclass(frozen=True, slots=True)
class TenantBooks:
    """What tenants have used. Postings and rows as in :class:`~tpw.ledger.books.Books`, without GPUs."""

    postings: TenantPostings = field(default_factory=dict)
    tokens: Mapping[tuple[str, str, str, TokenKind], float] = field(default_factory=dict)
    """By (server, model, tenant, kind), as the source counts them, since the books began. Never falls."""
    rows: Mapping[float, TenantPostings] = field(default_factory=dict)
    served: Mapping[float, Mapping[TenantModel, Served]] = field(default_factory=dict)
    claimed: Mapping[tuple[float, str, str], float] = field(default_factory=dict)
    """By (row, server, model): weighted tokens of the row that were claimed. More than it has where claims are ahead."""
    use: Mapping[TenantModel, float] = field(default_factory=dict)
    """Recent active joules, decaying."""
    sources: Mapping[str, ServerAccount] = field(default_factory=dict)
    """Counters of each server's source when it was last divided. ``live`` begins there after a restart, so claims that
    waited then are found again."""
    settled_seconds: float = -inf
    """Unix time of the last division."""
    live: Mapping[str, ServerAccount] = field(default_factory=dict)
    """Counters now. Not stored, as the fields below."""
    claims: Mapping[str, Mapping[tuple[str, TokenKind], float]] = field(default_factory=dict)
    """Tokens since the last division: by server, and by (tenant and model, kind)."""
    done: Mapping[float, Postings] = field(default_factory=dict)
    """Rows of the books that are divided to the end, as they were then."""
    unknown_models: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By server: models that a source counts and the server does not have. Their tokens are nobody's here."""

    @property
    def open_since_seconds(self) -> float:
        """Rows that began before are divided to the end, unless they change."""
        return self.settled_seconds - HOLD_SECONDS - ROW_SECONDS

    def tenants_of(self, server: str) -> set[str]:
        """Tenants that are kept apart."""
        known = {tenant for one, _, tenant, _ in self.tokens if one == server}
        known.update(tenant_of(name) for name, _ in self.live.get(server, _NO_SOURCE).tokens)
        return known - {OTHER, ""}

    def within(self, rows: Mapping[float, Postings], since_seconds: float) -> TenantBooks:
        """Without rows that began before a moment and are not in the memory of the books any more."""
        return replace(
            self,
            rows={start: row for start, row in self.rows.items() if start >= since_seconds or start in rows},
            served={start: row for start, row in self.served.items() if start >= since_seconds or start in rows},
        )

    def priced_late(self, priced: Mapping[tuple[float, str, str, State], tuple[Amounts, float]]) -> TenantBooks:
        """With the price of energy that had none when it was booked.

        Args:
            priced: by (row, server, model, state): the money, and the joules that it is for.
        """
        rows, postings = dict(self.rows), dict(self.postings)
        for start in {start for start, _, _, _ in priced} & rows.keys():
            row = dict(rows[start])
            for key, amounts in row.items():
                found = priced.get((start, key.server, key.model, key.state))
                if found is not None and amounts.unpriced_joules > 0.0:
                    money, joules = found
                    part = money * (amounts.unpriced_joules / joules)
                    row[key] = replace(amounts + part, unpriced_joules=0.0)
                    postings[key] = postings.get(key, NOTHING) + part
            rows[start] = row
        return replace(self, rows=rows, postings=postings)


_NO_SOURCE = ServerAccount("")


def composed(tenant: str, model: str) -> str:
    """The name of a tenant's use of a model in the account of a source."""
    return f"{tenant.replace(SEPARATOR, ' ')}{SEPARATOR}{model}"


def tenant_of(name: str) -> str:
    """The tenant of a composed name."""
    return name.partition(SEPARATOR)[0]


def observe(books: Books, reading: ServerReading, rules: TenantRules, now_seconds: float) -> Books:
    """The books with one reading of the source of a server. Series have the composed name in place of the model.

    The first reading of a source is a baseline, and so is the first one of another source.
    """
    tenants = books.tenants
    assert tenants is not None  # noqa: S101 - only read where tenants are on
    server = reading.server
    before = tenants.live.get(server) or tenants.sources.get(server)
    if before is None or (before.address and before.address != reading.address):
        before = ServerAccount(server, since_wall_seconds=now_seconds)
    reading = folded(reading, tenants.tenants_of(server), rules.limit)
    counted = count(before, reading, before.read_wall_seconds, now_seconds, Limits(models=_NAMES))
    waiting = dict(tenants.claims.get(server, {}))
    for key, rise in counted.risen.items():
        waiting[key] = waiting.get(key, 0.0) + rise
    return replace(
        books,
        tenants=replace(
            _with_new(books, tenants, counted.account, rules),
            live={**tenants.live, server: counted.account},
            claims={**tenants.claims, server: waiting},
            sources=tenants.sources if server in tenants.sources else {**tenants.sources, server: counted.account},
        ),
    )


def _with_new(books: Books, tenants: TenantBooks, source: ServerAccount, rules: TenantRules) -> TenantBooks:
    """With zeros for tenants that are new: a counter has to be there before it rises."""
    server = source.name
    accounts = _accounts(books, server)
    models = set().union(*(one.models for one in accounts))
    tokens: dict[tuple[str, str, str, TokenKind], float] = {}
    postings: dict[TenantKey, Amounts] = {}
    for name, kind in source.tokens:
        tenant, _, source_model = name.partition(SEPARATOR)
        model = _model_of(source_model, models, rules)
        if tenant and model is not None and (server, model, tenant, kind) not in tenants.tokens:
            tokens[server, model, tenant, kind] = 0.0
            key = TenantKey(server, model, State.ACTIVE, tenant, _weights(accounts, model, rules)[1])
            postings[key] = tenants.postings.get(key, NOTHING)
    if not tokens:
        return tenants
    return replace(tenants, tokens={**tenants.tokens, **tokens}, postings={**tenants.postings, **postings})


def _accounts(books: Books, server: str) -> list[ServerAccount]:
    """Of all its replicas."""
    return [account for name, account in books.servers.items() if server_of_replica(name) == server]


_NAMES = 100_000
"""Tenants are bounded before they are counted."""


def folded(reading: ServerReading, known: set[str], limit: int) -> ServerReading:
    """The reading with the tenants above the limit as one. The series of each name and role are summed: all are of one
    process, so they rise and restart together."""
    names = {tenant_of(one.model) for one in reading.series} - {""}
    new = sorted(names - known - {OTHER})
    above = frozenset(new[max(0, limit - len(known)) :])
    if not above:
        return reading
    above |= {OTHER}
    kept = []
    sums: dict[tuple[str, Role], float] = {}
    for one in reading.series:
        tenant, _, model = one.model.partition(SEPARATOR)
        if tenant in above:
            sample = one.key.partition("{")[0]
            slot = (f"{sample}{{{composed(OTHER, model)}}}", one.role)
            sums[slot] = sums.get(slot, 0.0) + one.value
        else:
            kept.append(one)
    kept += [TokenSeries(role, key.partition("{")[2][:-1], key, value) for (key, role), value in sums.items()]
    return dataclasses.replace(reading, series=tuple(kept))


# ------------------------------------------------------------------------------------------------------------- division


def is_due(before: Books, after: Books, now_seconds: float) -> bool:
    """Whether to divide now: a minute is over, the clock was set back, or a row changed that is divided to the end and will
    leave the memory."""
    tenants = after.tenants
    assert tenants is not None  # noqa: S101 - only called where tenants are on
    if not 0.0 <= now_seconds - tenants.settled_seconds < SETTLE_SECONDS:
        return True
    since = tenants.open_since_seconds
    return any(start < since and row is not before.rows.get(start) for start, row in after.rows.items())


def settle(books: Books, rules: Mapping[str, TenantRules], now_seconds: float) -> Books:
    """Divide what was booked for each server with rules.

    Raises nothing: what cannot be divided is left, and unattributed when its row is over for long enough.
    """
    tenants = books.tenants
    assert tenants is not None  # noqa: S101 - only called where tenants are on
    work = _Division(books, tenants, now_seconds)
    for server, one in rules.items():
        work.divide(server, one)
    return replace(books, tenants=work.result(rules))


class _Division:
    """One division of all servers."""

    def __init__(self, books: Books, tenants: TenantBooks, now_seconds: float) -> None:
        self._books = books
        self._tenants = tenants
        self._now = now_seconds
        self._row = now_seconds // ROW_SECONDS * ROW_SECONDS
        self._rows = {start: dict(row) for start, row in tenants.rows.items()}
        self._postings = dict(tenants.postings)
        self._tokens = dict(tenants.tokens)
        self._served = {start: dict(row) for start, row in tenants.served.items()}
        self._claimed = dict(tenants.claimed)
        seconds = now_seconds - tenants.settled_seconds
        decay = 0.5 ** (max(0.0, seconds) / _HALF_LIFE_SECONDS) if seconds < inf else 1.0
        self._use = {who: joules * decay for who, joules in tenants.use.items() if joules * decay > 1e-6}
        self._claims = dict(tenants.claims)
        self._sources = dict(tenants.sources)
        self._unknown = dict(tenants.unknown_models)
        self._changed = [start for start, row in books.rows.items() if tenants.done.get(start) is not row]
        self._left = self._leftovers()

    def _leftovers(self) -> dict[tuple[str, str], dict[float, dict[State, Amounts]]]:
        """By (server, model), row and state: what the books have less what tenants have."""
        parts: dict[tuple[float, str, str, State], list[Amounts]] = {}
        for start in self._changed:
            for key, amounts in self._books.rows[start].items():
                if key.server:
                    place = (start, server_of_replica(key.server), key.model, key.state)
                    parts.setdefault(place, []).append(amounts)
            for (server, model, state, _, _), amounts in self._rows.get(start, {}).items():
                parts.setdefault((start, server, model, state), []).append(amounts * -1.0)
        left: dict[tuple[str, str], dict[float, dict[State, Amounts]]] = {}
        for (start, server, model, state), amounts_of in parts.items():
            rest = positive(Amounts.total(amounts_of))
            if rest != NOTHING:
                left.setdefault((server, model), {}).setdefault(start, {})[state] = rest
        return left

    def divide(self, server: str, rules: TenantRules) -> None:
        """Divide what is left of one server."""
        accounts = _accounts(self._books, server)
        models = {model for name, model in self._left if name == server}
        if self._is_readable(accounts):
            names = models.union(*(one.models for one in accounts))
            for model, claims in self._claims_by_model(server, names, rules).items():
                self._claim(server, model, claims, *_weights(accounts, model, rules))
            self._sources[server] = self._tenants.live.get(server) or self._sources.get(server, _NO_SOURCE)
            self._claims.pop(server, None)
        for model in models:
            self._idle(server, model, rules)
            self._close(server, model)
        self._complete(server, models)

    @staticmethod
    def _is_readable(accounts: list[ServerAccount]) -> bool:
        """Whether the tokens and the energy of now are booked. A server that never had a page has none to wait for."""
        return bool(accounts) and all(one.unread_since_seconds is None for one in accounts)

    def _claims_by_model(
        self, server: str, models: set[str], rules: TenantRules
    ) -> dict[str, dict[str, dict[TokenKind, float]]]:
        """Claims by the server's model and by tenant."""
        found: dict[str, dict[str, dict[TokenKind, float]]] = {}
        unknown = set()
        for (name, kind), tokens in self._claims.get(server, {}).items():
            tenant, _, source_model = name.partition(SEPARATOR)
            model = _model_of(source_model, models, rules)
            if model is None:
                unknown.add(source_model)
            elif tenant:
                kinds = found.setdefault(model, {}).setdefault(tenant, {})
                kinds[kind] = kinds.get(kind, 0.0) + tokens
        if unknown:
            self._unknown[server] = self._unknown.get(server, frozenset()) | unknown
        return found

    def _claim(
        self,
        server: str,
        model: str,
        claims: Mapping[str, Mapping[TokenKind, float]],
        weights: Mapping[TokenKind, float],
        method: Method,
    ) -> None:
        weight_of = {tenant: _weight(kinds, weights) for tenant, kinds in claims.items()}
        whole = sum(weight_of.values())
        unclaimed = self._unclaimed(server, model, weights)
        available = sum(unclaimed.values())
        # Of several rows, tokens belong to those that have some; without any to now.
        present = {start: weight for start, weight in unclaimed.items() if weight > 0.0} or {self._row: 1.0}
        all_present = sum(present.values())
        part_of = {start: weight / all_present for start, weight in present.items()}
        for start, part in part_of.items():
            place = (start, server, model)
            self._claimed[place] = self._claimed.get(place, 0.0) + whole * part
        for tenant, kinds in claims.items():
            who = (server, model, tenant)
            for kind, tokens in kinds.items():
                slot = (*who, kind)
                self._tokens[slot] = self._tokens.get(slot, 0.0) + tokens
            for start, part in part_of.items():
                row = self._served.setdefault(start, {})
                row[who] = row.get(who, NOTHING_SERVED) + Served(tokens=dict(kinds)) * part
        if whole <= 0.0:
            return
        taken = 1.0 if whole >= available else whole / available
        for start, states in self._left.get((server, model), {}).items():
            rest = states.get(State.ACTIVE)
            if rest is None:
                continue
            states[State.ACTIVE] = NOTHING if taken == 1.0 else rest * (1.0 - taken)
            for tenant, weight in weight_of.items():
                share = rest * (taken * weight / whole)
                self._add(start, TenantKey(server, model, State.ACTIVE, tenant, method), share)
                who = (server, model, tenant)
                self._use[who] = self._use.get(who, 0.0) + share.joules

    def _unclaimed(self, server: str, model: str, weights: Mapping[TokenKind, float]) -> dict[float, float]:
        """By row: weighted tokens that the server has counted and nobody has claimed; negative where claims are ahead."""
        found: dict[float, float] = {}
        for start in self._changed:
            for (name, its_model), served in self._books.served.get(start, {}).items():
                if its_model == model and server_of_replica(name) == server:
                    found[start] = found.get(start, 0.0) + _weight(served.tokens, weights)
        for (start, name, its_model), weight in self._claimed.items():
            if name == server and its_model == model:
                found[start] = found.get(start, 0.0) - weight
        return found

    def _idle(self, server: str, model: str, rules: TenantRules) -> None:
        """Divide time in which the server was parked or starting."""
        if rules.idle is Idle.OWNER:
            shares, method = {rules.owner: 1.0}, Method.OWNER
        elif rules.idle is Idle.USE:
            shares, method = self._use_of(server), Method.USE
        else:
            shares, method = {}, Method.REST
        shares = shares or {UNATTRIBUTED: 1.0}
        if UNATTRIBUTED in shares:
            method = Method.REST
        for start, states in self._left.get((server, model), {}).items():
            for state in states.keys() - {State.ACTIVE}:
                rest = states.pop(state)
                for tenant, share in shares.items():
                    self._add(start, TenantKey(server, model, state, tenant, method), rest * share)

    def _use_of(self, server: str) -> dict[str, float]:
        """Shares of the recent use of a server, over all its models."""
        use: dict[str, float] = {}
        for (name, _, tenant), joules in self._use.items():
            if name == server:
                use[tenant] = use.get(tenant, 0.0) + joules
        whole = sum(use.values())
        return {tenant: joules / whole for tenant, joules in use.items()} if whole > 0.0 else {}

    def _close(self, server: str, model: str) -> None:
        """What is left of rows that are over for long enough is nobody's."""
        for start, states in self._left.get((server, model), {}).items():
            if self._is_open(start):
                continue
            for state, rest in states.items():
                self._add(start, TenantKey(server, model, state, UNATTRIBUTED, Method.REST), rest)
            states.clear()

    def _is_open(self, start: float) -> bool:
        return start > self._now - HOLD_SECONDS - ROW_SECONDS

    def _complete(self, server: str, models: set[str]) -> None:
        """What was booked while tenants were off is nobody's: then the postings sum to those of the server."""
        totals: dict[tuple[str, State], list[Amounts]] = {}
        for key, amounts in self._books.postings.items():
            if key.server and server_of_replica(key.server) == server:
                totals.setdefault((key.model, key.state), []).append(amounts)
        for (name, model, state, _, _), amounts in self._postings.items():
            if name == server:
                totals.setdefault((model, state), []).append(amounts * -1.0)
        for model in models:
            for states in self._left.get((server, model), {}).values():
                for state, rest in states.items():
                    totals.setdefault((model, state), []).append(rest * -1.0)
        for (model, state), parts in totals.items():
            missing = positive(Amounts.total(parts))
            if missing != NOTHING and not is_rounding(missing, parts[0]):
                nobody = TenantKey(server, model, state, UNATTRIBUTED, Method.REST)
                self._postings[nobody] = self._postings.get(nobody, NOTHING) + missing

    def _add(self, start: float, key: TenantKey, amounts: Amounts) -> None:
        if amounts == NOTHING:
            return
        row = self._rows.setdefault(start, {})
        row[key] = row.get(key, NOTHING) + amounts
        self._postings[key] = self._postings.get(key, NOTHING) + amounts

    def result(self, rules: Mapping[str, TenantRules]) -> TenantBooks:
        """The books after the division."""
        before = self._tenants
        ended = [start for start in self._books.rows if not self._is_open(start)]
        return replace(
            before,
            postings=self._postings,
            tokens=self._tokens,
            rows={start: _same(row, before.rows.get(start)) for start, row in self._rows.items()},
            served={start: _same(row, before.served.get(start)) for start, row in self._served.items()},
            claimed={key: weight for key, weight in self._claimed.items() if self._is_open(key[0])},
            use=self._use,
            sources={server: account for server, account in self._sources.items() if server in rules},
            settled_seconds=self._now,
            live={server: account for server, account in before.live.items() if server in rules},
            claims={server: claims for server, claims in self._claims.items() if server in rules},
            done={start: self._books.rows[start] for start in ended},
            unknown_models={server: models for server, models in self._unknown.items() if server in rules},
        )


def _same(new: dict[_Key, _Value], old: Mapping[_Key, _Value] | None) -> Mapping[_Key, _Value]:
    """The old row where nothing changed."""
    return old if old is not None and new == old else new


def _model_of(name: str, models: set[str], rules: TenantRules) -> str | None:
    """The server's model by the name that a source has for it: a gateway may put a provider before it."""
    if name in models:
        return name
    plain = name.rpartition("/")[2]
    fits = [model for model in models if model.rpartition("/")[2] == plain]
    if len(fits) == 1:
        return fits[0]
    return next(iter(models)) if rules.is_only_server and len(models) == 1 else None


def _weights(
    accounts: Iterable[ServerAccount], model: str, rules: TenantRules
) -> tuple[Mapping[TokenKind, float], Method]:
    """What a token of each kind costs, relative to an output token."""
    if rules.weights:
        return rules.weights, Method.CONFIGURED
    phases = pooled([one.phases for one in accounts if one.phases is not None and one.phases.model == model])
    measured = phase_weights(phases)
    if measured is None or measured.output_joules <= 0.0:
        return DEFAULT_WEIGHTS, Method.DEFAULT
    ratio = measured.input_joules / measured.output_joules
    return {
        TokenKind.INPUT: ratio,
        TokenKind.CACHED_INPUT: CACHED_RATIO * ratio,
        TokenKind.OUTPUT: 1.0,
    }, Method.MEASURED


def _weight(tokens: Mapping[TokenKind, float], weights: Mapping[TokenKind, float]) -> float:
    return sum(count_of * weights.get(kind, 0.0) for kind, count_of in tokens.items())


def positive(amounts: Amounts) -> Amounts:
    """Without what is below 0 by rounding: sums of it must not fall."""
    values = amounts.operations.values(amounts)
    positive = (
        {name: amount for name, amount in value.items() if amount > 0.0}
        if isinstance(value, Mapping)
        else max(0.0, value)
        for value in values
    )
    return Amounts(*positive)  # type: ignore[arg-type] # numbers and mappings, as the fields are


def is_rounding(part: Amounts, whole: Amounts) -> bool:
    """Whether a part is nothing, in every quantity, beside the whole."""
    quantities = ((part.seconds, whole.seconds), (part.joules, whole.joules), (part.net_cost, whole.net_cost))
    return all(small <= _NOTICED * large for small, large in quantities)


def as_posting(key: TenantKey) -> PostingKey:
    """The key with the tenant in place of the server, for sums over periods. The rest of it keeps it apart from others."""
    return PostingKey(f"{key.server}{SEPARATOR}{key.method}", key.tenant, key.model, key.state)


def by_tenant(books: Books) -> Books:
    """What tenants have in the rows in memory, as books with the tenant in place of the server."""
    rows = {} if books.tenants is None else books.tenants.rows
    return Books(
        at=books.at,
        rows={start: {as_posting(key): amounts for key, amounts in row.items()} for start, row in rows.items()},
    )


def unsettled(books: Books, servers: Iterable[str]) -> Iterator[tuple[str, str, State, Amounts]]:
    """By server, model and state: what is booked and not divided yet. Less than rounding is left out."""
    tenants = books.tenants
    wanted = set(servers)
    parts: dict[tuple[str, str, State], list[Amounts]] = {}
    for key, amounts in books.postings.items():
        server = server_of_replica(key.server)
        if server in wanted:
            parts.setdefault((server, key.model, key.state), []).append(amounts)
    for (server, model, state, _, _), amounts in () if tenants is None else tenants.postings.items():
        if server in wanted:
            parts.setdefault((server, model, state), []).append(amounts * -1.0)
    for (server, model, state), amounts_of in sorted(parts.items()):
        yield server, model, state, positive(Amounts.total(amounts_of))

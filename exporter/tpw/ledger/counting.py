"""By how many tokens a server's counters rose.

Rises are taken series by series, then summed: with several ranks one may restart while the others grow. A counter that
fell restarted at 0, so its value is its rise. The first reading of a server is a baseline, not a rise, unless its process
started while it was observed; so is the first reading of a different server under the same name. The kinds are then made
disjoint.

A rise above what the server can do (:mod:`tpw.ledger.trust`) is not booked, and the series continues from its last accepted
value once its values are plausible again. A series that stays on the implausible level is counted from there.

Tokens of requests in flight, where a server exposes them, are added to the rise of its counter. They may never be counted
(a killed server loses its requests). They stay in the total, which never falls, and the server's next tokens are absorbed
first. So the total equals the rise of the server's own counters again as soon as they have passed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tpw.ledger.books import LONGEST_SECONDS, ServerAccount
from tpw.ledger.replacing import replace
from tpw.ledger.trust import OTHER_PATH, PATHS, SERIES, Anomaly, Limits, models_of, within_models
from tpw.model import UNKNOWN_MODEL, InFlight, Role, ServerReading, TokenKind

_LIMITS = Limits()
_TOKEN_ROLES = (Role.OUTPUT, Role.INPUT, Role.PROMPT, Role.CACHED_INPUT)


@dataclass(frozen=True, slots=True)
class Count:
    """What one reading of a server added."""

    account: ServerAccount
    risen: Mapping[tuple[str, TokenKind], float]
    """Tokens by (model, kind) since the last reading; only those that rose."""
    moved: bool
    """Whether any token counter moved."""


_CLOCK_SECONDS = 60.0
"""By how much the clock of another machine may lag. Tuning: far above NTP's error, below the time of a restart."""


def _is_another(account: ServerAccount, reading: ServerReading) -> bool | None:
    """Whether the process differs from that of the last reading; None if unknown. An identity from the page cannot be
    compared with one from the operating system."""
    before, now = account.identity, reading.identity
    if before is None or now is None or (before.pid is None) != (now.pid is None):
        return None
    return before != now


def _is_elder(account: ServerAccount, reading: ServerReading, read_wall_seconds: float | None) -> bool:
    """Whether this is a different server under the same name that was running before the last reading: the address was
    changed, or several servers answer behind it. Its counts so far are not ours."""
    another = _is_another(account, reading)
    if another is None:
        return bool(account.address and reading.address) and account.address != reading.address
    return (
        another
        # The same pid cannot be an older process: the clock that dates its start was set.
        and not _keeps_pid(account, reading)
        and reading.started_wall_seconds is not None
        and read_wall_seconds is not None
        and reading.started_wall_seconds < read_wall_seconds - _CLOCK_SECONDS
    )


def _keeps_pid(account: ServerAccount, reading: ServerReading) -> bool:
    before, now = account.identity, reading.identity
    return before is not None and now is not None and now.pid is not None and now.pid == before.pid


def _from_zero(account: ServerAccount, reading: ServerReading, read_wall_seconds: float | None) -> bool:
    """Whether all counters started at 0 after the last reading (or, at the first one, while it was observed)."""
    if not _is_met(account):
        return (
            reading.started_wall_seconds is not None
            and account.since_wall_seconds is not None
            and reading.started_wall_seconds >= account.since_wall_seconds
        )
    if not _is_another(account, reading):
        return False
    if reading.identity is not None and reading.identity.pid is None:
        return True
    began = reading.started_wall_seconds
    if began is not None and read_wall_seconds is not None and began > read_wall_seconds:
        return True
    # The counters of another process may continue from files of the old one, or some were read before the new identity
    # was known: then none of them is lower than before.
    values = {one.key: one.value for one in reading.series} | {one.key: one.value for one in reading.work}
    return any(values.get(key, 0.0) < value for key, value in account.series.items())


def _is_met(account: ServerAccount) -> bool:
    """Whether it was read before; it may have had no counters then."""
    return bool(account.series or account.engine)


def _at_zero(series: Mapping[str, float]) -> dict[str, float]:
    """The counters of the next process at its start. One series of each name is enough: only the names are needed."""
    return dict.fromkeys({_name(key): key for key in series}.values(), 0.0)


def count(
    account: ServerAccount,
    reading: ServerReading,
    read_wall_seconds: float | None = None,
    now_wall_seconds: float | None = None,
    limits: Limits = _LIMITS,
) -> Count:
    """Add one reading to a server's account.

    Args:
        account: the account before.
        reading: the reading.
        read_wall_seconds: when it was last read; None if unknown.
        now_wall_seconds: when this reading was taken.
        limits: what is accepted.
    """
    anomalies: dict[str, int] = {Anomaly.INVALID: reading.refused} if reading.refused else {}
    reading, seen = _accepted_models(account, reading, now_wall_seconds, limits, anomalies)
    seconds = _seconds_between(account, reading, read_wall_seconds, now_wall_seconds)
    elder = _is_elder(account, reading, read_wall_seconds)
    from_zero = not elder and _from_zero(account, reading, read_wall_seconds)
    known = {} if elder else account.series
    first = not from_zero and (elder or not _is_met(account))
    raw = _at_zero(known) if from_zero else dict(known)
    counted = _in_current_roles(account.counted, reading)
    work = dict(account.work)
    requests = dict(account.requests)
    tiers = account.tiers
    doubted = {} if from_zero or elder else account.doubted
    moved = False
    known_names: set[str] | None = None

    def rise_of(key: str, value: float, role: Role | None, *, baseline: bool = False) -> float:
        nonlocal doubted
        before = None if from_zero else known.get(key)
        if before is None and key not in raw and len(raw) >= SERIES:
            _add(anomalies, Anomaly.SERIES)
            return 0.0
        doubt = doubted.get(key) if doubted else None
        if doubt is not None and value >= doubt:
            rise = value - doubt
        elif before is None:
            rise = 0.0 if first or baseline or doubt is not None else value
        else:
            rise = value - before if value >= before else value
        if rise > limits.rise(role, seconds) or value > limits.value(role):
            _add(anomalies, Anomaly.IMPLAUSIBLE)
            doubted = {**doubted, key: value}
            if before is None and not first:
                raw[key] = 0.0
            return 0.0
        if doubt is None:
            raw[key] = value
        elif value >= doubt:
            doubted = {**doubted, key: value}
        else:
            raw[key] = value
            doubted = {name: level for name, level in doubted.items() if name != key}
        return rise

    for series in reading.series:
        replaces = False
        if known and series.key not in known and not from_zero:
            # A new counter for the same quantity (a newer exporter knows the engine better) includes the server's whole
            # past: its first reading is a baseline too.
            known_names = {_name(key) for key in known} if known_names is None else known_names
            replaces = _name(series.key) not in known_names and _is_counted(series.role, account)
        rise = rise_of(series.key, series.value, series.role, baseline=replaces)
        model = series.model or UNKNOWN_MODEL
        if series.role is Role.REQUESTS:
            requests[model] = requests.get(model, 0.0) + rise
            continue
        slot = (model, series.role)
        counted[slot] = counted.get(slot, 0.0) + rise
        moved = moved or rise > 0.0
        if series.tier is not None and series.role is Role.CACHED_INPUT:
            tiers = {**tiers, (model, series.tier): tiers.get((model, series.tier), 0.0) + rise}
    for unit in reading.work:
        rise = rise_of(unit.key, unit.value, None)
        place = (unit.model or UNKNOWN_MODEL, unit.unit)
        work[place] = work.get(place, 0.0) + rise
        moved = moved or rise > 0.0
    uncounted = dict(account.uncounted) if reading.uncounted else account.uncounted
    for path in reading.uncounted:
        name = path.path if path.path in uncounted or len(uncounted) < PATHS else OTHER_PATH
        uncounted = {**uncounted, name: uncounted.get(name, 0.0) + rise_of(path.key, path.value, Role.REQUESTS)}

    service = account.service
    if reading.service is not None:
        from tpw.ledger.service import Passage, observe  # only servers with targets pay for it

        passage = Passage(first, from_zero, limits.rise(Role.REQUESTS, seconds))
        service = observe(service, reading.service, reading.loads, passage)
    elif service is not None:
        service = replace(service, targets=(), raw={}) if service.targets else service
    # Nothing rose and no series is new: the kinds are unchanged.
    same = not moved and not reading.in_flight and counted.keys() == account.counted.keys()
    in_flight = _plausible(reading.in_flight, limits, seconds, anomalies)
    tokens = account.tokens if same else _disjoint(_with(counted, in_flight), account.tokens)
    moved = moved or (bool(in_flight) and tokens != account.tokens)
    risen = (
        {
            slot: total - account.tokens.get(slot, 0.0)
            for slot, total in tokens.items()
            if total > account.tokens.get(slot, 0.0)
        }
        if moved
        else {}
    )
    models = _models(reading, account)
    updated = replace(
        account,
        up=True,
        read_wall_seconds=now_wall_seconds,
        engine=reading.engine,
        cadence=reading.cadence,
        version=reading.version or account.version,
        identity=reading.identity or (None if elder else account.identity),
        address=reading.address or account.address,
        series=raw,
        counted=counted,
        tokens=tokens,
        work=work,
        requests=requests,
        loads=reading.loads,
        models=models,
        uncounted=uncounted,
        tiers=tiers,
        phase=reading.phase,
        anomalies=_sums(account.anomalies, anomalies),
        doubted=doubted,
        read_at_seconds=reading.at_seconds,
        seen=seen,
        service=service,
    )
    return Count(updated, risen, moved)


_SEEN_SECONDS = 600.0
"""How exactly it is known when a model was last on the page."""


def mark_seen(seen: Mapping[str, float], names: Iterable[str], now: float | None) -> Mapping[str, float]:
    """``seen`` with these names as of now; the same object while that is near enough."""
    if now is None:
        return seen
    due = [name for name in names if abs(now - seen.get(name, float("-inf"))) >= _SEEN_SECONDS]
    return {**seen, **dict.fromkeys(due, now)} if due else seen


def _accepted_models(
    account: ServerAccount, reading: ServerReading, now: float | None, limits: Limits, anomalies: dict[str, int]
) -> tuple[ServerReading, Mapping[str, float]]:
    """The reading with at most so many models, and when which was seen."""
    models = models_of(reading)
    known = account.seen
    if not models <= known.keys():
        # Accounts of 0.1 do not know when a model was last seen: it counts as seen now.
        earlier = {model for model, _ in (*account.tokens, *account.work)} | set(account.requests)
        known = mark_seen(known, (*earlier, *account.models), now if not known.keys() - {""} else None)
        newest = max(known.values(), default=0.0)
        there = [name for name, at in known.items() if name and (name in models or newest - at < _PRESENT_SECONDS)]
        limited = within_models(reading, known, limits.models, len(there))
        if limited is not None:
            reading = limited
            anomalies[Anomaly.MODELS] = len(models - models_of(reading))
            models = models_of(reading)
    return reading, mark_seen(known, models, now)


_PRESENT_SECONDS = 86400.0
"""A model that was on the page within this time counts against the limit of models."""


def _seconds_between(
    account: ServerAccount, reading: ServerReading, read_wall_seconds: float | None, now_wall_seconds: float | None
) -> float:
    """Time since the last reading: monotonic, or by the wall clock over a restart. The longest time where that is
    unknown."""
    if account.read_at_seconds is not None:
        return reading.at_seconds - account.read_at_seconds
    if read_wall_seconds is not None and now_wall_seconds is not None:
        elapsed = now_wall_seconds - read_wall_seconds
        if 0.0 <= elapsed <= LONGEST_SECONDS:
            return elapsed
    return LONGEST_SECONDS


def _plausible(
    in_flight: tuple[InFlight, ...], limits: Limits, seconds: float, anomalies: dict[str, int]
) -> tuple[InFlight, ...]:
    """The tokens in flight, unless they are more than can be generated while a request runs."""
    most = limits.rise(Role.OUTPUT, seconds)
    if all(one.output_tokens <= most for one in in_flight):
        return in_flight
    _add(anomalies, Anomaly.IMPLAUSIBLE)
    return tuple(one for one in in_flight if one.output_tokens <= most)


def _add(anomalies: dict[str, int], reason: Anomaly) -> None:
    anomalies[reason] = anomalies.get(reason, 0) + 1


def _sums(before: Mapping[str, int], added: Mapping[str, int]) -> Mapping[str, int]:
    if not added:
        return before
    return {**before, **{reason: before.get(reason, 0) + number for reason, number in added.items()}}


def _in_current_roles(
    counted: Mapping[tuple[str, Role], float], reading: ServerReading
) -> dict[tuple[str, Role], float]:
    """The counts so far in the role in which prompts are counted now: a release that counts them without cached ones
    continues from one that included them, and the other way round."""
    roles = {series.role for series in reading.series} & {Role.INPUT, Role.PROMPT}
    found = dict(counted)
    if len(roles) != 1:
        return found  # none, or both: nothing to convert
    [role] = roles
    other = Role.PROMPT if role is Role.INPUT else Role.INPUT
    for model in [model for model, its_role in counted if its_role is other]:
        total = found.pop((model, other))
        cached = counted.get((model, Role.CACHED_INPUT), 0.0)
        total = max(0.0, total - cached) if role is Role.INPUT else total + cached
        found[model, role] = found.get((model, role), 0.0) + total
    return found


def _is_counted(role: Role, account: ServerAccount) -> bool:
    """Whether tokens of this role were counted before. Prompts with and without the cached part are the same tokens."""
    same = (Role.INPUT, Role.PROMPT) if role in (Role.INPUT, Role.PROMPT) else (role,)
    return any(before in same for _, before in account.counted)


def _name(key: str) -> str:
    """The sample's name in a series' key; its quoted name where the key begins with one."""
    return key.partition(",")[0] if key.startswith("{") else key.partition("{")[0]


def _with(counted: Mapping[tuple[str, Role], float], in_flight: Iterable[InFlight]) -> Mapping[tuple[str, Role], float]:
    """The rises of the counters, and the tokens in flight."""
    total = dict(counted)
    for one in in_flight:
        slot = (one.model or UNKNOWN_MODEL, Role.OUTPUT)
        total[slot] = total.get(slot, 0.0) + one.output_tokens
    return total


def _models(reading: ServerReading, account: ServerAccount) -> tuple[str, ...]:
    """Models on this page, in a stable order; those known before if the page names none."""
    names = {series.model for series in reading.series if series.role in _TOKEN_ROLES and series.model}
    names.update(work.model for work in reading.work if work.model)
    if not names:
        names = {load.model for load in reading.loads if load.model}
    return tuple(sorted(names)) or account.models


def _disjoint(
    counted: Mapping[tuple[str, Role], float], before: Mapping[tuple[str, TokenKind], float]
) -> dict[tuple[str, TokenKind], float]:
    """Output, computed input and cached input by model.

    Engines count a cached prompt and the prompt itself at different moments, so prompt - cached may step back for a while.
    A kind never falls: it catches up.
    """
    tokens = dict(before)
    for model in _ordered(model for model, _ in counted):
        output = counted.get((model, Role.OUTPUT))
        prompt = counted.get((model, Role.PROMPT))
        computed = counted.get((model, Role.INPUT))
        cached = counted.get((model, Role.CACHED_INPUT))
        if computed is not None and prompt is not None and cached is None:
            cached = max(0.0, prompt - computed)
        if computed is None and prompt is not None:
            if cached is not None:
                cached = min(cached, prompt)
            computed = prompt - (cached or 0.0)
        for kind, value in (
            (TokenKind.OUTPUT, output),
            (TokenKind.INPUT, computed),
            (TokenKind.CACHED_INPUT, cached),
        ):
            if value is not None:
                slot = (model, kind)
                tokens[slot] = max(tokens.get(slot, 0.0), value)
    return tokens


def _ordered(models: Iterable[str]) -> list[str]:
    return sorted(set(models))

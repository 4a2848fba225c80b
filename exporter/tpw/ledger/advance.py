"""One step of the ledger: ``advance(books, tick, policy) -> books``.

The order of one step: tokens, activity of servers, shares of each GPU, time, host energy, joules of each GPU, money,
windows. A step depends on its arguments only, so every law of the books is a property test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpw.ledger.attribution import Activity, Evidence, activity, divide
from tpw.ledger.booking import Journal, Meter, book_demand, book_joules, book_standing_charges, book_time, extend
from tpw.ledger.books import (
    LONGEST_SECONDS,
    Books,
    Check,
    Division,
    GpuAccount,
    HostAccount,
    HostShare,
    Pending,
    PowerLimit,
    ServerAccount,
    Shares,
    pending_seconds,
)
from tpw.ledger.clock import after_clock_step, has_one_clock
from tpw.ledger.counting import count, mark_seen
from tpw.ledger.host import Rise, released_joules, share_host
from tpw.ledger.metering import doubt, is_host_late, is_overdue, is_too_late, measure, measure_host
from tpw.ledger.no_load import learned
from tpw.ledger.outage import Outages, courses, hold, outages_at, settle, unread_since, without_expired
from tpw.ledger.planned import Planned
from tpw.ledger.replacing import replace
from tpw.ledger.rows import open_from, serve
from tpw.ledger.samples import sampled
from tpw.ledger.site import quarters
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.workloads import bounded
from tpw.model import (
    UNKNOWN_MODEL,
    Gpu,
    GpuSample,
    Instant,
    PowerScope,
    Reason,
    Reference,
    ServerFault,
    SplitMethod,
    TokenKind,
    server_of_replica,
)

_SCAN_SECONDS = 60.0
"""Scans for servers are at least this frequent: a process that is younger started while it was observed."""

_MONTHS_KEPT = 3

_LEAST_JOULES = 1e-6
"""GPUs that used less in a tick share no host energy: it avoids a division by zero. A meter's step is a thousand times
larger."""


@dataclass(frozen=True, slots=True)
class _Servers:
    """The servers after the readings of a tick."""

    accounts: dict[str, ServerAccount]
    activities: dict[str, Activity]
    risen: dict[str, Mapping[tuple[str, TokenKind], float]]
    outages: Outages


@dataclass(frozen=True, slots=True)
class _Metered:
    """Joules of one GPU to book, and the time in which it used them."""

    joules: float
    pending: tuple[Pending, ...]

    def since(self, start_seconds: float | None) -> float:
        """The part that was used after a moment."""
        pending = self.pending
        if start_seconds is None or not pending or pending[0].start_seconds >= start_seconds:
            return self.joules
        after = sum(max(0.0, piece.end_seconds - max(piece.start_seconds, start_seconds)) for piece in pending)
        return self.joules * after / pending_seconds(pending)


def advance(books: Books, tick: Tick, policy: Policy) -> Books:
    """Book one tick.

    Args:
        books: everything up to the last tick.
        tick: the readings of this one. Its monotonic instant is not before the last one's.
        policy: the rules in force.

    Returns:
        The books up to ``tick.at``. No counter in them is lower than before.
    """
    books = after_clock_step(books, tick.at, policy.demand)
    elapsed = _elapsed(books, tick.at)
    now = tick.at.wall_seconds
    since = now - elapsed
    read = _servers(books, tick, policy)
    journal = Journal(planned(policy, tick, books.gpus))

    samples = {sample.uuid: sample for sample in tick.accelerators.samples}
    faulted = {fault.uuid for fault in tick.accelerators.faults}
    accounts = dict(books.gpus)
    metered: dict[str, _Metered] = {}
    timed: list[Shares] = []
    divisions = {
        gpu.uuid: without_expired(
            _divide(accounts.get(gpu.uuid) or GpuAccount(gpu), samples.get(gpu.uuid), tick, read.activities),
            read.outages,
            tick.owners,
        )
        for gpu in tick.accelerators.gpus
    }
    divisions, before = bounded(divisions, books.postings, policy.limits.workloads)
    for gpu in tick.accelerators.gpus:
        account = accounts.get(gpu.uuid)
        seconds = 0.0 if account is None else _unbooked_seconds(account, elapsed, now)
        account = GpuAccount(gpu) if account is None else account
        if account.gpu is not gpu and account.gpu != gpu:
            account = _reprobed(account, gpu)
        sample = samples.get(gpu.uuid)
        division = divisions[gpu.uuid]
        if seconds > 0.0:
            book_time(journal, division.shares, now - seconds, now, policy)
            timed.append(division.shares)
        _add_rental_cost(read, division.shares, seconds, policy.references)
        if sample is None and account.up:
            account = replace(
                account, up=gpu.uuid not in faulted and not is_overdue(account, tick.at, policy.interval_seconds)
            )
        accounts[gpu.uuid], energy = _read_gpu(account, sample, division, seconds, tick.at, policy)
        if energy is not None:
            metered[gpu.uuid] = energy
    reported = {gpu.uuid for gpu in tick.accelerators.gpus}
    for uuid, account in accounts.items():
        if uuid not in reported and account.unreported_since_seconds is None:
            accounts[uuid] = replace(account, up=False, sample=None, unreported_since_seconds=since)

    gpu_joules = sum(energy.joules for energy in metered.values())
    node_gpu_joules = sum(energy.since(books.host_share.since_seconds) for energy in metered.values())
    hosts, host_share, carry = _hosts(books, tick, policy, accounts, node_gpu_joules)
    released = released_joules(host_share, carry, elapsed) if gpu_joules > _LEAST_JOULES else 0.0
    host_factor = released / gpu_joules if released > 0.0 else 0.0
    site = policy.site
    share = 1.0 if site is None else site.share(len(reported), books.quarters)
    charged = timed if share is not None else []
    charges_since = _standing_charges(
        books.standing_charges_since_seconds, journal, charged, since, now, policy, share or 0.0
    )
    meter = Meter(dict(site.month_kwh if site is not None and site.spans else books.month_kwh))
    for uuid, energy in metered.items():
        pending = energy.pending or extend((), now, now, _shares(accounts[uuid]))
        book_joules(journal, meter, pending, energy.joules, (1.0 + host_factor) * policy.pue, policy)
    demand = book_demand(journal, meter, books.demand, policy, open_from(accounts, now), now, share)
    settled = settle(books.held, read.outages.ended)
    for row, key, amounts in settled.entries:
        journal.add(row, ((key, 1.0),), amounts)
        _add_rental_cost(read, ((key, 1.0),), amounts.seconds, policy.references)
    posted = journal.post(before, books.rows, read.outages.waiting)

    _add_api_cost(read.accounts, read.risen, policy.references)
    servers = sampled(read.accounts, posted.postings, books.gpus, accounts, tick, policy, elapsed)
    return replace(
        books,
        at=tick.at,
        resumed=False,
        currency=policy.currency or books.currency,
        gpus=accounts,
        postings=posted.postings,
        hosts=hosts,
        host_carry_joules=carry - released,
        host_share=host_share,
        servers=servers,
        rows=posted.rows,
        held=hold(settled.held, posted.held),
        served=serve(
            books.served,
            books.servers,
            servers,
            since,
            now,
            courses(read.outages.ended, settled, books.rows, posted.rows),
        ),
        month_kwh=_recent(meter.month_kwh),
        standing_charges_since_seconds=charges_since,
        quarters=quarters(books.quarters, posted.rows) if site is not None and site.by == "energy" else {},
        demand=demand,
        polls=books.polls + 1,
    )


def planned(policy: Policy, tick: Tick, accounts: Mapping[str, GpuAccount]) -> Planned | None:
    """The planned pauses of the GPUs and servers of a tick. None where none are configured."""
    if policy.plan is None:
        return None
    indices = {uuid: account.gpu.index for uuid, account in accounts.items()}
    return Planned(policy.plan, indices | {gpu.uuid: gpu.index for gpu in tick.accelerators.gpus}, tick.belongs)


def _standing_charges(
    waiting_since: float | None,
    journal: Journal,
    gpus: list[Shares],
    since: float,
    now: float,
    policy: Policy,
    share: float,
) -> float | None:
    """Book the node's share of the contract's standing charges, deferred ones included. Returns since when they are
    deferred: without a GPU there is nothing to share them by."""
    if not policy.standing_charges or since >= now:
        return waiting_since if policy.standing_charges else None
    if waiting_since is not None:
        since = min(since, max(waiting_since, now - LONGEST_SECONDS))
    if not gpus:
        return since
    book_standing_charges(journal, gpus, since, now, policy, share)
    return None


def _recent(month_kwh: dict[float, float]) -> dict[float, float]:
    """Without the months that no joule can enter any more."""
    return month_kwh if len(month_kwh) <= _MONTHS_KEPT else dict(sorted(month_kwh.items())[-_MONTHS_KEPT:])


def _elapsed(books: Books, now: Instant) -> float:
    """Time since the last tick: monotonic, or by the wall clock over a restart of the machine."""
    if books.at is None:
        return 0.0
    if not has_one_clock(books, now):
        return _plausible(now.wall_seconds - books.at.wall_seconds)
    elapsed = max(0.0, now.monotonic_seconds - books.at.monotonic_seconds)
    return _plausible(elapsed) if books.resumed else elapsed


def _unbooked_seconds(account: GpuAccount, elapsed: float, now: float) -> float:
    """Time of a GPU that is not booked yet: since the last tick, or since a meter last reported it."""
    since = account.unreported_since_seconds
    return elapsed if since is None else max(elapsed, _plausible(now - since))


def _plausible(seconds: float) -> float:
    """The time that passed by the wall clock; 0 where it is not plausible."""
    return seconds if 0.0 < seconds <= LONGEST_SECONDS else 0.0


# -------------------------------------------------------------------------------------------------------------- servers


def _observed_since(books: Books, tick: Tick) -> float:
    """Since when a server that is new to the books has been observed: since the books were closed, over a restart; else
    since the last scan. At the very first tick: from now on."""
    if books.at is None:
        return tick.at.wall_seconds
    if books.resumed:
        return books.at.wall_seconds
    return tick.at.wall_seconds - _SCAN_SECONDS


def _servers(books: Books, tick: Tick, policy: Policy) -> _Servers:
    accounts = dict(books.servers)
    risen: dict[str, Mapping[tuple[str, TokenKind], float]] = {}
    moved: dict[str, bool] = {}
    spans: dict[str, float] = {}
    faults: dict[str, Reason] = {}
    for name, owner in tick.owners.items():
        account = accounts.get(name) or ServerAccount(name, since_wall_seconds=_observed_since(books, tick))
        account = account if account.attribution is owner.method else replace(account, attribution=owner.method)
        belongs = tick.belongs.get(name, account.belongs)
        if belongs != account.belongs:
            account = replace(account, belongs=belongs)
        if not owner.has_counters and account.models != (owner.model or UNKNOWN_MODEL,):
            # Without a page the configuration is the only source.
            account = replace(account, models=(owner.model or UNKNOWN_MODEL,))
        seen = mark_seen(account.seen, ("",), tick.at.wall_seconds)
        accounts[name] = account if seen is account.seen else replace(account, seen=seen)
    for reading in tick.servers:
        name = reading.server
        before = accounts.get(name)
        if before is None:
            continue
        if isinstance(reading, ServerFault):
            accounts[name] = replace(before, up=False, active=False, loads=()) if before.up else before
            faults[name] = reading.reason
            continue
        last_read = before.read_wall_seconds
        if last_read is None:
            last_read = before.unread_since_seconds
        if last_read is None and books.resumed and books.at is not None:
            last_read = books.at.wall_seconds
        accepted = policy.limits.by_server.get(server_of_replica(name), policy.limits)
        counted = count(before, reading, last_read, tick.at.wall_seconds, accepted)
        accounts[name], risen[name], moved[name] = counted.account, counted.risen, counted.moved
        if last_read is not None:
            spans[name] = tick.at.wall_seconds - last_read
    for name in tick.owners:
        accounts[name] = unread_since(accounts[name], books, tick)
    activities: dict[str, Activity] = {}
    for name, owner in tick.owners.items():
        done = activity(
            accounts[name],
            owner,
            risen.get(name),
            moved=moved.get(name, False),
            seconds=spans.get(name),
            fault=faults.get(name),
            now_wall_seconds=tick.at.wall_seconds,
        )
        account = accounts[name]
        # The first reading after an outage does not show when its tokens were made.
        unknown_when = account.unread_since_seconds is not None and done.active
        activities[name] = replace(done, active=None) if unknown_when else done
        if name in risen and account.active is not bool(done.active):
            account = replace(account, active=bool(done.active))
        gpus = owner.gpus if done.owns else frozenset()
        if account.gpus != gpus:
            account = replace(account, gpus=gpus)
        accounts[name] = account
    for name, account in accounts.items():
        if name not in tick.owners and (account.up or account.gpus):
            accounts[name] = replace(account, up=False, active=False, loads=(), gpus=frozenset())
        if "" not in account.seen:  # books of 0.1
            accounts[name] = replace(accounts[name], seen=mark_seen(account.seen, ("",), tick.at.wall_seconds))
    outages = outages_at(books, tick, accounts, activities, moved, policy.held_seconds)
    for name in outages.ended:
        if name in risen or name not in tick.owners:
            accounts[name] = replace(accounts[name], unread_since_seconds=None)
    return _Servers(accounts, activities, risen, outages)


def _divide(account: GpuAccount, sample: GpuSample | None, tick: Tick, activities: Mapping[str, Activity]) -> Division:
    """Who shares the time of one GPU up to this tick."""
    uuid = account.gpu.uuid
    if sample is None and account.division is not None and not any(uuid in one.gpus for one in tick.owners.values()):
        # What is not read now goes on as it was.
        return account.division
    evidence = Evidence(sample, tick.occupants.get(uuid), account.no_load_watts, tick.parts.get(uuid, ()))
    return divide(uuid, tick.owners, activities, evidence)


def _shares(account: GpuAccount) -> Shares:
    return () if account.division is None else account.division.shares


def _estimates(account: GpuAccount, division: Division, joules: float) -> Mapping[tuple[str, str, SplitMethod], float]:
    """The instances' estimated energy, these joules included. Their sum is at most that of the GPU."""
    if not division.parts:
        return account.instance_joules
    estimates = dict(account.instance_joules)
    for part in division.parts:
        key = (part.instance, part.profile, part.method)
        estimates[key] = estimates.get(key, 0.0) + joules * part.weight
    return estimates


# ----------------------------------------------------------------------------------------------------------------- GPUs


def _reprobed(account: GpuAccount, gpu: Gpu) -> GpuAccount:
    """The same GPU after another probe. A new energy method starts at a new baseline, without overlap."""
    if account.gpu.energy_method is gpu.energy_method:
        return replace(account, gpu=gpu)
    return replace(
        account,
        gpu=gpu,
        baseline_joules=None,
        baseline_watts=None,
        baseline_at_seconds=None,
        mark_joules=None,
        still_since_seconds=None,
        still_joules=0.0,
        check=Check(),
    )


def _read_gpu(
    account: GpuAccount, sample: GpuSample | None, division: Division, seconds: float, now: Instant, policy: Policy
) -> tuple[GpuAccount, _Metered | None]:
    """One GPU's reading. The joules are booked later, when the host's share of the tick is known."""
    pending = account.pending
    if seconds > 0.0:
        pending = extend(pending, now.wall_seconds - seconds, now.wall_seconds, division.shares)
    if sample is None:
        # The time stays pending while a counter may still report its energy.
        account = replace(
            account, sample=account.sample if account.up else None, division=division, unreported_since_seconds=None
        )
        if is_too_late(account, now, policy.interval_seconds):
            return replace(
                account, pending=(), unmetered_seconds=account.unmetered_seconds + pending_seconds(pending)
            ), None
        return replace(account, pending=pending), None
    step, measured = measure(account, sample, now, policy.interval_seconds)
    joules = step.joules
    unmetered = account.unmetered_seconds + step.also_unmetered_seconds
    if step.unmetered:
        unmetered += pending_seconds(pending)
    anomalies = account.anomalies
    if step.anomaly:
        anomalies = {**anomalies, step.anomaly: anomalies.get(step.anomaly, 0) + 1}
    throttle, throttle_raw = _throttle(account, sample)
    states = frozenset(key.state for key, _ in division.shares)
    limit = account.power_limit
    watts = sample.power_limit_watts
    if watts is not None and (limit is None or limit.watts != watts):
        limit = PowerLimit(now.wall_seconds, watts)
    no_load = learned(account.no_load_watts, sample, seconds, states, account.gpu.max_power_watts)
    if doubt(account.gpu, sample.power_watts) or measured.check.power_stuck:
        sample = replace(sample, power_watts=None)  # nor exposed
    calibration = policy.calibration.get(sample.uuid)
    if calibration is not None:
        # After the plausibility checks, which judge raw readings.
        if joules is not None:
            joules = calibration.joules(joules, pending_seconds(pending))
        if sample.power_watts is not None:
            sample = replace(sample, power_watts=calibration.watts(sample.power_watts))
    return (
        replace(
            measured,
            up=True,
            sample=sample,
            pending=() if joules is not None or step.unmetered else pending,
            unmetered_seconds=unmetered,
            anomalies=anomalies,
            throttle_seconds=throttle,
            throttle_raw=throttle_raw,
            division=division,
            unreported_since_seconds=None,
            calibration=calibration,
            no_load_watts=no_load,
            power_limit=limit,
            instance_joules=_estimates(account, division, joules or 0.0),
        ),
        None if joules is None else _Metered(joules, pending),
    )


def _throttle(account: GpuAccount, sample: GpuSample) -> tuple[Mapping[str, float], Mapping[str, float]]:
    if sample.throttle_seconds is None:
        return account.throttle_seconds, account.throttle_raw
    raw = dict(sample.throttle_seconds)
    if raw == account.throttle_raw:
        return account.throttle_seconds, account.throttle_raw
    total = dict(account.throttle_seconds)
    for reason, value in raw.items():
        before = account.throttle_raw.get(reason)
        rise = 0.0 if before is None else value - before if value >= before else value
        total[reason] = total.get(reason, 0.0) + rise
    return total, raw


# ----------------------------------------------------------------------------------------------------------------- host


def _hosts(
    books: Books, tick: Tick, policy: Policy, accounts: Mapping[str, GpuAccount], gpu_joules: float
) -> tuple[Mapping[str, HostAccount], HostShare, float]:
    """The host's accounts, the rule by which it is shared, and the joules to share."""
    hosts = books.hosts
    rises: dict[str, Rise] = {}
    late = [
        name
        for name, account in hosts.items()
        if account.power_watts is not None and is_host_late(account, tick.at, policy.interval_seconds)
    ]
    if tick.hosts or late:
        hosts = dict(hosts)
        for name in late:
            hosts[name] = replace(hosts[name], power_watts=None)
        for sample in tick.hosts:
            added, account = measure_host(hosts.get(sample.component) or HostAccount(), sample, policy.interval_seconds)
            hosts[sample.component] = account
            rises[sample.component] = Rise(added, account.gap_seconds)
    if not policy.host_share:
        return hosts, HostShare(), books.host_carry_joules
    # A module that does not answer may report this time's energy later, its CPU's included.
    gpus_hold_cpu = any(
        account.gpu.power_scope is PowerScope.MODULE and (account.up or account.pending)
        for account in accounts.values()
    )
    share, carry = share_host(
        books.host_share,
        books.host_carry_joules,
        rises,
        hosts,
        gpu_joules,
        tick.at,
        gpus_hold_cpu=gpus_hold_cpu,
    )
    return hosts, share, carry


# ----------------------------------------------------------------------------------------------------------- references


def _add_rental_cost(read: _Servers, shares: Shares, seconds: float, references: tuple[Reference, ...]) -> None:
    """Add what the servers' GPU time would have cost at rental prices, except of those that cannot be read."""
    accounts = read.accounts
    if seconds <= 0.0:
        return
    for reference in references:
        if reference.price_per_gpu_second is None:
            continue
        for key, weight in shares:
            if not key.server or key.server in read.outages.waiting:
                continue
            account = accounts[key.server]
            cost = dict(account.reference_cost)
            slot = (key.model, reference.name)
            cost[slot] = cost.get(slot, 0.0) + seconds * weight * reference.price_per_gpu_second
            accounts[key.server] = replace(account, reference_cost=cost)


def _add_api_cost(
    accounts: dict[str, ServerAccount],
    risen: Mapping[str, Mapping[tuple[str, TokenKind], float]],
    references: tuple[Reference, ...],
) -> None:
    """Add what the servers' tokens would have cost at API prices."""
    for reference in references:
        if not reference.price_per_token:
            continue
        for name, tokens in risen.items():
            account = accounts[name]
            cost = dict(account.reference_cost)
            for (model, kind), rise in tokens.items():
                slot = (model, reference.name)
                cost[slot] = cost.get(slot, 0.0) + rise * reference.price_per_token.get(kind, 0.0)
            accounts[name] = replace(account, reference_cost=cost)

"""What a tick adds to the live windows and phases of the servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, inf

from tpw.ledger.amounts import Amounts
from tpw.ledger.books import GpuAccount, Postings, ServerAccount, WindowSample, pending_seconds
from tpw.ledger.metering import late_seconds
from tpw.ledger.phases import Observed, observe
from tpw.ledger.replacing import replace
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.window import slide
from tpw.model import Cadence, EnergyMethod, Ownership, SplitMethod, State, TokenKind

_GUESSED_WATTS = 500.0
"""Power of a GPU that was never read and reports no limit: only the weight of what is unknown."""

_WINDOW_STEPS = 60
"""Samples in a live window. Tuning: enough for a smooth ratio, few enough to keep for many servers."""


def sampled(
    accounts: dict[str, ServerAccount],
    postings: Postings,
    before: Mapping[str, GpuAccount],
    gpus: Mapping[str, GpuAccount],
    tick: Tick,
    policy: Policy,
    elapsed: float,
) -> dict[str, ServerAccount]:
    """Add this tick to every server's window and phases."""
    booked: dict[str, dict[str, list[Amounts]]] = {}
    active: dict[str, float] = {}
    for key, amounts in postings.items():
        if key.server:
            booked.setdefault(key.server, {}).setdefault(key.model, []).append(amounts)
            if key.state is State.ACTIVE:
                active[key.server] = active.get(key.server, 0.0) + amounts.joules
    result: dict[str, ServerAccount] = {}
    for name, account in accounts.items():
        owner = tick.owners.get(name)
        if owner is None or (account.engine and not account.up):
            # The next reading of a server that is down adds what its window missed.
            window = account.window if owner is not None else ()
            phases = observe(account.phases, None)
            same = window is account.window and phases is account.phases
            result[name] = account if same else replace(account, window=window, phases=phases)
            continue
        seconds = policy.finish_window_seconds if account.cadence is Cadence.FINISH else policy.window_seconds
        owned = [gpus[uuid] for uuid in account.gpus if uuid in gpus]
        seconds = max(seconds, _sparse_seconds(owned, policy.interval_seconds))
        known = _known(name, account.gpus, before, gpus, policy.interval_seconds, seconds)
        sample = WindowSample(
            at_seconds=tick.at.monotonic_seconds,
            tokens=account.tokens,
            amounts={model: Amounts.total(parts) for model, parts in booked.get(name, {}).items()},
            single_node=not owner.spans_nodes,
            behind_seconds=known.behind_seconds,
            lost_joules=known.lost_joules + (account.window[-1].lost_joules if account.window else 0.0),
            awaited_joules=known.awaited_joules,
        )
        phases = account.phases
        if phases is not None or account.cadence in _LIVE:
            phases = observe(phases, _observed(account, active.get(name, 0.0), owner, gpus, elapsed))
        result[name] = replace(
            account,
            window=slide(account.window, sample, seconds, _WINDOW_STEPS),
            window_seconds=seconds,
            phases=phases,
        )
    return result


def _sparse_seconds(gpus: Iterable[GpuAccount], interval_seconds: float) -> float:
    """The window that GPUs need which report power and no energy, and are read less often than wanted: what they use
    between two reads is a guess, and only many reads average it out. In whole minutes, so that it seldom changes; 0 for
    others."""
    gap = max((_unseen_seconds(one, interval_seconds) for one in gpus), default=0.0)
    if gap <= _SPARSE_SECONDS:
        return 0.0
    return min(_LONGEST_WINDOW_SECONDS, 60.0 * ceil(_SPARSE_READS * gap / 60.0))


def _unseen_seconds(account: GpuAccount, interval_seconds: float) -> float:
    """Time between two readings of power. 0 where they are as frequent as wanted, and where each is a mean since the last
    one."""
    gap = account.usual_gap_seconds
    if account.method not in _POWER or gap < 2.0 * interval_seconds or account.sample is None:
        return 0.0
    return gap if account.sample.power_mean_seconds < 0.5 * gap else 0.0


_POWER = (EnergyMethod.AVERAGE_POWER, EnergyMethod.INSTANT_POWER)
_SPARSE_SECONDS = 2.5
"""Two means of a second with a longer time between them miss most of it."""
_SPARSE_READS = 30
_LONGEST_WINDOW_SECONDS = 600.0
"""Both chosen on the slow drivers of docs/accuracy.md: a live ratio of ten minutes is the most that is still live."""

_LIVE = (Cadence.STEP, Cadence.CHUNK)
"""Tokens are counted as they are made."""
_INDEPENDENT = (SplitMethod.SOLE, SplitMethod.SM)
"""The joules of a server do not depend on its tokens."""


def _observed(
    account: ServerAccount, joules: float, owner: Ownership, gpus: Mapping[str, GpuAccount], elapsed: float
) -> Observed | None:
    """What shows the phases of a server; None where its energy or its tokens are not known at this tick."""
    if len(account.models) != 1 or account.cadence not in _LIVE or owner.spans_nodes:
        return None
    if account.unread_since_seconds is not None or not account.gpus:
        return None
    for uuid in account.gpus:
        gpu = gpus.get(uuid)
        if gpu is None or gpu.division is None or gpu.division.method not in _INDEPENDENT:
            return None
    [model] = account.models
    read, made = account.tokens.get((model, TokenKind.INPUT)), account.tokens.get((model, TokenKind.OUTPUT))
    if read is None or made is None:
        return None
    # Of one model, so of one load; unknown requests count as one.
    running = account.loads[0].running if account.loads else None
    return Observed(model, joules, read, made, running, elapsed if account.active else 0.0)


@dataclass(frozen=True, slots=True)
class _Known:
    """How much of the energy of a server's GPUs is known at a tick; see :class:`tpw.ledger.books.WindowSample`."""

    behind_seconds: float
    lost_joules: float
    """Of this tick."""
    awaited_joules: float


def _known(
    server: str,
    uuids: Iterable[str],
    before: Mapping[str, GpuAccount],
    after: Mapping[str, GpuAccount],
    interval_seconds: float,
    window_seconds: float,
) -> _Known:
    watts = behind = lost = awaited = 0.0
    for uuid in uuids:
        account = after.get(uuid)
        if account is None:
            return _Known(0.0, 0.0, inf)  # never reported: nothing is known about it
        power = _last_watts(account)
        watts += power
        earlier = before.get(uuid)
        unmetered = account.unmetered_seconds - (0.0 if earlier is None else earlier.unmetered_seconds)
        if not account.pending and unmetered <= 0.0:
            continue
        power_here = power * (1.0 if account.division is None else account.division.ratio(server))
        lost += power_here * unmetered
        pending = pending_seconds(account.pending)
        behind += power * pending
        if pending > (late_seconds(account, interval_seconds) if account.up else 0.0):
            awaited += power_here * min(pending, window_seconds)
    return _Known(behind / watts if behind else 0.0, lost, awaited)


def _last_watts(account: GpuAccount) -> float:
    """The last known power of a GPU; its limit, or a guess, where there is none."""
    if account.sample is not None and account.sample.power_watts:
        return account.sample.power_watts
    return account.baseline_watts or account.gpu.max_power_watts or _GUESSED_WATTS

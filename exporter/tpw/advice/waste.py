"""GPUs that nobody uses, servers without requests, and the hours of the week in which a server has none."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from math import fsum

from tpw.advice.fleet import WEEK, Column, Estimate, Fleet, Slot, column, runs
from tpw.advice.lines import LEAST_RATIO, Advice, Kind, Missing
from tpw.ledger.amounts import JOULES_PER_KWH
from tpw.ledger.books import ROW_SECONDS
from tpw.ledger.calendar import Calendar
from tpw.model import ServerWorkload, State, server_of_replica

_LEAST_SECONDS = 1.0
"""Of a quarter-hour: what is shorter is no use, but the border between two ticks."""
_WEEK_HOURS = 168
_LEAST_HOURS = 2
"""Shorter pauses are no schedule."""


def idle(fleet: Fleet) -> Iterator[Advice]:
    """GPUs that nobody has used for a week or longer, up to now."""
    for gpu in sorted({slot.gpu for slot in fleet.uses}, key=fleet.index_of):

        def is_idle(slot: Slot, gpu: str = gpu) -> bool:
            return slot.gpu == gpu and slot.state is State.IDLE

        def is_used(slot: Slot, gpu: str = gpu) -> bool:
            return slot.gpu == gpu and slot.state is not State.IDLE

        first = _quiet_since(fleet.total("seconds", is_used))
        if fleet.quarters - first < WEEK or not fleet.covers(fleet.total("seconds", is_idle), first, 1):
            continue
        saving, paid = _whole(fleet, is_idle, first)
        if saving.value <= 0.0:
            continue
        index, name = fleet.index_of(gpu), fleet.gpus[gpu].name if gpu in fleet.gpus else gpu
        yield Advice(
            Kind.IDLE,
            f"GPU {index}",
            saving,
            paid,
            f"Give GPU {index} ({name}) work, or release it: nobody uses it.",
            f"No process computed on it for {(fleet.quarters - first) // 96} days. The saving is everything that was booked"
            " for its idle time.",
            f"Put a server or a job on it, return it if it is rented, or take it out of the node: {gpu}.",
            None if first == 0 else fleet.at(first),
        )


def parked(fleet: Fleet) -> Iterator[Advice]:
    """Servers that hold GPUs and have had no request for a week or longer, up to now."""
    for server in fleet.servers():
        first = without_requests(fleet, server)
        if first is None:
            continue
        gpus = fleet.gpus_of(server)

        def is_held(slot: Slot, server: str = server) -> bool:
            return slot.server == server

        saving, _ = _whole(fleet, is_held, first)
        rent = fleet.total("rent", is_held)[first:]
        watts, is_known = fleet.freed_watts(server)
        energy = _money_of_watts(fleet, is_held, watts / len(gpus), first)
        days = (fleet.quarters - first) / 96.0
        left = 0.0 if any(rent) else energy / days * 365.0 / 12.0
        if saving.value <= left:
            continue
        saving = Estimate(saving.value - left, saving.low - left, saving.high - (left if is_known else 0.0))
        paid = (fsum(fleet.total("energy_cost", is_held)[first:]) + fsum(rent)) / days * 365.0 / 12.0 - left
        yield Advice(
            Kind.PARKED,
            server_of_replica(server),
            saving,
            paid,
            f"Stop {server_of_replica(server)}: it holds {_count(len(gpus), 'GPU')} and has no requests.",
            f"It has held {gpus_text(fleet, gpus)} for {days:.0f} days without a token or a running request. The saving is"
            " what was booked for that time, less what the GPUs draw with no model loaded."
            + ("" if is_known or any(rent) else _UNKNOWN_IDLE),
            how_to_stop(server_of_replica(server), fleet.owners.get(server)),
            None if first == 0 else fleet.at(first),
        )


def without_requests(fleet: Fleet, server: str) -> int | None:
    """Since which quarter-hour a server that still holds GPUs has had no request. None if it had one in the last week."""
    held = fleet.total("seconds", lambda slot: slot.server == server)
    first = _quiet_since(fleet.total("seconds", lambda slot: slot.server == server and slot.state is State.ACTIVE))
    holding = next(index for index, seconds in enumerate(held) if seconds > 0.0)
    first = max(first, holding)
    is_long = fleet.quarters - first >= WEEK and fleet.covers(held, first, len(fleet.gpus_of(server)))
    return first if is_long else None


def schedule(fleet: Fleet, calendar: Calendar) -> Iterator[Advice | Missing]:
    """Servers that have requests, but none in some hours of every week."""
    hours = [_hour_of_week(calendar, fleet.at(index)) for index in range(fleet.quarters)]
    for server in fleet.servers():
        if without_requests(fleet, server) is not None:
            continue

        def is_active(slot: Slot, server: str = server) -> bool:
            return slot.server == server and slot.state is State.ACTIVE

        active = fleet.total("seconds", is_active)
        if not any(active):
            continue
        asked = [False] * _WEEK_HOURS
        for hour, seconds in zip(hours, active, strict=True):
            asked[hour] = asked[hour] or seconds > _LEAST_SECONDS
        stretches = _stretches(asked)
        if stretches:
            yield from _scheduled(fleet, server, stretches, hours, calendar)


def _scheduled(
    fleet: Fleet, server: str, stretches: Sequence[tuple[int, int]], hours: Sequence[int], calendar: Calendar
) -> Iterator[Advice | Missing]:
    gpus, name = fleet.gpus_of(server), server_of_replica(server)

    def is_parked(slot: Slot) -> bool:
        return slot.server == server and slot.state is State.PARKED

    energy, seconds = fleet.total("energy_cost", is_parked), fleet.total("seconds", is_parked)
    rent, owned = fleet.total("rent", is_parked), fleet.total("owned_cost", is_parked)
    if not any(seconds):
        return
    idle_watts, is_known = fleet.freed_watts(server)
    prices = fleet.prices()
    start = _start_of(fleet, server)
    paid, all_of_it = column(fleet.quarters), column(fleet.quarters)
    worth: list[tuple[int, int]] = []
    for first, length in stretches:
        members = {(first + step) % _WEEK_HOURS for step in range(length)}
        gained, freed = column(fleet.quarters), column(fleet.quarters)
        for begin, end in runs(hour in members for hour in hours):
            held = fsum(seconds[begin:end])
            if held < 0.5 * (end - begin) * ROW_SECONDS * len(gpus):
                continue  # it was stopped, or nothing is known
            last = end - 1
            for index in range(begin, end):
                kept = idle_watts * seconds[index] / len(gpus) / JOULES_PER_KWH * (prices[index] or 0.0)
                gained[index] += (0.0 if any(rent) else energy[index] - kept) + rent[index]
                if any(rent):
                    gained[index] += energy[index]
                freed[index] += owned[index]
            if start is not None and end < fleet.quarters:
                start_seconds, start_joules = start
                price = prices[last] or 0.0
                # It starts again before the stretch ends, and holds its GPUs from then on.
                gained[last] -= (start_joules - idle_watts * start_seconds) / JOULES_PER_KWH * price
                per_second = start_seconds / held * len(gpus)
                gained[last] -= fsum(rent[begin:end]) * per_second
                freed[last] -= fsum(owned[begin:end]) * per_second
        if fsum(gained) + fsum(freed) > 0.0:
            worth.append((first, length))
            for index, (one, other) in enumerate(zip(gained, freed, strict=True)):
                paid[index] += one
                all_of_it[index] += one + other
    whole = fsum(all_of_it)
    cost = fsum(
        fsum(getattr(use, part)) for slot, use in fleet.uses.items() if slot.server == server for part in _COSTS
    )
    if not worth or whole <= LEAST_RATIO * cost:
        return
    texts = ", ".join(_stretch_texts(worth))
    weeks = fleet.quarters // WEEK
    if start is None:
        yield Missing(
            Kind.SCHEDULE,
            name,
            f"{name} had no requests on {texts} ({calendar.timezone}) in {_count(weeks, 'week')}, but no start of it was"
            " measured: what stopping it there saves is not known. Restart it once while the exporter runs.",
        )
        return
    idle_text = "" if is_known or any(rent) else _UNKNOWN_IDLE
    yield Advice(
        Kind.SCHEDULE,
        name,
        fleet.monthly(all_of_it),
        fleet.monthly(paid).value,
        f"Stop {name} while it has no requests: {texts} ({calendar.timezone}).",
        f"No request ran in these hours in {_count(weeks, 'week')}. Counted: the time it held {gpus_text(fleet, gpus)}"
        f" without work, less idle power, and less a start for each stretch of {start[0]:.0f} s and {start[1] / 1e3:.0f}"
        f" kJ, as measured.{idle_text}",
        f"At the beginning of each stretch: {how_to_stop(name, fleet.owners.get(server))} Start it {start[0]:.0f} s before"
        " the end.",
        details={"start_seconds": start[0], "start_facility_joules": start[1]},
    )


_COSTS = ("energy_cost", "rent", "owned_cost")
_UNKNOWN_IDLE = " That was never measured here: no electricity counts as saved, at most what they draw."


def _start_of(fleet: Fleet, server: str) -> tuple[float, float] | None:
    """(seconds, facility joules of all its GPUs) of a start, as the mean of those measured: of it, else of servers with the
    same model. None where there was none."""
    work = fleet.work.get(server)
    alike = [name for name, other in fleet.work.items() if work is not None and other.model == work.model]
    for names in ([server], alike):
        seconds_of_all, joules_of_all, count = 0.0, 0.0, 0
        for name in names:
            gpus = len(fleet.gpus_of(name)) or 1

            def is_start(slot: Slot, name: str = name) -> bool:
                return slot.server == name and slot.state is State.STARTING

            seconds, joules = fleet.total("seconds", is_start), fleet.total("facility_joules", is_start)
            for begin, end in runs(value > _LEAST_SECONDS for value in seconds):
                count += 1
                seconds_of_all += fsum(seconds[begin:end]) / gpus
                joules_of_all += fsum(joules[begin:end])
        if count:
            return seconds_of_all / count, joules_of_all / count
    return None


def _whole(fleet: Fleet, chosen: Callable[[Slot], bool], first: int) -> tuple[Estimate, float]:
    """Everything that was booked from a quarter-hour on, a month; and of it electricity and rent."""
    parts = [fleet.total(name, chosen)[first:] for name in _COSTS]
    paid = array("d", (one + other for one, other in zip(parts[0], parts[1], strict=True)))
    total = array("d", (one + other for one, other in zip(paid, parts[2], strict=True)))
    skip = len(total) % 96
    return fleet.monthly(total[skip:]), fleet.monthly(paid[skip:]).value


def _money_of_watts(fleet: Fleet, chosen: Callable[[Slot], bool], watts: float, first: int) -> float:
    """What GPUs cost that draw so much for the time of some slots."""
    seconds, prices = fleet.total("seconds", chosen), fleet.prices()
    return fsum(
        seconds[index] * watts / JOULES_PER_KWH * (prices[index] or 0.0) for index in range(first, fleet.quarters)
    )


def _quiet_since(seconds: Column[float]) -> int:
    """The quarter-hour after the last one with use."""
    for index in range(len(seconds) - 1, -1, -1):
        if seconds[index] > _LEAST_SECONDS:
            return index + 1
    return 0


def _hour_of_week(calendar: Calendar, at_seconds: float) -> int:
    local = calendar.local(at_seconds)
    return local.weekday() * 24 + local.hour


def _stretches(asked: Sequence[bool]) -> list[tuple[int, int]]:
    """(first hour, length) of the stretches without requests, around the week's end."""
    if True not in asked:
        return []
    turn = asked.index(True)
    around = [not asked[(turn + step) % _WEEK_HOURS] for step in range(_WEEK_HOURS)]
    return sorted(
        ((turn + begin) % _WEEK_HOURS, end - begin) for begin, end in runs(around) if end - begin >= _LEAST_HOURS
    )


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _stretch_texts(stretches: Sequence[tuple[int, int]]) -> Iterator[str]:
    """The stretches in words; those of the same hours together."""
    days: dict[tuple[int, int], list[int]] = {}
    for first, length in stretches:
        days.setdefault((first % 24, length), []).append(first // 24)
    for (hour, length), found in days.items():
        nights, end = divmod(hour + length, 24)
        if nights > 1:
            for day in found:
                yield f"{_DAYS[day]} {hour:02}:00 to {_DAYS[(day + nights) % 7]} {end:02}:00"
            continue
        named = "every day" if len(found) == 7 else ", ".join(_DAYS[day] for day in found)
        yield f"{named} {hour:02}:00 to {end:02}:00"


def how_to_stop(name: str, owner: ServerWorkload | None) -> str:
    """The command that stops a server, by what it belongs to."""
    if owner is not None and owner.namespace and owner.kind in ("deployment", "statefulset", "replicaset"):
        return f"kubectl -n {owner.namespace} scale {owner.kind}/{owner.workload} --replicas=0."
    if owner is not None and owner.kind == "systemd":
        return f"systemctl stop {owner.workload}."
    if owner is not None and owner.kind == "slurm":
        return f"scancel {owner.workload}."
    return f"stop the process of {name}."


def gpus_text(fleet: Fleet, gpus: Sequence[str]) -> str:
    """GPUs 0, 1."""
    numbers = ", ".join(str(fleet.index_of(gpu)) for gpu in gpus)
    return f"GPU {numbers}" if len(gpus) == 1 else f"GPUs {numbers}"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"

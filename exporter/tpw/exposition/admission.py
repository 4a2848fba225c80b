"""Which connection makes way when the server is full. Pure: no sockets, no threads.

A client can occupy a connection by sending its request slowly, by not reading its answer, or by asking for nothing. None of
these keeps another client out: when a connection is needed, the longest idle one is closed for it, else the request that
has been incomplete longest, else the answer that has been read for longest. One peer cannot take all connections. Only
requests that are being carried out are never interrupted; for the case that they take all places there is a reserve, from
which only health probes and the first request of a peer are answered.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol, TypeVar

PROBES = frozenset({"/-/healthy", "/-/ready"})
"""Paths that a supervisor polls: without them it would restart the process. They expose nothing that is measured."""


class Phase(Enum):
    """What a connection does now. The order of the values is the order in which connections make way."""

    IDLE = 0
    """Its last request is answered, and no byte of another has arrived."""
    RECEIVING = 1
    """Its first request, a later one or the TLS handshake is incomplete."""
    SENDING = 2
    """The client has not read its answer yet."""
    HANDLING = 3
    """The request is being carried out."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of connections. Tuning: a scraper, a probe and a browser need one to six each; a waiting thread costs about
    0.05 MiB."""

    connections: int = 64
    per_peer: int = 48
    """Of one peer. The rest stays for others."""
    reserve: int = 16
    """On top, for probes and the first request of a peer."""


class Seat(Protocol):
    """One open connection."""

    @property
    def peer(self) -> str:
        """See :func:`peer_of`."""

    @property
    def phase(self) -> Phase:
        """What it does now."""

    @property
    def since_seconds(self) -> float:
        """Since when, on the monotonic clock."""

    @property
    def is_reserve(self) -> bool:
        """Whether it was admitted from the reserve."""


AnySeat = TypeVar("AnySeat", bound=Seat)


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a new connection is admitted."""

    admitted: bool
    from_reserve: bool = False


@lru_cache(maxsize=256)
def peer_of(address: str) -> str:
    """Who is behind an address: IPv4 as it is, also where it is mapped into IPv6; of IPv6 the network (/64) that one host
    can choose its addresses from."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def admit(peer: str, seats: Collection[AnySeat], limits: Limits) -> tuple[Admission, AnySeat | None]:
    """Decide about a new connection of a peer.

    Returns:
        The decision, and the connection that makes way for the new one, if one must.
    """
    usual = [seat for seat in seats if not seat.is_reserve]
    count = Counter(seat.peer for seat in usual)
    if len(usual) < limits.connections and count[peer] < limits.per_peer:
        return Admission(admitted=True), None
    if count[peer] >= limits.per_peer:
        rivals = [seat for seat in usual if seat.peer == peer]
    else:
        rivals = sorted(usual, key=lambda seat: -count[seat.peer])
        rivals = [seat for seat in rivals if count[seat.peer] == count[rivals[0].peer]] if rivals else []
        rivals = rivals if _slowest(rivals) is not None else usual
    victim = _slowest(rivals)
    if victim is not None:
        return Admission(admitted=True), victim
    reserved = [seat for seat in seats if seat.is_reserve]
    if len(reserved) < limits.reserve:
        return Admission(admitted=True, from_reserve=True), None
    victim = _slowest(reserved)
    return Admission(admitted=victim is not None, from_reserve=True), victim


def may_use_reserve(seat: Seat, path: str, seats: Collection[Seat]) -> bool:
    """Whether a request is answered on a connection of the reserve: a probe, or the only connection of its peer."""
    return path in PROBES or not any(other.peer == seat.peer and other is not seat for other in seats)


def _slowest(seats: Sequence[AnySeat]) -> AnySeat | None:
    """The connection that makes way first; None if all are carrying out requests."""
    # Phases change on other threads: each is read once.
    found = [(seat.phase.value, seat.since_seconds, index) for index, seat in enumerate(seats)]
    found = [entry for entry in found if entry[0] != Phase.HANDLING.value]
    return seats[min(found)[2]] if found else None

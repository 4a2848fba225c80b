"""Which GPU belongs to which server: scans of the host, processes on the GPUs, and claims of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from tpw.config.schema import Config
from tpw.daemon import sources
from tpw.daemon.podwatch import PodWatch
from tpw.daemon.problems import ProblemLog
from tpw.discovery.kubelet import Kubelet
from tpw.discovery.ownership import AUTO, Claim, occupants, ownership, resolve
from tpw.discovery.partition import parts
from tpw.discovery.placement import justified
from tpw.discovery.processes import HostProcesses
from tpw.discovery.scan import HostScan, scan_host
from tpw.ledger.books import Books
from tpw.model import Gpu, GpuSample, Occupants, Ownership, Part, ServerFault, ServerReading, Sharing
from tpw.polling import AcceleratorPoller
from tpw.tokens.dialects import Dialect

_log = structlog.get_logger("tpw")

SCAN_SECONDS = 15.0
"""Between two scans of processes and sockets, and between two reads of the GPUs' process lists. A scan costs some 10 ms;
a server that starts or stops triggers one at once."""

_CONTEXT_BYTES = 64 * 2**20
"""Less than any process allocates on a GPU first: the context of CUDA or ROCm takes hundreds of MiB."""

Holders = Mapping[str, frozenset[int] | None]
"""Process ids by GPU; None where the driver does not report them."""


class Owners:
    """Decides at every tick which GPU belongs to which server. All methods belong to the tick's thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.scan = HostScan()
        """The newest scan."""
        self.holders: Holders = {}
        """As the driver last listed them."""
        self.parts: Mapping[str, tuple[Part, ...]] = {}
        """Instances of partitioned GPUs."""
        self._sharing: Mapping[str, Sharing] = {}
        self._sharing_read: tuple[Mapping[str, Sharing], ...] = ()
        self._requested_at_seconds = float("-inf")
        self._owners: dict[str, Ownership] = {}
        self._held_before: dict[str, frozenset[int]] = {}
        """Processes on the GPUs of each server when it last answered."""
        self._inputs: tuple[object, ...] = ()
        self._servers_up: set[str] = set()
        self.occupants: Mapping[str, Occupants] = {}
        """Processes on each GPU that belong to no server, as of the last :meth:`owners`."""
        self._scan_requested_for: frozenset[int] = frozenset()
        self._problems = ProblemLog(clock)
        self.notes: tuple[str, ...] = ()

    def receive(self, scan: HostScan) -> None:
        """Use a new scan from now on."""
        self._problems.report(scan.problems)
        if scan != self.scan:
            self.scan = scan

    def update_holders(self, pollers: Sequence[AcceleratorPoller], *, at_once: bool = False) -> None:
        """Use the process lists that were read, and request them again at the pace of scans: they take milliseconds."""
        # The first meter that reports a GPU is the one that counts, here as for its energy.
        held = [poller.holders() for poller in reversed(pollers)]
        merged = {uuid: pids for holders in held if holders for uuid, pids in holders.items()}
        if merged != self.holders:
            self.holders = merged
        read = tuple(poller.sharing() for poller in reversed(pollers))
        if read != self._sharing_read:
            self._sharing_read = read
            self._sharing = {uuid: sharing for by_gpu in read for uuid, sharing in by_gpu.items()}
            self.parts = {uuid: found for uuid, sharing in self._sharing.items() if (found := parts(sharing))}
        now = self._clock()
        if at_once or now - self._requested_at_seconds >= SCAN_SECONDS:
            self._requested_at_seconds = now
            for poller in pollers:
                poller.request_holders()

    def is_taken(self, samples: Iterable[GpuSample], books: Books) -> bool:
        """Whether memory was allocated, or work began, on a GPU that no process held: a server or a job may have started on
        it. Its time is booked to nobody until the process list shows who that is."""
        for sample in samples:
            account = books.gpus.get(sample.uuid)
            before = None if account is None else account.sample
            if before is None or self.holders.get(sample.uuid) != frozenset():
                continue
            memory, was = sample.memory_used_bytes, before.memory_used_bytes
            if memory is not None and was is not None and memory - was > _CONTEXT_BYTES:
                return True
            if sample.utilization_ratio and before.utilization_ratio == 0.0:
                return True
        return False

    def servers_changed(self, books: Books) -> bool:
        """Whether a server went up or down since the last call: one that stopped may have left its GPUs, one that started
        may hold some."""
        up = {name for name, account in books.servers.items() if account.up}
        changed = up != self._servers_up
        self._servers_up = up
        return changed

    def has_new_holders(self) -> bool:
        """Whether the driver lists processes that neither the last scan nor the last call knows."""
        new = frozenset(pid for pids in self.holders.values() for pid in pids or ()) - self.scan.workloads.keys()
        asked = new <= self._scan_requested_for
        self._scan_requested_for = new
        return not asked

    def owners(
        self,
        claims: Mapping[str, Claim],
        outcomes: Sequence[ServerReading | ServerFault],
        gpus: tuple[Gpu, ...],
        books: Books,
    ) -> dict[str, Ownership]:
        """Who owns what at this tick; computed again only when an input has changed."""
        up = {name: account.up for name, account in books.servers.items() if name in claims}
        for outcome in outcomes:
            up[outcome.server] = isinstance(outcome, ServerReading)
        # What did not change is the same object, so this compares references and a few booleans.
        inputs = (self.scan, self.holders, self._sharing, gpus, claims, up)
        if inputs == self._inputs:
            return self._owners
        self._inputs = inputs
        notes: list[str] = []
        claims = {**{one.name: Claim(one.name) for one in self.scan.starting}, **claims}
        answered = {name for name, account in books.servers.items() if account.read_at_seconds is not None}
        owners = {
            name: self._owner(claim, gpus, notes, is_up=up.get(name, False), has_answered=name in answered)
            for name, claim in claims.items()
        }
        for note in notes:
            if note not in self.notes and gpus:
                _log.warning("server_gpus_unknown", detail=note)
        self.notes = tuple(notes)
        self._owners = owners
        self.occupants = occupants(gpus, owners, self.holders, self.scan.blind, self.scan.workloads, self._sharing)
        return owners

    def _owner(
        self, claim: Claim, gpus: tuple[Gpu, ...], notes: list[str], *, is_up: bool, has_answered: bool
    ) -> Ownership:
        name = claim.server
        claim, refusal = justified(
            claim,
            pids=self.scan.pids.get(name),
            has_answered=is_up or has_answered,
            holders=self.holders,
            blind=self.scan.blind,
            gpus=gpus,
        )
        if refusal:
            notes.append(refusal)
        assigned, unclear = self.scan.assigned(name, gpus) if claim.gpus == AUTO else (None, ())
        notes.extend(f"server {name}: {problem}" for problem in unclear)
        owner = ownership(
            claim,
            answering=is_up,
            pids=self.scan.pids.get(name),
            holders=self.holders,
            gpus=gpus,
            foreign_pids=self.scan.foreign(name),
            assigned=assigned,
            sharing=self._sharing,
            started_wall_seconds=self.scan.started.get(name),
            blind=self.scan.blind,
            held_before=self._held_before.get(name, frozenset()),
        )
        if is_up:
            holding = frozenset[int]().union(*(self.holders.get(uuid) or () for uuid in owner.gpus))
            self._held_before[name] = holding - self.scan.foreign(name)
        if isinstance(claim.gpus, tuple):
            problems = resolve(claim.gpus, gpus, self._sharing).problems
            notes.extend(f"server {name}: {problem}" for problem in problems)
        elif claim.gpus == AUTO and is_up and not owner.gpus:
            hidden = len(self.scan.blind)
            if hidden and name in self.scan.pids:
                notes.append(
                    f"server {name}: its GPUs are not known: the driver does not report the processes on {hidden} GPUs,"
                    " and neither the kubelet nor the server's environment names one; list its `gpus`, or write"
                    " `gpus: none`"
                )
        return owner


class Scanner:
    """Scans processes and sockets of this host, on the thread of the caller; one call at a time."""

    def __init__(self) -> None:
        self._made_for: tuple[object, ...] = ()
        self._processes: HostProcesses | None = None
        self._pods = PodWatch()

    def scan(
        self,
        config: Config,
        rows: tuple[Dialect, ...],
        dialects: Mapping[str, Dialect | None],
        holders: Holders,
        books: Books,
    ) -> HostScan:
        """One scan.

        Args:
            config: configured servers, and whether to find others.
            rows: dialects by which a process is recognised as a server.
            dialects: those of the servers that are polled, as far as they are recognised.
            holders: process ids by GPU.
            books: the processes of servers that were found before.
        """
        logs, labels = config.discovery.pod_logs, config.discovery.kubernetes.labels
        self._pods.update(config.discovery.kubernetes)
        if self._processes is None or (rows, logs, labels) != self._made_for:
            self._made_for = rows, logs, labels
            self._processes = HostProcesses(
                dialects=rows, probe=sources.probe, pod_logs=logs, pods=self._pods.pods, pod_labels=labels
            )
        chosen = self._pods.selected(config.servers, rows, books)
        listed = {server.name: server.url for server in config.servers if server.url is not None}
        scan = scan_host(
            self._processes,
            {**listed, **chosen.addresses},
            dialects,
            holders,
            find=config.discovery.processes,
            kubelet=Kubelet(config.discovery.kubelet_checkpoint, config.discovery.kubelet_socket),
            problems=(*self._pods.problems(), *chosen.problems),
            known={name: one.identity for name, one in books.servers.items() if one.identity is not None},
        )
        deployments = {server.name: server.deployment for server in config.servers if server.deployment is not None}
        if deployments:
            scan = scan.with_deployments(deployments, chosen.servers)
        return replace(scan, selected=chosen.servers) if chosen.servers else scan

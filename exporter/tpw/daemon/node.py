"""One tick: read the sources, advance the ledger, save the books, make the snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import structlog

from tpw.config.schema import Config
from tpw.daemon.anomalies import Anomalies
from tpw.daemon.meters import Meters
from tpw.daemon.ownership import Owners
from tpw.daemon.persistence import Persistence, check_currency, source_counts
from tpw.daemon.pricing import Feeds, Pricing
from tpw.daemon.reload import use_tenants
from tpw.daemon.retirement import Retirement
from tpw.daemon.servers import Servers
from tpw.discovery.scan import HostScan
from tpw.ledger.advance import advance, planned
from tpw.ledger.books import Books, SourceAccount
from tpw.ledger.clock import STEP_SECONDS, stepped_since
from tpw.ledger.replicas import merged, merged_owners
from tpw.ledger.rows import price_late
from tpw.ledger.tick import Tick
from tpw.model import Instant, ServerWorkload, SourceStatus
from tpw.polling import SourceHealth
from tpw.power import AcceleratorMeter
from tpw.snapshot import Snapshot, demand_now

_log = structlog.get_logger("tpw")

FIRST_HOLDERS_SECONDS = 0.5
"""How long the start waits for the process lists of the GPUs, which the first scan needs."""


class Node:
    """The sources of this node, and its books. All methods belong to the tick's thread, except where noted.

    Args:
        config: a valid configuration.
        store: where the books are kept.
        clock: monotonic seconds.
        wall: Unix time.
        accelerators: meters to use in place of the configured ones.
        notes: what the operator should know from the start.

    Raises:
        CurrencyError: the books hold another currency.
        ValueError: a meter does not have one of its options.
    """

    def __init__(
        self,
        config: Config,
        store: Persistence,
        clock: Callable[[], float],
        wall: Callable[[], float],
        accelerators: Sequence[AcceleratorMeter] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.store = store
        self.clock, self.wall = clock, wall
        self.books = store.load()
        check_currency(self.books, config)
        self.meters = Meters(config, clock, self.new_health, accelerators)
        self.owners = Owners(clock)
        self.servers = Servers(config, clock, self.new_health, lambda: self.owners.scan)
        self.pricing = Pricing(config, self.new_feeds(config))
        self.continue_counts(self.pricing.feeds)
        use_tenants(self, config)
        self.is_scanned = False
        """Whether a scan was received."""
        self.reload_failed = False
        self._anomalies = Anomalies(clock)
        self._retirement = Retirement(config.state.retire, self.books.at)
        self._given_notes = tuple(notes)
        self.snapshot = Snapshot(self._now(), merged(self.books))
        """The newest one. Replaced as a whole, so any thread may take the reference."""

    def new_health(self, name: str, *, optional: bool = False) -> SourceHealth:
        """A health record with the counts that the books hold. From any thread."""
        counts = self.books.sources.get(name, SourceAccount())
        return SourceHealth(
            name,
            clock=self.clock,
            wall=self.wall,
            reads=counts.reads,
            failures=counts.failures,
            optional=optional,
        )

    def new_feeds(self, config: Config) -> Feeds:
        """The feeds of a configuration, with counts that begin at 0. From any thread."""
        return Feeds(config, partial(SourceHealth, clock=self.clock, wall=self.wall), self.wall)

    def continue_counts(self, feeds: Feeds) -> None:
        """Add what the books have counted of these feeds, before they are shown."""
        for name, health in feeds.health.items():
            counts = self.books.sources.get(name, SourceAccount())
            health.add(counts.reads, counts.failures)

    def open_meters(self, patience_seconds: float) -> None:
        """Open the meters, waiting so long for slow drivers, and read who holds the GPUs, so that the first scan knows."""
        self.meters.begin()
        self.meters.finish(self.clock() + patience_seconds)
        self.owners.update_holders(self.meters.accelerators)
        deadline = self.clock() + FIRST_HOLDERS_SECONDS
        while self.meters.gpus and self.clock() < deadline:
            if all(poller.holders() is not None for poller in self.meters.accelerators):
                break
            time.sleep(0.005)
        self.owners.update_holders(self.meters.accelerators)

    def tick(self, patience_seconds: float, late_seconds: float = 0.0, skipped: int = 0) -> Snapshot:
        """Read everything, book it and return the new snapshot.

        Args:
            patience_seconds: how long slow GPUs and servers are waited for. Who answers later is read by the next tick.
            late_seconds: by how much this tick began late.
            skipped: ticks that were skipped before this one.
        """
        deadline = self.clock() + patience_seconds
        self.meters.begin()
        self.servers.begin()
        self.meters.begin_hosts()
        reading = self.meters.finish(deadline)
        outcomes = self.servers.finish(deadline)
        hosts = self.meters.host_samples()
        at = self._now()
        step_seconds = stepped_since(self.books, at)
        if step_seconds:
            _log.warning(
                "wall_clock_stepped",
                seconds=round(step_seconds, 3),
                detail="The clock of this machine was set. Energy and time are booked by the monotonic clock.",
            )

        self.owners.update_holders(self.meters.accelerators, at_once=self.owners.is_taken(reading.samples, self.books))
        owners = self.owners.owners(self.servers.claims, outcomes, self.meters.gpus, self.books)
        policy = self.pricing.policy
        who = self.owners
        tick = Tick(at, reading, hosts, tuple(outcomes), owners, who.occupants, who.scan.belongs, who.parts)
        books = advance(self.books, tick, policy)
        if self.servers.tenants is not None:
            books = self.servers.tenants.book(self.books, books, at)
        self._anomalies.observe(self.books.servers, books.servers)
        if not policy.standing_charges and "tariff" in self.pricing.feeds.awaited:
            # The contract is not known yet. Its charges are shared late, as energy is priced late.
            books = replace(books, standing_charges_since_seconds=self.books.charged_until_seconds)
        statuses = self.statuses()
        books = replace(
            books, sources=source_counts(books.sources, statuses), polls_skipped=books.polls_skipped + skipped
        )
        before, books = books, self.store.save(books)
        self.books, shown, placed = books, merged(books), merged_owners(self.owners.scan.owners)
        plan = planned(policy, tick, books.gpus)
        shown = shown if plan is None else plan.shown(shown, at.wall_seconds)
        self.snapshot = Snapshot(
            at=at,
            books=shown,
            sources=statuses,
            prices=self.pricing.prices(books, at.wall_seconds),
            carbon=self.pricing.carbon(at.wall_seconds),
            demand=demand_now(policy.demand, books.demand, at.wall_seconds),
            periods=self.store.periods.update(before, books, self.config.tariff.timezone or "UTC"),
            tenant_periods=None if self.servers.tenants is None else self.servers.tenants.periods(before, books),
            budgets=tuple(item.budget() for item in self.config.budgets),
            planned_servers=None if plan is None else plan.servers(shown.servers, at.wall_seconds),
            site=None if policy.site is None else policy.site.now(len(self.meters.gpus), books.quarters),
            pue=policy.pue,
            references=policy.references,
            owners=placed,
            components=policy.components,
            config_reload_successful=not self.reload_failed,
            poll_lag_seconds=late_seconds,
            interval_seconds=self.config.polling.interval,
            store=self.store.status,
            retired=self._retirement.update(shown, at),
            notes=self._notes(shown, placed),
        )
        return self.snapshot

    def receive_scan(self, scan: HostScan) -> None:
        """Poll the servers of a new scan from now on."""
        self.is_scanned = True
        self.owners.receive(scan)
        self.servers.update(self.config)

    def receive_facts(self, feeds: Feeds) -> None:
        """Book by what feeds have reported from now on, unless a reload has replaced them, and price what waited for it."""
        if feeds is self.pricing.feeds:
            self.pricing.update(self.config)
            self.price_late()

    def price_late(self) -> None:
        """Price energy that had no price so far, where there is one now."""
        self.books = price_late(self.books, self.pricing.policy)

    def statuses(self) -> tuple[SourceStatus, ...]:
        """The status of every source. A default meter that this machine does not have is no source but a note."""
        return (
            *(health.status() for health in self.meters.health() if not health.is_omitted),
            *self.servers.statuses(),
            *self.pricing.feeds.statuses(),
            *(() if self.servers.tenants is None else self.servers.tenants.statuses()),
        )

    def awaited(self) -> list[str]:
        """What was not tried yet, one phrase each: scan, meters, servers, books. From any thread."""
        awaited = [] if self.is_scanned else ["the scan of processes"]
        awaited += [
            f"meter {health.name}" for health in self.meters.health() if health.status().read_duration_seconds is None
        ]
        awaited += [
            f"server {status.name.removeprefix('server:')}"
            for status in self.servers.statuses()
            if status.read_duration_seconds is None
        ]
        return [*awaited, *self.store.awaited()]

    def close(self, within_seconds: float) -> None:
        """Close all sources, waiting for hanging drivers no longer than this."""
        self.meters.close(within_seconds)
        self.servers.close()
        self.pricing.feeds.close()

    def _now(self) -> Instant:
        at = Instant(self.clock(), self.wall())
        if self.clock() - at.monotonic_seconds > STEP_SECONDS / 2.0:
            return Instant(self.clock(), self.wall())  # suspended between the two, which is no step of the clock
        return at

    def _notes(self, shown: Books, owners: Mapping[str, ServerWorkload]) -> tuple[str, ...]:
        """What the operator should know, in sentences."""
        notes = [*self._given_notes, *self.owners.notes, *self.owners.scan.problems]
        notes += self.servers.notes(shown, owners)
        notes += [*self.meters.notes(), *self.pricing.notes()]
        notes += [] if self.servers.tenants is None else self.servers.tenants.notes(self.books)
        if self.meters.gpus:
            uuids = {gpu.uuid for gpu in self.meters.gpus}
            notes += [
                f"calibration: this node has no GPU with the UUID {uuid}: `tpw-exporter probe` lists those it has."
                for uuid in self.pricing.policy.calibration.keys() - uuids
            ]
        return (*notes, *self.store.notes())

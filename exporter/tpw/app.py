"""The composition root: everything is put together here, and nowhere else.

One tick, in the scheduler's thread: accelerator meters and servers are asked at the same time, host meters meanwhile; what
has answered by the deadline goes into one step of the ledger; the books are written; the reference to the snapshot is
swapped. The scan for servers and the look at prices have slow ticks of their own on another thread and hand over finished
values; whatever changes the sources waits for the next tick, so that the sources belong to one thread.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue

import structlog

from tpw import assembly
from tpw.config.schema import Config, Server
from tpw.discovery.kubelet import Checkpoint
from tpw.discovery.ownership import AUTO, Claim, bus_id, ownership, resolve
from tpw.discovery.partition import parts
from tpw.discovery.processes import HostProcesses
from tpw.discovery.scan import HostScan, scan_host
from tpw.ledger.advance import advance
from tpw.ledger.books import LONGEST_SECONDS, Books, SourceAccount
from tpw.ledger.rows import price_late, unpriced_since, without_closed
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Gpu,
    GpuFault,
    GpuSample,
    HostSample,
    Instant,
    OsProcess,
    Ownership,
    Part,
    ServerFault,
    ServerReading,
    Sharing,
    SourceError,
    SourceStatus,
)
from tpw.outlook import Facts, Outlook
from tpw.polling import AcceleratorPoller, HostPoller, SourceHealth, TokenPoller
from tpw.power import AcceleratorMeter
from tpw.scheduler import TICK, Scheduler
from tpw.snapshot import Carbon, DemandNow, Prices, Snapshot, demand_now
from tpw.store.sqlite import BooksFile
from tpw.tokens.dialects import Dialect
from tpw.tokens.scrape import ScrapeSource

_log = structlog.get_logger("tpw")

SCAN_SECONDS = 15.0
"""How often processes and sockets are looked at."""
PRICE_SECONDS = 60.0
"""How often the price source is asked what it knows."""
FIRST_LOOK_SECONDS = 1.5
"""The first look waits longer: what was used while the daemon was down belongs to whoever worked then."""
HOLDERS_SECONDS = 0.5
RELEASE_SECONDS = 2.0
STORE_RETRY_SECONDS = 10.0


class CurrencyError(Exception):
    """The books hold money in one currency, the configuration names another."""


class Daemon:
    """The daemon, without its HTTP server and its signals.

    ``start`` and ``stop`` belong to one thread; ``snapshot`` and ``reload`` to any.

    Args:
        config: a valid configuration.
        books_file: where the books are kept; None keeps them in memory only.
        clock: monotonic seconds.
        wall: Unix time.
        accelerators: meters to use in place of the configured ones (the demo's).
        notes: what the operator should know from the start.

    Raises:
        CurrencyError: the books hold another currency.
        ValueError: a meter does not know one of its options.
    """

    def __init__(
        self,
        config: Config,
        books_file: BooksFile | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        accelerators: Sequence[AcceleratorMeter] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self._clock, self._wall = clock, wall
        self._config = config
        self._file = books_file
        self._books = Books() if books_file is None else books_file.load()
        _check_currency(self._books, config)
        self._given_accelerators = accelerators
        self._given_notes = tuple(notes)

        self._accelerators = self._accelerator_pollers()
        self._hosts = self._host_pollers()
        self._tokens = TokenPoller((), clock, health_of=self._health)
        self._sources: dict[str, ScrapeSource] = {}
        self._made_of: dict[str, Server] = {}
        self._claims: dict[str, Claim] = {}
        self._was_up: set[str] = set()
        self._rows = assembly.dialects(config)

        self._outlook = Outlook(config, self._health, wall)
        self._policy = Policy()

        self._processes = HostProcesses(dialects=self._rows, probe=assembly.probe)
        self._census = HostScan()
        self._holders: Mapping[str, frozenset[int] | None] = {}
        self._sharing: Mapping[str, Sharing] = {}
        self._sharing_read: tuple[Mapping[str, Sharing], ...] = ()
        self._parts: Mapping[str, tuple[Part, ...]] = {}
        self._holders_asked_at = float("-inf")
        self._gpus: tuple[Gpu, ...] = ()
        self._told_twice: list[str] = []
        self._owners: dict[str, Ownership] = {}
        self._owners_of: tuple[object, ...] = ()
        self._owner_notes: tuple[str, ...] = ()
        self._server_notes: dict[str, str] = {}
        self._left_out: tuple[str, ...] = ()

        self._scheduler = Scheduler()
        self._mail: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._scanning = threading.Lock()
        self._ticking = threading.Lock()
        self._last_tick_at: float | None = None
        self._lag_seconds = 0.0
        self._reload_successful = True
        self._released = False
        self._store_retry_at = float("-inf")
        self._store_down = False
        self._written_wall: float | None = None
        self.fatal: SourceError | None = None
        """Set once only a new process can go on."""
        self.snapshot = Snapshot(Instant(clock(), wall()), self._books)
        """The newest one. Swapped whole: take the reference once."""
        self.on_snapshot: Callable[[Snapshot], None] | None = None
        """Told each new snapshot, in the tick's thread."""

    # ------------------------------------------------------------------------------------------------------------ life

    def look(self) -> None:
        """Look once at everything. ``snapshot`` is complete from then on."""
        self._look_at_prices()
        self._first_holders()
        self._scan()
        self._tick(FIRST_LOOK_SECONDS)

    def look_again(self) -> None:
        """One more tick, for those who do not start the daemon."""
        self._tick(FIRST_LOOK_SECONDS)

    def holders(self) -> Mapping[str, frozenset[int] | None]:
        """Process ids by GPU, as the driver listed them last; None where it does not tell."""
        return self._holders

    def start(self) -> None:
        """Look once at everything, then begin to tick."""
        self.look()
        self._scheduler.every(TICK, self._config.polling.interval, self._scheduled_tick)
        self._scheduler.every("scan", SCAN_SECONDS, self._scan)
        self._scheduler.every("prices", PRICE_SECONDS, self._look_at_prices)
        self._scheduler.start()

    def keep_ticking(self) -> None:
        """To be called now and then: makes a tick due that the wall clock, set back, would let wait for hours."""
        patience = max(5.0, 5.0 * self._config.polling.interval)
        if self._last_tick_at is not None and self._clock() - self._last_tick_at > patience:
            self._scheduler.nudge()

    def stop(self) -> None:
        """End everything within some two seconds. Everything that was booked is written already."""
        self._scheduler.stop()
        # A tick in progress ends first; one that hangs is left behind.
        has_ended = self._ticking.acquire(timeout=2.0)
        deadline = self._clock() + 1.0
        for poller in self._accelerators:
            poller.close(deadline)
        for host in self._hosts:
            host.close()
        self._tokens.close()
        self._outlook.close()
        if self._file is not None and has_ended:
            self._file.close()

    def reload(self, config: Config, apply_within_seconds: float = 10.0) -> None:
        """Put another configuration in force at the next tick, and wait for it. What is booked stays as it is.

        Raises:
            CurrencyError, ValueError: as the constructor; nothing has changed then.
            TimeoutError: no tick came in time; it will be in force with the next one.
        """
        try:
            _check_currency(self._books, config)
            assembly.examine(config)
            outlook = Outlook(config, self._health, self._wall)
        except (CurrencyError, ValueError):
            self._reload_successful = False
            raise
        # Asked here, in the caller's thread: a feed may take many seconds, and the ticks must not wait for it.
        outlook.ask(self._prices_wanted_since())
        done = threading.Event()

        def apply() -> None:
            self._apply(config, outlook)
            done.set()

        self._mail.put(apply)
        if not done.wait(apply_within_seconds):
            raise TimeoutError("no tick came: the pollers do not move")

    def reload_failed(self) -> None:
        """A configuration could not even be read: say so in the metrics."""
        self._reload_successful = False

    def release(self, within_seconds: float = 0.0) -> bool:
        """Let go of the accelerators' drivers at the next tick, so that somebody else can reset or partition a GPU.

        Args:
            within_seconds: how long to wait for it.

        Returns:
            Whether no driver has a client here any more. False where that takes longer: it is done as soon as it can be.
        """
        done: SimpleQueue[bool] = SimpleQueue()

        def let_go() -> None:
            self._released = True
            deadline = self._clock() + RELEASE_SECONDS
            clinging = [poller for poller in self._accelerators if not poller.release(deadline)]
            if not clinging:
                _log.info("drivers released")
            else:
                _log.warning("drivers not released yet", hint="a call has not returned; it is done when it does")
            done.put(not clinging)

        self._mail.put(let_go)
        try:
            return done.get(timeout=within_seconds)
        except Empty:
            return False

    def resume(self, within_seconds: float = 0.0) -> bool:
        """Take them up again at the next tick, and wait so long for it. Whether it has come."""
        done = threading.Event()

        def take_up() -> None:
            self._released = False
            for poller in self._accelerators:
                poller.resume()
            _log.info("drivers resumed")
            done.set()

        self._mail.put(take_up)
        return done.wait(within_seconds)

    # ------------------------------------------------------------------------------------------------------------ tick

    def _scheduled_tick(self) -> None:
        self._lag_seconds = self._scheduler.lag_seconds()
        self._tick(0.5 * self._config.polling.interval)

    def _tick(self, patience_seconds: float) -> None:
        with self._ticking:
            try:
                self._tick_once(patience_seconds)
            except Exception:  # noqa: BLE001 - the ticks must go on
                # A bug of ours: this tick is lost, its joules and tokens come with the next one.
                _log.exception("tick failed")

    def _tick_once(self, patience_seconds: float) -> None:
        self._take_mail()
        begun = self._clock()
        for poller in self._accelerators:
            poller.begin()
        self._tokens.begin()
        for host in self._hosts:
            host.begin()
        deadline = begun + patience_seconds
        seen = [poller.finish(deadline) for poller in self._accelerators]
        reading = _merged(seen)
        self._told_twice = _told_twice(seen, reading)
        looks = self._tokens.finish(deadline)
        self._take_notes(looks)
        hosts = tuple(sample for host in self._hosts for sample in _host_samples(host))
        at = Instant(self._clock(), self._wall())

        self._ask_for_holders(at.monotonic_seconds)
        self._gpus = reading.gpus
        owners = self._owners_now(looks)
        books = advance(self._books, Tick(at, reading, hosts, tuple(looks), owners, self._parts), self._policy)
        interval = self._config.polling.interval
        skipped = 0 if self._last_tick_at is None else max(0, round((begun - self._last_tick_at) / interval) - 1)
        self._last_tick_at = begun
        statuses = self._statuses()
        books = replace(books, sources=_counts(books.sources, statuses), polls_skipped=books.polls_skipped + skipped)
        books = self._saved(books)
        self._books = books
        self.snapshot = Snapshot(
            at=at,
            books=books,
            sources=statuses,
            prices=self._prices_at(at.wall_seconds),
            carbon=self._carbon_at(at.wall_seconds),
            demand=self._demand_at(at.wall_seconds),
            pue=self._policy.pue,
            references=self._policy.references,
            components=self._policy.components,
            config_reload_successful=self._reload_successful,
            poll_lag_seconds=self._lag_seconds,
            interval_seconds=interval,
            store_written_wall_seconds=self._written_wall,
            notes=self._notes(),
        )
        if self.on_snapshot is not None:
            self.on_snapshot(self.snapshot)
        for poller in self._accelerators:
            if poller.fatal is not None:
                self.fatal = poller.fatal
        self._notice_changes()

    def _take_notes(self, looks: Sequence[ServerReading | ServerFault]) -> None:
        """What servers could tell and do not, said once each."""
        for look in looks:
            if isinstance(look, ServerReading) and look.note != self._server_notes.get(look.server, ""):
                if look.note:
                    _log.warning("not all is told", server=look.server, detail=look.note)
                self._server_notes[look.server] = look.note

    def _take_mail(self) -> None:
        while True:
            try:
                job = self._mail.get_nowait()
            except Empty:
                return
            job()

    def _saved(self, books: Books) -> Books:
        """Write the books, and the books to go on with. A full disk must not stop the counting."""
        if self._file is None:
            return without_closed(books)
        if self._clock() < self._store_retry_at:
            return books
        try:
            books = self._file.save(books)
        except OSError as error:
            self._store_retry_at = self._clock() + STORE_RETRY_SECONDS
            if not self._store_down:
                _log.error(
                    "books not written",
                    detail=str(error),
                    hint="counting goes on in memory; free or repair the disk, it is tried again every 10 s",
                )
            self._store_down = True
            return books
        if self._store_down:
            _log.info("books written again")
        self._store_down = False
        self._written_wall = self._wall()
        return books

    # ---------------------------------------------------------------------------------------------------------- owners

    def _owners_now(self, looks: Sequence[ServerReading | ServerFault]) -> dict[str, Ownership]:
        """Who owns what at this tick; reckoned anew only when something it depends on has changed."""
        answering = {name: account.up for name, account in self._books.servers.items() if name in self._claims}
        for look in looks:
            answering[look.server] = isinstance(look, ServerReading)
        # What did not change is the same object, so this compares references and the few answers.
        key = (self._census, self._holders, self._sharing, self._gpus, self._claims, answering)
        if key == self._owners_of:
            return self._owners
        self._owners_of = key
        notes: list[str] = []
        owners: dict[str, Ownership] = {}
        for name, claim in self._claims.items():
            assigned, unclear = self._census.assigned(name, self._gpus) if claim.gpus == AUTO else (None, ())
            notes.extend(f"server {name}: {problem}" for problem in unclear)
            owners[name] = ownership(
                claim,
                answering=answering.get(name, False),
                pids=self._census.pids.get(name),
                holders=self._holders,
                gpus=self._gpus,
                foreign_pids=self._census.foreign(name),
                assigned=assigned,
                sharing=self._sharing,
            )
            if isinstance(claim.gpus, tuple):
                problems = resolve(claim.gpus, self._gpus, self._sharing).problems
                notes.extend(f"server {name}: {problem}" for problem in problems)
            elif claim.gpus == AUTO and answering.get(name) and not owners[name].gpus:
                blind = len(self._census.blind)
                if blind and name in self._census.pids:
                    notes.append(
                        f"server {name}: which GPUs are its own is not known: no driver tells here who uses {blind} of"
                        " them, and neither the kubelet nor the server's environment names one; list its `gpus`, or"
                        " write `gpus: none`"
                    )
        for note in notes:
            if note not in self._owner_notes and self._gpus:
                _log.warning("gpu of a server not known", detail=note)
        self._owner_notes = tuple(notes)
        self._owners = owners
        return owners

    def _ask_for_holders(self, now: float) -> None:
        """Process lists are slow to read: on the scan's rhythm, in the poller's own time."""
        # The first meter that tells a board is the one that counts, here as for its joules.
        held = [poller.holders() for poller in reversed(self._accelerators)]
        merged = {uuid: pids for holders in held if holders for uuid, pids in holders.items()}
        if merged != self._holders:
            self._holders = merged
        read = tuple(poller.sharing() for poller in reversed(self._accelerators))
        if read != self._sharing_read:
            self._sharing_read = read
            self._sharing = {uuid: sharing for of in read for uuid, sharing in of.items()}
            self._parts = {uuid: found for uuid, of in self._sharing.items() if (found := parts(of))}
        if now - self._holders_asked_at >= SCAN_SECONDS:
            self._holders_asked_at = now
            for poller in self._accelerators:
                poller.request_holders()

    def _first_holders(self) -> None:
        """Open the meters and learn who holds the GPUs, so that the first scan already knows whose they are."""
        for poller in self._accelerators:
            poller.begin()
        deadline = self._clock() + FIRST_LOOK_SECONDS
        self._gpus = _merged([poller.finish(deadline) for poller in self._accelerators]).gpus
        self._ask_for_holders(self._clock())
        deadline = self._clock() + HOLDERS_SECONDS
        while self._gpus and self._clock() < deadline:
            if all(poller.holders() is not None for poller in self._accelerators):
                break
            time.sleep(0.005)
        self._ask_for_holders(self._clock())

    def _notice_changes(self) -> None:
        """Look at once, not at the next scan: a server that has just gone may have left its GPUs, one that has just come
        has taken some, and which processes are its own is sure once its engine is known."""
        up = {name for name, account in self._books.servers.items() if account.up}
        if self._was_up != up:
            self._holders_asked_at = float("-inf")
            self._ask_for_holders(self._clock())
            self._scheduler.once("scan-now", self._scan)
        self._was_up = up

    # ------------------------------------------------------------------------------------------------------------ scan

    def _scan(self) -> None:
        """Look at processes and sockets, and hand over what was seen."""
        if not self._scanning.acquire(blocking=False):
            return
        try:
            config = self._config
            configured = {server.name: server.url for server in config.servers if server.url is not None}
            dialects: dict[str, Dialect | None] = {name: source.dialect for name, source in self._sources.items()}
            census = scan_host(
                self._processes,
                configured,
                dialects,
                self._holders,
                find=config.discovery.processes,
                kubelet=Checkpoint(config.discovery.kubelet_checkpoint),
            )
            self._mail.put(lambda: self._take_census(census))
        except Exception:  # noqa: BLE001 - the next scan may do better
            _log.exception("scan failed")
        finally:
            self._scanning.release()

    def _take_census(self, census: HostScan) -> None:
        for problem in census.problems:
            if problem not in self._census.problems:
                _log.warning("not all can be seen", detail=problem)
        if census != self._census:
            self._census = census
        self._make_sources()

    def _make_sources(self) -> None:
        """Sources and claims of the servers there are: configured ones, and those that were found."""
        wanted: dict[str, Server] = {server.name: server for server in self._config.servers}
        for found in self._census.found:
            if found.name not in wanted:
                wanted[found.name] = Server(name=found.name, url=found.url, engine=found.engine)
        if wanted == self._made_of:
            return
        sources: dict[str, ScrapeSource] = {}
        for name, server in wanted.items():
            if server.url is None:
                continue
            kept = self._sources.get(name)
            if kept is None or self._made_of.get(name) != server:
                kept = assembly.token_source(server, self._rows, self._clock, self._process_of(name, server.url))
            sources[name] = kept
        for name in wanted.keys() - self._made_of.keys():
            if name not in {server.name for server in self._config.servers}:
                _log.info("server found", server=name, url=wanted[name].url)
        for name in self._made_of.keys() - wanted.keys():
            _log.info("server gone", server=name)
        self._made_of = wanted
        self._sources = sources
        self._claims = {name: assembly.claim(server) for name, server in wanted.items()}
        self._tokens.set_sources(list(sources.values()))

    def _process_of(self, name: str, url: str) -> Callable[[], OsProcess | None]:
        """Who listens at a server's address; nobody that is known while only another address was looked at."""

        def now() -> OsProcess | None:
            return self._census.processes.get(name) if self._census.addresses.get(name) == url else None

        return now

    # ---------------------------------------------------------------------------------------------------------- prices

    def _look_at_prices(self) -> None:
        """Ask the outlook in force what is known, and hand it over."""
        outlook = self._outlook
        facts = outlook.ask(self._prices_wanted_since())

        def hand_over() -> None:
            if outlook is self._outlook:  # not replaced by a reload meanwhile
                self._take_facts(facts)

        self._mail.put(hand_over)

    def _prices_wanted_since(self) -> float:
        """Since when there is energy whose price may still be needed."""
        books, now = self._books, self._wall()
        wanted = [now]
        for account in books.gpus.values():
            wanted += [piece.start_seconds for piece in account.pending[:1]]
            wanted += [] if account.away_since_seconds is None else [account.away_since_seconds]
        if books.resumed and books.at is not None:
            wanted.append(books.at.wall_seconds)
        unpriced = unpriced_since(books)
        wanted += [] if unpriced is None else [unpriced]
        return max(min(wanted), now - LONGEST_SECONDS)

    def _take_facts(self, facts: Facts) -> None:
        self._policy = assembly.policy(self._config, facts)
        self._books = price_late(self._books, self._policy)
        for said in facts.contract.left_out:
            if said not in self._left_out:
                _log.warning("not all of the contract is charged", detail=said)
        self._left_out = facts.contract.left_out

    def _prices_at(self, wall_seconds: float) -> Prices:
        curve = self._outlook.facts.curve
        if curve is None:
            return Prices()
        used = self._books.month_kwh
        now, following = (
            each
            and replace(each, price_per_kwh=each.price_after(used.get(each.month_start_seconds or 0.0, 0.0)), steps=())
            for each in (curve.at(wall_seconds), curve.next_change(wall_seconds))
        )
        return Prices(self._policy.currency, now, following)

    def _carbon_at(self, wall_seconds: float) -> Carbon | None:
        facts = self._outlook.facts
        found = None if facts.intensities is None else facts.intensities.at(wall_seconds)
        return None if found is None else Carbon(facts.carbon_basis, found.grams_per_kwh)

    def _demand_at(self, wall_seconds: float) -> DemandNow | None:
        return demand_now(self._policy.demand, self._books.demand, wall_seconds)

    # ---------------------------------------------------------------------------------------------------------- making

    def _apply(self, config: Config, outlook: Outlook) -> None:
        """Put a checked configuration in force. In the tick's thread, between two ticks."""
        old, self._config = self._config, config
        deadline = self._clock() + 1.0
        if config.accelerators != old.accelerators and self._given_accelerators is None:
            for poller in self._accelerators:
                poller.close(deadline)
            self._accelerators = self._accelerator_pollers()
            for poller in self._accelerators if self._released else ():
                poller.release(deadline)  # whoever has the GPUs now still has them
        if config.host != old.host:
            for host in self._hosts:
                host.close()
            self._hosts = self._host_pollers()
        if config.dialects != old.dialects:
            self._rows = assembly.dialects(config)
            self._processes = HostProcesses(dialects=self._rows, probe=assembly.probe)
            self._made_of = {}
        self._make_sources()
        self._outlook.close()
        self._outlook = outlook
        self._take_facts(outlook.facts)
        if config.polling.interval != old.polling.interval:
            self._scheduler.every(TICK, config.polling.interval, self._scheduled_tick)
        for key in ("state", "web", "log"):
            if getattr(config, key) != getattr(old, key):
                _log.warning("takes effect at the next start", section=key)
        self._reload_successful = True
        self._scheduler.once("scan-now", self._scan)
        _log.info("configuration reloaded")

    def _accelerator_pollers(self) -> list[AcceleratorPoller]:
        if self._given_accelerators is not None:
            return [
                AcceleratorPoller(meter, self._clock, health=self._health(meter.name))
                for meter in self._given_accelerators
            ]
        meters = assembly.accelerator_meters(self._config, self._clock)
        return [
            AcceleratorPoller(meter, self._clock, health=self._health(meter.name, optional=chosen.optional))
            for chosen, meter in zip(self._config.accelerators, meters, strict=True)
        ]

    def _host_pollers(self) -> list[HostPoller]:
        meters = assembly.host_meters(self._config, self._clock)
        return [
            HostPoller(meter, self._clock, health=self._health(meter.name, optional=chosen.optional))
            for chosen, meter in zip(self._config.host.meters, meters, strict=True)
        ]

    def _health(self, name: str, *, optional: bool = False) -> SourceHealth:
        counts = self._books.sources.get(name, SourceAccount())
        return SourceHealth(
            name,
            clock=self._clock,
            wall=self._wall,
            reads=counts.reads,
            failures=counts.failures,
            optional=optional,
        )

    def _meter_health(self) -> tuple[SourceHealth, ...]:
        return (*(poller.health for poller in self._accelerators), *(host.health for host in self._hosts))

    def _statuses(self) -> tuple[SourceStatus, ...]:
        """The sources there are. A default meter that this machine does not have is none: a note tells of it."""
        return (
            *(health.status() for health in self._meter_health() if not health.is_omitted),
            *self._tokens.statuses(),
            *self._outlook.statuses(),
        )

    def _notes(self) -> tuple[str, ...]:
        notes = [*self._given_notes, *self._owner_notes, *self._census.problems]
        notes += [
            f"server {name}: {note}" for name, note in self._server_notes.items() if note and name in self._claims
        ]
        for health in self._meter_health():
            if health.is_omitted:
                status = health.status()
                notes.append(f"{health.name} is not read: {status.detail}. {status.hint}".rstrip())
        notes.extend(note for poller in self._accelerators for note in poller.notes)
        notes.extend(note for host in self._hosts for note in host.notes)
        notes += [
            f"{uuid} is told by several meters of `accelerators`: only the first of them counts."
            for uuid in self._told_twice
        ]
        notes += [f"tariff: {said}." for said in self._left_out]
        if not self._outlook.has_tariff:
            notes.append("No tariff is configured, so nothing has a price: add `tariff:` to the configuration.")
        if self._gpus:
            here = {gpu.uuid for gpu in self._gpus}
            notes += [
                f"calibration: no GPU here has the UUID {uuid}: `tpw-exporter probe` shows those that are."
                for uuid in self._policy.calibration.keys() - here
            ]
        if self._released:
            notes.append("The GPUs' driver was let go of on request: `POST /-/resume` (or SIGUSR2) takes it up again.")
        if self._store_down:
            notes.append("The books are not being written: see the log.")
        return tuple(notes)


def _check_currency(books: Books, config: Config) -> None:
    """One currency per set of books."""
    wanted = config.tariff.currency
    if not wanted or not books.currency or wanted == books.currency:
        return
    booked = any(posting.cost or posting.credit for posting in books.postings.values())
    if booked or any(account.reference_cost for account in books.servers.values()):
        raise CurrencyError(
            f"tariff.currency is {wanted}, but the books in the state directory hold {books.currency}: money in them would"
            " be relabelled. Keep the currency, or give a new --state.dir."
        )


def _merged(readings: Sequence[AcceleratorReading]) -> AcceleratorReading:
    """What all meters saw. A board that several of them tell is the first one's, or it would be booked twice: by its UUID,
    or under another name the same place on the bus."""
    if len(readings) == 1:
        return readings[0]
    known: dict[str, Gpu] = {}
    samples: list[GpuSample] = []
    faults: list[GpuFault] = []
    for reading in readings:
        places = {bus_id(gpu.pci_bus_id) for gpu in known.values()} - {()}
        mine = {gpu.uuid: gpu for gpu in reading.gpus if gpu.uuid not in known and bus_id(gpu.pci_bus_id) not in places}
        samples += [sample for sample in reading.samples if sample.uuid in mine]
        faults += [fault for fault in reading.faults if fault.uuid in mine]
        known |= mine
    return AcceleratorReading(tuple(known.values()), tuple(samples), tuple(faults))


def _told_twice(readings: Sequence[AcceleratorReading], merged: AcceleratorReading) -> list[str]:
    """UUIDs of boards that more than one meter tells, as those call them that do not count."""
    if len(readings) == 1:
        return []
    uuids = Counter(gpu.uuid for reading in readings for gpu in reading.gpus)
    counted = {gpu.uuid for gpu in merged.gpus}
    return sorted(uuid for uuid, meters in uuids.items() if meters > 1 or uuid not in counted)


def _host_samples(host: HostPoller) -> tuple[HostSample, ...]:
    reading = host.finish()
    return () if reading is None else reading.samples


def _counts(before: Mapping[str, SourceAccount], statuses: Sequence[SourceStatus]) -> Mapping[str, SourceAccount]:
    """Counts of the sources for the books; an account object that did not change stays the same one."""
    after = dict(before)
    for status in statuses:
        known = before.get(status.name)
        if known is None or known.reads != status.reads:
            after[status.name] = SourceAccount(status.reads, dict(status.failures))
    return after

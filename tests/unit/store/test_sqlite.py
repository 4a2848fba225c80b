"""The books on disk."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.days import START_MONOTONIC, START_WALL, Steps, Stretch, stretches, ticks
from support.examples import examples
from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import (
    ROW_SECONDS,
    Books,
    Check,
    GpuAccount,
    HostShare,
    Pending,
    PostingKey,
    ServerAccount,
    SourceAccount,
)
from tpw.ledger.rows import without_closed
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Calibration,
    Gpu,
    GpuSample,
    InFlight,
    Instant,
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    StandingCharge,
    State,
    Tier,
    TokenKind,
    TokenSeries,
    Workload,
    WorkloadKind,
)
from tpw.store import codec
from tpw.store.files import FILE_NAME, StoreError
from tpw.store.queries import rows_where, served_where
from tpw.store.reading import BooksReader
from tpw.store.sqlite import BooksFile
from tpw.tariff.demand import Demand, DemandRules

CAPTURES = Path(__file__).parents[2] / "captures"
POLICY = Policy(
    currency="EUR",
    curve=Steps((0.3, -0.1, None), 2.0),
    demand=(DemandRules(3.0, window_seconds=2.0), DemandRules(5.0, "upper", above_kw=0.2, window_seconds=60.0)),
)


def kept(books: Books) -> Books:
    """What of the books is kept: no gauges, no windows, no monotonic instants; rows while they are open."""
    return replace(
        without_closed(books),
        at=None,
        resumed=True,
        gpus={
            uuid: replace(
                account,
                up=False,
                sample=None,
                baseline_watts=None,
                baseline_at_seconds=None,
                last_gap_seconds=0.0,
                earlier_gap_seconds=0.0,
                refresh_seconds=0.0,
                still_since_seconds=None,
                still_joules=0.0,
                check=Check(),
                division=None,
                gpu=replace(account.gpu, method_note=""),
            )
            for uuid, account in books.gpus.items()
        },
        hosts={
            name: replace(
                account,
                power_watts=None,
                baseline_joules=None,
                baseline_watts=None,
                baseline_at_seconds=None,
                gap_seconds=0.0,
            )
            for name, account in books.hosts.items()
        },
        host_share=HostShare(),
        servers={
            name: replace(
                account,
                up=False,
                active=False,
                gpus=frozenset(),
                loads=(),
                window=(),
                window_seconds=0.0,
                read_wall_seconds=None,
                read_at_seconds=None,
                doubted={},
                phases=account.phases and replace(account.phases, block=None),
            )
            for name, account in books.servers.items()
        },
    )


@settings(max_examples=examples(100), deadline=None)
@given(stretches())
def test_what_was_saved_tick_by_tick_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch
) -> None:
    directory = tmp_path_factory.mktemp("books")
    file = BooksFile(directory)
    last = Books()
    for tick in ticks(stretch):
        books = advance(last, tick, POLICY)
        last = file.save(replace(books, sources={"nvml": SourceAccount(books.polls, {"timeout": 2})}))
    file.close()

    again = BooksFile(directory)
    loaded = again.load()
    again.close()

    assert loaded.at is not None and last.at is not None
    assert loaded.at.wall_seconds == last.at.wall_seconds
    assert replace(loaded, at=None) == kept(last)


@settings(max_examples=examples(100), deadline=None)
@given(stretches(), st.integers(0, 11))
def test_rows_on_disk_sum_to_the_counters_across_restarts(
    tmp_path_factory: pytest.TempPathFactory, stretch: Stretch, restart_at: int
) -> None:
    """Closed rows leave the memory, the clock is set to and fro, restarts come between: nothing is lost or doubled."""
    directory = tmp_path_factory.mktemp("books")
    file = BooksFile(directory)
    books = Books()
    for number, tick in enumerate(ticks(stretch)):
        if number == restart_at:
            file.close()
            file = BooksFile(directory)
            books = file.load()
        set_to = tick.at.wall_seconds + 10_800.0 * (number // 2 % 2)
        books = file.save(advance(books, replace(tick, at=replace(tick.at, wall_seconds=set_to)), POLICY))
    file.close()

    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        rows = rows_where(connection, "1", ())
        served = served_where(connection, "1", ())
    connection.close()
    for key, posting in books.postings.items():
        of_key = [row[key] for row in rows.values() if key in row]
        assert math.fsum(one.joules for one in of_key) == pytest.approx(posting.joules, rel=1e-9)
        assert math.fsum(one.seconds for one in of_key) == pytest.approx(posting.seconds, rel=1e-9)
        for component, cost in posting.cost.items():
            assert math.fsum(one.cost.get(component, 0.0) for one in of_key) == pytest.approx(cost, rel=1e-9)
    for name, account in books.servers.items():
        for (model, kind), tokens in account.tokens.items():
            of_server = [row[name, model] for row in served.values() if (name, model) in row]
            assert math.fsum(one.tokens.get(kind, 0.0) for one in of_server) == pytest.approx(tokens, rel=1e-9)


def test_a_clock_that_is_set_to_and_fro_loses_nothing_of_a_row_that_was_closed(tmp_path: Path) -> None:
    """The row leaves the memory with the save of one tick and is begun anew in the next."""
    file = BooksFile(tmp_path)
    key, start = PostingKey("GPU-0", "", "", State.IDLE), START_WALL // ROW_SECONDS * ROW_SECONDS
    later = start + 20 * ROW_SECONDS
    for _ in range(3):
        row, work = {key: Amounts(seconds=1.0)}, {("s", "m"): Served(requests=1.0)}
        for at in (start + 1.0, later):
            file.save(Books(at=Instant(0.0, at), rows={start: row}, served={start: work}))
    file.close()

    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        assert rows_where(connection, "1", ()) == {start: {key: Amounts(seconds=3.0)}}
        assert served_where(connection, "1", ()) == {start: {("s", "m"): Served(requests=3.0)}}
    connection.close()


def test_a_row_of_which_a_part_awaits_its_price_is_loaded_whole(tmp_path: Path) -> None:
    """An addition to a row in memory does not read the disk."""
    unpriced, priced = PostingKey("GPU-0", "", "", State.IDLE), PostingKey("GPU-1", "", "", State.IDLE)
    start = START_WALL // ROW_SECONDS * ROW_SECONDS
    row = {unpriced: Amounts(facility_joules=5.0, unpriced_joules=5.0), priced: Amounts(facility_joules=7.0)}
    file = BooksFile(tmp_path)
    file.save(Books(at=Instant(0.0, start + 1.0), rows={start: row}))
    file.save(Books(at=Instant(0.0, start + 86400.0), rows={start: row}))
    file.close()

    again = BooksFile(tmp_path)
    assert again.load().rows == {start: row}
    again.close()


def test_where_a_counter_stood_before_it_stepped_back_is_kept(tmp_path: Path) -> None:
    file = BooksFile(tmp_path)
    file.save(Books(at=Instant(1.0, 2.0), gpus={"GPU-0": GpuAccount(Gpu("GPU-0", 0), mark_joules=5000.0)}))
    file.close()

    again = BooksFile(tmp_path)
    assert again.load().gpus["GPU-0"].mark_joules == 5000.0
    again.close()


def test_a_killed_daemon_finds_everything_it_had_committed(tmp_path: Path) -> None:
    """What kill -9 leaves: the file without a clean close, its journal beside it."""
    file = BooksFile(tmp_path)
    file.save(Books(at=Instant(START_MONOTONIC, START_WALL), polls=41))
    file.save(Books(at=Instant(START_MONOTONIC + 1, START_WALL + 1), polls=42))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (FILE_NAME, FILE_NAME + "-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    file.close()

    again = BooksFile(copy)
    loaded = again.load()
    again.close()
    assert loaded.at is not None
    assert (loaded.polls, loaded.resumed, loaded.at.wall_seconds) == (42, True, START_WALL + 1)


def test_tokens_of_requests_in_work_are_kept_though_no_counter_of_the_server_has_moved(tmp_path: Path) -> None:
    """They are on the page at once, so a killed daemon must not begin below them."""
    file = BooksFile(tmp_path)
    books = Books()
    for second, in_work in enumerate((0.0, 5.0, 9.0)):
        at = START_MONOTONIC + second
        reading = ServerReading(
            "chat",
            at,
            "llamacpp",
            Cadence.FINISH,
            "1",
            ProcessIdentity(0.0, 1),
            (TokenSeries(Role.OUTPUT, "m", "predicted", 20.0),),
            in_flight=(InFlight("m", in_work),),
        )
        owners = {"chat": Ownership("chat", frozenset(), Attribution.CONFIGURED)}
        tick = Tick(Instant(at, START_WALL + second), AcceleratorReading((), ()), servers=(reading,), owners=owners)
        books = file.save(advance(books, tick, POLICY))
    file.close()

    again = BooksFile(tmp_path)
    assert again.load().servers["chat"].tokens == {("m", TokenKind.OUTPUT): 9.0}
    again.close()


def test_a_server_that_was_met_before_it_had_counters_is_known_again(tmp_path: Path) -> None:
    """Only so the counters that come with its first request, while the daemon is away, are counted from 0."""
    file = BooksFile(tmp_path)
    books = Books()
    owners = {"chat": Ownership("chat", frozenset(), Attribution.CONFIGURED)}
    met = ServerReading("chat", START_MONOTONIC + 1, "tgi", Cadence.FINISH, "", None, (), address="http://b")
    for second, readings in enumerate(((), (met,))):
        at = Instant(START_MONOTONIC + second, START_WALL + second)
        books = file.save(advance(books, Tick(at, AcceleratorReading((), ()), servers=readings, owners=owners), POLICY))
    file.close()

    again = BooksFile(tmp_path)
    account = again.load().servers["chat"]
    assert (account.engine, account.address) == ("tgi", "http://b")
    again.close()


def test_the_workload_that_used_a_gpu_is_kept(tmp_path: Path) -> None:
    job = PostingKey("g", "", "", State.OTHER, Workload(WorkloadKind.SLURM, 'job "7"'))
    unit = PostingKey("g", "", "", State.OTHER, Workload(WorkloadKind.SYSTEMD, "train.service"))
    row = 1_699_999_200.0
    account = GpuAccount(Gpu("g", 0), pending=(Pending(row, row + 5.0, ((job, 0.25), (unit, 0.75))),))
    amounts = {job: Amounts(seconds=1.0, joules=2.0), unit: Amounts(seconds=3.0)}
    books = Books(at=Instant(1.0, row + 5.0), gpus={"g": account}, postings=amounts, rows={row: amounts})
    with closing(BooksFile(tmp_path)) as file:
        file.save(books)
    with closing(BooksFile(tmp_path)) as file:
        loaded = file.load()
        assert (loaded.postings, loaded.rows) == (amounts, {row: amounts})
        assert loaded.gpus["g"].pending == account.pending
        file.save(replace(loaded, postings={unit: amounts[unit]}))
    with BooksReader(tmp_path) as reader:
        assert dict(reader.postings()) == {unit: amounts[unit]}, "one that was added to another is not kept"
        assert [(key, found) for _, key, found in reader.rows()] == list(amounts.items())


def test_requests_without_usage_are_kept_by_path() -> None:
    account = ServerAccount("edge", uncounted={"/generate": 3.0})
    assert codec.load_server("edge", codec.dump_server(account)) == account
    assert codec.load_server("edge", "{}").uncounted == {}


def test_cached_tokens_are_kept_by_tier() -> None:
    account = ServerAccount("edge", tiers={("m", Tier.HOST): 3.0, ("m", Tier.DEVICE): 1.5})
    assert codec.load_server("edge", codec.dump_server(account)) == account
    assert codec.load_server("edge", "{}").tiers == {}


def test_two_daemons_do_not_share_one_directory(tmp_path: Path) -> None:
    first = BooksFile(tmp_path)
    with pytest.raises(StoreError, match=r"another tpw-exporter keeps its books in .*--state\.dir"):
        BooksFile(tmp_path)
    first.close()
    BooksFile(tmp_path).close()


def test_books_of_the_first_version_go_on_in_this_one(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.executescript((CAPTURES / "books" / "before-quarter-hours.sql").read_text())
    connection.close()
    file = BooksFile(tmp_path)
    books = file.load()
    before = {key: posting.joules for key, posting in books.postings.items()}
    assert sum(before.values()) == 1_242_000.0

    gpus = tuple(Gpu(f"GPU-{i}", i, max_power_watts=1000.0) for i in range(2))
    policy = replace(
        POLICY,
        standing_charges=(StandingCharge("fixed", per_month=100.0),),
        demand=(DemandRules(price_per_kw_month=10.0),),
        calibration={"GPU-0": Calibration(1.02, 1.0)},
    )
    for second in (2400.0, 2401.0):
        samples = tuple(
            GpuSample(gpu.uuid, 9000.0 + second, 100.0 + 300.0 * second, 300.0, utilization_ratio=0.0) for gpu in gpus
        )
        tick = Tick(Instant(9000.0 + second, START_WALL + second), AcceleratorReading(gpus, samples))
        books = file.save(advance(books, tick, policy))
    file.close()

    again = BooksFile(tmp_path)
    loaded = again.load()
    again.close()
    assert loaded.servers["s"].tokens == {("m", TokenKind.OUTPUT): 390.0}
    idle = PostingKey("GPU-1", "", "", State.IDLE)
    assert loaded.postings[idle].joules == pytest.approx(before[idle] + 300.0 * 601.0)
    assert all(loaded.postings[key].joules >= joules for key, joules in before.items())
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        rows = rows_where(connection, "1", ())
    connection.close()
    booked = math.fsum(row[idle].joules for row in rows.values() if idle in row)
    assert booked == pytest.approx(300.0 * 601.0), "rows begin with this version"


def test_what_a_newer_version_adds_to_the_contract_is_left_alone() -> None:
    text = codec.dump_contract(Books(demand={"demand": Demand(began_seconds=1.0, peak_watts=7.0)}))
    newer = text.replace('"peak_watts":', '"unheard_of":3,"peak_watts":')
    assert codec.load_contract(newer).demand["demand"].peak_watts == 7.0


def test_deferred_charges_of_version_0_1_0_are_read() -> None:
    """Version 0.1.0 wrote them under a shorter name."""
    books = codec.load_contract('{"month_kwh":[],"standing_since_seconds":1790000000.5,"peaks":{}}')
    assert books.standing_charges_since_seconds == 1790000000.5


def test_every_field_that_is_read_is_written() -> None:
    gpu = json.loads(codec.dump_gpu(GpuAccount(Gpu("GPU-0", 0))))
    assert gpu.keys() >= {*codec._GPU, *codec._GPU_ACCOUNT}
    assert json.loads(codec.dump_server(ServerAccount("s"))).keys() >= {*codec._SERVER_ACCOUNT}


def test_what_is_held_is_kept(tmp_path: Path) -> None:
    key = PostingKey("GPU-0", "s", "m", State.ACTIVE)
    at = Instant(START_MONOTONIC, START_WALL)
    books = Books(at=at, held={START_WALL // ROW_SECONDS * ROW_SECONDS: {key: Amounts(seconds=1.0, joules=300.0)}})
    file = BooksFile(tmp_path)
    file.save(books)
    file.close()
    again = BooksFile(tmp_path)
    assert again.load().held == books.held
    again.save(replace(books, held={}))
    again.close()
    empty = BooksFile(tmp_path)
    assert empty.load().held == {}
    empty.close()


def test_a_failed_write_loses_nothing_that_the_next_one_can_write(tmp_path: Path) -> None:
    from support.days import START_MONOTONIC, START_WALL
    from tpw.model import Instant

    file = BooksFile(tmp_path)
    one = Books(at=Instant(START_MONOTONIC, START_WALL), sources={"nvml": SourceAccount(1)})
    two = replace(one, at=Instant(START_MONOTONIC + 1, START_WALL + 1), sources={"nvml": SourceAccount(2)})
    file.save(one)
    blocker = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match=r"books\.sqlite"):
        file.save(two)
    blocker.execute("ROLLBACK")
    blocker.close()

    file.save(replace(two, polls=7))
    file.close()
    again = BooksFile(tmp_path)
    loaded = again.load()
    again.close()
    assert (loaded.polls, loaded.sources["nvml"]) == (7, SourceAccount(2))


def test_a_save_that_fails_half_way_is_rolled_back(tmp_path: Path) -> None:
    key = PostingKey("GPU-0", "", "", State.IDLE)
    at = Instant(START_MONOTONIC, START_WALL)
    good = Books(at=at, gpus={"GPU-0": GpuAccount(Gpu("GPU-0", 0))}, postings={key: Amounts(joules=1.0)})
    file = BooksFile(tmp_path)
    file.save(good)
    # The posting is written before the meta rows, which SQLite refuses.
    broken = replace(good, postings={key: Amounts(joules=2.0)}, currency=cast("Any", object()))
    with pytest.raises(OSError, match="parameter"):
        file.save(broken)

    with BooksReader(tmp_path) as reader:
        assert dict(reader.postings()) == good.postings
    file.save(replace(broken, currency=""))
    file.close()
    again = BooksFile(tmp_path)
    assert again.load().postings == broken.postings
    again.close()


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (None, ""),
        (ProcessIdentity(1795486027.04), "page:1795486027.04"),
        (ProcessIdentity(990.5, 7), "process:7:990.5"),
    ],
)
def test_the_identity_of_a_server_s_process_is_kept(identity: ProcessIdentity | None, text: str) -> None:
    """In the form that version 0.1 wrote."""
    written = codec.dump_server(ServerAccount("chat", identity=identity))
    assert f'"identity":"{text}"' in written.replace(": ", ":")
    assert codec.load_server("chat", written).identity == identity


def test_an_unknown_form_of_identity_is_no_identity() -> None:
    for text in ("pod:7", "page:", "process:7", "process:x:1"):
        assert codec.load_server("chat", f'{{"identity": "{text}"}}').identity is None

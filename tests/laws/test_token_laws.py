"""The tokens of any page, read at any time, are those that its processes made.

The law: the counter rises by what the server's own counters rose by between readings, and after a restart by all that the
new process has made. Nothing else can be known: what a process made after its last reading is lost with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from tpw.ledger.books import ServerAccount
from tpw.ledger.counting import count
from tpw.model import Cadence, ProcessIdentity, Role, ServerReading, TokenKind
from tpw.store import codec
from tpw.tokens.engines import SGLANG
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader

SHARDS = 2


@dataclass
class Process:
    """A server: data-parallel shards, of which every tensor-parallel rank exposes the same, some of them late."""

    started: float
    made: list[int] = field(default_factory=lambda: [0] * SHARDS)
    seen: list[int] = field(default_factory=lambda: [0] * SHARDS)

    def page(self, random: Random) -> bytes:
        """Written anew each time: order of lines and labels, blanks, which ranks are there, which of them lag."""
        lines = [f"process_start_time_seconds {self.started!r}", "sglang:num_running_reqs 0"]
        for shard, value in enumerate(self.made):
            if not value:
                continue  # a counter comes with its first work
            exact = random.randrange(3)
            for rank in {exact, random.randrange(3)}:
                labels = [f'dp_rank="{shard}"', f'tp_rank="{rank}"', 'mode="input"', 'model_name="m \\"x\\""']
                random.shuffle(labels)
                text = random.choice([",", ", "]).join(labels) + random.choice(["", ","])
                shown = value if rank == exact else random.randint(0, value)
                number = random.choice([f"{shown}", f"{shown}.0", f"{shown:.12e}", f"{shown} 1700000000000"])
                lines.append(f"sglang:prefill_effective_tokens_total{{{text}}} {number}")
        random.shuffle(lines)
        return random.choice(["\n", "\r\n"]).join([*lines, ""]).encode()


Event = tuple[str, int, int]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["work"] * 4 + ["restart", "daemon", "upgrade"]), st.integers(0, 1), st.integers(0, 10**6)
    ),
    max_size=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(readings=st.lists(EVENTS, max_size=8), seed=st.integers(0, 2**32))
def test_tokens_rise_by_what_each_process_made(readings: list[list[Event]], seed: int) -> None:
    random = Random(seed)
    wall = 1_000_000.0
    process = Process(started=wall - 5000.0, made=[500, 0], seen=[500, 0])  # what it made before is a baseline
    reader = DialectReader(SGLANG)
    account = ServerAccount("s", since_wall_seconds=wall)
    read_at: float | None = None
    expected = 0
    for events in [[], *readings]:
        for kind, shard, amount in events:
            wall += random.choice([0.1, 30.0, 4000.0])
            match kind:
                case "work":
                    process.made[shard] += amount
                case "restart":
                    process = Process(started=wall)
                case "daemon":
                    account = codec.load_server("s", codec.dump_server(account))
                case "upgrade":
                    reader = DialectReader(SGLANG)
        wall += 1.0
        found = reader.read(Page(process.page(random)))
        reading = ServerReading(
            *("s", wall, "sglang", Cadence.STEP, "", ProcessIdentity(found.started_wall_seconds or 0.0)),
            found.series,
            started_wall_seconds=found.started_wall_seconds,
        )
        account = count(account, reading, read_at, wall).account
        read_at = wall
        expected += sum(process.made) - sum(process.seen)
        process.seen = list(process.made)
        assert account.tokens.get(('m "x"', TokenKind.INPUT), 0.0) == expected
        assert {role for _, role in account.counted} <= {Role.INPUT}

"""The faults, one function each. A function returns when the fault is over; the runner then waits for the recovery."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import time
from collections.abc import Callable
from random import Random

from chaos.world import GPUS, World
from support.attackers import attacked, drip_head, read_nothing
from support.pageserver import answer

Fault = Callable[[World, Random], None]

BOOKS = "books.sqlite"
HOUR, DAY = 3600.0, 86400.0


def pause(random: Random, low: float = 0.2, high: float = 0.8) -> None:
    time.sleep(random.uniform(low, high))


# ------------------------------------------------------------------------------------------------------------ the process


def kill(world: World, random: Random) -> None:
    world.kill()
    pause(random, 0.0, 0.5)
    world.start()


def kill_burst(world: World, random: Random) -> None:
    for _ in range(random.randint(2, 4)):
        world.kill()
        world.start()
        pause(random, 0.0, 0.7)
    world.kill()
    world.start()


def terminate(world: World, random: Random) -> None:
    world.signal(signal.SIGTERM)
    status = world.ended_within(3.5)
    if status is None:
        world.exits.append("SIGTERM: the daemon did not end within 3.5 s")
        world.kill()
    elif status != 0:
        world.exits.append(f"SIGTERM: status {status}")
    world.start()


def suspend(world: World, random: Random) -> None:
    world.signal(signal.SIGSTOP)
    pause(random, 0.5, 2.0)
    world.signal(signal.SIGCONT)


# ------------------------------------------------------------------------------------------------------------- the clock


def _stepped(world: World, random: Random, seconds: float) -> None:
    world.clock.step(seconds)
    pause(random, 0.5, 1.0)
    world.clock.step(-seconds)


def clock_forward(world: World, random: Random) -> None:
    _stepped(world, random, random.choice([2.0, 600.0, HOUR, 30 * DAY, 400 * DAY, 4000 * DAY]))


def clock_back(world: World, random: Random) -> None:
    _stepped(world, random, -random.choice([2.0, 600.0, HOUR, 30 * DAY, 400 * DAY, time.time() - 1000.0]))


def kill_in_another_year(world: World, random: Random) -> None:
    """A restart under a wrong clock, as on a machine without a battery."""
    seconds = random.choice([-1.0, 1.0]) * random.choice([HOUR, 30 * DAY, 4000 * DAY])
    world.kill()
    world.clock.step(seconds)
    world.start()
    world.await_ticks("start under a wrong clock")
    world.clock.step(-seconds)


# -------------------------------------------------------------------------------------------------------------- the disk


def _while(world: World, random: Random) -> None:
    """What happens while the books cannot be written: nothing, or a crash and a start."""
    pause(random, 0.3, 1.0)
    if random.random() < 0.5:
        world.kill()
        world.start()
        pause(random, 0.5, 2.0)


def disk_full(world: World, random: Random) -> None:
    """No byte is left on the disk of the books. Where nothing may be mounted: no file can grow (RLIMIT_FSIZE)."""
    if world.disk is not None:
        world.disk.fill()
        _while(world, random)
        world.disk.free()
        return
    resource.prlimit(world.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    pause(random, 0.5, 1.5)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(world.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    world.await_written()


def disk_read_only(world: World, random: Random) -> None:
    """The disk is read-only at a start, and some time later it is not. Not even the reserve can be written meanwhile."""
    assert world.disk is not None
    world.kill()
    world.disk.protect(is_read_only=True)
    world.start()
    world.await_ticks("start on a read-only disk")
    pause(random)
    world.disk.protect(is_read_only=False)
    world.await_written()


def books_locked(world: World, random: Random) -> None:
    """Another process holds a write transaction: a backup, or somebody with sqlite3."""
    import sqlite3

    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(world.state / BOOKS, timeout=0.5)) as db,
    ):
        db.execute("BEGIN IMMEDIATE")
        _while(world, random)
        db.execute("ROLLBACK")


def _torn(world: World, tear: Callable[[bytearray], bytes]) -> None:
    world.signal(signal.SIGTERM)
    if world.ended_within(4.0) is None:
        world.kill()
    path = world.state / BOOKS
    if path.exists():
        path.write_bytes(tear(bytearray(path.read_bytes())))
    for suffix in ("-wal", "-shm"):
        path.with_name(BOOKS + suffix).unlink(missing_ok=True)
    world.books_destroyed()
    world.start()


def torn_truncated(world: World, random: Random) -> None:
    _torn(world, lambda data: bytes(data[: int(len(data) * random.uniform(0.1, 0.9))]))


def torn_one_byte(world: World, random: Random) -> None:
    _torn(world, lambda data: bytes(data[:-1]))


def torn_empty(world: World, random: Random) -> None:
    _torn(world, lambda data: b"")


def torn_pages(world: World, random: Random) -> None:
    def tear(data: bytearray) -> bytes:
        first = random.randrange(1, 3) * 4096
        data[first : first + 8 * 4096] = random.randbytes(min(8 * 4096, max(0, len(data) - first)))
        return bytes(data)

    _torn(world, tear)


# -------------------------------------------------------------------------------------------------------- GPUs and driver


def _gpu(random: Random) -> int:
    """The last GPU is never touched: its energy is compared with the truth."""
    return random.randrange(GPUS - 1)


def gpu_lost(world: World, random: Random) -> None:
    gpu = _gpu(random)
    world.nvml.lose(gpu)
    pause(random, 0.5, 1.5)
    world.nvml.restore(gpu)


def gpu_hangs(world: World, random: Random) -> None:
    gpu = _gpu(random)
    world.nvml.hang(gpu)
    pause(random, 0.6, 1.5)
    world.nvml.unhang(gpu)


def gpu_counter_reset(world: World, random: Random) -> None:
    world.nvml.reset_counter(_gpu(random))
    pause(random)


def gpu_counter_back(world: World, random: Random) -> None:
    world.nvml.step_back(_gpu(random), random.choice([1.0, 1e3, 1e5]))
    pause(random)


def driver_unloaded(world: World, random: Random) -> None:
    world.nvml.unload_driver()
    pause(random, 0.5, 1.0)
    world.nvml.load_driver()


# ------------------------------------------------------------------------------------------------------ servers and feeds


def _bad(answers: Callable[[Random], bytes]) -> Fault:
    def fault(world: World, random: Random) -> None:
        world.servers["bad"].answers = answers(random)
        pause(random, 0.4, 0.8)
        world.servers["bad"].answers = None

    return fault


def _tokens(value: str) -> bytes:
    return answer(
        f'vllm:num_requests_running{{model_name="m"}} 1\nvllm:generation_tokens_total{{model_name="m"}} {value}\n'
    )


def server_drips(world: World, random: Random) -> None:
    host = world.hosts["bad"]
    host.drips_from = b""
    pause(random, 0.5, 1.0)
    host.drips_from = None


def server_gone(world: World, random: Random) -> None:
    world.servers["bad"].hangs_up = True
    world.hosts["bad"].hang_up()
    pause(random)
    world.servers["bad"].hangs_up = False


def server_restarts(world: World, random: Random) -> None:
    world.servers["bad"].restart()
    world.hosts["bad"].hang_up()
    pause(random)


def _flood(random: Random) -> bytes:
    models = "".join(
        f'vllm:generation_tokens_total{{model_name="m{random.randrange(10**6)}-{index}"}} {index}\n'
        for index in range(500)
    )
    return answer(models + 'vllm:num_requests_running{model_name="m"} 1\n')


def _long_name(random: Random) -> bytes:
    return _tokens("5").replace(b'model_name="m"', b'model_name="' + b"x" * 100_000 + b'"')


def _feed(answers: bytes | None) -> Fault:
    def fault(world: World, random: Random) -> None:
        world.feed.answers, world.feed.hangs_up = answers, answers is None
        world.signal(signal.SIGHUP)
        pause(random, 0.4, 0.8)
        world.feed.answers, world.feed.hangs_up = None, False
        world.signal(signal.SIGHUP)

    return fault


def _lies(price: str) -> bytes:
    now = int(time.time())
    body = '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[%d,"%s"]]}]}}'
    return answer(body % (now, price), content_type="application/json")


def feed_drips(world: World, random: Random) -> None:
    world.feed_host.drips_from = b""
    world.signal(signal.SIGHUP)
    pause(random, 0.4, 0.8)
    world.feed_host.drips_from = None


# ---------------------------------------------------------------------------------------------------------------- clients


def slow_heads(world: World, random: Random) -> None:
    with attacked(64, drip_head(world.port)):
        pause(random, 0.3, 0.6)


def deaf_clients(world: World, random: Random) -> None:
    with attacked(32, read_nothing(world.port)):
        pause(random, 0.3, 0.6)


def rubbish(world: World, random: Random) -> None:
    for _ in range(50):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", world.port), timeout=1) as client:
            client.sendall(
                random.choice([b"GET ", b"\x16\x03\x01", b"POST / HTTP/1.1\r\n", b""]) + random.randbytes(300)
            )


def reload_storm(world: World, random: Random) -> None:
    for _ in range(30):
        world.signal(signal.SIGHUP)
        time.sleep(0.01)


def bad_configuration(world: World, random: Random) -> None:
    text = world.config.read_text()
    world.config.write_text(random.choice(["", "{", "servers: 5\n", text + "colour: red\n", text[: len(text) // 2]]))
    world.signal(signal.SIGHUP)
    pause(random, 0.3, 0.6)
    world.config.write_text(text)
    world.signal(signal.SIGHUP)


FAULTS: dict[str, Fault] = {
    "SIGKILL": kill,
    "bursts of SIGKILL": kill_burst,
    "SIGTERM": terminate,
    "SIGSTOP, SIGCONT": suspend,
    "clock forward, 2 s to 11 years": clock_forward,
    "clock back, 2 s to 1970": clock_back,
    "restart under a wrong clock": kill_in_another_year,
    "disk full": disk_full,
    "disk read-only at a start": disk_read_only,
    "books locked": books_locked,
    "books truncated": torn_truncated,
    "books one byte short": torn_one_byte,
    "books empty": torn_empty,
    "pages of the books overwritten": torn_pages,
    "GPU lost": gpu_lost,
    "GPU hangs": gpu_hangs,
    "energy counter reset": gpu_counter_reset,
    "energy counter steps back": gpu_counter_back,
    "driver unloaded": driver_unloaded,
    "server: 1e18 tokens": _bad(lambda _: _tokens("1e18")),
    "server: 1.7e308 tokens": _bad(lambda _: _tokens("1.7e308")),
    "server: garbage": _bad(lambda random: answer(random.randbytes(20_000))),
    "server: 8 MiB and more": _bad(lambda _: answer(b"a 1\n" * (9 << 18))),
    "server: 500 new models": _bad(_flood),
    "server: a name of 100 kB": _bad(_long_name),
    "server: drips": server_drips,
    "server: hangs up": server_gone,
    "server: restarts": server_restarts,
    "feed: silent": _feed(None),
    "feed: refuses": _feed(answer("no", status=403)),
    "feed: 1e300 per MWh": _feed(_lies("1e300")),
    "feed: not JSON": _feed(answer(b"{" * 100_000, content_type="application/json")),
    "feed: drips": feed_drips,
    "clients: slow heads": slow_heads,
    "clients: read nothing": deaf_clients,
    "clients: rubbish": rubbish,
    "reload storm": reload_storm,
    "broken configuration": bad_configuration,
}
DESTROYS = {"books truncated", "books one byte short", "books empty", "pages of the books overwritten"}
"""After these counters may be lower: those of a backup, or of new books."""
NEEDS_DISK = {"disk read-only at a start"}
"""These need a file system of their own."""

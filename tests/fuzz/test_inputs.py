"""Whatever comes from outside, broken in every way, gives a usable value or the one error that its reader promises.

``make fuzz`` runs many more examples. No time is asserted: a reader that hangs runs into the timeout of the test.
"""

from __future__ import annotations

import contextlib
import math
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.mutations import mutated
from tpw.config import load
from tpw.config.problems import ConfigError
from tpw.discovery.kubelet import Checkpoint
from tpw.discovery.kubernetes import NodePods
from tpw.discovery.podresources import RefusedError, assigned
from tpw.discovery.workload import parse
from tpw.exposition.families import families
from tpw.exposition.http1 import MalformedError, parse_head
from tpw.exposition.render import Format, Renderer
from tpw.http.messages import Answer
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    LABEL_LENGTH,
    AcceleratorReading,
    Attribution,
    EnergyMethod,
    Gpu,
    GpuSample,
    Instant,
    Ownership,
    PriceInterval,
    ServerReading,
    SourceError,
)  # fmt: skip
from tpw.snapshot import Snapshot
from tpw.tariff.context import FeedContext
from tpw.tokens.engines import DIALECTS
from tpw.tokens.page import Page
from tpw.tokens.reading import DialectReader, PageReading, recognise

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SERVERS = {
    path.stem.split("-")[0]: path.read_bytes() for path in sorted((TESTS / "captures" / "servers").glob("*.txt"))
}
TARIFFS = TESTS / "captures" / "tariff"
FEEDS = sorted(path.name for path in TARIFFS.iterdir() if path.suffix in {".json", ".xml", ".csv"})

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
many = settings(suppress_health_check=list(HealthCheck))


# --------------------------------------------------------------------------------------------------------- pages of servers


def checked(reading: PageReading) -> None:
    """All numbers are finite and at least 0, and all names can be exposed."""
    for one in (*reading.series, *reading.work):
        assert math.isfinite(one.value)
        assert one.value >= 0.0
    for load_now in reading.loads:
        assert all(value is None or math.isfinite(value) for value in (load_now.running, load_now.waiting))
    assert reading.started_wall_seconds is None or math.isfinite(reading.started_wall_seconds)
    assert all(math.isfinite(one.output_tokens) for one in reading.in_flight)


@many
@given(body=mutated(list(SERVERS.values())))
def test_any_page_is_recognised_and_read_or_unknown(body: bytes) -> None:
    page = Page(body)
    dialect = recognise(page, DIALECTS)
    if dialect is not None:
        checked(DialectReader(dialect, lambda: "m").read(page))


@many
@given(bodies=st.lists(mutated([SERVERS["vllm"], SERVERS["llamacpp"], SERVERS["sglang"]]), min_size=2, max_size=5))
def test_pages_in_turn_are_booked_to_a_page_that_can_be_exposed(bodies: list[bytes]) -> None:
    """One server answers broken pages of several engines: its counters never fall, and the page has finite numbers."""
    books, tokens = Books(), 0.0
    owner = Ownership("s", frozenset({"GPU-0"}), Attribution.CONFIGURED)
    for second, body in enumerate(bodies):
        dialect = recognise(Page(body), DIALECTS) or DIALECTS[0]
        found = DialectReader(dialect, lambda: "m").read(Page(body))
        reading = ServerReading(
            "s", float(second), dialect.name, found.cadence, "1", None, found.series, loads=found.loads, work=found.work,
            started_wall_seconds=found.started_wall_seconds, in_flight=found.in_flight,
        )  # fmt: skip
        at = Instant(float(second), 1.79e9 + second)
        books = advance(books, Tick(at, AcceleratorReading((), (), ()), (), (reading,), {"s": owner}), Policy())
        total = math.fsum(books.servers["s"].tokens.values())
        assert tokens <= total < 1e12
        tokens = total
    page = Renderer().render(families(Snapshot(books.at, books)), Format.TEXT)  # type: ignore[arg-type]
    assert all(
        math.isfinite(float(line.rpartition(b" ")[2])) for line in page.splitlines() if not line.startswith(b"#")
    )
    page.decode()


# -------------------------------------------------------------------------------------------------------------------- feeds


def settings_of(name: str) -> dict[str, Any] | None:
    """The settings that a captured body is read by."""
    found = [path for path in TARIFFS.glob("*.yaml") if Path(name).stem.startswith(path.stem)]
    return yaml.safe_load(max(found, key=lambda path: len(path.stem)).read_text()) if found else None


@pytest.mark.parametrize("name", FEEDS)
@settings(many, max_examples=max(5, settings().max_examples // 5))
@given(data=st.data())
def test_any_body_of_a_feed_is_prices_or_a_source_error(name: str, data: st.DataObject, tmp_path_factory: Any) -> None:
    found = settings_of(name)
    if found is None:
        pytest.skip("read by the settings of another folder")
    folder = tmp_path_factory.getbasetemp()
    (folder / "secret").write_text("s3cret")
    tariff = load(yaml.safe_dump({"tariff": found}), str(folder / "tpw.yaml")).tariff
    body = data.draw(mutated([(TARIFFS / name).read_bytes()]))
    source: Any = tariff.energy[0].source(tariff, FeedContext(fetch=lambda _: Answer(200, body)))
    try:
        prices: Sequence[PriceInterval] = source._reader.read(1.7802e9, 1.7815e9)
    except SourceError:
        return
    for price in prices:
        assert math.isfinite(price.price_per_kwh)
        assert price.start_seconds < price.end_seconds


# ----------------------------------------------------------------------------------------- configuration, HTTP, kubelet

CONFIGS = [path.read_bytes() for path in sorted((TESTS / "captures" / "config").rglob("*.yaml"))] or [
    b"servers: [{name: a, url: 'http://127.0.0.1:8000'}]\n"
]


@many
@given(body=mutated(CONFIGS))
def test_any_configuration_is_read_or_a_configuration_error(body: bytes) -> None:
    with contextlib.suppress(ConfigError):
        load(body.decode("utf-8", "replace"), "tpw.yaml")


HEADS = [
    b"GET /metrics?name[]=up HTTP/1.1\r\nHost: a:1\r\nAccept: text/plain;q=0.5\r\nAccept-Encoding: gzip",
    b"POST /-/reload HTTP/1.1\r\nHost: [::1]:9\r\nOrigin: http://a\r\nContent-Length: 5",
    b"HEAD / HTTP/1.0\r\nAuthorization: Basic YTpi",
]


@many
@given(head=mutated(HEADS))
def test_any_head_is_a_request_or_malformed(head: bytes) -> None:
    try:
        request, _ = parse_head(head)
    except MalformedError:
        return
    assert set(request.method) <= set(string.ascii_letters)
    assert request.method


CHECKPOINT = (
    b'{"Data":{"PodDeviceEntries":[{"PodUID":"5c6f-1","ContainerName":"c","ResourceName":"nvidia.com/gpu",'
    b'"DeviceIDs":{"0":["GPU-1","GPU-2"]},"AllocResp":"Cg=="}],"RegisteredDevices":{"nvidia.com/gpu":["GPU-1"]}},"Checksum":17}'
)


@many
@example(body=b"[" * 100_000)
@given(body=mutated([CHECKPOINT, CHECKPOINT.replace(b'{"0":["GPU-1","GPU-2"]}', b'["GPU-1"]')]))
def test_any_checkpoint_of_the_kubelet_is_devices_or_a_sentence(body: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "checkpoint"
    path.write_bytes(body)
    devices, problem = Checkpoint(str(path)).devices()
    assert problem == "" or not devices
    assert all(isinstance(pod, str) for pod in devices)
    parse(body)


PODS = (
    b'{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"llama-7d9f8c6b5-x2x7z","namespace":"chat","uid":"u1",'
    b'"labels":{"pod-template-hash":"7d9f8c6b5","team":"x"},"annotations":{"prometheus.io/port":"8000"},"ownerReferences":['
    b'{"kind":"ReplicaSet","name":"llama-7d9f8c6b5","controller":true}]},"spec":{"containers":[{"name":"vllm","ports":['
    b'{"name":"metrics","containerPort":8200}]}]},"status":{"podIP":"10.1.0.7","containerStatuses":[{"name":"vllm",'
    b'"containerID":"containerd://aa"}]}}]}'
)
EVENT = b'{"type":"ADDED","object":' + PODS[PODS.index(b'{"metadata":{"name"') : -2] + b"}"


class _Api:
    """Answers with these bytes."""

    def __init__(self, body: bytes, event: bytes) -> None:
        self._body, self._event = body, event

    def request(self, _target: str, **_: Any) -> Answer:
        return Answer(200, self._body)

    def lines(self, _target: str, **_: Any) -> Iterator[bytes]:
        yield self._event


@many
@example(body=b"[" * 100_000, event=b"[" * 100_000)
@example(body=PODS.replace(b"8200", b"1e999"), event=EVENT.replace(b'"u1"', b"{}"))
@example(body=PODS.replace(b'"x"', b"7"), event=EVENT.replace(b'"ReplicaSet"', b"7"))
@given(body=mutated([PODS]), event=mutated([EVENT]))
def test_any_answer_of_the_api_is_pods_or_a_failure(body: bytes, event: bytes) -> None:
    pods = NodePods(_Api(body, event), "gpu-1", spread=lambda _low, high: high)
    assert pods.step() >= 0.0
    for pod in pods.pods.values():
        assert all(len(name) <= LABEL_LENGTH for name in (pod.namespace, pod.pod, pod.workload, *pod.labels.values()))
        assert all(isinstance(value, str) for value in (*pod.labels.values(), *pod.containers.values(), pod.address))


@many
@given(
    body=mutated([(Path(__file__).parents[1] / "captures/kubelet/pod-resources-grpcio-1.85.3.bin").read_bytes()[60:]])
)
def test_any_answer_of_the_pod_resources_service_is_devices_or_a_refusal(body: bytes) -> None:
    with contextlib.suppress(RefusedError):
        assert all(isinstance(name, str) for key in assigned(body) for name in key)


# ---------------------------------------------------------------------------------------------------- answers of a driver

_ODD = (0.0, -1.0, 1e18, 1.7e308, math.inf, -math.inf, math.nan, 2.0**64)
numbers = st.one_of(st.none(), st.floats(), st.sampled_from(_ODD), st.integers(0, 10**6))


@many
@given(
    answers=st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=12),
    method=st.sampled_from(EnergyMethod),
)
def test_any_answers_of_a_driver_are_booked_to_finite_energy_that_never_falls(
    answers: list[tuple[float | None, ...]], method: EnergyMethod
) -> None:
    gpu = Gpu("GPU-0", 0, energy_method=method, max_power_watts=700.0)
    books, booked = Books(), 0.0
    for second, (joules, watts, busy) in enumerate(answers):
        sample = GpuSample("GPU-0", float(second), energy_joules=joules, power_watts=watts, utilization_ratio=busy)
        at = Instant(float(second), 1.79e9 + second)
        books = advance(books, Tick(at, AcceleratorReading((gpu,), (sample,), ()), (), (), {}), Policy())
        total = math.fsum(amounts.joules for amounts in books.postings.values())
        assert booked <= total <= 700.0 * 4.0 * (second + 10.0)
        booked = total

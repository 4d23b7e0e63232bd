"""The benches' own arithmetic: what clients claim, what is void, which figure a ratio is made of, and the bytes that are sent."""

import json
import math
import struct

import numpy as np
import pytest

from loadtests import payloads
from loadtests.bench.clients import Claim, read_h2load, read_wrk
from loadtests.bench.measure import Contender, Run, alternate, measure_run, ratio, spread, summarise
from serve.protocol import messages

H2LOAD = """
finished in 290.11ms, 430824.13 req/s, 12.34MB/s
requests: 125000 total, 125000 started, 125000 done, 124990 succeeded, 10 failed, 0 errored, 0 timeout
"""


class Clockwork:
    """A server whose CPU time is what the last load spent."""

    spent = 0.0
    counted = 0

    def cpu_seconds(self) -> float:
        return self.spent


def contender(server: Clockwork, *, claimed: int, counted: int, failed: int = 0, overshoot: int = 0) -> Contender:
    def load(seconds: float) -> Claim:
        server.spent += seconds / 2
        server.counted += counted
        return Claim(claimed, failed, seconds)

    return Contender("ours", load, server, lambda: server.counted, overshoot)


def test_h2load_summary() -> None:
    claim = read_h2load(H2LOAD)
    assert (claim.completed, claim.failed) == (124_990, 10)
    assert claim.seconds == pytest.approx(0.29014, rel=1e-4)


NOTHING_DONE = """
finished in 0us, 0.00 req/s, 0B/s
requests: 1 total, 1 started, 0 done, 0 succeeded, 0 failed, 1 errored, 0 timeout
"""


@pytest.mark.parametrize("output", ["", NOTHING_DONE])
def test_no_summary_is_an_error(output: str) -> None:
    with pytest.raises(ValueError, match="not a summary"):
        read_h2load(output)


def test_wrk_summary() -> None:
    claim = read_wrk('Running 2s test\n{"requests": 100, "failed": 3, "seconds": 2.0, "p99_ms": 1.5}\n')
    assert claim == Claim(97, 3, 2.0, 1.5)
    with pytest.raises(ValueError, match="not a summary"):
        read_wrk("unable to connect")


@pytest.mark.parametrize(
    ("claimed", "counted", "failed", "overshoot", "is_void"),
    [
        (100, 100, 0, 0, False), (100, 104, 0, 0, True), (100, 104, 0, 8, False), (100, 109, 0, 8, True), (100, 100, 1, 0, True),
        (0, 0, 0, 0, True),
    ],
)
def test_the_servers_counter_has_to_bear_out_the_claim(claimed: int, counted: int, failed: int, overshoot: int, is_void: bool) -> None:
    run = measure_run(contender(Clockwork(), claimed=claimed, counted=counted, failed=failed, overshoot=overshoot), 1.0)
    assert run.is_void is is_void


def test_cpu_time_a_request() -> None:
    assert measure_run(contender(Clockwork(), claimed=1000, counted=1000), 2.0).cpu_us == pytest.approx(1000)


def test_void_runs_are_not_in_the_table_and_all_void_is_an_error() -> None:
    runs = [run_of(10.0, 1.0), run_of(99.0, 9.0, is_void=True)]
    summary = summarise("ours", runs)
    assert (summary.rate.median, summary.n_runs, summary.n_void) == (10.0, 1, 1)
    with pytest.raises(ValueError, match="every run was void"):
        summarise("ours", runs[1:])


def run_of(rate: float, cpu_us: float, *, is_void: bool = False) -> Run:
    return Run(rate, cpu_us, 100, 0, 100, is_void, None)


def test_quartiles_are_numpys() -> None:
    values = [3.0, 9.0, 1.0, 7.0, 5.0, 2.0]
    found = spread(values)
    assert (found.q1, found.median, found.q3) == pytest.approx(tuple(np.quantile(values, [0.25, 0.5, 0.75])))


def test_a_ratio_is_of_rates_when_both_are_steady_else_of_cpu_time() -> None:
    steady = summarise("ours", [run_of(100 + i % 2, 2.0) for i in range(9)])
    noisy = summarise("theirs", [run_of(50 + 10 * i, 8.0) for i in range(9)])
    other = summarise("theirs", [run_of(50 + i % 2, 8.0) for i in range(9)])
    by_rate, by_cpu, forced = ratio("x", steady, other, 2), ratio("x", steady, noisy, 4), ratio("x", steady, noisy, 4, by="rate")
    assert (by_rate.by, by_cpu.by, forced.by) == ("rate", "cpu", "rate")
    assert by_rate.value == pytest.approx(100 / 50)
    assert by_cpu.value == pytest.approx(4.0)
    assert by_cpu.is_met
    assert not forced.is_met


def test_rounds_alternate_and_the_warm_up_is_not_counted() -> None:
    order: list[str] = []

    def named(name: str) -> Contender:
        def load(seconds: float) -> Claim:
            order.append(name)
            return Claim(10, 0, seconds)
        return Contender(name, load, Clockwork())

    found = alternate([named("a"), named("b"), named("c")], 3, 1.0, lambda _: None)
    assert [summary.n_runs for summary in found.values()] == [3, 3, 3]
    assert "".join(order[3:]) == "abcbcacab"


def test_grpc_message_is_what_protobuf_reads() -> None:
    rows = np.arange(400, dtype=np.float32).reshape(2, 200)
    frame = payloads.grpc_frame(payloads.grpc_message("m", "x", rows))
    compressed, length = struct.unpack(">BI", frame[:5])
    request = messages.ModelInferRequest.FromString(frame[5:])
    assert (compressed, length) == (0, len(frame) - 5)
    assert (request.model_name, request.inputs[0].name, request.inputs[0].datatype) == ("m", "x", "FP32")
    assert list(request.inputs[0].shape) == [2, 200]
    assert request.raw_input_contents[0] == rows.tobytes()


def test_answers_are_read_as_protobuf_writes_them() -> None:
    answer = messages.ModelInferResponse(model_name="m", raw_output_contents=[b"abc", b""])
    assert payloads.raw_outputs(answer.SerializeToString()) == [b"abc", b""]
    metadata = messages.ModelMetadataResponse(name="m", versions=["1"])
    metadata.inputs.add(name="x", datatype="FP32", shape=[-1, 300])
    assert payloads.read_model_metadata(metadata.SerializeToString()) == {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 300]}]}


def test_rest_bodies() -> None:
    rows = np.random.default_rng(3).random((2, 5), dtype=np.float32)
    body = json.loads(payloads.json_body("x", rows))
    np.testing.assert_array_equal(np.array(body["inputs"][0]["data"], np.float32).reshape(2, 5), rows)
    binary, header_bytes = payloads.binary_body("x", rows)
    tensor = json.loads(binary[:header_bytes])["inputs"][0]
    assert tensor["parameters"]["binary_data_size"] == math.prod(rows.shape) * 4 == len(binary) - header_bytes
    assert binary[header_bytes:] == rows.tobytes()

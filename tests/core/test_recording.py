"""What I/O threads record of requests: every one that has a version, as it was, numbered; and what they do when there is no room."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from serve._core.recorder import NativeRecorder
from serve.records import RecordedTensor, RecordingSpec, RecordStreamSpec
from serve.traffic import Shadow, Source
from tests.core import onnx_models
from tests.core.loopback import scaled, version, wait_until
from tests.core.plain_clients import GRPC_STREAM, HttpClient, grpc_infer, http_infer, http_request, http_tensor, unframe
from tests.core.plans import looks_up, spec_of
from tests.core.recorded import ASSIGNED, DROPPED, Array, Recorded
from tests.core.records import HEADER, PART

SAMPLE_SEED = 0x5EED
ONE = np.ones((1, 4), np.float32)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Recorded]:
    with Recorded(tmp_path) as loop:
        yield loop


def ask(loop: Recorded, arrays: list[Array], *fields: str) -> list[int]:
    client = loop.http()
    client.send(b"".join(http_infer(x, "m", "", *fields) for x in arrays))
    return [client.read().status for _ in arrays]


# --- what is recorded ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("by", ["I/O thread", "instance threads"])
def test_each_row_of_each_request_is_recorded_as_it_was(loop: Recorded, by: str) -> None:
    loop.add(scaled(loop.folder, 2.0), warm={"x": (4,)}, **({"max_queue_delay_us": 1} if by == "instance threads" else {}))
    random = np.random.default_rng(1)
    xs = [random.standard_normal((int(n), 4)).astype(np.float32) for n in random.integers(1, 6, 60)]
    before = time.time_ns()
    client = loop.http()
    client.send(b"".join(http_infer(x, "m", "", f"x-request-id: r{i}") for i, x in enumerate(xs)))
    for x in xs:
        np.testing.assert_array_equal(http_tensor(client.read()), 2 * x)
    rows = loop.rows()
    assert [row["seq"] for row in rows] == list(range(sum(map(len, xs))))
    by_request = {f"r{i}": x for i, x in enumerate(xs)}
    for row in rows:
        x = by_request[row["request_id"]][row["row"]]
        np.testing.assert_array_equal(np.array(row["in_x"], np.float32), x)
        np.testing.assert_array_equal(np.array(row["out_y"], np.float32), 2 * x)
        assert (row["status"], row["error"], row["protocol"], row["variant"], row["generation"]) == (200, 0, 0, "1", 0)
        assert before - 2_000_000 <= row["ts_ns"] <= time.time_ns()
        assert row["queue_us"] + row["compute_us"] <= row["total_us"] < 20_000_000
        assert row["batch_id"] > 0
    assert {(row["request_id"], row["row"]) for row in rows} == {(r, i) for r, x in by_request.items() for i in range(len(x))}
    batches: dict[str, set[int]] = {}
    for row in rows:
        batches.setdefault(row["request_id"], set()).add(row["batch_id"])
    assert all(len(found) == 1 for found in batches.values())
    reading = loop.reading()
    assert (reading.sampled, reading.written, sum(reading.dropped.values())) == (len(rows), len(rows), 0)
    assert loop.word(ASSIGNED) == len(rows)


def test_grpc_and_streams_carry_their_own_ids(loop: Recorded) -> None:
    loop.add(scaled(loop.folder, 2.0), warm={"x": (4,)})
    client = loop.h2()
    client.read(client.grpc(grpc_infer(ONE, request_id="mine")))
    client.read(client.grpc(grpc_infer(ONE)))
    messages = [grpc_infer(ONE, request_id="s1"), grpc_infer(ONE), grpc_infer(ONE)]
    assert len(unframe(client.read(client.grpc(b"".join(messages), GRPC_STREAM)).body)) == 3
    rows = loop.rows()
    assert [row["protocol"] for row in rows] == [1] * 5
    assert rows[0]["request_id"] == "mine"
    assert rows[2]["request_id"] == "s1"
    made = [rows[1]["request_id"], rows[3]["request_id"], rows[4]["request_id"]]
    assert len(set(made)) == 3
    assert all(len(text) == 36 and text[14] == "7" for text in made)


def test_what_is_not_as_its_stream_says_is_counted(loop: Recorded) -> None:
    """Tensors whose rows have another size than the stream was opened with: the rows are there, with nulls."""
    native = loop.versions["1"] = version(scaled(loop.folder, 2.0), loop.pool, warm={"x": (4,)})
    tensors = (RecordedTensor("in", "x", "FP32", (99,), 0), RecordedTensor("out", "y", "FP32", (4,), 0))
    stream = loop.recorder.open_stream(RecordStreamSpec("m", "1", "sha256:other", tensors, RecordingSpec()))
    native.record(loop.recorder, stream)
    loop.publish()
    assert loop.http().ask(http_infer(ONE)).status == 200
    assert loop.reading(stream).malformed == 0
    (row,) = loop.rows(stream)
    assert (row["row"], row["in_x"], row["out_y"]) == (0, None, [2, 2, 2, 2])
    assert loop.reading(stream).malformed == 1


def test_an_id_that_is_made_is_the_one_that_the_client_is_told(loop: Recorded) -> None:
    loop.add(scaled(loop.folder, 2.0), warm={"x": (4,)})
    answer = loop.http().ask(http_infer(ONE))
    assert [row["request_id"] for row in loop.rows()] == [answer.fields["x-request-id"]]


@pytest.mark.parametrize(("sent", "kept"), [("größe-1", "größe-1"), ("\x01a", "\x01a"), ("x" * 2000, "x" * 1024), ("", None)])
def test_ids_of_clients(loop: Recorded, sent: str, kept: str | None) -> None:
    loop.add(scaled(loop.folder, 2.0), warm={"x": (4,)})
    body = json.dumps({"id": sent, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
    assert loop.http().ask(http_request("/v2/models/m/infer", body)).status == 200
    (row,) = loop.rows()
    if kept is None:
        assert len(row["request_id"]) == 36
    else:
        assert row["request_id"] == kept


def test_a_header_that_is_not_utf8_is_kept_with_question_marks(loop: Recorded) -> None:
    loop.add(scaled(loop.folder, 2.0), warm={"x": (4,)})
    request = http_infer(ONE, "m", "", "x-request-id: ab").replace(b"x-request-id: ab", b"x-request-id: a\xffb")
    assert loop.http().ask(request).status == 200
    assert [row["request_id"] for row in loop.rows()] == ["a?b"]


def test_refusals_and_failures_behind_the_routing_are_one_row_each(loop: Recorded) -> None:
    loop.add(looks_up(loop.folder / "1.onnx", 5), warm={"x": (1,)})
    client = loop.http()
    good, bad = np.array([[3.0]], np.float32), np.array([[9.0], [9.0]], np.float32)
    answers = [client.ask(http_infer(good)), client.ask(http_infer(bad)), client.ask(http_infer(np.ones((1, 2), np.float32))),
               client.ask(http_infer(good, "nobody"))]
    rows = loop.rows()
    assert [row["status"] for row in rows] == [answer.status for answer in answers[:3]]
    assert [row["row"] for row in rows] == [0, -1, -1]
    assert rows[0]["in_x"] == 3.0
    assert [(row["in_x"], row["out_y"]) for row in rows[1:]] == [(None, None)] * 2
    assert [row["error"] for row in rows] == [0, 2, 2]
    assert rows[1]["batch_id"] > 0
    assert rows[2]["batch_id"] == rows[2]["compute_us"] == 0


def test_trace_tags_and_the_sticky_unit(loop: Recorded) -> None:
    tags = {"tenant": Source("header", "x-tenant"), "colour": Source("parameter", "colour"), "absent": Source("header", "x-absent")}
    loop.add(scaled(loop.folder, 2.0), "1", RecordingSpec(tags=tags), warm={"x": (4,)})
    loop.publish(spec_of({"1": 10_000}, generation=7, sticky=Source("header", "user")))
    body = json.dumps({"parameters": {"colour": "blau", "other": 1},
                       "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
    trace = "0af7651916cd43dd8448eb211c80319c"
    client = loop.http()
    client.ask(http_request("/v2/models/m/infer", body, "POST", "x-tenant: a b", "user: ada",
                            f"traceparent: 00-{trace}-b7ad6b7169203331-01"))
    client.ask(http_request("/v2/models/m/infer", body, "POST",
                            "traceparent: 00-nonsense-b7ad6b7169203331-01-and-more-of-it-than-fifty-five"))
    first, second = loop.rows()
    assert (first["tags"], first["trace_id"]) == (b"tenant\0a b\0colour\0blau\0", trace)
    assert (second["tags"], second["trace_id"]) == (b"colour\0blau\0", None)
    assert (first["unit"], second["unit"]) == (xxhash.xxh3_64_intdigest(b"ada", 0), None)
    assert (first["variant"], first["generation"]) == ("v1", 7)


def test_sampling_is_by_the_id_and_numbers_only_what_is_sampled(loop: Recorded) -> None:
    loop.add(scaled(loop.folder, 2.0), "1", RecordingSpec(sampling=0.3), warm={"x": (4,)})
    ids = [f"request-{i}" for i in range(400)]
    client = loop.http()
    client.send(b"".join(http_infer(ONE, "m", "", f"x-request-id: {i}") for i in ids))
    for _ in ids:
        assert client.read().status == 200
    rows = loop.rows()
    expected = [i for i in ids if xxhash.xxh3_64_intdigest(i.encode(), SAMPLE_SEED) >> 11 < 0.3 * 2**53]
    assert [row["request_id"] for row in rows] == expected
    assert 80 < len(expected) < 160
    assert [row["seq"] for row in rows] == list(range(len(expected)))


def test_a_shadow_is_recorded_beside_its_primary(loop: Recorded) -> None:
    loop.add(scaled(loop.folder, 2.0), "1", warm={"x": (4,)})
    loop.add(scaled(loop.folder, 3.0), "2", warm={"x": (4,)})
    loop.publish(spec_of({"1": 10_000}, shadows=(Shadow("2", 10_000),)))
    assert ask(loop, [ONE] * 5) == [200] * 5
    wait_until(lambda: loop.reading(1).written == 5, "the shadows to be recorded")
    primaries, shadows = loop.rows(0), loop.rows(1)
    assert [row["variant"] for row in primaries] == ["v1"] * 5
    assert [row["variant"] for row in shadows] == ["shadow"] * 5
    assert {row["request_id"] for row in shadows} == {row["request_id"] for row in primaries}
    assert [row["out_y"] for row in shadows] == [[3.0] * 4] * 5
    assert sorted(row["seq"] for row in [*primaries, *shadows]) == list(range(10))


def test_tensors_over_their_limit_are_left_out_and_counted(loop: Recorded) -> None:
    path = scaled(loop.folder, 2.0, ("batch", "n"))
    loop.add(path, "1", warm={"x": (4,)})
    small, large = np.ones((2, 1024), np.float32), np.ones((2, 1025), np.float32)
    assert ask(loop, [small]) == ask(loop, [large]) == [200]
    rows = loop.rows()
    assert [len(row["in_x"] or ()) for row in rows] == [1024, 1024, 0, 0]
    assert rows[2]["in_x"] is None
    assert loop.reading().left_out == 2
    loop.versions.clear()
    named = loop.add(path, "2", RecordingSpec(inputs=("x",), outputs=()), warm={"x": (4,)})
    assert ask(loop, [large]) == [200]
    (first, second) = loop.rows(named)
    assert len(first["in_x"]) == len(second["in_x"]) == 1025
    assert "out_y" not in first


def test_every_datatype_comes_through_the_whole_server(loop: Recorded) -> None:
    loop.add(onnx_models.exclaim(loop.folder / "1.onnx", ("n", 1)), warm={"x": (1,)})
    answer = loop.http().ask(http_request("/v2/models/m/infer", b"h\xc3\xa4", "POST", "Inference-Header-Content-Length: 0"))
    assert answer.status == 200
    (row,) = loop.rows()
    assert [value for name, value in row.items() if name.startswith(("in_", "out_"))] == [b"h\xc3\xa4", b"h\xc3\xa4!"]


def test_equal_specs_share_a_stream(loop: Recorded) -> None:
    path = scaled(loop.folder, 2.0)
    assert loop.add(path, warm={"x": (4,)}) == loop.add(path, warm={"x": (4,)}) == 0
    assert loop.add(path, "2", warm={"x": (4,)}) == 1


def test_what_a_recorder_is_not_made_of() -> None:
    with pytest.raises(ValueError, match="17 rings; want 1 to 16"):
        NativeRecorder(17, 1 << 20, bytearray(4096))
    with pytest.raises(ValueError, match="a page of 80 bytes; want 88 at least"):
        NativeRecorder(1, 1 << 20, bytearray(80))
    with pytest.raises(ValueError, match="no stream 0; there are 0"):
        NativeRecorder(1, 1 << 20, bytearray(88)).reading(0)


# --- no room ------------------------------------------------------------------------------------------------------------

SMALL_RING = 4096           # takes records of at most 512 bytes


def test_dropped_rows_leave_gaps_that_are_counted(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), warm={"x": (4,)})
        assert ask(loop, [ONE] * 100) == [200] * 100
        first = loop.rows()
        assert ask(loop, [ONE] * 5) == [200] * 5
        second = loop.rows()
        reading = loop.reading()
        assert 10 < len(first) < 40
        assert [row["seq"] for row in first] == list(range(len(first)))
        assert [row["seq"] for row in second] == list(range(100, 105))
        assert (reading.sampled, reading.written, reading.dropped["ring_full"]) == (105, len(first) + 5, 100 - len(first))
        assert (loop.word(ASSIGNED), loop.word(DROPPED)) == (105, 100 - len(first))


@pytest.fixture
def _one_processor() -> Iterator[None]:
    """The calling thread has one alone, and what it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("_one_processor")
def test_a_drain_that_gives_way_stops_soon_while_an_io_thread_is_at_work_where_it_runs(tmp_path: Path) -> None:
    with Recorded(tmp_path, io_threads=2) as loop:
        loop.add(scaled(tmp_path, 2.0), warm={"x": (4,)})
        assert ask(loop, [ONE] * 300) == [200] * 300
        recorder, n_bytes = loop.recorder, loop.recorder.pending_bytes()
        recorder.run_for_test(1, True)
        assert recorder.is_in_the_way()
        assert recorder.drain(1 << 30, True) == [0]
        assert recorder.gave_way
        assert n_bytes - 20_000 < recorder.pending_bytes() < n_bytes - 16_000
        assert recorder.drain(1 << 30) == [0]
        assert not recorder.gave_way
        assert recorder.pending_bytes() == 0
        recorder.run_for_test(1, False)
        assert not recorder.is_in_the_way()


@pytest.mark.usefixtures("_one_processor")
def test_an_io_thread_says_where_it_works_and_when_it_waits(tmp_path: Path) -> None:
    """It shares one processor with who asks: in a turn of many requests it has to let go of it sooner or later."""
    with Recorded(tmp_path) as loop:
        loop.add(scaled(tmp_path, 2.0), warm={"x": (4,)})
        client, seen, end = loop.http(), False, time.monotonic() + 30
        while not seen and time.monotonic() < end:
            client.send(http_infer(ONE) * 200)
            for _ in range(200):
                seen = loop.recorder.is_in_the_way() or seen
                assert client.read().status == 200
        assert seen
        while loop.recorder.is_in_the_way() and time.monotonic() < end:
            time.sleep(0.01)
        assert not loop.recorder.is_in_the_way()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_who_runs_elsewhere_is_in_nobodys_way() -> None:
    recorder = NativeRecorder(1, 1 << 20, bytearray(88))
    found: list[bool] = []

    def look() -> None:
        for number, processor in enumerate(sorted(os.sched_getaffinity(0))[:2]):
            os.sched_setaffinity(0, {processor})
            if number == 0:
                recorder.run_for_test(0, True)
            found.append(recorder.is_in_the_way())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True, False]


def test_what_no_ring_takes_is_too_large(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0, ("batch", 128)), warm={"x": (128,)})
        assert ask(loop, [np.ones((1, 128), np.float32)] * 3) == [200] * 3
        assert loop.rows() == []
        assert (loop.reading().dropped["too_large"], loop.word(DROPPED + 1)) == (3, 3)


def test_blocked_answers_wait_for_room(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", RecordingSpec(policy="block", block_timeout_ms=20_000), warm={"x": (4,)})
        rows: list[dict[str, Any]] = []
        done = threading.Event()

        def drain_slowly() -> None:
            while not done.is_set():
                rows.extend(loop.rows())
                time.sleep(0.01)

        thread = threading.Thread(target=drain_slowly)
        thread.start()
        try:
            assert ask(loop, [ONE] * 300) == [200] * 300
        finally:
            done.set()
            thread.join()
        rows.extend(loop.rows())
        assert [row["seq"] for row in rows] == list(range(300))
        assert loop.reading().dropped == {"ring_full": 0, "too_large": 0, "blocked": 0, "memory": 0}


def test_an_answer_waits_no_longer_than_it_is_told_to(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", RecordingSpec(policy="block", block_timeout_ms=200), warm={"x": (4,)})
        client = loop.http()
        client.send(http_infer(ONE) * 30)
        begun = time.monotonic()
        for _ in range(30):
            assert client.read().status == 200
        assert 0.15 < time.monotonic() - begun < 10
        n_written = len(loop.rows())
        reading = loop.reading()
        assert n_written + reading.dropped["blocked"] == 30
        assert reading.dropped["blocked"] == loop.word(DROPPED + 2) > 0


def test_a_stop_lets_no_answer_wait(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", RecordingSpec(policy="block", block_timeout_ms=60_000), warm={"x": (4,)})
        client = loop.http()
        client.send(http_infer(ONE) * 30)
        n_written = 0
        for _ in range(5):
            assert client.read().status == 200
        wait_until(lambda: sum(reading.sampled for reading in loop.recorder.readings()) > 10, "the ring to be full")
        client.socket.close()
        loop.server.stop()
        n_written = len(loop.rows())
        reading = loop.reading()
        assert reading.sampled == n_written + sum(reading.dropped.values())


def test_fail_closed_refuses_what_cannot_be_recorded(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=1 << 16) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", RecordingSpec(policy="fail-closed"), warm={"x": (4,)})
        client = loop.http()
        statuses = []
        for _ in range(600):
            answer = client.ask(http_infer(ONE))
            statuses.append(answer.status)
            if answer.status != 200:
                break
        assert statuses[-1] == 503
        assert "the recorder has no room" in answer.json()["error"]
        assert len(statuses) > 50
        rows = loop.rows()
        assert len(rows) == len(statuses) - 1
        assert client.ask(http_infer(ONE)).status == 200
        reading = loop.reading()
        assert (reading.refused, sum(reading.dropped.values()), reading.sampled) == (1, 0, len(statuses))


def test_fail_closed_says_when_it_will_never_do(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", RecordingSpec(policy="fail-closed"), warm={"x": (4,)})
        answer = loop.http().ask(http_infer(ONE))
        assert answer.status == 413
        assert "more than the recorder's ring takes" in answer.json()["error"]
        assert loop.rows() == []


def test_many_threads_number_their_rows_together(tmp_path: Path) -> None:
    with Recorded(tmp_path, io_threads=3, ring_bytes=3 << 20) as loop:
        loop.add(scaled(tmp_path, 2.0), warm={"x": (4,)})

        def ask_thread(thread: int) -> None:
            client = HttpClient(loop.socket(thread))
            client.send(http_infer(ONE) * 300)
            for _ in range(300):
                assert client.read().status == 200

        threads = [threading.Thread(target=ask_thread, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(row["seq"] for row in loop.rows()) == list(range(900))


def test_a_short_wait_is_not_made_longer_by_those_who_wait_before_it(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", RecordingSpec(policy="block", block_timeout_ms=4_000), warm={"x": (4,)})
        loop.add(scaled(tmp_path, 3.0), "2", RecordingSpec(policy="block", block_timeout_ms=100), warm={"x": (4,)})
        patient, hurried = loop.http(), loop.http()
        patient.send(http_infer(ONE) * 40)
        wait_until(lambda: loop.reading(0).sampled > 10 and loop.recorder.pending_bytes() > SMALL_RING // 2, "the ring to be full")
        begun = time.monotonic()
        assert hurried.ask(http_infer(ONE, "m", "2")).status == 200
        assert time.monotonic() - begun < 2


def test_shadows_that_find_no_room_do_not_count_as_blocked(tmp_path: Path) -> None:
    with Recorded(tmp_path, ring_bytes=SMALL_RING) as loop:
        loop.add(scaled(tmp_path, 2.0), "1", warm={"x": (4,)})
        loop.add(scaled(tmp_path, 3.0), "2", warm={"x": (4,)})
        loop.publish(spec_of({"1": 10_000}, shadows=(Shadow("2", 10_000),)))
        assert ask(loop, [ONE] * 60) == [200] * 60
        wait_until(lambda: loop.reading(1).sampled == 60, "the shadows to be over")
        assert loop.reading(1).dropped["ring_full"] > 0
        assert loop.reading(1).dropped["blocked"] == 0


def test_a_shadow_that_refuses_the_input_is_recorded_as_failed(loop: Recorded) -> None:
    loop.add(scaled(loop.folder, 2.0), "1", warm={"x": (4,)})
    loop.add(scaled(loop.folder, 3.0, ("batch", 5)), "2", warm={"x": (5,)})
    loop.publish(spec_of({"1": 10_000}, shadows=(Shadow("2", 10_000),)))
    assert ask(loop, [ONE] * 3) == [200] * 3
    wait_until(lambda: loop.reading(1).written == 3, "the shadows to be recorded")
    assert [(row["variant"], row["row"], row["status"], row["batch_id"]) for row in loop.rows(1)] == [("shadow", -1, 400, 0)] * 3


def test_nothing_of_other_requests_is_between_the_parts_of_a_record(tmp_path: Path) -> None:
    """A ring's old bytes are other clients', of other versions: what is recorded of a request goes to the disk as it lies in the ring."""
    x = np.frombuffer(b"\xff" * 12, np.float32).reshape(1, 3)
    with Recorded(tmp_path, ring_bytes=4096) as loop:
        loop.add(scaled(loop.folder, 2.0, ("batch", 3)), warm={"x": (3,)})
        client = loop.http()
        for i in range(400):
            n_id = 1 + i * 7 % 61
            client.send(http_infer(x, "m", "", "x-request-id: " + "i" * n_id))
            assert client.read().status == 200
            loop.recorder.drain(1 << 30)
            block = loop.recorder.blocks(0).take()
            assert block is not None
            record = bytes(block.records)
            texts = HEADER.size + n_id + 1
            parts = texts + -texts % 8
            assert not any(record[texts:parts])
            assert record[parts + PART.size:parts + PART.size + 16] == b"\xff" * 12 + bytes(4)

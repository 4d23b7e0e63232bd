"""Feedback over HTTP and gRPC: what is kept, what is refused and why, and that an answer comes only after the journal's."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.feedback import MAX_ITEMS, make_label
from serve.api.grpc import GrpcApi
from serve.api.http import HttpApi, HttpRequest
from serve.api.http_feedback import LARGE_BYTES
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.errors import Conflict, HeadraceError, InsufficientStorage, InvalidArgument, NotFound, Unavailable
from serve.protocol import messages as m
from serve.records import Label
from serve.telemetry.logs import Logs
from tests.unit.api.fake_labels import FakeLabels
from tests.unit.api.fakes import FakeModels

PATH = "/v2/models/digits/feedback"
ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
def labels() -> FakeLabels:
    return FakeLabels()


@pytest.fixture
def api(models: FakeModels, readiness: Readiness, logs: Logs, settings: ApiSettings, labels: FakeLabels) -> HttpApi:
    return HttpApi(models, readiness, logs, settings, labels)


@pytest.fixture
def rpc(models: FakeModels, readiness: Readiness, logs: Logs, settings: ApiSettings, labels: FakeLabels) -> GrpcApi:
    return GrpcApi(models, readiness, logs, settings, labels)


async def post(api: HttpApi, body: Any, query: str = "", path: str = PATH) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await api(HttpRequest("POST", path, query, {}, content))
    return response.status, json.loads(response.body)


def label(**changes: Any) -> Label:
    return Label(**{"request_id": ID, **changes})


class TestHttp:
    @pytest.mark.parametrize(("item", "kept"), [
        ({"label": 7}, label(value=7.0)),
        ({"label": -0.5, "row": 3}, label(value=-0.5, row=3)),
        ({"label": "sieben"}, label(text="sieben")),
        ({"label": True, "name": "clicked"}, label(value=1.0, name="clicked")),
        ({"label": False}, label(value=0.0)),
        ({"reward": 2}, label(reward=2.0, name="reward")),
        ({"reward": 0.25, "name": "revenue", "time": 1_700_000_000_000_000_001},
         label(reward=0.25, name="revenue", label_ts_ns=1_700_000_000_000_000_001)),
        ({"label": 1, "time": "2026-01-31T12:00:00.123456789Z"}, label(value=1.0, label_ts_ns=1_769_860_800_123_456_789)),
        ({"label": 1, "time": "2026-01-31t13:00:00+01:00", "name": ""}, label(value=1.0, label_ts_ns=1_769_860_800_000_000_000)),
        ({"label": 2**53}, label(value=2.0**53)),
    ])
    async def test_one_item(self, api: HttpApi, labels: FakeLabels, item: dict[str, Any], kept: Label) -> None:
        assert await post(api, {"request_id": ID, **item}) == (202, {"accepted": 1})
        assert labels.kept == [kept]
        assert labels.durable == [False]

    async def test_many_are_kept_in_their_order(self, api: HttpApi, labels: FakeLabels) -> None:
        items = [{"request_id": f"r{i}", "label": i % 10} for i in range(MAX_ITEMS)]
        assert len(json.dumps(items)) > LARGE_BYTES
        assert await post(api, {"feedback": items}) == (202, {"accepted": MAX_ITEMS})
        assert [one.request_id for one in labels.kept] == [f"r{i}" for i in range(MAX_ITEMS)]

    async def test_durable_is_asked_for_in_the_query(self, api: HttpApi, labels: FakeLabels) -> None:
        for query in ("durable=true", "durable=false", ""):
            assert (await post(api, {"request_id": ID, "label": 1}, query))[0] == 202
        assert labels.durable == [True, False, False]

    @pytest.mark.parametrize("query", ["durable=yes", "durable=true&durable=true", "durable", "sync=true"])
    async def test_queries_that_say_nothing_known(self, api: HttpApi, labels: FakeLabels, query: str) -> None:
        status, body = await post(api, {"request_id": ID, "label": 1}, query)
        assert (status, labels.kept) == (400, [])
        assert "query parameter" in body["error"]

    @pytest.mark.parametrize(("item", "said"), [
        ({"label": 1}, "'request_id' is missing"),
        ({"request_id": "", "label": 1}, "'request_id' must be a string of 1 to 1,024 characters, got ''"),
        ({"request_id": 5, "label": 1}, "'request_id' must be a string of 1 to 1,024 characters, got 5"),
        ({"request_id": "ö" * 513, "label": 1}, "'request_id' must have at most 1,024 bytes of UTF-8, got 1,026: 'öööö"),
        ({"request_id": "\ud800", "label": 1}, "lone surrogate"),
        ({"request_id": "r\r", "label": 1}, "'request_id' holds a control character, got 'r\\r'"),
        ({"request_id": "a\0b", "label": 1}, "'request_id' holds a control character"),
        ({"request_id": "a\x7fb", "label": 1}, "'request_id' holds a control character"),
        ({"request_id": None, "label": 1}, "'request_id' must be a string of 1 to 1,024 characters, got null"),
        ({"request_id": "r", "label": [None, "a"]}, 'true or false, got [null, "a"]'),
        ({"request_id": "r"}, "give 'label' or 'reward', one of them"),
        ({"request_id": "r", "label": 1, "reward": 1}, "give 'label' or 'reward', not both"),
        ({"request_id": "r", "label": None}, "'label' must be a number, a string, true or false, got null"),
        ({"request_id": "r", "label": [1]}, "'label' must be a number, a string, true or false, got [1]"),
        ({"request_id": "r", "label": 2**53 + 2}, "send a string"),
        ({"request_id": "r", "label": float("nan")}, "'label' must be finite, got nan"),
        ({"request_id": "r", "reward": True}, "'reward' must be a number, got true"),
        ({"request_id": "r", "reward": "1"}, "'reward' must be a number, got '1'"),
        ({"request_id": "r", "label": 1, "row": -1}, "'row' must be a whole number from 0 to 2147483647, got -1"),
        ({"request_id": "r", "label": 1, "row": 1.0}, "'row' must be a whole number from 0 to 2147483647, got 1.0"),
        ({"request_id": "r", "label": 1, "name": "a b"}, "'name' must be 1 to 64 of"),
        ({"request_id": "r", "label": 1, "name": 5}, "'name' must be a string, got 5"),
        ({"request_id": "r", "label": 1, "name": "accuracy"}, "is that of a metric"),
        ({"request_id": "r", "label": 1, "time": "yesterday"}, "'time' must be RFC 3339 with its zone"),
        ({"request_id": "r", "label": 1, "time": "2026-01-31T12:00:00"}, "'time' must be RFC 3339 with its zone"),
        ({"request_id": "r", "label": 1, "time": "2026-02-31T12:00:00Z"}, "'time' must be RFC 3339 with its zone"),
        ({"request_id": "r", "label": 1, "time": -1}, "'time' must be a whole number"),
        ({"request_id": "r", "label": 1, "time": 1.5}, "'time' must be a whole number"),
        ({"request_id": "r", "label": 1, "model": "m"}, "unknown key 'model'; known are request_id, row, label, reward, name, time"),
        ("r", "an item must be a JSON object, got 'r'"),
    ])
    async def test_a_bad_item_names_its_place_and_nothing_is_taken(
        self, api: HttpApi, labels: FakeLabels, item: Any, said: str,
    ) -> None:
        status, body = await post(api, {"feedback": [{"request_id": "r", "label": 1}, item]})
        assert (status, labels.kept) == (400, [])
        assert body["error"].startswith("feedback[1]: ")
        assert said in body["error"]
        assert body["error"].endswith("; nothing of this request was taken")
        if isinstance(item, dict):
            status, body = await post(api, item)
            assert status == 400
            assert said in body["error"]
            assert "feedback[" not in body["error"]

    @pytest.mark.parametrize(("body", "said"), [
        ({"feedback": []}, "'feedback' is empty"), ({"feedback": {}}, "'feedback' must be an array of items, got {}"),
        ({"feedback": [{}] * (MAX_ITEMS + 1)}, "'feedback' has 10,001 items; send at most 10,000 at once"),
        ({"feedback": [], "label": 1}, "the body has 'feedback' and 'label'"), (b"[]", "the request body must be a JSON object"),
        (b"{", "failed to parse"), (b"", "the body is empty: send one item"),
        ({"feedback": None}, "'feedback' must be an array of items, got null"),
        ({}, "give 'label' or 'reward'"),
    ])
    async def test_bodies_that_are_no_feedback(self, api: HttpApi, labels: FakeLabels, body: Any, said: str) -> None:
        status, answer = await post(api, body)
        assert (status, labels.kept) == (400, [])
        assert said in answer["error"]

    async def test_a_body_beyond_the_limit(self, api: HttpApi) -> None:
        assert (await post(api, b" " * ((8 << 20) + 1)))[0] == 413

    async def test_an_unknown_model_and_one_that_does_not_serve(self, api: HttpApi, labels: FakeLabels) -> None:
        status, body = await post(api, {"request_id": ID, "label": 1}, path="/v2/models/absent/feedback")
        assert (status, body) == (404, {"error": "Request for unknown model: 'absent' is not found"})
        assert (await post(api, {"request_id": ID, "label": 1}, path="/v2/models/later/feedback"))[0] == 202
        assert labels.models == ["later"]

    async def test_without_recording(self, http: HttpApi) -> None:
        status, body = await post(http, {"request_id": ID, "label": 1})
        assert status == 409
        assert "start it with --records DIR" in body["error"]

    @pytest.mark.parametrize(("failure", "status"), [
        (Unavailable("the journal cannot be written: no space"), 503), (OSError(28, "No space left on device"), 503),
        (InsufficientStorage("full"), 507),
    ])
    async def test_a_journal_that_takes_nothing(self, api: HttpApi, labels: FakeLabels, failure: Exception, status: int) -> None:
        labels.failure = failure
        assert (await post(api, {"request_id": ID, "label": 1}))[0] == status
        labels.refusal = failure
        assert (await post(api, {"request_id": ID, "label": 1}))[0] == status

    async def test_the_answer_waits_for_the_journal(self, api: HttpApi, labels: FakeLabels) -> None:
        labels.holds = True
        answer = asyncio.ensure_future(post(api, {"request_id": ID, "label": 1}))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not answer.done()
        labels.release()
        assert await answer == (202, {"accepted": 1})

    async def test_a_client_that_leaves_takes_nothing_back(self, api: HttpApi, labels: FakeLabels) -> None:
        labels.holds = True
        answer = asyncio.ensure_future(post(api, {"request_id": ID, "label": 1}))
        for _ in range(10):
            await asyncio.sleep(0)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        labels.release()
        assert len(labels.kept) == 1

    async def test_other_verbs(self, api: HttpApi) -> None:
        response = await api(HttpRequest("GET", PATH))
        assert (response.status, response.headers["allow"]) == (405, "POST")


@given(st.integers(0, 7_000_000_000), st.integers(0, 999_999_999))
def test_times_keep_their_nanoseconds(second: int, ns: int) -> None:
    text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
    assert make_label("r", 0, "", {"label": 1}, text).label_ts_ns == second * 10**9 + ns


class TestGrpc:
    async def submit(self, rpc: GrpcApi, request: Any) -> Any:
        handler = rpc.unary("/headrace.v1.Feedback/Submit")
        assert handler is not None
        return m.FeedbackResponse.FromString(await handler(request.SerializeToString()))

    async def test_every_kind_of_truth(self, rpc: GrpcApi, labels: FakeLabels) -> None:
        request = m.FeedbackRequest(model="digits", durable=True, feedback=[
            m.FeedbackItem(request_id=ID, number=0.0), m.FeedbackItem(request_id=ID, row=1, text="7"),
            m.FeedbackItem(request_id=ID, flag=True, name="clicked", time_ns=5), m.FeedbackItem(request_id=ID, reward=-1.5)])
        assert (await self.submit(rpc, request)).accepted == 4
        assert labels.kept == [label(value=0.0), label(text="7", row=1), label(value=1.0, name="clicked", label_ts_ns=5),
                               label(reward=-1.5, name="reward")]
        assert labels.durable == [True]

    @pytest.mark.parametrize(("request_", "kind", "said"), [
        (m.FeedbackRequest(model="digits"), InvalidArgument, "'feedback' is empty"),
        (m.FeedbackRequest(model="absent", feedback=[m.FeedbackItem(request_id=ID, number=1)]), NotFound, "unknown model"),
        (m.FeedbackRequest(model="digits", feedback=[m.FeedbackItem(request_id=ID)]), InvalidArgument,
         r"feedback\[0\]: give number, text, flag or reward"),
        (m.FeedbackRequest(model="digits", feedback=[m.FeedbackItem(request_id=ID, number=1), m.FeedbackItem(number=1)]), InvalidArgument,
         r"feedback\[1\]: 'request_id' must be"),
        (m.FeedbackRequest(model="digits", feedback=[m.FeedbackItem(request_id=f"{ID}\r", number=1)]), InvalidArgument,
         r"feedback\[0\]: 'request_id' holds a control character"),
        (m.FeedbackRequest(model="digits", feedback=[m.FeedbackItem(request_id=ID, number=float("inf"))]), InvalidArgument, "finite"),
    ])
    async def test_refusals(self, rpc: GrpcApi, labels: FakeLabels, request_: Any, kind: type[HeadraceError], said: str) -> None:
        with pytest.raises(kind, match=said):
            await self.submit(rpc, request_)
        assert labels.kept == []

    async def test_without_recording(self, grpc: GrpcApi) -> None:
        with pytest.raises(Conflict, match="--records"):
            await self.submit(grpc, m.FeedbackRequest(model="digits", feedback=[m.FeedbackItem(request_id=ID, number=1)]))

    async def test_a_stream_acknowledges_each_request_and_outlives_a_bad_one(self, rpc: GrpcApi, labels: FakeLabels) -> None:
        requests = [
            m.FeedbackRequest(model=model, feedback=[m.FeedbackItem(request_id=name, number=1) for name in names])
            for model, names in (("digits", "ab"), ("absent", "c"), ("digits", "d"))
        ]

        async def sent() -> AsyncIterator[bytes]:
            for request in requests:
                yield request.SerializeToString()

        handler = rpc.stream("/headrace.v1.Feedback/SubmitStream")
        assert handler is not None
        answers = [m.FeedbackResponse.FromString(answer) async for answer in handler(sent())]
        assert [(answer.accepted, answer.error_code) for answer in answers] == [(2, 0), (0, 5), (1, 0)]
        assert "unknown model" in answers[1].error_message
        assert [one.request_id for one in labels.kept] == ["a", "b", "d"]

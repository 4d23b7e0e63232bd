"""Webhooks: signed, in order, at least once, and bounded in what they try and what they keep."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.errors import ConfigurationError, Unavailable
from serve.store import webhooks as webhooks_module
from serve.store.audit import verify_rows
from serve.store.signature import key_of, signature_headers
from serve.store.sqlite import SqliteStore
from serve.store.webhooks import CURSOR, RetryPolicy, Webhook, Webhooks, WebhookSender
from tests.unit.store.contract import Clock, told
from tests.unit.store.receiver import Receiver, receiving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

_clients: list[httpx.AsyncClient] = []


@pytest.fixture(autouse=True)
async def closed_clients() -> AsyncIterator[None]:
    yield
    while _clients:
        await _clients.pop().aclose()


class Sender:
    """A sender whose pauses take no time and are written down."""

    def __init__(self, store: SqliteStore, url: str, policy: RetryPolicy | None = None, types: tuple[str, ...] = ()) -> None:
        self.clock = Clock()
        self.pauses: list[float] = []
        client = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        _clients.append(client)
        self.sender = WebhookSender(
            Webhook(url, SECRET, types), store, client, policy or RetryPolicy(timeout_s=0.3),
            sleep=self.sleep, jitter=lambda: 1.0, wall_ns=lambda: 1_700_000_000 * 10**9, monotonic_ns=self.clock,
        )
        self.statistics = self.sender.statistics

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    async def go_through(self) -> None:
        while await self.sender.advance():
            pass


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path)
    yield store
    await store.close()


async def write(store: SqliteStore, *verbs: str) -> None:
    for verb in verbs:
        await store.commit([], [told(verb)])


async def started(store: SqliteStore, receiver: Receiver, *arguments: Any) -> Sender:
    sender = Sender(store, receiver.url, *arguments)
    await sender.go_through()
    return sender


def test_signatures_are_those_of_the_specification():
    """Made with the reference library, standardwebhooks 1.1.0."""
    headers = signature_headers(key_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(("secret", "word"), [
    ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "begin with whsec_"), ("whsec_???", "not base64"), ("whsec_aGVsbG8=", "has 5 bytes"),
    ("whsec_" + base64.b64encode(b"x" * 65).decode(), "has 65 bytes"),
])
def test_a_secret_that_is_none_is_refused_and_not_told(secret, word):
    with pytest.raises(ConfigurationError, match=word) as refused:
        Webhook("http://127.0.0.1/", secret)
    assert secret.removeprefix("whsec_") not in str(refused.value)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "/hook", "http://", "file:///etc/hosts", "http://a:b@127.0.0.1/", "http://[::1", ""])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigurationError, match="URL of a webhook"):
        Webhook(url, SECRET)


def test_a_webhook_hides_its_secret():
    webhook = Webhook("https://example.test/hook?token=t0p", SECRET)
    assert SECRET not in repr(webhook)
    assert "t0p" not in webhook.name + webhook.host


@pytest.mark.parametrize(("types", "wanted"), [
    ((), [True, True, True]), (("dev.headrace.rollout.",), [False, True, True]), (("dev.headrace.rollout.verdict",), [False, True, False]),
    (("dev.headrace.rollout",), [False, False, False]),
])
def test_types_choose_events(types, wanted):
    kinds = ["dev.headrace.traffic.set", "dev.headrace.rollout.verdict", "dev.headrace.rollout.state"]
    assert [Webhook("http://127.0.0.1/", SECRET, types).wants({"type": kind}) for kind in kinds] == wanted


async def test_rows_arrive_as_signed_cloud_events_in_order(store):
    async with receiving() as receiver:
        sender = await started(store, receiver)
        await write(store, "set", "clear", "set")
        await sender.go_through()
    assert [request.line for request in receiver.requests] == ["POST /hook HTTP/1.1"] * 3
    rows = [json.loads(request.body) for request in receiver.requests]
    # What arrives is the chain itself, and can be verified there.
    assert rows == await store.audit()
    assert verify_rows(rows).is_intact
    for request, row in zip(receiver.requests, rows, strict=True):
        assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
        assert (request.headers["webhook-id"], request.headers["webhook-timestamp"]) == (row["id"], "1700000000")
        signed = f"{row['id']}.1700000000.".encode() + request.body
        expected = base64.b64encode(hmac.new(base64.b64decode(SECRET[6:]), signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert (sender.statistics.delivered, sender.statistics.failed, sender.statistics.behind) == (3, 0, 0)


async def test_a_new_webhook_begins_with_what_happens_next(store):
    await write(store, "set", "set")
    async with receiving() as receiver:
        sender = await started(store, receiver)
        await write(store, "clear")
        await sender.go_through()
    assert [json.loads(request.body)["type"] for request in receiver.requests] == ["dev.headrace.traffic.clear"]


async def test_only_the_wanted_types_are_sent(store):
    async with receiving() as receiver:
        sender = await started(store, receiver, None, ("dev.headrace.traffic.clear",))
        await write(store, "set", "clear", "set")
        await sender.go_through()
        assert len(receiver.requests) == 1
        assert (await store.get(CURSOR, sender.sender.webhook.name)).value == {"sequence": 3}


@pytest.mark.parametrize("trouble", [408, 425, 429, 500, 502, 503, 504, "close", "hang", b"nonsense\r\n\r\n"])
async def test_what_passes_is_tried_again(store, trouble):
    async with receiving(trouble, trouble, 200) as receiver:
        sender = await started(store, receiver)
        await write(store, "set")
        await sender.go_through()
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert (len(receiver.requests), sender.pauses) == (3, [1.0, 2.0])
    assert (sender.statistics.delivered, sender.statistics.retried, sender.statistics.failed) == (1, 2, 0)


@pytest.mark.parametrize("trouble", [400, 401, 403, 404, 301, 302, 307, 308, 501])
async def test_what_does_not_pass_is_not(store, trouble):
    """Redirects above all: they are not followed."""
    answer = f"HTTP/1.1 {trouble} Said\r\nlocation: http://127.0.0.1:1/other\r\ncontent-length: 0\r\n\r\n".encode()
    async with receiving(answer) as receiver:
        sender = await started(store, receiver)
        await write(store, "set", "clear")
        await sender.go_through()
    assert (len(receiver.requests), sender.pauses) == (2, [])
    assert (sender.statistics.delivered, sender.statistics.failed) == (1, 1)


async def test_attempts_are_bounded_and_the_next_row_has_its_own(store):
    async with receiving(*[500] * 4) as receiver:
        sender = await started(store, receiver, RetryPolicy(attempts=4, longest_s=3))
        await write(store, "set", "clear")
        await sender.go_through()
    assert (len(receiver.requests), sender.pauses) == (5, [1.0, 2.0, 3.0])
    assert (sender.statistics.delivered, sender.statistics.failed, sender.statistics.retried) == (1, 1, 3)


async def test_the_time_of_all_attempts_is_bounded(store):
    async with receiving(*[500] * 100) as receiver:
        sender = await started(store, receiver, RetryPolicy(attempts=100, total_s=20, longest_s=8))
        await write(store, "set")
        await sender.go_through()
    assert sum(sender.pauses) <= 20
    assert (len(receiver.requests), sender.statistics.failed) == (5, 1)


@pytest.mark.parametrize(("value", "pause"), [("7", 7.0), ("99999", 60.0), ("-1", 1.0), ("soon", 1.0), ("1e3", 1.0), ("9" * 400, 1.0)])
async def test_retry_after_is_heeded_within_bounds(store, value, pause):
    async with receiving(f"HTTP/1.1 503 Busy\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n".encode()) as receiver:
        sender = await started(store, receiver)
        await write(store, "set")
        await sender.go_through()
    assert sender.pauses == [pause]


async def test_an_answer_without_end_is_not_read(store):
    async with receiving(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nxxxx") as receiver:
        sender = await started(store, receiver)
        await write(store, "set", "set")
        await sender.go_through()
    assert (sender.statistics.delivered, sender.statistics.retried) == (2, 0)


async def test_gone_ends_the_webhook(store):
    async with receiving(410) as receiver:
        sender = await started(store, receiver)
        await write(store, "set", "set")
        await asyncio.wait_for(sender.sender.run(), 5)
    assert (len(receiver.requests), sender.statistics.failed) == (1, 1)


async def test_a_restart_goes_on_with_the_first_row_that_was_not_acknowledged(store):
    async with receiving(204, "hang") as receiver:
        sender = await started(store, receiver, RetryPolicy(timeout_s=30))
        await write(store, "set", "clear", "set")
        arrived = asyncio.Event()
        receiver.on_request = lambda: arrived.set() if len(receiver.requests) == 2 else None
        running = asyncio.create_task(sender.sender.run())
        await asyncio.wait_for(arrived.wait(), 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        again = await started(store, receiver)
    assert [int(json.loads(request.body)["sequence"]) for request in receiver.requests] == [1, 2, 2, 3]
    assert again.statistics.delivered == 2


async def test_who_falls_too_far_behind_loses_the_oldest(store, monkeypatch):
    monkeypatch.setattr(webhooks_module, "MAX_BEHIND", 5)
    async with receiving() as receiver:
        sender = await started(store, receiver)
        await write(store, *["set"] * 12)
        await sender.go_through()
    assert [int(json.loads(request.body)["sequence"]) for request in receiver.requests] == [8, 9, 10, 11, 12]
    assert (sender.statistics.dropped, sender.statistics.delivered) == (7, 5)


async def test_a_chain_that_was_restored_is_followed_from_its_end(store):
    async with receiving() as receiver:
        sender = await started(store, receiver)
        await write(store, "set", "set")
        await sender.sender._save(90)
        again = await started(store, receiver)
        await write(store, "clear")
        await again.go_through()
    assert [int(json.loads(request.body)["sequence"]) for request in receiver.requests] == [3]


async def test_a_store_that_fails_for_a_while_ends_nothing(store, monkeypatch):
    async with receiving() as receiver:
        sender = await started(store, receiver)
        await write(store, "set")
        head, failures = store.audit_head, [Unavailable("locked")] * 2

        async def failing() -> tuple[int, str]:
            if failures:
                raise failures.pop()
            return await head()

        monkeypatch.setattr(store, "audit_head", failing)
        arrived = asyncio.Event()
        receiver.on_request = arrived.set
        running = asyncio.create_task(sender.sender.run())
        await asyncio.wait_for(arrived.wait(), 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert sender.pauses == [webhooks_module.REPOSE_S] * 2


async def test_all_webhooks_run_beside_each_other(store):
    """One that hangs keeps no other waiting."""
    async with receiving("hang") as slow, receiving() as quick:
        webhooks = Webhooks(store, [Webhook(slow.url, SECRET), Webhook(quick.url, SECRET)])
        webhooks.start()
        async with asyncio.timeout(5):
            while len(await store.list(CURSOR)) < 2:
                await asyncio.sleep(0)
            await write(store, "set", "clear")
            while not slow.requests or 2 not in [statistics.delivered for statistics in webhooks.statistics().values()]:
                await asyncio.sleep(0)
            await webhooks.close()
    assert (len(slow.requests), len(quick.requests)) == (1, 2)
    assert sorted(statistics.delivered for statistics in webhooks.statistics().values()) == [0, 2]


async def test_no_redirect_leads_a_webhook_elsewhere(store):
    async with receiving() as other:
        answer = f"HTTP/1.1 307 There\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with receiving(answer) as receiver:
            webhooks = Webhooks(store, [Webhook(receiver.url, SECRET)])
            webhooks.start()
            async with asyncio.timeout(5):
                while not await store.list(CURSOR):
                    await asyncio.sleep(0)
                await write(store, "set", "clear")
                while [statistics.delivered for statistics in webhooks.statistics().values()] != [1]:
                    await asyncio.sleep(0)
            await webhooks.close()
        assert (len(receiver.requests), other.requests) == (2, [])


async def test_a_webhook_given_twice_is_refused(store):
    with pytest.raises(ConfigurationError, match="given twice"):
        Webhooks(store, [Webhook("http://127.0.0.1/a", SECRET), Webhook("http://127.0.0.1/a", SECRET, ("dev.",))])

"""Webhooks: rows of the audit chain, posted as CloudEvents to whoever wants them.

Structured mode (`application/cloudevents+json`, the row as it stands in the chain), signed as `signature.py` says. Each webhook goes
through the chain by itself, one row at a time and in order, and remembers in the store how far it is: every row is delivered at least
once, also after a crash, unless the other side fails for longer than the retries last, or falls further behind than MAX_BEHIND rows.
Both are counted. The row's id is the `webhook-id`: who gets one twice can tell.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import structlog

from serve import clock
from serve.errors import ConfigurationError, HeadraceError
from serve.store.audit import sequence_of
from serve.store.canonical import canonical
from serve.store.port import Change, ConfigStore
from serve.store.signature import key_of, signature_headers

_log = structlog.get_logger(__name__)

CURSOR = "webhook"

# Rows that may wait for a webhook; older ones are dropped.
MAX_BEHIND = 1000
PAGE = 100
WAIT_S = 30.0
REPOSE_S = 5.0

# Worth another attempt; of the rest the other side has made up its mind.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE = 410

_CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"

_RANDOM = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class Rendered:
    """What is posted for an event instead of the event itself. headers: besides those of the signature."""

    body: bytes = field(repr=False)
    content_type: str
    headers: Mapping[str, str] = field(repr=False)


Render = Callable[[Mapping[str, Any]], Rendered]


@dataclass(frozen=True, slots=True)
class Webhook:
    """types: of the events that are wanted; one that ends in `.` means all that begin with it; () means all.

    render: how an event is written for a receiver that has a form of its own; such a one may do without secret, and gets no signature then.
    Raises ConfigurationError for a URL that is not http or https, one with a user name in it, and a secret that is none.
    """

    url: str
    secret: str = field(repr=False)
    types: tuple[str, ...] = ()
    render: Render | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"the URL of a webhook cannot be read: {error}") from error
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
            raise ConfigurationError(f"the URL of a webhook has scheme {url.scheme!r} and host {url.host!r}; want http(s)://host/path")
        if self.secret or self.render is None:
            key_of(self.secret)

    @property
    def name(self) -> str:
        """Under which its progress is kept: the same for the same URL. Tells nothing of a token in the URL."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @property
    def host(self) -> str:
        return httpx.URL(self.url).host

    def wants(self, event: Mapping[str, Any]) -> bool:
        kind = str(event.get("type"))
        return not self.types or any(kind == wanted or (wanted.endswith(".") and kind.startswith(wanted)) for wanted in self.types)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """attempts: in all, of one event. total_s: no attempt begins later than this after the first. timeout_s: of one attempt.

    The pause before attempt n + 1 is drawn from [0, base_s 2^(n-1)], at most longest_s ("full jitter").
    """

    attempts: int = 8
    total_s: float = 600.0
    timeout_s: float = 5.0
    base_s: float = 1.0
    longest_s: float = 60.0


@dataclass(slots=True)
class WebhookStatistics:
    """Events, since the start. retried counts attempts after the first. behind: rows of the chain not yet gone through."""

    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    retried: int = 0
    behind: int = 0


class WebhookSender:
    """One webhook's progress through the chain.

    sleep, jitter (a draw from [0, 1)), wall_ns, monotonic_ns: given in tests.
    """

    def __init__(
        self, webhook: Webhook, store: ConfigStore, client: httpx.AsyncClient, policy: RetryPolicy | None = None, *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, jitter: Callable[[], float] = _RANDOM.random,
        wall_ns: Callable[[], int] = clock.wall_ns, monotonic_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self.webhook = webhook
        self.statistics = WebhookStatistics()
        self._store = store
        self._client = client
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._jitter = jitter
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._key = key_of(webhook.secret) if webhook.secret else None
        self._cursor: int | None = None
        self._saved: int | None = None
        self._is_gone = False

    async def run(self) -> None:
        """Until cancelled, or until the other side says that it is gone (410)."""
        while not self._is_gone:
            try:
                # Before the look: a commit between the two ends the wait at once.
                seen = await self._store.revision()
                if not await self.advance():
                    await self._store.wait(seen, WAIT_S)
            except HeadraceError as error:
                _log.warning("webhooks cannot read the store", host=self.webhook.host, reason=str(error))
                await self._sleep(REPOSE_S)

    async def advance(self) -> bool:
        """Goes through the next rows of the chain; False when there were none. Raises what the store raises."""
        cursor = await self._position()
        rows: Sequence[Mapping[str, Any]] = await self._store.audit(cursor, PAGE)
        for row in rows:
            if self.webhook.wants(row):
                await self._deliver(row)
                await self._save(sequence_of(row))
                if self._is_gone:
                    return False
            self._cursor = sequence_of(row)
            self.statistics.behind = max(0, self.statistics.behind - 1)
        await self._save(self._cursor)
        return bool(rows)

    async def _position(self) -> int:
        """The newest row that is done with. A webhook that is new begins with what happens next."""
        head, _ = await self._store.audit_head()
        if self._cursor is None:
            saved = await self._store.get(CURSOR, self.webhook.name)
            self._saved = saved.content["sequence"] if saved else None
            # Beyond the head: the chain was restored from a backup.
            self._cursor = head if self._saved is None else min(self._saved, head)
            await self._save(self._cursor)
        if head - self._cursor > MAX_BEHIND:
            self.statistics.dropped += head - self._cursor - MAX_BEHIND
            _log.warning("a webhook is too far behind: rows are dropped", host=self.webhook.host, rows=head - self._cursor - MAX_BEHIND)
            self._cursor = head - MAX_BEHIND
        self.statistics.behind = head - self._cursor
        return self._cursor

    async def _save(self, sequence: int | None) -> None:
        if sequence is None or sequence == self._saved:
            return
        await self._store.commit([Change(CURSOR, self.webhook.name, {"sequence": sequence}, None)])
        self._saved = self._cursor = sequence

    async def _deliver(self, row: Mapping[str, Any]) -> None:
        rendered = self.webhook.render(row) if self.webhook.render is not None else Rendered(canonical(row).encode(), _CLOUD_EVENT, {})
        started = self._monotonic_ns()
        for attempt in range(1, self._policy.attempts + 1):
            status, wait_s = await self._attempt(str(row["id"]), rendered)
            if status is not None and 200 <= status < 300:
                self.statistics.delivered += 1
                return
            self._is_gone = status == _GONE
            pause_s = max(wait_s, self._jitter() * min(self._policy.longest_s, self._policy.base_s * 2 ** (attempt - 1)))
            elapsed_s = (self._monotonic_ns() - started) / 1e9
            is_over = attempt == self._policy.attempts or elapsed_s + pause_s > self._policy.total_s
            if is_over or (status is not None and status not in _PASSING):
                self.statistics.failed += 1
                _log.warning("a webhook was not delivered", host=self.webhook.host, id=row["id"], status=status, attempts=attempt)
                return
            self.statistics.retried += 1
            await self._sleep(pause_s)

    async def _attempt(self, message_id: str, rendered: Rendered) -> tuple[int | None, float]:
        """HTTP status, None without an answer, and the seconds that the other side asks to be left alone for."""
        body = rendered.body
        headers = {**rendered.headers, "content-type": rendered.content_type}
        if self._key is not None:
            headers |= signature_headers(self._key, message_id, self._wall_ns() // 1_000_000_000, body)
        try:
            # httpx bounds each step, this bounds them all. The body of the answer is never read.
            async with asyncio.timeout(self._policy.timeout_s):
                async with self._client.stream("POST", self.webhook.url, content=body, headers=headers) as answer:
                    return answer.status_code, _retry_after_s(answer.headers.get("retry-after", ""), self._policy.longest_s)
        except (httpx.HTTPError, TimeoutError):
            return None, 0.0


def _retry_after_s(value: str, longest_s: float) -> float:
    return min(float(value), longest_s) if value.isascii() and value.isdigit() and len(value) < 10 else 0.0


class Webhooks:
    """All webhooks of a server, each a task of its own."""

    def __init__(self, store: ConfigStore, webhooks: Sequence[Webhook], policy: RetryPolicy | None = None) -> None:
        repeated = {webhook.host for webhook in webhooks if sum(other.url == webhook.url for other in webhooks) > 1}
        if repeated:
            raise ConfigurationError(f"webhooks: a URL on {', '.join(sorted(repeated))} is given twice")
        # httpx logs every URL, tokens included.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        # trust_env: no proxy, no certificates and no .netrc that the environment names.
        self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=(policy or RetryPolicy()).timeout_s)
        self._senders = [WebhookSender(webhook, store, self._client, policy) for webhook in webhooks]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(sender.run(), name=f"webhook {sender.webhook.host}") for sender in self._senders]

    def statistics(self) -> Mapping[str, WebhookStatistics]:
        """By host and name, for metrics: a URL may hold a token."""
        return {f"{sender.webhook.host}/{sender.webhook.name}": sender.statistics for sender in self._senders}

    async def close(self) -> None:
        """At once: what was not delivered is, after the next start."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._client.aclose()


__all__ = ["CURSOR", "MAX_BEHIND", "Render", "Rendered", "RetryPolicy", "Webhook", "WebhookSender", "WebhookStatistics", "Webhooks"]

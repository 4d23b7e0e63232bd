"""Puts routing together: the store in the state directory, the hub, webhooks, the service, and what the metrics are told of it."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any

import structlog
import yaml

from serve import clock
from serve._core.histogram import histogram_bounds
from serve.config import Settings
from serve.errors import ConfigurationError, HeadraceError
from serve.models.lifecycle import ModelManager
from serve.models.native_engine import NativeEngine
from serve.routing.judge.judgement import Finding
from serve.routing.rollout_ledger import Clock
from serve.routing.rollout_live import Live
from serve.routing.rollout_state import Phase
from serve.routing.service import RoutingService
from serve.store.hub import EventHub
from serve.store.sqlite import SqliteStore
from serve.store.webhooks import Webhook, Webhooks
from serve.telemetry.routing_facts import RolloutFacts, RoutingFacts, RoutingLedger, TrafficFacts

_log = structlog.get_logger(__name__)

_LOCK = "headrace.lock"
CLOSE_S = 5.0
MIN_KEY_BYTES = 32


class Routing:
    """Everything of it that a worker starts and ends."""

    def __init__(self, service: RoutingService, store: SqliteStore, webhooks: Webhooks, counts: RoutingLedger, lock: int) -> None:
        self.service = service
        self._counts = counts
        self._store = store
        self._webhooks = webhooks
        self._lock = lock

    def facts(self) -> RoutingFacts:
        """What the metrics say of routing."""
        traffic = []
        for document in self.service.documents():
            self._counts.note(self.service.readings(document.model))
            spec = document.spec()
            traffic.append(TrafficFacts(
                model=document.model, generation=document.generation, arms=spec.arms if spec is not None else (),
                readings=self._counts.readings(document.model), shadows=self._counts.shadows(document.model)))
        newest = {live.state.model: live for live in self.service.live()}
        deliveries = {"delivered": 0, "failed": 0, "dropped": 0}
        for sent in self._webhooks.statistics().values():
            for result in deliveries:
                deliveries[result] += getattr(sent, result)
        bounds = tuple(bound / 1e9 for bound in histogram_bounds()[:-1])     # the last bucket is open
        return RoutingFacts(
            bounds=bounds, traffic=tuple(traffic), states=tuple(phase.value for phase in Phase),
            rollouts=tuple(_rollout_facts(live) for live in newest.values()), verdicts=self._counts.verdicts(), deliveries=deliveries)

    async def close(self) -> None:
        """Saves and ends, the store last. What cannot be saved must not keep the worker from ending."""
        for close in (self.service.close, self._webhooks.close, self._store.close):
            try:
                async with asyncio.timeout(CLOSE_S):
                    await close()
            except (HeadraceError, TimeoutError) as error:
                _log.error("routing does not end as it should", reason=str(error) or f"not within {CLOSE_S:g} s")
        os.close(self._lock)


async def open_routing(settings: Settings, models: ModelManager, engine: NativeEngine) -> Routing:
    """Opens the store and what it says about traffic. Raises ConfigurationError, or what the store says of a damaged file."""
    lock = _lock(settings.state_dir)
    source = f"headrace/{settings.server_name}"
    store = await SqliteStore.open(settings.state_dir, source=source, key=_audit_key(settings.audit_key_file))
    hub = EventHub(store.audit, source)
    store.on_commit(hub.publish_commit)
    webhooks = Webhooks(store, _webhooks(settings.webhooks))
    times = Clock(clock.monotonic_ns, clock.wall_ns)
    counts = RoutingLedger()
    service = RoutingService(store, models, engine, hub, times, store.back_up, counts.verdict)
    await service.open()
    webhooks.start()
    return Routing(service, store, webhooks, counts, lock)


def _rollout_facts(live: Live) -> RolloutFacts:
    findings = live.judgement.findings if live.judgement is not None else ()
    evidence: dict[str, tuple[float, float]] = {}
    for found in findings:
        if found.e_value is None or found.limit is None:
            continue
        evidence[_test_name(found)] = (found.e_value, found.limit)
    return RolloutFacts(model=live.state.model, rollout=live.state.id, state=live.state.phase.value, evidence=evidence)


def _test_name(found: Finding) -> str:
    """Some tests have several findings: promotion one a guardrail, the shadow one of what differs and one of what fails."""
    if found.test == "promotion":
        return f"promotion_{found.thresholds.get('guardrail', '')}".rstrip("_")
    return "shadow_failures" if found.test == "shadow" and "failed" in found.counts else found.test


def _lock(state_dir: Path) -> int:
    """The state directory belongs to one server at a time. Raises ConfigurationError: another one has it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"the state directory {state_dir} belongs to a server that is running: give this one its own with --state-dir") from error
    return descriptor


def _audit_key(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"--audit-key-file {file}: {error}") from error
    if len(key) < MIN_KEY_BYTES:
        how = f"want {MIN_KEY_BYTES} or more, as `openssl rand -hex 32` makes them"
        raise ConfigurationError(f"--audit-key-file {file}: {len(key)} bytes; {how}")
    return key


def _webhooks(file: Path | None) -> list[Webhook]:
    """Webhooks of a YAML file: a list of {url, secret_file, types}."""
    if file is None:
        return []
    try:
        entries: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ConfigurationError(f"--webhooks {file}: must be a list of webhooks, not {type(entries).__name__}")
        return [_webhook(file, entry) for entry in entries]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"--webhooks {file}: {error}") from error


def _webhook(file: Path, entry: Any) -> Webhook:
    if not isinstance(entry, dict) or not {"url", "secret_file"} <= entry.keys() <= {"url", "secret_file", "types"}:
        raise ConfigurationError(f"--webhooks {file}: a webhook has url, secret_file and perhaps types, not {entry!r}")
    secret = (file.parent / str(entry["secret_file"])).read_text(encoding="utf-8").strip()
    return Webhook(str(entry["url"]), secret, tuple(str(kind) for kind in entry.get("types") or ()))


__all__ = ["Routing", "open_routing"]

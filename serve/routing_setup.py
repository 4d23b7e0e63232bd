"""Puts routing together: the store in the state directory, the hub, webhooks, the service, and what the metrics are told of it."""

import asyncio
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
from serve.monitoring.ci_payloads import DEFAULT_TYPES, renderer
from serve.routing.judge.judgement import Finding
from serve.routing.ports import Outcomes
from serve.routing.rollout_ledger import Clock
from serve.routing.rollout_live import Live
from serve.routing.rollout_state import Phase
from serve.routing.service import RoutingService
from serve.store.hub import EventHub
from serve.store.sqlite import SqliteStore
from serve.store.webhooks import Webhook, Webhooks
from serve.telemetry.routing_facts import RolloutFacts, RoutingFacts, RoutingLedger, TrafficFacts

_log = structlog.get_logger(__name__)

CLOSE_S = 5.0
MIN_KEY_BYTES = 32


class Routing:
    """Everything of it that a worker starts and ends."""

    def __init__(self, service: RoutingService, store: SqliteStore, webhooks: Webhooks, counts: RoutingLedger) -> None:
        self.service = service
        self._counts = counts
        self.store = store
        self._webhooks = webhooks

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
        for close in (self.service.close, self._webhooks.close, self.store.close):
            try:
                async with asyncio.timeout(CLOSE_S):
                    await close()
            except (HeadraceError, TimeoutError) as error:
                _log.error("routing does not end as it should", reason=str(error) or f"not within {CLOSE_S:g} s")


async def open_routing(settings: Settings, models: ModelManager, engine: NativeEngine, outcomes: Outcomes | None = None) -> Routing:
    """Opens the store and what it says about traffic. Raises ConfigurationError, or what the store says of a damaged file.

    outcomes: None where nothing is recorded.
    """
    source = f"headrace/{settings.server_name}"
    store = await SqliteStore.open(settings.state_dir, source=source, key=_audit_key(settings.audit_key_file))
    hub = EventHub(store.audit, source)
    store.on_commit(hub.publish_commit)
    webhooks = Webhooks(store, _webhooks(settings.webhooks))
    times = Clock(clock.monotonic_ns, clock.wall_ns)
    counts = RoutingLedger()
    service = RoutingService(store, models, engine, hub, times, store.back_up, counts.verdict, outcomes)
    await service.open()
    webhooks.start()
    return Routing(service, store, webhooks, counts)


def _rollout_facts(live: Live) -> RolloutFacts:
    findings = live.judgement.findings if live.judgement is not None else ()
    evidence: dict[str, tuple[float, float]] = {}
    for found in findings:
        if found.e_value is None or found.limit is None:
            continue
        evidence[_test_name(found)] = (found.e_value, found.limit)
    return RolloutFacts(model=live.state.model, rollout=live.state.id, state=live.state.phase.value, evidence=evidence)


def _test_name(found: Finding) -> str:
    """Some tests have several findings: promotion one a guardrail, outcomes one each, the shadow what differs and what fails."""
    if found.test == "promotion":
        return f"promotion_{found.thresholds.get('guardrail', '')}".rstrip("_")
    if found.test == "outcome":
        return f"outcome_{found.thresholds['name']}"
    return "shadow_failures" if found.test == "shadow" and "failed" in found.counts else found.test


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


_WEBHOOK_KEYS = frozenset({"url", "secret_file", "types", "format", "token_file", "ref"})


def _webhook(file: Path, entry: Any) -> Webhook:
    if not isinstance(entry, dict) or "url" not in entry or not entry.keys() <= _WEBHOOK_KEYS:
        allowed = "url, secret_file and perhaps types, format, token_file and ref"
        raise ConfigurationError(f"--webhooks {file}: a webhook has {allowed}, not {entry!r}")
    types = entry.get("types") or ()
    if isinstance(types, str) or not all(isinstance(kind, str) for kind in types):
        raise ConfigurationError(f"--webhooks {file}: types = {types!r}: must be a list of event types")
    url, format_ = str(entry["url"]), str(entry.get("format", "cloudevents"))
    if format_ == "cloudevents" and "secret_file" not in entry:
        raise ConfigurationError(f"--webhooks {file}: a webhook without format has to have a secret_file")
    secret, token = (_secret(file, entry.get(key)) for key in ("secret_file", "token_file"))
    render = renderer(format_, url, token, str(entry.get("ref", "")))
    return Webhook(url, secret, tuple(types) or (DEFAULT_TYPES if render is not None else ()), render)


def _secret(file: Path, name: Any) -> str:
    return "" if name is None else (file.parent / str(name)).read_text(encoding="utf-8").strip()


__all__ = ["Routing", "open_routing"]

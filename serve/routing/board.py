"""The traffic of every model as it is in force: one document a model, one writer at a time, the store before or with the native threads.

A change is committed and published in one go. What gives a candidate requests is durable before it is in force; what takes them away may be
in force before it is durable (`publish_first`): a crash in between takes them away as well, as a candidate comes back with weight 0.
"""

import asyncio
import weakref
from collections.abc import Collection, Sequence
from dataclasses import replace

from serve.errors import Conflict, NotFound, StaleGeneration
from serve.routing.ports import Models
from serve.routing.traffic_document import KIND, TrafficDocument, from_document
from serve.store.audit import AuditEntry
from serve.store.port import Change, ConfigStore


class TrafficBoard:
    """Of one event loop."""

    def __init__(self, store: ConfigStore, models: Models) -> None:
        self.store = store
        self._models = models
        self._documents: dict[str, TrafficDocument] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def open(self) -> None:
        """Reads what the store has, before any model is loaded: `pinned` counts from here on."""
        for stored in await self.store.list(KIND):
            self._documents[stored.key] = from_document(stored.content, stored.revision)

    def models(self) -> tuple[str, ...]:
        """Names of the models that have a document."""
        return tuple(sorted(self._documents))

    def document(self, model: str) -> TrafficDocument:
        """The document in force; an empty one where nothing was ever set."""
        return self._documents.get(model, TrafficDocument(model))

    def pinned(self, model: str) -> frozenset[str]:
        """Versions that must stay loaded."""
        return self.document(model).versions()

    def lock(self, model: str) -> asyncio.Lock:
        """Held by whoever reads a document in order to change it."""
        return self._locks.setdefault(model, asyncio.Lock())

    def apply(self, model: str) -> None:
        """Publishes what the document says, with the versions that serve now."""
        document = self.document(model)
        self._models.route(model, document.spec(), document.labels)

    async def change(
        self, document: TrafficDocument, audit: Sequence[AuditEntry], also: Sequence[Change] = (), *, publish_first: bool = False
    ) -> TrafficDocument:
        """Makes a document, which is `self.document(...)` with changes, the one in force, together with other changes of the store.

        Raises InvalidArgument when the versions that serve cannot do it, and what the store raises; then nothing has changed.
        """
        former = self.document(document.model)
        if document.revision != former.revision:
            raise StaleGeneration(f"the traffic of '{document.model}' was changed meanwhile: it is at generation {former.generation}")
        self._models.check_route(document.model, document.spec(), document.labels)
        audit = self.with_digests(audit, document.model, former.versions() | document.versions())
        if publish_first:
            self._models.route(document.model, document.spec(), document.labels)
        try:
            commit = await self.store.commit(
                [Change(KIND, document.model, document.as_document(), document.revision), *also], audit)
        except BaseException:
            if publish_first:
                # What is in force is less than what is durable, never more: the caller tries again.
                self._documents[document.model] = replace(former, plan=document.plan, generation=document.generation)
            raise
        document = replace(document, revision=commit.revision)
        self._documents[document.model] = document
        if not publish_first:
            self.apply(document.model)
        return document

    async def hold(self, model: str, by: str) -> None:
        """Where there is no plan, the version that answers now goes on answering everything until there is one, or somebody clears it.

        To be called before a version is loaded for a part of the traffic: as the latest one it would get all of it. Durable: a restart
        loads that version as well. by: for the audit.
        """
        async with self.lock(model):
            document = self.document(model)
            try:
                default = self._models.default_version(model)
            except NotFound:
                return
            if document.plan is not None or document.held or not default:
                return
            entry = AuditEntry("dev.headrace.traffic.held", model, by, f"version {default} answers until there is a plan", None, default)
            await self.change(replace(document, held=default), [entry])

    async def record(self, changes: Sequence[Change], audit: Sequence[AuditEntry] = ()) -> int:
        """A commit that leaves the traffic alone. Returns its revision."""
        return (await self.store.commit(changes, audit)).revision

    def with_digests(self, audit: Sequence[AuditEntry], model: str, versions: Collection[str]) -> list[AuditEntry]:
        """The entries with what those of the versions that are loaded are made of: a number says nothing when its files have changed."""
        loaded = sorted(set(versions) & set(self._models.served(model)), key=int)
        found = {version: self._models.describe(model, version).digest for version in loaded}
        digests = {version: digest for version, digest in found.items() if digest}
        return [replace(entry, digests=digests) for entry in audit]


def check_generation(document: TrafficDocument, expected: int) -> None:
    """Raises StaleGeneration when somebody has changed the traffic since the caller looked."""
    if document.generation != expected:
        raise StaleGeneration(
            f"the traffic of '{document.model}' is at generation {document.generation}, not {expected}: read it again, repeat the change")


def check_owner(document: TrafficDocument, owner: str = "") -> None:
    """Raises Conflict when a rollout or experiment owns the plan."""
    if document.owner and document.owner != owner:
        kind, _, name = document.owner.partition(":")
        raise Conflict(f"{kind} {name} owns the traffic of '{document.model}': abort or finish it first")


__all__ = ["TrafficBoard", "check_generation", "check_owner"]

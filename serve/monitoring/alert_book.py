"""The alerts of a server: every watch and what it has raised, kept in the database. Of one thread."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from serve.errors import NotFound
from serve.monitoring.alerts import Alert, Kind, Subject, Verdict, Watch, advance, forgotten, restored, watch_document, watch_of
from serve.monitoring.database import MonitoringDatabase
from serve.monitoring.triggers import ALERT_CLEARED, RETRAIN_REQUESTED, Told, events
from serve.monitors import MonitoringSpec

_TOLD = "told"
_NUMBER = "alert_number"
# Cleared alerts that a model's document shows.
MAX_SHOWN = 100


class AlertBook:
    """Everything is put into the database; its flush is the caller's."""

    def __init__(self, database: MonitoringDatabase) -> None:
        self._database = database
        self._alerts = {alert.id: alert for alert in map(restored, database.alerts())}
        self._watches: dict[Subject, Watch] = {}
        for (model, version, variant), kind, alert_id, document in database.watches():
            subject = Subject(model, version, variant, Kind(kind))
            self._watches[subject] = watch_of(document, self._alerts.get(alert_id))
        # model -> Told.kind -> when one was told, nanoseconds since the epoch
        self._last: dict[str, dict[str, int]] = database.fact(_TOLD, {})
        self._number: int = database.fact(_NUMBER, 0)

    def conclude(self, subject: Subject, verdict: Verdict, spec: MonitoringSpec, now_ns: int) -> None:
        """What a window says of a subject."""
        before = self._watches.get(subject, Watch())
        alert_id = f"{subject.model}-a{self._number + 1}"
        watch, changed = advance(before, subject, verdict, spec.alert_m, spec.alert_n, now_ns, alert_id)
        if watch is before:
            return
        if changed is not None:
            if changed.id == alert_id:
                self._number += 1
                self._database.put_fact(_NUMBER, self._number)
            self._keep(changed)
        self._put(subject, watch)

    def forget(self, now_ns: int) -> None:
        """Clears what nothing was heard of for a day."""
        for subject, watch in list(self._watches.items()):
            if (gone := forgotten(watch, now_ns)) is not None:
                self._keep(gone)
                self._put(subject, Watch())

    def due(self, model: str, spec: MonitoringSpec, now_ns: int, stable: str) -> list[Told]:
        """What is to be told of a model now."""
        return events(model, self.of_model(model), self._last.get(model, {}), now_ns, spec, stable)

    def told(self, event: Told) -> None:
        """The event is durable: it is not told again."""
        if event.kind:
            self._last.setdefault(event.model, {})[event.kind] = event.time_ns
            self._database.put_fact(_TOLD, self._last)
        for alert_id in event.alerts:
            alert = self._alerts[alert_id]
            if event.type == RETRAIN_REQUESTED:
                alert = replace(alert, is_requested=True)
            elif event.type == ALERT_CLEARED:
                alert = replace(alert, is_clear_told=True)
            else:
                alert = replace(alert, is_told=True)
            self._keep(alert)

    def acknowledge(self, model: str, alert_id: str, by: str, now_ns: int) -> Alert:
        """Somebody has seen it. Raises NotFound."""
        alert = self._alerts.get(alert_id)
        if alert is None or alert.subject.model != model:
            raise NotFound(f"model '{model}' has no alert {alert_id!r}")
        seen = replace(alert, acknowledged=by, acknowledged_ns=now_ns)
        self._keep(seen)
        return seen

    def models(self) -> Iterable[str]:
        return {subject.model for subject in self._watches} | {alert.subject.model for alert in self._alerts.values()}

    def of_model(self, model: str) -> list[Alert]:
        """Oldest first; of those that cleared the newest MAX_SHOWN."""
        found = sorted((one for one in self._alerts.values() if one.subject.model == model), key=lambda one: (one.raised_ns, one.id))
        cleared = [one for one in found if not one.is_raised]
        hidden = {one.id for one in itertools.islice(cleared, max(0, len(cleared) - MAX_SHOWN))}
        return [one for one in found if one.id not in hidden]

    def standing(self) -> Mapping[tuple[str, str], int]:
        """(model, kind) -> alerts that stand; 0 for what has been watched."""
        counts: dict[tuple[str, str], int] = dict.fromkeys(((one.model, one.kind.value) for one in self._watches), 0)
        for alert in self._alerts.values():
            if alert.is_raised:
                key = (alert.subject.model, alert.subject.kind.value)
                counts[key] = counts.get(key, 0) + 1
        return counts

    def _keep(self, alert: Alert) -> None:
        self._alerts[alert.id] = alert
        self._database.put_alert(alert.id, alert.subject.model, alert.raised_ns, alert.stored())
        # What a watch holds is the alert as it stands.
        watch = self._watches.get(alert.subject)
        if watch is not None and watch.alert is not None and watch.alert.id == alert.id and alert.is_raised:
            self._watches[alert.subject] = replace(watch, alert=alert)

    def _put(self, subject: Subject, watch: Watch) -> None:
        self._watches[subject] = watch
        alert_id = watch.alert.id if watch.alert is not None else ""
        self._database.put_watch((subject.model, subject.version, subject.variant), subject.kind.value, alert_id, watch_document(watch))


def shown(alert: Alert) -> dict[str, Any]:
    """An alert as the API shows it, with its times as numbers too."""
    return {**alert.as_document(), "since_ns": alert.since_ns, "raised_ns": alert.raised_ns, "cleared_ns": alert.cleared_ns}


__all__ = ["MAX_SHOWN", "AlertBook", "shown"]

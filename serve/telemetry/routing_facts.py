"""What the metrics of routing are made from, and the ledger that keeps counts whose generations have ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve.traffic import Arm, PlanReading, ShadowReading

# Newest generations of a model whose counters are exposed beside those that still count.
KEPT_GENERATIONS = 2
# However many old generations still have requests in flight.
MAX_GENERATIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFacts:
    """One model. arms: as set, in the plan in force. readings: of the generations to expose, ascending, at most MAX_GENERATIONS.

    shadows: one for each shadow version, cumulative over all generations since the worker started.
    """

    model: str
    generation: int
    arms: tuple[Arm, ...] = ()
    readings: tuple[PlanReading, ...] = ()
    shadows: tuple[ShadowReading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """A rollout that has not ended, or the newest of its model. evidence: test -> (e-value, limit), of the newest judgement."""

    model: str
    rollout: str
    state: str
    evidence: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingFacts:
    """State and counters of routing at one moment.

    bounds: upper bounds of the histograms' buckets in seconds, one fewer than the buckets (the last one is open). states: every state that
    a rollout can have. verdicts: (model, verdict) -> verdicts since the worker started, a verdict being counted when it differs from the
    one before it. deliveries: result -> webhooks.
    """

    bounds: tuple[float, ...] = ()
    traffic: tuple[TrafficFacts, ...] = ()
    states: tuple[str, ...] = ()
    rollouts: tuple[RolloutFacts, ...] = ()
    verdicts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    deliveries: Mapping[str, int] = field(default_factory=dict)


class RoutingLedger:
    """Keeps what would be lost, or would count backwards, when a generation ends.

    Tell it of every reading, in any order and any number of times, and of every verdict. Holds a few generations of each model.
    """

    def __init__(self) -> None:
        self._readings: dict[str, dict[int, PlanReading]] = {}
        self._ended: dict[str, dict[str, ShadowReading]] = {}
        self._folded: dict[str, int] = {}       # newest generation whose shadows are in _ended; those before it are, too
        self._verdicts: dict[tuple[str, str], int] = {}

    def note(self, readings: Iterable[PlanReading]) -> None:
        """Takes the newest look at some generations. One that is older than all that are kept was counted already and is left out."""
        for reading in readings:
            if reading.generation > self._folded.get(reading.model, -1):
                self._readings.setdefault(reading.model, {})[reading.generation] = reading
                self._fold(reading.model)

    def verdict(self, model: str, verdict: str) -> None:
        """Counts one."""
        self._verdicts[model, verdict] = self._verdicts.get((model, verdict), 0) + 1

    def readings(self, model: str) -> tuple[PlanReading, ...]:
        """TrafficFacts.readings."""
        kept = self._readings.get(model, {})
        newest = sorted(kept)[-KEPT_GENERATIONS:]
        return tuple(kept[generation] for generation in sorted(kept) if generation in newest or not kept[generation].is_final)

    def shadows(self, model: str) -> tuple[ShadowReading, ...]:
        """TrafficFacts.shadows."""
        total = dict(self._ended.get(model, {}))
        for reading in self._readings.get(model, {}).values():
            _add(total, reading)
        return tuple(total[version] for version in sorted(total))

    def verdicts(self) -> Mapping[tuple[str, str], int]:
        """RoutingFacts.verdicts."""
        return dict(self._verdicts)

    def forget(self, model: str) -> None:
        """The model is gone."""
        self._readings.pop(model, None)
        self._ended.pop(model, None)
        self._folded.pop(model, None)
        self._verdicts = {key: count for key, count in self._verdicts.items() if key[0] != model}

    def _fold(self, model: str) -> None:
        # Oldest first, and only as far as all are over or there are too many: what is folded is never looked at again.
        kept = self._readings[model]
        for generation in sorted(kept)[:-KEPT_GENERATIONS]:
            if not kept[generation].is_final and len(kept) <= MAX_GENERATIONS:
                return
            _add(self._ended.setdefault(model, {}), kept.pop(generation))
            self._folded[model] = generation


def _add(total: dict[str, ShadowReading], reading: PlanReading) -> None:
    for shadow in reading.shadows:
        before = total.get(shadow.version, ShadowReading(shadow.version))
        dropped = {reason: before.dropped.get(reason, 0) + shadow.dropped.get(reason, 0) for reason in {**before.dropped, **shadow.dropped}}
        total[shadow.version] = ShadowReading(
            shadow.version, before.sampled + shadow.sampled, before.compared + shadow.compared, before.disagreement + shadow.disagreement,
            before.failed + shadow.failed, dropped)

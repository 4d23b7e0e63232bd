"""What the metrics of monitoring are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Features of a version that have series of their own.
MAX_FEATURES = 50
# The label of all others together.
REST = "_rest"

# model, version, variant
Series = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """One version as one variant. psi: by feature, of the newest concluded window. effects: of embeddings, MMD^2 as a share of the
    variance. drifted, steady, unsaid: features of it, by what was found; unsaid had too few values. estimated, realised: metric -> value of
    the newest window that has it. bands: metric -> (lower, upper). rows: watched since the worker began. windows: result -> windows closed
    since then (concluded, too_few).
    """

    psi: Mapping[str, float] = field(default_factory=dict)
    effects: Mapping[str, float] = field(default_factory=dict)
    drifted: int = 0
    steady: int = 0
    unsaid: int = 0
    estimated: Mapping[str, float] = field(default_factory=dict)
    realised: Mapping[str, float] = field(default_factory=dict)
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: int = 0
    windows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringFacts:
    """State of monitoring at one moment.

    violations: (model, version, feature, kind) -> values that the baseline does not know, since monitoring began here; at most MAX_FEATURES
    features of a version are named. alerts: (model, kind) -> alerts that stand. retrain_events: model -> requests since the worker began.
    skipped: reason -> rows that no statistics hold. commands: result -> runs of the monitoring command.
    """

    series: Mapping[Series, SeriesFacts] = field(default_factory=dict)
    violations: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)
    alerts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    retrain_events: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    commands: Mapping[str, int] = field(default_factory=dict)


def worst_features(psi: Mapping[str, float], limit: int = MAX_FEATURES) -> dict[str, float]:
    """The `limit` features with the largest values; the largest of the others under REST."""
    ordered = sorted(psi.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ordered[:limit])
    if len(ordered) > limit:
        shown[REST] = ordered[limit][1]
    return shown


class ViolationLedger:
    """Counters of violations that keep their names: the first MAX_FEATURES features of a version that have any, the rest summed."""

    def __init__(self, counts: Mapping[tuple[str, str, str, str], int] | None = None) -> None:
        self._counts: dict[tuple[str, str, str, str], int] = dict(counts or {})
        self._named: dict[tuple[str, str], set[str]] = {}
        for model, version, feature, _ in self._counts:
            if feature != REST:
                self._named.setdefault((model, version), set()).add(feature)

    def add(self, model: str, version: str, feature: str, kind: str, count: int) -> None:
        if not count:
            return
        named = self._named.setdefault((model, version), set())
        if feature not in named and len(named) >= MAX_FEATURES:
            feature = REST
        elif feature != REST:
            named.add(feature)
        key = (model, version, feature, kind)
        self._counts[key] = self._counts.get(key, 0) + count

    def counts(self) -> dict[tuple[str, str, str, str], int]:
        return dict(self._counts)

"""What monitoring's service is given, and what it hands around: rows that were seen, the judgement of a window, who knows what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline
from serve.monitoring.cells import Cells
from serve.monitoring.database import Series
from serve.monitors import MonitoringSpec


@dataclass(frozen=True, slots=True)
class Judged:
    """What a window says of a kind of alert; without it nothing is concluded about that kind. evidence: JSON."""

    is_bad: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """document: the window's, without its times (serve.monitoring.evaluation). violations: feature -> kind -> values."""

    document: Mapping[str, Any]
    judged: Mapping[Kind, Judged] = field(default_factory=dict)
    violations: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Evaluator(Protocol):
    """Raises HeadraceError where a window cannot be evaluated."""

    def __call__(self, series: Series, cells: Cells, stable: tuple[Cells, Cells] | None, spec: MonitoringSpec) -> Evaluation:
        """stable: where this is another version than the stable one: the same rows counted by that one's baseline, and what it had itself
        in the window.
        """


Role = Literal["own", "stable"]


@dataclass(frozen=True, slots=True)
class SeenCells:
    """What was seen of a series in the cell that begins at start_ns. role: by whose baseline it was counted."""

    series: Series
    start_ns: int
    cells: Cells
    role: Role = "own"


class Seen(Protocol):
    """Rows that were seen since the last look; `serve.monitoring.observation.MonitoringObserver` in production."""

    def take(self) -> list[SeenCells]: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """specs: of a model. stable: the version that a model's stable traffic goes to, "" where nobody knows. known: a baseline by its sha256,
    of those that rows were counted by since the start.
    """

    seen: Seen
    evaluate: Evaluator
    specs: Callable[[str], MonitoringSpec]
    stable: Callable[[str], str]
    known: Callable[[str], Baseline | None]


@dataclass(slots=True)
class Counts:
    """Since the worker began."""

    rows: int = 0
    windows: dict[str, int] = field(default_factory=lambda: {"concluded": 0, "too_few": 0})


__all__ = ["Counts", "Evaluation", "Evaluator", "Judged", "Ports", "Role", "Seen", "SeenCells"]

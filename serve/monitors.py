"""What is watched of a model, as values: a model's `monitoring:`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Task = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class MonitoringSpec:
    """A model's `monitoring:`. Names are those of inputs and outputs; seconds, rows and shares as the fields say.

    prediction: the output whose first value of a row is the predicted class or number; "" finds one: the only output of one integer, text
    or number a row, else the largest of `scores`. scores: the output of class probabilities; "" finds a float output of more than one
    element a row. classes: names by index of scores. positive: the class whose score is that of a binary model. window_s: of drift and
    performance. min_rows: of a window before anything is concluded. alert_m of alert_n consecutive windows raise an alert. fdr: level of
    Benjamini-Hochberg over the features of a window. min_psi: an effect below is no drift whatever its p-value. reject: what is refused
    with 400, by the baseline. label_window_s: a label that comes later than this after its prediction is late. outcomes: name -> SQL
    expression over a joined row, whose mean feeds rollouts and experiments. cooldown_s: between two events of one kind.
    """

    enabled: bool = True
    task: Task | None = None
    prediction: str = ""
    scores: str = ""
    classes: tuple[str, ...] = ()
    positive: str = ""
    window_s: float = 300.0
    min_rows: int = 500
    alert_m: int = 2
    alert_n: int = 3
    fdr: float = 0.01
    min_psi: float = 0.1
    features: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    reject: tuple[Literal["range", "category"], ...] = ()
    metric: str = ""
    min_metric: float | None = None
    label_window_s: float = 604_800.0
    outcomes: Mapping[str, str] = field(default_factory=dict)
    cooldown_s: float = 3600.0


__all__ = ["MonitoringSpec", "Task"]

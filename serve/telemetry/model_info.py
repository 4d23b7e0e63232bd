"""Which bytes answer under which name: one sample a loaded version, whose labels say what it is made of."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from serve.telemetry.families import Sample, Scalar
from serve.types import ModelDescription

# Of what model.yaml says of a version's origin, the parts that a query may want to join by; "" where it does not say.
PROVENANCE: Final = ("git_revision", "dvc_revision", "mlflow_run", "training_data_digest")


def _identity(model: ModelDescription) -> Iterable[Sample]:
    origin = tuple(model.provenance.get(key, "") for key in PROVENANCE)
    return [((model.name, model.version, model.digest, *origin), 1.0)]


MODEL_INFO: Final[Scalar[ModelDescription]] = Scalar(
    GaugeMetricFamily, "headrace_model_info", "Always 1 for each version that serves; the labels say what it is made of.",
    ("model", "version", "digest", *PROVENANCE), _identity)


class ModelInfoCollector:
    """models: every version that serves, asked at each scrape."""

    def __init__(self, models: Callable[[], Iterable[ModelDescription]]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """The family with one sample a version."""
        return [MODEL_INFO.family(self._models())]

    def describe(self) -> Iterable[Metric]:
        """The family without samples."""
        return [MODEL_INFO.family([])]


__all__ = ["MODEL_INFO", "PROVENANCE", "ModelInfoCollector"]

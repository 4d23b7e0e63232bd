"""Which bytes answer, as a metric to join others by."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serve.telemetry.facts import RuntimeFacts
from serve.telemetry.metrics import HeadraceCollector, metrics_registry
from serve.telemetry.model_info import ModelInfoCollector
from serve.types import ModelDescription

FACTS = RuntimeFacts(version="0", worker_epoch=1, start_time_s=0.0)


def model(version: str, **provenance: str) -> ModelDescription:
    return ModelDescription("digits", version, ("1", "2"), {}, (), (), 0, digest=f"sha256:{version}", provenance=provenance)


def test_one_sample_a_version_says_what_it_is_made_of() -> None:
    models = [model("1"), model("2", git_revision="abc", training_data_digest="sha256:9", owner="nobody")]
    registry = metrics_registry(HeadraceCollector(list, lambda: FACTS), ModelInfoCollector(lambda: models))
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    nothing = {"git_revision": "", "dvc_revision": "", "mlflow_run": "", "training_data_digest": ""}
    assert [(sample.labels, sample.value) for sample in families["headrace_model_info"].samples] == [
        ({"model": "digits", "version": "1", "digest": "sha256:1", **nothing}, 1),
        ({"model": "digits", "version": "2", "digest": "sha256:2", **nothing, "git_revision": "abc", "training_data_digest": "sha256:9"},
         1),
    ]

"""`recording:`, `monitoring:` and `provenance:` of model.yaml: what they become, and every way of being refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.models.config import ModelConfig, parse_model_yaml
from serve.models.config_recording import MonitoringSection
from serve.models.schema import model_schema
from serve.models.triton_config import from_override
from serve.monitors import MonitoringSpec
from serve.records import RecordingSpec, Redaction
from serve.traffic import Source

FULL = """
recording:
  enabled: true
  sampling: 0.1
  policy: fail-closed
  block_timeout_ms: 50
  inputs: [text, age]
  outputs: []
  redact: {in_text: hash, in_age: {bucket: [0, 18, 65]}, trace_id: mask, tags: drop}
  tags: {tenant: {header: X-Tenant}, country: {parameter: country}}
  retention_days: 30
monitoring:
  task: classification
  prediction: label
  scores: probabilities
  classes: [cat, dog]
  positive: dog
  window_s: 60
  min_rows: 100
  alert_m: 1
  alert_n: 1
  reject: [range, category]
  metric: accuracy
  min_metric: 0.9
provenance: {training_data: "s3://bucket/train.parquet", git_revision: 0f1e2d3}
"""


def parse(text: str) -> ModelConfig:
    return parse_model_yaml(text, "m/model.yaml")


def test_everything() -> None:
    config = parse(FULL)
    assert config.recording.spec() == RecordingSpec(
        sampling=0.1, policy="fail-closed", block_timeout_ms=50, inputs=("text", "age"), outputs=(),
        redact=(
            Redaction("in_text", "hash"), Redaction("in_age", "bucket", (0.0, 18.0, 65.0)), Redaction("trace_id", "mask"),
            Redaction("tags", "drop"),
        ),
        tags={"tenant": Source("header", "x-tenant"), "country": Source("parameter", "country")}, retention_days=30,
    )
    assert config.monitoring.spec() == MonitoringSpec(
        task="classification", prediction="label", scores="probabilities", classes=("cat", "dog"), positive="dog", window_s=60.0,
        min_rows=100, alert_m=1, alert_n=1, reject=("range", "category"), metric="accuracy", min_metric=0.9,
    )
    assert config.provenance == {"training_data": "s3://bucket/train.parquet", "git_revision": "0f1e2d3"}


def test_the_defaults_are_those_of_the_values() -> None:
    assert parse("").recording.spec() == RecordingSpec()
    assert parse("").monitoring.spec() == MonitoringSpec()
    assert set(MonitoringSection.model_fields) == {field.name for field in dataclasses.fields(MonitoringSpec)}


def test_a_model_may_stay_out_of_the_records() -> None:
    assert parse("recording: {enabled: false}").recording.spec() is None


def test_a_configuration_in_triton_s_shape_keeps_what_it_cannot_say() -> None:
    base = parse(FULL)
    config = from_override('{"max_batch_size": 4}', "m", base)
    assert (config.recording, config.monitoring, config.provenance) == (base.recording, base.monitoring, base.provenance)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("recording: 1", "recording = 1: Input should be an object"),
        ("recording: {sample: 1}", "unknown key 'recording.sample'; allowed: enabled, sampling, policy, block_timeout_ms, inputs,"),
        ("recording: {sampling: 1.5}", "recording.sampling = 1.5: Input should be less than or equal to 1"),
        ("recording: {sampling: '1'}", 'recording.sampling = "1": Input should be a valid number'),
        ("recording: {policy: wait}", "recording.policy = \"wait\": Input should be 'drop', 'block' or 'fail-closed'"),
        ("recording: {block_timeout_ms: 0}", "recording.block_timeout_ms = 0: Input should be greater than or equal to 1"),
        ("recording: {inputs: [a, a]}", "recording: inputs: 'a' is named more than once"),
        ("recording: {inputs: a}", 'recording.inputs = "a": Input should be a valid array'),
        ("recording: {retention_days: 0}", "recording.retention_days = 0: Input should be greater than or equal to 1"),
        ("recording: {redact: {text: hash}}", 'recording.redact.text = "text": a column is tags, trace_id, unit, in_<input> or out_'),
        ("recording: {redact: {request_id: drop}}", "request_id is what labels find their rows by; have clients send ids that tell"),
        ("recording: {redact: {unit: hash}}", "recording: redact: 'unit' cannot be redacted like that; use drop or mask"),
        ("recording: {redact: {in_: hash}}", 'recording.redact.in_ = "in_": a column is'),
        ("recording: {redact: {in_x: delete}}", "recording.redact.in_x = \"delete\": Input should be 'drop', 'mask' or 'hash'; allowed:"),
        ("recording: {redact: {in_x: {buckets: [1]}}}", "unknown key 'recording.redact.in_x.buckets'; allowed: by column, drop, mask,"),
        ("recording: {redact: {in_x: {bucket: []}}}", "recording.redact.in_x.bucket = []: Tuple should have at least 1 item"),
        ("recording: {redact: {in_x: {bucket: [2, 2]}}}", "bucket = [2.0, 2.0]: give each bound once, ascending"),
        ("recording: {redact: {tags: {bucket: [2]}}}", "recording: redact: 'tags' cannot be redacted like that; use drop or mask or hash"),
        ("recording: {tags: {a: {}}}", "recording.tags.a = {}: give one of header and parameter"),
        ("recording: {tags: {a: {header: x, parameter: x}}}", "give one of header and parameter"),
        ("recording: {tags: {a: {header: 'x y'}}}", 'recording.tags.a.header = "x y": String should match pattern'),
        ("recording: {tags: {a b: {header: x}}}", 'recording.tags.a b = "a b": String should match pattern'),
        ("monitoring: {windows: 1}", "unknown key 'monitoring.windows'; allowed: enabled, task, prediction, scores, classes,"),
        ("monitoring: {alert_m: 4}", "monitoring: alert_m = 4: at most alert_n, which is 3"),
        ("monitoring: {positive: x, classes: [a, b]}", "monitoring: positive = 'x': none of the classes, which are a, b"),
        ("monitoring: {reject: [shape]}", "monitoring.reject.0 = \"shape\": Input should be 'range' or 'category'"),
        ("monitoring: {fdr: 0}", "monitoring.fdr = 0: Input should be greater than 0"),
        ("provenance: {git_revision: 12}", "provenance.git_revision = 12: Input should be a valid string"),
        ("provenance: {a b: x}", 'provenance.a b = "a b": String should match pattern'),
    ],
)
def test_refusals_name_file_key_value_and_what_is_allowed(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    assert str(raised.value).startswith("m/model.yaml: ")
    assert error in str(raised.value)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=8))
def test_buckets_ascend(bounds: list[int]) -> None:
    text = f"recording: {{redact: {{in_x: {{bucket: {json.dumps(bounds)}}}}}}}"
    if bounds == sorted(set(bounds)):
        spec = parse(text).recording.spec()
        assert spec is not None
        assert spec.redact == (Redaction("in_x", "bucket", tuple(float(bound) for bound in bounds)),)
    else:
        with pytest.raises(ConfigurationError, match="give each bound once, ascending"):
            parse(text)


def test_every_key_of_a_section_is_described() -> None:
    sections = json.loads(model_schema())["$defs"]
    described = [key for name in ("RecordingSection", "MonitoringSection") for key in sections[name]["properties"].values()]
    assert all(key.get("description") for key in described)

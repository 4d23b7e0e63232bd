"""What the worker tells the join: which generations share their units, and what a model's `monitoring` says."""

import json
from pathlib import Path

import pytest

from serve.monitors import MonitoringSpec
from serve.recording import joining
from serve.recording.jobs import Listener
from serve.recording.join_specs import monitoring_message, told_spec
from tests.unit.recording.joining_bench import JoiningBench, predicted, truth


@pytest.fixture
def bench(tmp_path: Path) -> JoiningBench:
    return JoiningBench(tmp_path)


def test_labels_wait_until_the_model_is_known(bench: JoiningBench) -> None:
    bench.spec = MonitoringSpec(classes=("cat", "dog"))
    predicted(bench, 2)
    bench.label(truth(0, value=None, text="cat"), {"request_id": "nobody's", "value": 1.0})
    bench.now_ns += joining.PATIENCE_NS
    assert bench.counts(bench.run(is_told=False)) == {"waiting": 2}
    messages = bench.run()
    assert bench.counts(messages) == {"joined": 1, "unknown": 1}
    assert bench.tallies(messages)[3, "1", "accuracy"] == (1, 1.0)


def test_a_model_that_is_gone_is_compared_as_well_as_can_be(bench: JoiningBench) -> None:
    predicted(bench, 1)
    bench.label(truth(0))
    bench.run(is_told=False)
    bench.now_ns += joining.PATIENCE_NS
    assert bench.counts(bench.run(is_told=False)) == {"joined": 1}


def test_a_spec_survives_the_pipe() -> None:
    spec = MonitoringSpec(task="regression", classes=("a", "b"), outcomes={"cost": "label"}, reject=("range",), min_metric=0.5)
    message = json.loads(json.dumps(monitoring_message("m", spec)))
    assert told_spec(message) == ("m", spec)
    assert told_spec({**message, "spec": {**message["spec"], "later": 1}}) == ("m", spec)


def test_other_messages_are_somebody_elses(bench: JoiningBench) -> None:
    bench.job.tell({"type": "checkpoint"})
    bench.job.tell({})
    assert isinstance(bench.job, Listener)
    assert bench.counts(bench.run()) == {}


def test_a_message_that_is_no_scope_stops_nothing_for_long(bench: JoiningBench) -> None:
    predicted(bench)
    bench.label(truth(0))
    bench.job.tell({"type": "scopes", "model": "m"})
    with pytest.raises(KeyError):
        bench.run()
    assert bench.counts(bench.run()) == {"joined": 1}

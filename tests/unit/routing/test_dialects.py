"""Other systems' documents, as their own manuals write them, and what becomes of them here."""

import json
from typing import Any

import pytest
import yaml

from serve.errors import Unprocessable
from serve.routing.dialects import ModelContext, dialect_of, parse
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan

IRIS = ModelContext("iris", versions=("1", "2", "3"), stable="1", candidate="2")
BARE = ModelContext("iris", versions=("1", "2", "3"), stable="1")


def split(text: str, context: ModelContext = IRIS) -> list[tuple[str, int]]:
    plan = parse(text, context)
    assert isinstance(plan, RoutingPlan)
    return [(variant.version, variant.weight) for variant in plan.variants]


def course(text: str, context: ModelContext = IRIS) -> RolloutPlan:
    plan = parse(text, context)
    assert isinstance(plan, RolloutPlan)
    return plan


def refused(text: str, context: ModelContext = IRIS) -> str:
    with pytest.raises(Unprocessable) as caught:
        parse(text, context)
    return str(caught.value)


def rollout(steps: str, more: str = "") -> str:
    return f"""
        apiVersion: argoproj.io/v1alpha1
        kind: Rollout
        metadata: {{name: example-rollout}}
        spec: {{strategy: {{canary: {{steps: {steps}{more}}}}}}}
    """


# Argo Rollouts

ARGO_GOOD: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "an hour, then a gate": (
        rollout("[{setWeight: 10}, {pause: {duration: 1h}}, {setWeight: 20}, {pause: {}}]"),
        [{"weight": 1_000, "seconds": 3_600.0}, {"weight": 2_000, "pause": True}], {"step_timeout_seconds": 7_200.0},
    ),
    "steps alone, every unit of a pause": (
        "steps: [{setWeight: 5}, {pause: {duration: 10}}, {setWeight: 10}, {pause: {duration: 10s}}, {setWeight: 15},"
        " {pause: {duration: 10m}}, {setWeight: 20}, {pause: {duration: '90'}}, {setWeight: 30}, {pause: {duration: 1h30m}}]",
        [{"weight": 500, "seconds": 10.0}, {"weight": 1_000, "seconds": 10.0}, {"weight": 1_500, "seconds": 600.0},
         {"weight": 2_000, "seconds": 90.0}, {"weight": 3_000, "seconds": 5_400.0}], {},
    ),
    "100 at the end, pauses add up": (
        "strategy: {canary: {steps: [{setWeight: 25}, {pause: {duration: 5m}}, {pause: {duration: 5m}}, {pause: {}}, {setWeight: 100}]}}",
        [{"weight": 2_500, "seconds": 600.0, "pause": True}], {},
    ),
    "a step without a pause keeps our minimum": ("canary: {steps: [{setWeight: 40}]}", [{"weight": 4_000}], {}),
    "mirror first": (
        rollout("[{setWeight: 0}, {setMirrorRoute: {name: m, percentage: 35, match: [{method: {exact: POST}, path: {prefix: /}}]}},"
                " {pause: {duration: 10m}}, {setMirrorRoute: {name: m}}, {setWeight: 20}, {pause: {duration: 10m}}]",
                ", trafficRouting: {managedRoutes: [{name: m}]}"),
        [{"weight": 2_000, "seconds": 600.0}], {"shadow": {"sample": 3_500, "seconds": 600.0}},
    ),
    "mirror alone, all of it": (
        "steps: [{setMirrorRoute: {name: m, match: [{path: {prefix: /}}]}}, {pause: {}}, {setMirrorRoute: {name: m}}, {setWeight: 100}]",
        [], {"shadow": {"sample": 10_000, "pause": True}},
    ),
    "header route": (
        rollout("[{setHeaderRoute: {name: set-header-1, match: [{headerName: Custom-Header1, headerValue: {exact: Mozilla}}]}},"
                " {setHeaderRoute: {name: set-header-2, match: [{headerName: x-beta, headerValue: {exact: 'yes'}}]}}, {setWeight: 20},"
                " {pause: {duration: 10s}}]", ", trafficRouting: {managedRoutes: [{name: set-header-2}, {name: set-header-1}]}"),
        [{"weight": 2_000, "seconds": 10.0}],
        {"overrides": [{"header": "x-beta", "value": "yes", "version": "2"},
                       {"header": "Custom-Header1", "value": "Mozilla", "version": "2"}]},
    ),
}


@pytest.mark.parametrize("name", ARGO_GOOD)
def test_argo_steps(name: str) -> None:
    text, steps, more = ARGO_GOOD[name]
    plan = course(text)
    fields = {"step_timeout_seconds": plan.step_timeout_seconds, "shadow": None, **more}
    assert plan == RolloutPlan.model_validate({"to": "2", "stable": "1", "steps": steps, **fields})
    assert plan.step_timeout_seconds >= 2 * max([stage.seconds or 0 for stage in (*plan.steps, *([plan.shadow] if plan.shadow else []))])


HEADER = "{setHeaderRoute: {name: a, match: [{headerName: h, headerValue: {exact: v}}]}}"


@pytest.mark.parametrize(("text", "said"), [
    (rollout("[{setWeight: 5}, {analysis: {templates: [{templateName: success-rate}]}}]"),
     "spec.strategy.canary.steps.1.analysis: its templates"),
    (rollout("[{experiment: {duration: 1h, templates: []}}]"), "steps.0.experiment: start an experiment of our own"),
    (rollout("[{setWeight: 5}, {plugin: {name: x}}]"), "steps.1.plugin: no plugins"),
    (rollout("[{setCanaryScale: {replicas: 3}}, {setWeight: 5}]"), "steps.0.setCanaryScale: there are no pods"),
    (rollout("[{setWeight: 20}]", ", maxSurge: 25%, canaryService: c"), "canary.maxSurge: is about pods"),
    (rollout("[{setWeight: 20}]", ", canaryService: c"), "canary.canaryService: requests are routed here"),
    (rollout("[{setWeight: 20}]", ", trafficRouting: {istio: {}}"), "trafficRouting.istio: Headrace routes by itself"),
    (rollout("[{setWeight: 20}]", ", analysis: {templates: []}"), "canary.analysis: its templates"),
    ("apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nspec: {replicas: 10, strategy: {canary: {steps: [{setWeight: 20}]}}}",
     "spec.replicas: describes pods"),
    ("strategy: {blueGreen: {activeService: a}}", "strategy.blueGreen: use canary"),
    ("steps: [{setWeight: 20}, {setWeight: 10}]", "steps.1.setWeight: 10 does not exceed 20"),
    ("steps: [{setWeight: 20}, {setWeight: 20}]", "steps.1.setWeight: 20 does not exceed 20"),
    ("steps: [{setWeight: 101}]", "steps.0.setWeight: expected a whole number from 0 to 100, found 101"),
    ("steps: [{setWeight: 20, pause: {}}]", "steps.0: a step does one thing; this one names setWeight, pause"),
    ("steps: [{setWeight: 20}, {pause: {duration: 5 minutes}}]", "steps.1.pause.duration: expected seconds or a duration"),
    ("steps: [{setWeight: 20}, {pause: {until: noon}}]", "steps.1.pause.until: unknown field"),
    ("steps: [{pause: {duration: 5m}}, {setWeight: 20}]", "steps.0.pause: a pause at weight 0 without a mirror"),
    ("steps: [{setWeight: 20}, {pause: {}}, {pause: {duration: 5m}}]", "steps.2.pause: follows a pause without duration"),
    ("steps: [{setWeight: 100}, {pause: {duration: 5m}}]", "steps.1: follows setWeight 100"),
    ("steps: [{setWeight: 20}, {setMirrorRoute: {name: m, percentage: 5}}]", "steps.1.setMirrorRoute: one mirror, before the first weight"),
    ("steps: [{setMirrorRoute: {name: m, percentage: 5}}, {setWeight: 20}]", "steps.1.setWeight: the mirror 'm' is still on"),
    ("steps: [{setMirrorRoute: {name: m}}, {setWeight: 20}]", "steps.0.setMirrorRoute.name: there is no mirror 'm'"),
    ("steps: [{setMirrorRoute: {name: m, match: [{method: {exact: GET}}]}}, {setWeight: 20}]",
     "match.0.method: {'exact': 'GET'}: every request"),
    ("steps: [{setMirrorRoute: {name: m, match: [{headers: {}}]}}, {setWeight: 20}]",
     "match.0.headers: every request of the model is sampled"),
    ("steps: [{setHeaderRoute: {name: a, match: [{headerName: h, headerValue: {regex: '.*'}}]}}, {setWeight: 5}]",
     "headerValue.regex: only exact"),
    ("steps: [{setHeaderRoute: {name: a, match: [{headerName: h, headerValue: {prefix: x}}]}}, {setWeight: 5}]",
     "headerValue.prefix: only exact"),
    (f"steps: [{HEADER}, {{setWeight: 5}}, {{setHeaderRoute: {{name: a}}}}]", "steps.2.setHeaderRoute: overrides are in force"),
    (f"steps: [{{setWeight: 5}}, {HEADER}]", "steps.1.setHeaderRoute: overrides are in force for the whole rollout: put it before"),
    (f"steps: [{HEADER}, {HEADER}, {{setWeight: 5}}]", "steps.1.setHeaderRoute.name: 'a' is given twice"),
    (rollout(f"[{HEADER}, {{setWeight: 5}}]", ", trafficRouting: {managedRoutes: [{name: b}]}"), "name: 'a' is none of trafficRouting"),
    ("steps: [{setWeight: 100}]", "give steps, shadow or both"),
    ("to: 2\nsteps: [{setWeight: 10}]", "to: is not Argo's"),
    (rollout("[]"), "steps: expected a list of one or more"),
])
def test_argo_documents_that_cannot_be_honoured(text: str, said: str) -> None:
    assert said in refused(text)


def test_candidate_is_the_newest_version_where_nobody_names_one() -> None:
    assert course("steps: [{setWeight: 10}]", BARE).to == "3"
    assert "answers already" in refused("steps: [{setWeight: 10}]", ModelContext("iris", ("1",), "1"))
    assert "none of model iris is known" in refused("steps: [{setWeight: 10}]", ModelContext("iris"))


# Seldon

SELDON = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Experiment\nmetadata: {name: experiment-sample}\nspec: "


@pytest.mark.parametrize(("text", "variants"), [
    (SELDON + "{default: iris, candidates: [{modelName: iris, weight: 50}, {modelName: iris2, weight: 50}]}", [("1", 5_000), ("2", 5_000)]),
    (SELDON + "{default: iris3, candidates: [{name: iris2, weight: 50}, {name: iris3, weight: 50}]}", [("3", 5_000), ("2", 5_000)]),
    (SELDON + "{candidates: [{name: iris, weight: 1}, {name: iris-2, weight: 1}, {name: iris_v3, weight: 1}], resourceType: model}",
     [("1", 3_334), ("2", 3_333), ("3", 3_333)]),
    ("candidates: [{name: '1', weight: 100}, {name: '2', weight: 0}]", [("1", 10_000), ("2", 0)]),
    ("candidates: [{name: iris, weight: 10}, {name: iris:2, weight: 20}]".replace("iris:2", "iris@2"), None),
    ("candidates: [{name: iris.1, weight: 3}, {name: iris.2, weight: 7}]", [("1", 3_000), ("2", 7_000)]),
    ("candidates: [{name: iris, weight: 9999}, {name: iris2, weight: 1}]", [("1", 9_999), ("2", 1)]),
])
def test_seldon_candidates(text: str, variants: list[tuple[str, int]] | None) -> None:
    if variants is None:    # a name that we understand and that no variant can have
        assert "variants.1.name: String should match pattern" in refused(text)
    else:
        assert split(text) == variants


def test_seldon_mirror_and_names() -> None:
    plan = parse(SELDON + "{default: iris, candidates: [{name: iris, weight: 100}], mirror: {name: iris2, percent: 100}}", IRIS)
    assert isinstance(plan, RoutingPlan)
    assert [(shadow.version, shadow.sample) for shadow in plan.shadows] == [("2", 10_000)]
    assert plan.variants[0].name == "iris"
    plan = parse("candidates: [{name: iris, weight: 1}]\nmirror: {name: iris2, percent: 0}", IRIS)
    assert isinstance(plan, RoutingPlan)
    assert plan.shadows == ()
    named = ModelContext("iris", ("1", "2"), "1", names={"blue": "1", "green": "2"})
    assert split("candidates: [{name: blue, weight: 1}, {name: green, weight: 4}]", named) == [("1", 2_000), ("2", 8_000)]


@pytest.mark.parametrize(("text", "said"), [
    (SELDON + "{default: iris, candidate: [{name: iris, weight: 50}]}", "spec.candidate: unknown field"),
    (SELDON + "{default: p, resourceType: pipeline, candidates: [{name: p, weight: 100}]}", "spec.resourceType: 'pipeline'"),
    (SELDON + "{default: iris4, candidates: [{name: iris, weight: 50}]}", "spec.default: 'iris4' is none of the candidates iris"),
    (SELDON + "{candidates: [{name: wine, weight: 50}]}",
     "spec.candidates.0: 'wine' names no version of model iris, which has versions 1, 2, 3"),
    (SELDON + "{candidates: [{name: iris4, weight: 50}]}", "spec.candidates.0: 'iris4' names no version"),
    ("candidates: [{name: iris, weight: 0}, {name: iris2, weight: 0}]", "candidates: every weight is 0"),
    ("candidates: [{name: iris, weight: 1}, {name: iris2, weight: 100000}]", "candidates.0: weight 1 of 100001 is under 1 basis point"),
    ("candidates: [{name: iris, weight: -1}]", "candidates.0.weight: expected a whole number from 0"),
    ("candidates: [{name: iris}]", "candidates.0.weight"),
    ("candidates: [{name: iris, weight: 1}, {name: '1', weight: 1}]", "variants: version 1 is given twice"),
    ("candidates: [{name: iris, weight: 1}]\nmirror: {name: iris2, percent: 101}", "mirror.percent: expected a whole number from 0 to 100"),
    ("candidates: [{name: iris, weight: 1}]\nmirror: {name: iris2, percentage: 1}", "mirror.percentage: unknown field"),
    (SELDON.replace("mlops", "other") + "{candidates: [{name: iris, weight: 1}]}", "apiVersion: expected mlops.seldon.io/..."),
])
def test_seldon_documents_that_cannot_be_honoured(text: str, said: str) -> None:
    assert said in refused(text)


# Databricks

def entities(*items: str) -> str:
    return f"served_entities: [{', '.join(items)}]\n"


ROUTES = (
    "traffic_config: {routes: [{served_model_name: current, traffic_percentage: 90},"
    " {served_model_name: challenger, traffic_percentage: 10}]}"
)
CURRENT = "{name: current, entity_name: iris, entity_version: '1'}"
CHALLENGER = "{name: challenger, entity_name: iris, entity_version: '2'}"


@pytest.mark.parametrize(("text", "variants"), [
    (entities(CURRENT, CHALLENGER) + ROUTES, [("1", 9_000), ("2", 1_000)]),
    (json.dumps({"name": "multi-model", "config": yaml.safe_load(entities(CURRENT, CHALLENGER) + ROUTES)}), [("1", 9_000), ("2", 1_000)]),
    (entities(CURRENT, CHALLENGER) + ROUTES.replace("90", "'90'").replace("10}", "'10'}"), [("1", 9_000), ("2", 1_000)]),
    ("routes: [{served_model_name: iris-1, traffic_percentage: 100}, {served_model_name: iris-2, traffic_percentage: 0}]",
     [("1", 10_000), ("2", 0)]),
    (entities(CURRENT, CHALLENGER).replace("entity_name: iris", "entity_name: main.flowers.iris") + ROUTES, [("1", 9_000), ("2", 1_000)]),
    ("served_models: [{name: a, model_name: iris, model_version: 3}]\n"
     "traffic_config: {routes: [{served_model_name: a, traffic_percentage: 100}]}", [("3", 10_000)]),
    (entities("{entity_name: iris, entity_version: 2}", CURRENT) +
     "traffic_config: {routes: [{served_entity_name: iris-2, traffic_percentage: 100}]}", [("2", 10_000), ("1", 0)]),
])
def test_databricks_routes(text: str, variants: list[tuple[str, int]]) -> None:
    assert split(text) == variants


@pytest.mark.parametrize(("text", "said"), [
    (entities(CURRENT.replace("}", ", workload_size: Small, scale_to_zero_enabled: true}"), CHALLENGER) + ROUTES,
     "served_entities.0.workload_size: says how large a machine is"),
    (entities(CURRENT, CHALLENGER.replace("iris", "wine")) + ROUTES, "served_entities.1.entity_name: 'wine' is another model than iris"),
    (entities(CURRENT) + ROUTES, "'challenger' is none of the served entities current"),
    (entities(CURRENT, CHALLENGER) + ROUTES.replace("90", "80"), "the percentages sum to 90; want 100"),
    ("routes: [{served_model_name: iris-1, traffic_percentage: 33.3}]", "traffic_percentage: expected a whole number from 0 to 100"),
    ("routes: [{served_model_name: iris-9, traffic_percentage: 100}]", "'iris-9' names no version of model iris"),
    (entities(CURRENT, CURRENT) + ROUTES, "served_entities.1.name: 'current' is given twice"),
    ("routes: [{served_model_name: iris-1, traffic_percentage: 50}, {served_model_name: iris-1, traffic_percentage: 50}]", "given twice"),
    (entities(CURRENT, CHALLENGER) + ROUTES + "\nauto_capture_config: {}", "auto_capture_config: recording is set"),
    (entities(CURRENT, CHALLENGER), "traffic_config: expected a mapping"),
    (json.dumps({"name": "m", "tags": [], "config": {}}), "tags: are not kept"),
    (entities(CURRENT) + "served_models: []\n" + ROUTES, "served_models: is the older name"),
])
def test_databricks_documents_that_cannot_be_honoured(text: str, said: str) -> None:
    assert said in refused(text)


# SageMaker

def guarded(shift: str, more: str = "") -> str:
    return f"DeploymentConfig: {{BlueGreenUpdatePolicy: {{TrafficRoutingConfiguration: {shift}{more}}}}}"


CANARY = "{Type: CANARY, CanarySize: {Type: CAPACITY_PERCENT, Value: 30}, WaitIntervalInSeconds: 600}"
LINEAR = "{Type: LINEAR, LinearStepSize: {Type: CAPACITY_PERCENT, Value: 20}, WaitIntervalInSeconds: 300}"


@pytest.mark.parametrize(("text", "steps"), [
    (guarded(CANARY), [(3_000, 600.0)]),
    (guarded(CANARY, ", TerminationWaitInSeconds: 0"), [(3_000, 600.0)]),
    (f"BlueGreenUpdatePolicy: {{TrafficRoutingConfiguration: {CANARY}}}", [(3_000, 600.0)]),
    (f"TrafficRoutingConfiguration: {LINEAR}", [(2_000, 300.0), (4_000, 300.0), (6_000, 300.0), (8_000, 300.0)]),
    (LINEAR.replace("20", "33"), [(3_300, 300.0), (6_600, 300.0), (9_900, 300.0)]),
    (LINEAR.replace("20", "50").replace("300", "0"), [(5_000, None)]),
    (CANARY.replace("600", "3600"), [(3_000, 3_600.0)]),
])
def test_sagemaker_shifts(text: str, steps: list[tuple[int, float | None]]) -> None:
    plan = course(text)
    assert [(step.weight, step.seconds) for step in plan.steps] == steps
    assert {step.requests for step in plan.steps} == {500}
    assert (plan.to, plan.stable, plan.shadow) == ("2", "1", None)


def test_sagemaker_all_at_once_is_a_split() -> None:
    assert split(guarded("{Type: ALL_AT_ONCE, WaitIntervalInSeconds: 0}")) == [("2", 10_000), ("1", 0)]


@pytest.mark.parametrize(("text", "said"), [
    ("DeploymentConfig: {AutoRollbackConfiguration: {Alarms: [{AlarmName: a}]}, BlueGreenUpdatePolicy: {}}",
     "DeploymentConfig.AutoRollbackConfiguration: its alarms are in CloudWatch"),
    ("DeploymentConfig: {RollingUpdatePolicy: {MaximumBatchSize: {}}}", "RollingUpdatePolicy: replaces machines"),
    (guarded(CANARY, ", TerminationWaitInSeconds: 600"), "TerminationWaitInSeconds: nothing is terminated here"),
    (guarded(CANARY, ", MaximumExecutionTimeoutInSeconds: 1800"), "MaximumExecutionTimeoutInSeconds: there is no limit on the whole"),
    (CANARY.replace("CAPACITY_PERCENT", "INSTANCE_COUNT"), "CanarySize.Type: 'INSTANCE_COUNT'"),
    (CANARY.replace("30", "51"), "CanarySize.Value: expected a whole number from 1 to 50, found 51"),
    (LINEAR.replace("20", "5"), "LinearStepSize.Value: expected a whole number from 10 to 50, found 5"),
    (LINEAR.replace("300", "3601"), "WaitIntervalInSeconds: expected a whole number from 0 to 3600"),
    (CANARY.replace("CanarySize", "LinearStepSize"), "LinearStepSize: does not belong to Type CANARY"),
    ("{Type: ALL_AT_ONCE, WaitIntervalInSeconds: 0, CanarySize: {Type: CAPACITY_PERCENT, Value: 1}}", "CanarySize: does not belong"),
    ("{Type: BLUE, WaitIntervalInSeconds: 0}", "Type: expected ALL_AT_ONCE, CANARY or LINEAR, found 'BLUE'"),
    ("TrafficRoutingConfiguration: {Type: CANARY}", "WaitIntervalInSeconds: expected a whole number"),
])
def test_sagemaker_documents_that_cannot_be_honoured(text: str, said: str) -> None:
    assert said in refused(text)


# KServe

def service(spec: str) -> str:
    head = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: sklearn-iris, namespace: kserve-test}\n"
    return f"{head}spec: {spec}"


@pytest.mark.parametrize(("text", "context", "variants"), [
    (service("{predictor: {canaryTrafficPercent: 10}}"), BARE, [("1", 9_000), ("3", 1_000)]),
    ("predictor: {canaryTrafficPercent: 20}", IRIS, [("1", 8_000), ("2", 2_000)]),
    ("canaryTrafficPercent: 0", BARE, [("1", 10_000), ("3", 0)]),
    ("canaryTrafficPercent: 100", BARE, [("1", 0), ("3", 10_000)]),
    ("canaryTrafficPercent: 10", ModelContext("iris", ("4", "5"), "5"), [("4", 9_000), ("5", 1_000)]),
    (service("{predictor: {name: iris-1}, canary: [{trafficPercent: 25, predictor: {name: v2}},"
             " {trafficPercent: 0, predictor: {name: iris-3}}]}"),
     BARE, [("1", 7_500), ("2", 2_500), ("3", 0)]),
    ("canary: [{trafficPercent: 25, predictor: {name: v2}}]", BARE, [("1", 7_500), ("2", 2_500)]),
])
def test_kserve_canaries(text: str, context: ModelContext, variants: list[tuple[str, int]]) -> None:
    assert split(text, context) == variants


TAGGED = "annotations: {serving.kserve.io/enable-tag-routing: x}"


@pytest.mark.parametrize(("text", "said"), [
    (service("{predictor: {canaryTrafficPercent: 10, model: {modelFormat: {name: sklearn}}}}"), "spec.predictor.model: versions come from"),
    (service("{predictor: {canaryTrafficPercent: 10, minReplicas: 1}}"), "spec.predictor.minReplicas: says how pods are run"),
    (service("{predictor: {canaryTrafficPercent: 10}, transformer: {}}"), "spec.transformer: only a model's versions"),
    (service("{predictor: {canaryTrafficPercent: 10}}").replace("namespace: kserve-test", TAGGED),
     "metadata.annotations.serving.kserve.io/enable-tag-routing: annotations change"),
    ("canaryTrafficPercent: 101", "canaryTrafficPercent: expected a whole number from 0 to 100"),
    ("canaryTrafficPercent: 12.5", "canaryTrafficPercent: expected a whole number"),
    ("predictor: {}", "predictor.canaryTrafficPercent: expected a whole number"),
    ("canary: [{trafficPercent: 60, predictor: {name: v2}}, {trafficPercent: 60, predictor: {name: v3}}]", "the percentages sum to 120"),
    ("canary: [{trafficPercent: 60, predictor: {name: wine}}]", "canary.0.predictor.name: 'wine' names no version"),
    ("canary: [{trafficPercent: 60, predictor: {name: v2, model: {}}}]", "canary.0.predictor.model: versions come from"),
])
def test_kserve_documents_that_cannot_be_honoured(text: str, said: str) -> None:
    assert said in refused(text)


def test_kserve_wants_two_versions() -> None:
    assert "wants two versions of model iris; it has 1" in refused("canaryTrafficPercent: 10", ModelContext("iris", ("1",), "1"))


# Telling them apart

def test_our_own_documents() -> None:
    assert split("variants: [{version: 1, weight: 10000}]") == [("1", 10_000)]
    assert course("steps: [{weight: 100, pause: true}]").to == "2"
    assert course("{}\n".replace("{}", "to: 3"), BARE).to == "3"
    assert "to: the plan says version 3, the command version 2" in refused("to: 3")


@pytest.mark.parametrize("text", ["a: 1", "kind: Service\nspec: {}", "{}", "candidates: []\nroutes: []", "variants: []\nstrategy: {}"])
def test_shape_of_nobody_or_of_several_is_refused(text: str) -> None:
    assert "no dialect is told" in refused(text)


def test_fields_of_another_dialect_are_refused_by_name() -> None:
    assert "holdback: unknown field" in refused("candidates: [{name: iris, weight: 1}]\nholdback: {weight: 1, seconds: 1}")
    assert dialect_of({"steps": [{"weight": 5}, {"setWeight": 5}]}) == "argo"
    assert "steps.0.weight: unknown field" in refused("steps: [{weight: 5}, {setWeight: 5}]")

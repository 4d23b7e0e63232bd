"""Databricks Model Serving's `traffic_config`. https://docs.databricks.com/aws/en/machine-learning/model-serving/serve-multiple-models-to-serving-endpoint"""

from collections.abc import Mapping
from typing import Any

from serve.routing.dialects.reading import ModelContext, check_fields, integer_at, list_at, mapping_at, refuse, text_at, version_named
from serve.routing.documents import validated
from serve.routing.plan import RoutingPlan

_SIZES = "says how large a machine is; Headrace does not size machines: remove it"
_ENTITY_WHY = {
    "workload_size": _SIZES, "workload_type": _SIZES, "scale_to_zero_enabled": _SIZES, "min_provisioned_throughput": _SIZES,
    "max_provisioned_throughput": _SIZES, "min_provisioned_concurrency": _SIZES, "max_provisioned_concurrency": _SIZES,
    "environment_vars": "models have no environment of their own here: remove it",
    "instance_profile_arn": "models have no cloud identity here: remove it",
    "external_model": "only versions of a model in the repository are served",
    "foundation_model": "only versions of a model in the repository are served",
}
_CONFIG_WHY = {
    "auto_capture_config": "recording is set where the server is started: remove it",
    "ai_gateway": "is not for models like these: remove it",
    "tags": "are not kept: remove it",
    "rate_limits": "are set where the server is started: remove it",
    "route_optimized": "every route is: remove it",
}
_MARKS = ("traffic_config", "routes", "served_entities", "served_models", "config")


def is_databricks(document: Mapping[str, Any]) -> bool:
    """By the fields of the endpoint's configuration, with or without its wrapping."""
    return any(mark in document for mark in _MARKS)


def parse(document: Mapping[str, Any], context: ModelContext) -> RoutingPlan:
    """Percentages sum to 100, as there. A served entity without a route gets nothing. Raises Unprocessable."""
    path = ""
    if "config" in document:
        check_fields(document, "", ("name", "config"), _CONFIG_WHY)
        path, document = "config.", mapping_at(document["config"], "config")
    if "routes" in document:
        document = {"traffic_config": {"routes": document["routes"]}, **{k: v for k, v in document.items() if k != "routes"}}
    check_fields(document, path.rstrip("."), ("traffic_config", "served_entities", "served_models"), _CONFIG_WHY)
    versions = _entities(document, path, context)
    percents = _routes(mapping_at(document.get("traffic_config"), f"{path}traffic_config"), f"{path}traffic_config")
    if versions:
        unknown = [name for name in percents if name not in versions]
        if unknown:
            refuse(f"{path}traffic_config.routes", f"{unknown[0]!r} is none of the served entities {', '.join(versions)}")
    else:
        versions = {name: version_named(name, f"{path}traffic_config.routes", context) for name in percents}
    if sum(percents.values()) != 100:
        refuse(f"{path}traffic_config.routes", f"the percentages sum to {sum(percents.values())}; want 100")
    # Order of the routes, then what has none.
    names = [*percents, *(name for name in versions if name not in percents)]
    variants = [{"version": versions[name], "weight": percents.get(name, 0) * 100, "name": name} for name in names]
    return validated(RoutingPlan, {"variants": variants})


def _entities(document: Mapping[str, Any], path: str, context: ModelContext) -> dict[str, str]:
    """Name -> version; {} where the document lists no entities."""
    if "served_entities" in document and "served_models" in document:
        refuse(f"{path}served_models", "is the older name of served_entities: give one of them")
    older = "served_models" in document
    key, of = ("served_models", "model") if older else ("served_entities", "entity")
    if key not in document:
        return {}
    versions: dict[str, str] = {}
    for at, item in enumerate(list_at(document[key], f"{path}{key}")):
        where = f"{path}{key}.{at}"
        entity = mapping_at(item, where)
        check_fields(entity, where, ("name", f"{of}_name", f"{of}_version"), _ENTITY_WHY)
        full = text_at(entity.get(f"{of}_name"), f"{where}.{of}_name")
        # In Unity Catalog the last of three parts is the model's own name.
        short = full.rsplit(".", maxsplit=1)[-1]
        if context.model not in {short, full}:
            refuse(f"{where}.{of}_name", f"{full!r} is another model than {context.model}: a split is between versions of one model")
        raw = entity.get(f"{of}_version")
        number = str(raw) if isinstance(raw, int) else text_at(raw, f"{where}.{of}_version")
        version = version_named(number, f"{where}.{of}_version", context)
        name = text_at(entity.get("name", f"{short}-{version}"), f"{where}.name")
        if name in versions:
            refuse(f"{where}.name", f"{name!r} is given twice")
        versions[name] = version
    return versions


def _routes(traffic: Mapping[str, Any], path: str) -> dict[str, int]:
    check_fields(traffic, path, ("routes",))
    percents: dict[str, int] = {}
    for at, item in enumerate(list_at(traffic.get("routes"), f"{path}.routes")):
        where = f"{path}.routes.{at}"
        route = mapping_at(item, where)
        key = "served_entity_name" if "served_entity_name" in route and "served_model_name" not in route else "served_model_name"
        twice = {"served_entity_name": "is the newer name of served_model_name: give one of them"}
        check_fields(route, where, (key, "traffic_percentage"), twice)
        name = text_at(route.get(key), f"{where}.{key}")
        if name in percents:
            refuse(f"{where}.{key}", f"{name!r} is given twice")
        percents[name] = integer_at(route.get("traffic_percentage"), f"{where}.traffic_percentage", 0, 100)
    return percents

"""Values as the JSON that Open Inference Protocol clients read. Pure.

Every key is named as Triton names it, because clients index by name, and as the messages' fields are named.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import serve
from serve.api.ports import ApiSettings
from serve.types import BatchStatistics, Duration, IndexEntry, ModelDescription, TensorSpec, VersionStatistics

Json = dict[str, Any]

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
# What every success has gone through, so that it counts as often.
EACH_SUCCESS = ("queue", "compute_input", "compute_infer", "compute_output")


def server_metadata(settings: ApiSettings) -> Json:
    """Body of GET /v2."""
    return {"name": settings.server_name, "version": serve.__version__, "extensions": list(settings.extensions)}


def health(settings: ApiSettings, is_ready: bool) -> Json:
    """Body of both health endpoints: clients disagree on which key either of them has, so that both have both."""
    return {"name": settings.server_name, "live": True, "ready": is_ready}


def model_names(entries: Iterable[IndexEntry]) -> Json:
    """Body of GET /v2/models: each model once, in the index's order."""
    return {"models": list(dict.fromkeys(entry.name for entry in entries))}


def model_metadata(model: ModelDescription) -> Json:
    """What the protocol says of a model. Shapes keep the leading -1 of a batchable model; perf_analyzer drops it itself."""
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": model.platform,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
    }


def model_body(model: ModelDescription) -> Json:
    """Body of GET /v2/models/{model}. `headrace` is not of the protocol: what the version described is made of, and where it comes from."""
    known = {"headrace": {"version": model.version, "digest": model.digest, "provenance": dict(model.provenance)}} if model.digest else {}
    return {**model_metadata(model), **known}


def _tensor(spec: TensorSpec) -> Json:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def repository_index(entries: Iterable[IndexEntry]) -> list[Json]:
    """Body of POST /v2/repository/index; a version or reason that is not known is left out."""
    return [_index_entry(entry) for entry in entries]


def _index_entry(entry: IndexEntry) -> Json:
    version = {"version": entry.version} if entry.version else {}
    reason = {"reason": entry.reason} if entry.reason else {}
    return {"name": entry.name, **version, "state": str(entry.state), **reason}


def model_statistics(statistics: Iterable[VersionStatistics]) -> Json:
    """Body of the statistics endpoints. All members are always there: perf_analyzer's parser aborts on a missing one."""
    return {"model_stats": [_version_statistics(version) for version in statistics]}


def _version_statistics(version: VersionStatistics) -> Json:
    return {
        "name": version.name,
        "version": version.version,
        "last_inference": version.last_inference_ms,
        "inference_count": version.inference_count,
        "execution_count": version.execution_count,
        "inference_stats": {name: _duration(value) for name, value in _durations(version).items()},
        "response_stats": {},
        "batch_stats": [_batch(batch) for batch in version.batch_stats],
        "memory_usage": [],
    }


def _durations(version: VersionStatistics) -> Mapping[str, Duration]:
    """perf_analyzer gives up where the counts of one answer differ, as those of counters that are read one after the other may."""
    durations = {name: getattr(version, name) for name in DURATIONS}
    return durations | {name: Duration(version.success.count, durations[name].ns) for name in EACH_SUCCESS}


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": duration.ns}


def _batch(batch: BatchStatistics) -> Json:
    return {
        "batch_size": batch.batch_size,
        "compute_input": _duration(batch.compute_input),
        "compute_infer": _duration(batch.compute_infer),
        "compute_output": _duration(batch.compute_output),
    }


def error(text: str) -> Mapping[str, str]:
    """Body of every answer that is not a success."""
    return {"error": text}

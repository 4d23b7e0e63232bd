"""What `headrace serve` prints when it is ready: where it listens, what it serves, and lines to paste."""

import json
import shlex

from serve import __version__
from serve.config import Settings
from serve.control import ModelLine, Ready
from serve.listeners import Ports
from serve.types import short_digest

_LONGEST_EXAMPLE = 16       # values that a line to paste may have


def banner(settings: Settings, ready: Ready, ports: Ports) -> str:
    """Lines of text, without colours: they are as often read in a log as on a terminal."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    bound = (("http", host, ports.http), ("grpc", host, ports.grpc), ("metrics", host, ports.metrics),
             ("admin", settings.admin_host, ports.admin))
    listening = [f"{name} {address}:{port}" for name, address, port in bound if port is not None]
    lines = [f"headrace {__version__} {_state(settings, ready)} on {ready.device}", f"  ports   {'   '.join(listening)}"]
    if settings.recording.records is not None:    # the environment may have said so, for `headrace records`
        lines.append(f"  rows    recorded in {settings.recording.records}")
    lines += [f"  {'models' if at == 0 else '':6}  {_model(model)}" for at, model in enumerate(ready.models)]
    lines += [f"  {'try' if at == 0 else '':6}  {line}" for at, line in enumerate(_examples(settings, ready, ports))]
    return "\n".join(lines)


def _state(settings: Settings, ready: Ready) -> str:
    """The words of /v2/health/ready: strict readiness wants every model, and an empty server is never ready."""
    n_whole = sum(bool(model.versions) and not model.problem for model in ready.models)
    if n_whole == len(ready.models) > 0:
        return "is ready"
    if not any(model.versions for model in ready.models):
        return "serves no model yet: not ready"
    if not settings.strict_readiness:
        return "is ready"
    return f"serves, but is NOT ready: {len(ready.models) - n_whole} of {len(ready.models)} models failed;"


def _model(model: ModelLine) -> str:
    inputs = ", ".join(f"{one.name} {one.datatype}[{','.join('N' if d < 0 else str(d) for d in one.shape)}]" for one in model.inputs)
    versions = ", ".join(_version(model, version) for version in model.versions) or "not served"
    parts = [model.name, versions, inputs, model.problem and f"({model.problem})"]
    return "  ".join(filter(None, parts))


def _version(model: ModelLine, version: str) -> str:
    digest = model.digests.get(version)
    return f"v{version} ({short_digest(digest)})" if digest else f"v{version}"


def _examples(settings: Settings, ready: Ready, ports: Ports) -> list[str]:
    port = ports.http if ports.http is not None else ports.grpc
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)    # noqa: S104 - compared, not bound
    url = f"http://[{host}]:{port}" if ":" in host and "[" not in host else f"http://{host}:{port}"
    flag = "" if url == "http://127.0.0.1:8000" else f" --url {url}"
    served = [model for model in ready.models if model.versions]
    if not served:
        return [f"curl -s -X POST {url}/v2/repository/index"]
    small = next((model for model in served if _values(model) is not None), None)
    if small is None:
        return [f"curl -s {url}/v2/models/{served[0].name}", *_demo(settings, served, flag)]
    values = _values(small)
    tensors = [{"name": one.name, "shape": [max(1, d) for d in one.shape], "datatype": one.datatype, "data": _flat(one.datatype, one.shape)}
               for one in small.inputs]
    return [f"curl -s {url}/v2/models/{small.name}/infer -d {shlex.quote(json.dumps({'inputs': tensors}))}",
            f"headrace infer {small.name} --json {shlex.quote(json.dumps(values))}{flag}", *_demo(settings, served, flag)]


def _demo(settings: Settings, served: list[ModelLine], flag: str) -> list[str]:
    """The demo's own command, where its data set lies beside its models."""
    for path in settings.paths:
        if any(model.name == "digits" for model in served) and (path / "_data" / "digits.npz").is_file():
            return [f"headrace infer digits --from-dataset --repository {shlex.quote(str(path))}{flag}"]
    return []


def _values(model: ModelLine) -> dict[str, object] | None:
    """Nested example values of each input; None when they would be too long for a line."""
    n_values = 0
    for one in model.inputs:
        size = 1
        for d in one.shape:
            size *= max(1, d)
        n_values += size
    if not model.inputs or n_values > _LONGEST_EXAMPLE:
        return None
    return {one.name: _nested(one.datatype, one.shape) for one in model.inputs}


def _nested(datatype: str, shape: tuple[int, ...]) -> object:
    value: object = _example(datatype)
    for d in reversed(shape):
        value = [value] * max(1, d)
    return value


def _flat(datatype: str, shape: tuple[int, ...]) -> list[object]:
    size = 1
    for d in shape:
        size *= max(1, d)
    return [_example(datatype)] * size


def _example(datatype: str) -> object:
    if datatype == "BYTES":
        return "hello"
    if datatype == "BOOL":
        return True
    return 1.5 if datatype.startswith("FP") or datatype == "BF16" else 1

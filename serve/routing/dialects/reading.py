"""What the readers of other systems' documents share: no field is ever ignored, each refusal names the field and says why."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from serve.errors import Unprocessable
from serve.traffic import WHOLE_BP

# Of a Kubernetes object's metadata these say what it is called; kubectl writes the annotation itself.
_METADATA = ("name", "namespace", "labels", "annotations")
_KUBECTL = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a document leaves to its place. versions: that can be loaded, ascending. stable: that answers now. candidate: the caller's.

    names: what the document calls a version -> the version, where its names follow no rule that we know.
    """

    model: str
    versions: tuple[str, ...] = ()
    stable: str | None = None
    candidate: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def refuse(path: str, why: str) -> NoReturn:
    """Raises Unprocessable."""
    raise Unprocessable(f"{path}: {why}")


def mapping_at(value: object, path: str) -> Mapping[str, Any]:
    """`value`, which has to be a mapping. Raises Unprocessable."""
    if not isinstance(value, Mapping):
        refuse(path, f"expected a mapping, found {value!r}")
    return value


def list_at(value: object, path: str) -> Sequence[Any]:
    """`value`, which has to be a list with something in it. Raises Unprocessable."""
    if not isinstance(value, list | tuple) or not value:
        refuse(path, f"expected a list of one or more, found {value!r}")
    return value


def text_at(value: object, path: str) -> str:
    """`value`, which has to be text with something in it. Raises Unprocessable."""
    if not isinstance(value, str) or not value:
        refuse(path, f"expected text, found {value!r}")
    return value


def integer_at(value: object, path: str, low: int, high: int) -> int:
    """`value`, which has to be a whole number from low to high; digits in quotes are one. Raises Unprocessable."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        refuse(path, f"expected a whole number from {low} to {high}, found {value!r}")
    return value


def check_fields(document: Mapping[str, Any], path: str, known: Collection[str], why: Mapping[str, str] | None = None) -> None:
    """Raises Unprocessable with every field that is not known. why: what to do about those that other systems have."""
    said = [f"{_joined(path, name)}: {(why or {}).get(name, 'unknown field')}" for name in document if name not in known]
    if said:
        raise Unprocessable("; ".join(said))


def unwrapped(document: Mapping[str, Any], kind: str, group: str) -> Mapping[str, Any]:
    """The spec of a Kubernetes object of this kind and API group. Raises Unprocessable, also for what could change its meaning."""
    check_fields(document, "", ("apiVersion", "kind", "metadata", "spec"), {"status": "is what another system reports: remove it"})
    api = document.get("apiVersion")
    if not isinstance(api, str) or api.split("/")[0] != group:
        refuse("apiVersion", f"expected {group}/..., found {api!r}")
    if document.get("kind") != kind:
        refuse("kind", f"expected {kind}, found {document.get('kind')!r}")
    metadata = mapping_at(document.get("metadata", {}), "metadata")
    check_fields(metadata, "metadata", _METADATA)
    annotations = mapping_at(metadata.get("annotations", {}), "metadata.annotations")
    why = dict.fromkeys(annotations, "annotations change how others route: remove it")
    check_fields(annotations, "metadata.annotations", (_KUBECTL,), why)
    return mapping_at(document.get("spec"), "spec")


def version_named(name: str, path: str, context: ModelContext) -> str:
    """The version that a document means by `name`.

    context.names first; then the version's number; then the model's name with the number after it, apart by one of `-_.:/@`, `v` or
    nothing; the model's name alone is the version that answers now. Raises Unprocessable.
    """
    if name in context.names:
        return context.names[name]
    model = re.escape(context.model)
    found = re.fullmatch(rf"(?:{model}[-_.:/@]?)?v?([1-9][0-9]{{0,17}})", name)
    if found and (not context.versions or found[1] in context.versions):
        return found[1]
    if name == context.model and context.stable:
        return context.stable
    have = f"versions {', '.join(context.versions)}" if context.versions else "no versions that are known here"
    refuse(path, f"{name!r} names no version of model {context.model}, which has {have}: write {context.model}-<version>")


def candidate_of(context: ModelContext) -> tuple[str, str | None]:
    """(candidate, stable) of a document that names neither: the caller's candidate, else the newest version. Raises Unprocessable."""
    candidate = context.candidate or (context.versions[-1] if context.versions else None)
    if candidate is None:
        refuse("to", f"the document names no version, and none of model {context.model} is known here: name the candidate")
    if candidate == context.stable:
        refuse("to", f"the document names no version, and {candidate}, the newest of {context.model}, answers already: name the candidate")
    return candidate, context.stable


def shares(weights: Sequence[int], path: str) -> tuple[int, ...]:
    """Weights as basis points that sum to 10,000, by largest remainder. Raises Unprocessable when a weight would vanish, or all are 0."""
    total = sum(weights)
    if total == 0:
        refuse(path, "every weight is 0: nobody would answer")
    whole = [weight * WHOLE_BP // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda at: (-(weights[at] * WHOLE_BP % total), at))
    for at in by_remainder[: WHOLE_BP - sum(whole)]:
        whole[at] += 1
    for at, weight in enumerate(weights):
        if weight > 0 and whole[at] == 0:
            refuse(f"{path}.{at}", f"weight {weight} of {total} is under 1 basis point")
    return tuple(whole)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

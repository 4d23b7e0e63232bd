"""Which versions of a model belong in memory. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from serve.models.config import LatestPolicy, SpecificPolicy, VersionPolicy


@dataclass(frozen=True, slots=True)
class Selection:
    """versions: to be loaded or kept, ascending. required: those that the policy or a label asks for; the model is ready when they are.

    missing: asked for by the policy or a label, but neither on disk nor in memory, with who asked; missing_pinned: the same for pins.
    """

    versions: tuple[str, ...]
    required: tuple[str, ...]
    missing: Mapping[str, str]
    missing_pinned: tuple[str, ...]


def select_versions(
    available: Collection[str],
    policy: VersionPolicy,
    labels: Mapping[str, str],
    pinned: Collection[str] = (),
    in_memory: Collection[str] = (),
) -> Selection:
    """Versions that the policy, the labels and everybody else who pins one want.

    available: on disk and not set aside. pinned: named by a routing plan or rollout; labels or pins keep a version whatever the policy,
    one that is already in memory even when its files are gone.
    """
    by_policy = _policy_versions(available, policy)
    askers = {version: f"label '{label}'" for label, version in sorted(labels.items(), reverse=True)}
    if isinstance(policy, SpecificPolicy):
        askers = dict.fromkeys(policy.specific, "version_policy") | askers
    held = askers.keys() | set(pinned)
    reachable = {*available, *(version for version in in_memory if version in held)}
    return Selection(
        versions=ascending((by_policy | held) & reachable),
        required=ascending((by_policy | askers.keys()) & reachable),
        missing={version: askers[version] for version in ascending(askers.keys() - reachable)},
        missing_pinned=ascending(set(pinned) - reachable - askers.keys()),
    )


def ascending(versions: Collection[str]) -> tuple[str, ...]:
    """Versions as numbers are ordered: 9 before 10."""
    return tuple(sorted(versions, key=int))


def default_version(ready: Collection[str], labels: Mapping[str, str]) -> str:
    """The version that answers a request that names none: label `stable`, else the latest; "" when that one is not ready.

    A `stable` that is not ready has no stand-in: the latest may be a canary, which would get everybody's requests.
    """
    wanted = labels.get("stable") or max(ready, key=int, default="")
    return wanted if wanted in ready else ""


def _policy_versions(available: Collection[str], policy: VersionPolicy) -> set[str]:
    if isinstance(policy, LatestPolicy):
        return set(ascending(available)[-policy.latest :])
    if isinstance(policy, SpecificPolicy):
        return set(policy.specific) & set(available)
    return set(available)


__all__ = ["Selection", "ascending", "default_version", "select_versions"]

"""Which versions belong in memory: against a definition that looks at one version at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.models.config import LatestPolicy, SpecificPolicy, VersionPolicy
from serve.models.policy import Selection, default_version, select_versions

VERSIONS = st.integers(1, 12).map(str)
POLICIES = st.one_of(
    st.just("all"),
    st.integers(1, 4).map(lambda count: LatestPolicy(latest=count)),
    st.lists(VERSIONS, min_size=1, max_size=4).map(lambda versions: SpecificPolicy(specific=tuple(versions))),
)


@pytest.mark.parametrize(
    ("policy", "labels", "pinned", "in_memory", "expected"),
    [
        (LatestPolicy(latest=1), {}, (), (), Selection(("10",), ("10",), {}, ())),
        (LatestPolicy(latest=2), {}, (), (), Selection(("9", "10"), ("9", "10"), {}, ())),
        (LatestPolicy(latest=9), {}, (), (), Selection(("1", "9", "10"), ("1", "9", "10"), {}, ())),
        ("all", {}, (), (), Selection(("1", "9", "10"), ("1", "9", "10"), {}, ())),
        (SpecificPolicy(specific=("9", "2")), {}, (), (), Selection(("9",), ("9",), {"2": "version_policy"}, ())),
        (LatestPolicy(), {"stable": "1"}, (), (), Selection(("1", "10"), ("1", "10"), {}, ())),
        (LatestPolicy(), {"stable": "2"}, (), (), Selection(("10",), ("10",), {"2": "label 'stable'"}, ())),
        (LatestPolicy(), {}, ("9", "11"), (), Selection(("9", "10"), ("10",), {}, ("11",))),
        # Gone from disk, but still in memory and still wanted: it stays.
        (LatestPolicy(), {}, ("8",), ("8",), Selection(("8", "10"), ("10",), {}, ())),
        (LatestPolicy(), {"stable": "8"}, (), ("8",), Selection(("8", "10"), ("8", "10"), {}, ())),
        # In memory and wanted by nobody: it goes.
        (LatestPolicy(), {}, (), ("8", "9"), Selection(("10",), ("10",), {}, ())),
        (SpecificPolicy(specific=("8",)), {}, (), ("8",), Selection(("8",), ("8",), {}, ())),
    ],
)
def test_selection(
    policy: VersionPolicy, labels: dict[str, str], pinned: tuple[str, ...], in_memory: tuple[str, ...], expected: Selection
) -> None:
    assert select_versions({"9", "10", "1"}, policy, labels, pinned, in_memory) == expected


@given(st.sets(VERSIONS), POLICIES, st.dictionaries(st.sampled_from(["stable", "canary"]), VERSIONS), st.sets(VERSIONS), st.sets(VERSIONS))
def test_selection_against_the_definition(
    available: set[str], policy: VersionPolicy, labels: dict[str, str], pinned: set[str], in_memory: set[str]
) -> None:
    def is_by_policy(version: str) -> bool:
        if isinstance(policy, LatestPolicy):
            return version in available and sum(int(other) > int(version) for other in available) < policy.latest
        return version in available if policy == "all" else version in policy.specific

    selection = select_versions(available, policy, labels, pinned, in_memory)
    for version in map(str, range(1, 13)):
        is_asked = is_by_policy(version) or version in labels.values()
        is_there = version in available or (version in in_memory and (is_asked or version in pinned))
        assert (version in selection.versions) == ((is_asked or version in pinned) and is_there)
        assert (version in selection.required) == (is_asked and is_there)
        assert (version in selection.missing) == (is_asked and not is_there)
        assert (version in selection.missing_pinned) == (version in pinned and not is_asked and not is_there)
    assert list(selection.versions) == sorted(selection.versions, key=int)


@pytest.mark.parametrize(
    ("ready", "labels", "expected"),
    [
        (["9", "10"], {}, "10"),
        (["9", "10"], {"canary": "9"}, "10"),
        (["9", "10"], {"stable": "9"}, "9"),
        # The latest may be a canary: it does not stand in for stable.
        (["10"], {"stable": "9"}, ""),
        ([], {}, ""),
    ],
)
def test_default_version(ready: list[str], labels: dict[str, str], expected: str) -> None:
    assert default_version(ready, labels) == expected

"""The table of states: every pair, and that a refused one changes nothing."""

import pytest

from serve.models.states import TRANSITIONS, ModelRecord, VersionStatus
from serve.types import VersionState

S = VersionState
ALLOWED = {
    (S.UNKNOWN, S.LOADING),
    (S.UNKNOWN, S.UNAVAILABLE),
    (S.LOADING, S.READY),
    (S.LOADING, S.UNAVAILABLE),
    (S.READY, S.UNLOADING),
    (S.UNLOADING, S.UNAVAILABLE),
    (S.UNAVAILABLE, S.LOADING),
    (S.UNAVAILABLE, S.UNAVAILABLE),
}


@pytest.mark.parametrize("before", list(VersionState))
@pytest.mark.parametrize("after", list(VersionState))
def test_every_transition(before: VersionState, after: VersionState) -> None:
    record = ModelRecord("m", versions={"1": VersionStatus(before, "old")})
    if (before, after) in ALLOWED:
        record.advance("1", after, "new")
        assert record.versions["1"] == VersionStatus(after, "new")
    else:
        with pytest.raises(ValueError, match=f"model 'm' version 1: no transition from {before} to {after}"):
            record.advance("1", after, "new")
        assert record.versions["1"] == VersionStatus(before, "old")


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(VersionState)


def test_a_version_starts_unknown() -> None:
    record = ModelRecord("m")
    with pytest.raises(ValueError, match="no transition from UNKNOWN to READY"):
        record.advance("1", S.READY)
    assert record.versions == {}


def test_only_what_is_neither_known_nor_in_use_is_forgotten() -> None:
    record = ModelRecord("m", versions={state.value: VersionStatus(state) for state in VersionState})
    record.forget_others({"known"})
    assert set(record.versions) == {"UNKNOWN", "READY", "LOADING", "UNLOADING"}
    record.versions["known"] = VersionStatus(S.UNAVAILABLE)
    record.forget_others({"known"})
    assert "known" in record.versions

"""Names of files, made and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.recording.layout import (
    HOUR_NS,
    JournalName,
    PartName,
    check_replica,
    compacted_path,
    hour_folder,
    journal_name,
    part_name,
    part_path,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
# Years 1970 to 2200.
TIMES = st.integers(0, 230 * 365 * 24 * HOUR_NS)


@given(NAMES, st.integers(1, 9999), NAMES, TIMES, st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_part_is_found_by_its_name(model: str, version: int, replica: str, ts_ns: int, epoch: int, number: int) -> None:
    name = part_name(part_path("records", model, str(version), ts_ns, replica, epoch, number))
    assert name is not None
    assert (name.table, name.model, name.version, name.replica, name.compacted) == ("records", model, str(version), replica, False)
    assert name.hour_ns == ts_ns // HOUR_NS * HOUR_NS


@given(NAMES, NAMES, TIMES, st.sets(st.integers(1, 99), min_size=1))
def test_a_compacted_file_lies_with_what_it_replaces_and_is_named_by_it(model: str, replica: str, ts_ns: int, numbers: set[int]) -> None:
    paths = [part_path("labels", model, "", ts_ns, replica, 1, number) for number in sorted(numbers)]
    path = compacted_path(replica, paths)
    assert path == compacted_path(replica, reversed(paths)) != compacted_path(replica, [*paths, "labels/model=x"])
    name, first = part_name(path), part_name(paths[0])
    assert name is not None
    assert first is not None
    assert (name.partition, name.replica, name.compacted) == (first.partition, replica, True)


def test_hours_are_those_of_utc() -> None:
    assert hour_folder("records", "m", "3", 0) == "records/model=m/version=3/dt=1970-01-01/hr=00"
    assert hour_folder("records", "m", "3", HOUR_NS - 1) == "records/model=m/version=3/dt=1970-01-01/hr=00"
    assert hour_folder("labels", "m", "", 25 * HOUR_NS) == "labels/model=m/dt=1970-01-02/hr=01"


@pytest.mark.parametrize("path", [
    "records/model=m/dt=1970-01-01/hr=00/part-r-1-1.parquet", "labels/model=m/version=1/dt=1970-01-01/hr=00/part-r-1-1.parquet",
    "records/model=m/version=1/dt=1970-01-01/hr=00/part-r.parquet", "records/model=m/version=1/dt=1970-01-01/hr=00/other.parquet",
    "records/model=m/version=1/_delta_log/0.json", "_manifest/r.jsonl",
])
def test_other_files_are_no_parts(path: str) -> None:
    assert part_name(path) is None


def test_a_replica_with_hyphens_is_not_taken_apart() -> None:
    assert part_name("records/model=m/version=1/dt=1970-01-01/hr=00/part-web-1-2-33-4.parquet") == PartName(
        "records", "m", "1", "1970-01-01", "00", "web-1-2", False)


def test_journals_are_named_by_epoch_and_number() -> None:
    assert journal_name("12-3.open") == JournalName(12, 3, "open")
    assert JournalName(12, 3, "bad").file == "12-3.bad"
    assert [journal_name(file) for file in ("12-3.tmp", "12.open", ".12-3.open", "a-3.open")] == [None] * 4


def test_a_replica_is_a_file_name() -> None:
    assert check_replica("web-1.example") == "web-1.example"
    for replica in ("", "a/b", "..", ".hidden", "ä", "x" * 129):
        with pytest.raises(ConfigurationError, match="give another --replica-id"):
            check_replica(replica)

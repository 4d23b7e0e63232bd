# ruff: noqa: S608  -- names and numbers of our own
"""The pipeline's script: a retrain event in, a new version with its baseline beside the old ones out. It promotes nothing.

    python -m serve.demo.story.retrain EVENT.json --folder DIR --cut NS --new-rows N --checked-rows N

What was recorded from the event's `since` to the cut (nanoseconds since 1970) is what version 2 is fitted to, with the old training data;
what is recorded from the cut on it has not seen, and its baseline is made of. Both wait until so many rows have labels.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve.demo.story.commands import Headrace, Places
from serve.demo.story.pictures import Pictures, network
from serve.demo.story.versions import LABEL, MODEL, read_pictures, write_pictures, write_version
from serve.demo.story.waiting import until

VERSION = "2"
_LABELS_S = 120.0


def labelled(headrace: Headrace, since: str, condition: str, limit: int) -> Pictures:
    """What was recorded since then, with the labels that have come, the oldest first. Shadows are of the same requests and left out."""
    rows = headrace.query(f"SELECT in_input, label FROM records_{MODEL}_labelled WHERE label_name = 'label' AND variant <> 'shadow' "
                          f"AND {condition} ORDER BY ts_ns, seq LIMIT {limit}", "--from", since)
    images = np.array([row["in_input"] for row in rows], np.float32).reshape(len(rows), -1)
    return Pictures(images, np.array([row["label"] for row in rows], np.int64))


def retrain(event: Mapping[str, Any], places: Places, cut_ns: int, new_rows: int, checked_rows: int) -> dict[str, Any]:
    """Trains version 2 and puts it there with its baseline. Raises TooLate when the labels do not come, CommandFailed."""
    headrace = Headrace(places)
    since = str(event["data"]["evidence"]["since"])
    new = _enough(headrace, new_rows, since, f"ts_ns < {cut_ns}")
    old = read_pictures(places.data / "training.parquet")
    digest = write_pictures(places.data / f"training-{VERSION}.parquet", old.and_also(new))
    write_version(places.repository, VERSION, network(old.and_also(new)), {
        "training_data": f"training.parquet and rows of the records from {since} to {cut_ns}", "training_data_digest": digest,
        "retrain_event": str(event["id"]),
    })
    checked = _enough(headrace, checked_rows, since, f"ts_ns >= {cut_ns}")
    path = places.data / f"checked-{VERSION}.parquet"
    write_pictures(path, checked)
    make_baseline(headrace, places, VERSION, path)
    return {"version": VERSION, "old_rows": len(old), "new_rows": len(new), "checked_rows": len(checked), "training_data_digest": digest}


def make_baseline(headrace: Headrace, places: Places, version: str, path: Path) -> None:
    """`headrace monitor baseline` of a file of pictures that the version was not fitted to."""
    headrace.run("monitor", "baseline", MODEL, "--version", version, "--repository", places.repository, "--from", path, "--labels", LABEL)


def _enough(headrace: Headrace, wanted: int, since: str, condition: str) -> Pictures:
    """Labels come when they come."""
    found: list[Pictures] = []

    def is_enough() -> bool:
        found[:] = [labelled(headrace, since, condition, wanted)]
        return len(found[0]) >= wanted

    until(is_enough, f"{wanted} labelled rows with {condition}", _LABELS_S)
    return found[0]


def main(words: Sequence[str] | None = None) -> None:
    """Prints what it did as JSON."""
    parser = argparse.ArgumentParser(description="Train a new version on what was recorded.")
    parser.add_argument("event", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cut", type=int, required=True)
    parser.add_argument("--new-rows", type=int, required=True)
    parser.add_argument("--checked-rows", type=int, required=True)
    given = parser.parse_args(words)
    event = json.loads(given.event.read_text(encoding="utf-8"))
    print(json.dumps(retrain(event, Places(given.folder), given.cut, given.new_rows, given.checked_rows)))


if __name__ == "__main__":
    main()

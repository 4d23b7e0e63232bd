"""What the values alone do not show."""

from dataclasses import replace

from serve.api import json_shapes
from serve.types import Duration, ModelDescription, VersionStatistics


def test_counts_of_one_answer_agree_though_they_were_read_one_after_the_other() -> None:
    read = VersionStatistics("m", "1", success=Duration(9, 100), queue=Duration(10, 20), compute_input=Duration(8, 10),
                             compute_infer=Duration(11, 60), compute_output=Duration(9, 10), fail=Duration(2, 5))
    (shape,) = json_shapes.model_statistics([read])["model_stats"]
    counts = {name: duration["count"] for name, duration in shape["inference_stats"].items()}
    assert counts == {"success": 9, "fail": 2, "queue": 9, "compute_input": 9, "compute_infer": 9, "compute_output": 9, "cache_hit": 0,
                      "cache_miss": 0}
    assert shape["inference_stats"]["compute_infer"]["ns"] == 60


def test_metadata_tell_what_the_version_is_made_of_where_that_is_known() -> None:
    known = ModelDescription("m", "2", ("1", "2"), {}, (), (), 0, digest="sha256:12", provenance={"git_revision": "abc"})
    shape = json_shapes.model_body(known)
    assert shape["headrace"] == {"version": "2", "digest": "sha256:12", "provenance": {"git_revision": "abc"}}
    assert "headrace" not in json_shapes.model_body(replace(known, digest=""))
    assert "headrace" not in json_shapes.model_metadata(known)      # what gRPC's message is made of

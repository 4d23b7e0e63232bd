"""The classification extension against numpy's sort."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests.core.loopback import Loopback, scaled, version


def _classes(folder: Path, x: np.ndarray, n_classes: int) -> list[list[tuple[float, int]]]:
    """The n best classes of each row of 2 * x, as (value, index), as the server says."""
    body = {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}],
            "outputs": [{"name": "y", "parameters": {"classification": n_classes}}]}
    with Loopback() as loop:
        native = version(scaled(folder, 2, ("batch", x.shape[1])), loop.pool, max_batch_size=4, warm={"x": (x.shape[1],)})
        loop.table.publish({"m": ({"1": native}, native, None)})
        text = json.dumps(body).encode()
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n".encode()
        output = json.loads(loop.http().ask(head + text).body)["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [len(x), min(n_classes, x.shape[1])])
    pairs = [(float(value), int(index)) for value, index in (one.split(":") for one in output["data"])]
    width = output["shape"][1]
    return [pairs[row * width:(row + 1) * width] for row in range(len(x))]


@pytest.mark.parametrize("n_classes", [1, 2, 3, 7, 50, 80])
def test_best_first_and_the_lower_index_among_equals(tmp_path: Path, n_classes: int) -> None:
    x = np.random.default_rng(n_classes).integers(-9, 9, (3, 50)).astype(np.float32)
    for row, classes in zip(2 * x, _classes(tmp_path, x, n_classes), strict=True):
        order = np.argsort(-row, kind="stable")[:n_classes]
        assert classes == [(float(row[i]), int(i)) for i in order]


def test_all_of_many_classes_take_no_quadratic_time(tmp_path: Path) -> None:
    x = np.random.default_rng(0).permutation(40_000).astype(np.float32)[None]
    begin = time.monotonic()
    (classes,) = _classes(tmp_path, x, 40_000)
    assert time.monotonic() - begin < 5, "comparing each with each takes far longer"
    assert [index for _, index in classes] == np.argsort(-x[0]).tolist()

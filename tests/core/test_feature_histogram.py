"""Histograms, codes and random features, against numpy on the same values."""

from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.feature_histogram import CategoryTable, FrozenBins, fourier_add
from serve._core.tensors import datatype_table

Array = np.ndarray[Any, Any]
NUMBERS = {row[1]: row[0] for row in datatype_table()}
TYPES = {
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}
NO_HASH = 2**64 - 1


def padded(edges: list[list[float]], capacity: int = 32) -> Array:
    found = np.full((len(edges), capacity - 1), np.inf)
    for row, given_ in zip(found, edges, strict=True):
        row[:len(given_)] = given_
    return found


def empty(n: int, capacity: int = 32) -> tuple[Array, Array]:
    moments = np.zeros((n, 4))
    moments[:, 2:] = np.inf, -np.inf
    return np.zeros((n, capacity + 4), np.int64), moments


def oracle(values: Array, valid: Array, edges: Array, centre: Array, scale: Array) -> tuple[Array, Array]:
    """values: (rows, k)."""
    capacity = edges.shape[1] + 1
    counts, moments = empty(len(edges), capacity)
    for j in range(len(edges)):
        for value, there in zip(values[:, j].astype(np.float64), valid, strict=True):
            if not there:
                counts[j, capacity + 3] += 1
            elif np.isnan(value):
                counts[j, capacity] += 1
            elif np.isinf(value):
                counts[j, capacity + (1 if value > 0 else 2)] += 1
            else:
                counts[j, int(np.sum(edges[j] <= value))] += 1
                unit, unit2 = scale[j] * 2.0**-24, scale[j] ** 2 * 2.0**-24
                d = np.rint((value - centre[j]) / unit) * unit
                moments[j, 0] += d
                moments[j, 1] += np.rint(d * d / unit2) * unit2
                moments[j, 2:] = min(moments[j, 2], value), max(moments[j, 3], value)
    return counts, moments


def values_of(kind: np.dtype[Any], stream: np.random.Generator) -> Array:
    """Forty, among them the ends of the type and whatever is no number."""
    if kind.kind != "f":
        ends = np.iinfo(kind)
        return np.concatenate([stream.integers(0, 120, 36).astype(kind), np.array([ends.min, ends.max, 0, 1], kind)])
    ends_of = np.finfo(kind)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, ends_of.max, ends_of.min, ends_of.smallest_subnormal]
    return np.concatenate([stream.normal(0, 3, 32).astype(kind), np.array(special, kind)])[stream.choice(40, 40)]


@pytest.mark.parametrize("datatype", TYPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_datatype_against_numpy(datatype: str, data: st.DataObject) -> None:
    kind = np.dtype(TYPES[datatype])
    k, rows, stride = (data.draw(st.integers(low, high)) for low, high in ((1, 4), (0, 300), (0, 2)))
    stream = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pool = values_of(kind, stream)
    table = stream.choice(pool, (rows, k + stride)) if rows else np.zeros((0, k + stride), kind)
    finite = np.unique(pool[np.isfinite(pool.astype(np.float64))].astype(np.float64))
    edges = padded([sorted(set(stream.choice(finite, 20).tolist())) if len(finite) else [] for _ in range(k)])
    offset = data.draw(st.integers(0, 3))
    buffer = np.concatenate([np.zeros(offset, kind), table.ravel()]).view(np.uint8)
    valid = stream.random(rows) < data.draw(st.sampled_from([1.0, 0.7]))
    shift = data.draw(st.integers(0, 9))
    bitmap = np.packbits(np.concatenate([np.zeros(shift, bool), valid, [False]]), bitorder="little")
    centre, scale = np.full(k, 3.0), np.full(k, 64.0)
    with np.errstate(over="ignore", invalid="ignore"):
        want = oracle(table, valid, edges, centre, scale)
    for portable in (False, True):
        counts, moments = empty(k)
        FrozenBins(edges, centre, scale).add(
            buffer, NUMBERS[datatype], offset, k + stride, rows, bitmap, shift, counts, moments, None, portable)
        assert np.array_equal(counts, want[0])
        small = np.abs(want[1][:, 2:]).max(axis=1) < 1e6     # beyond it sums may be rounded
        assert np.array_equal(moments[small], want[1][small])
        assert np.array_equal(moments[:, 2:], want[1][:, 2:])


def test_edges_that_no_float32_is_are_compared_as_they_are() -> None:
    """x >= edge is decided as for the double, though the comparison is one of float32."""
    values = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(0)), np.nextafter(np.float32(0.1), np.float32(1))], np.float32)
    edges = padded([[0.1]])
    for portable in (False, True):
        counts, moments = empty(1)
        FrozenBins(edges, np.zeros(1), np.ones(1)).add(
            values.view(np.uint8), NUMBERS["FP32"], 0, 1, 3, None, 0, counts, moments, None, portable)
        assert counts[0, :2].tolist() == [int(np.sum(values.astype(float) < 0.1)), int(np.sum(values.astype(float) >= 0.1))]


@pytest.mark.parametrize("capacity", [32, 64, 256])
def test_more_edges(capacity: int) -> None:
    stream = np.random.default_rng(1)
    values = stream.normal(size=(500, 2)).astype(np.float32)
    edges = padded([np.sort(stream.normal(size=capacity - 1)).tolist()] * 2, capacity)
    want, _ = oracle(values, np.ones(500, bool), edges, np.zeros(2), np.ones(2))
    for portable in (False, True):
        counts, _ = empty(2, capacity)
        FrozenBins(edges, np.zeros(2), np.ones(2)).add(
            values.view(np.uint8).ravel(), NUMBERS["FP32"], 0, 2, 500, None, 0, counts, None, None, portable)
        assert np.array_equal(counts, want)


def test_marks_part_the_rows() -> None:
    stream = np.random.default_rng(2)
    values = stream.random((300, 3)).astype(np.float32)
    values[5, 1] = np.nan
    marks = stream.integers(-1, 3, 300).astype(np.int32)
    edges = padded([[0.25, 0.5, 0.75]] * 3, 64)
    counts = np.zeros((6, 68), np.int64)
    FrozenBins(edges, np.zeros(3), np.ones(3)).add(values.view(np.uint8).ravel(), NUMBERS["FP32"], 0, 3, 300, None, 0, counts, None, marks)
    for j in range(3):
        for own in (False, True):
            chosen = (marks == j) == own
            want, _ = oracle(values[chosen][:, j:j + 1], np.ones(chosen.sum(), bool), edges[:1], np.zeros(1), np.ones(1))
            assert np.array_equal(counts[2 * j + own], want[0])


def test_sums_do_not_depend_on_the_order_of_rows_or_batches() -> None:
    stream = np.random.default_rng(3)
    values = stream.lognormal(2, 1, 10_000)
    bins = FrozenBins(padded([[1.0, 5.0, 20.0]]), np.array([7.0]), np.array([256.0]))
    whole = empty(1)
    bins.add(values.view(np.uint8), NUMBERS["FP64"], 0, 1, len(values), None, 0, *whole)
    for cuts in ([3000, 3001, 9999], np.sort(stream.integers(0, 10_000, 40)).tolist()):
        parts = np.split(stream.permutation(values), cuts)
        counts, moments = empty(1)
        for part in parts:
            bins.add(np.ascontiguousarray(part).view(np.uint8), NUMBERS["FP64"], 0, 1, len(part), None, 0, counts, moments)
        assert np.array_equal(counts, whole[0])
        assert np.array_equal(moments, whole[1])        # to the bit
    assert whole[1][0, 0] == pytest.approx(np.sum(values - 7.0), abs=10_000 * 256 * 2.0**-25)
    assert whole[1][0, 1] == pytest.approx(np.sum((values - 7.0) ** 2), rel=1e-6)


VALUES = np.zeros(64, np.uint8)
COUNTS, MOMENTS = empty(2)


@pytest.mark.parametrize(("change", "said"), [
    ({"datatype": 13}, "no numbers"), ({"datatype": 1}, "no numbers"), ({"datatype": 99}, "no numbers"), ({"n_rows": 9}, "not inside"),
    ({"offset": 1}, "not inside"), ({"offset": -1}, "offset"), ({"stride": 1}, "stride"), ({"stride": 1 << 41}, "stride"),
    ({"n_rows": 1 << 39, "stride": 1 << 39}, "not inside"), ({"validity": np.zeros(1, np.uint8), "validity_offset": 1}, "bitmap"),
    ({"validity": np.zeros(0, np.uint8)}, "bitmap"), ({"counts": np.zeros((2, 35), np.int64)}, "counts"),
    ({"moments": np.zeros((1, 4))}, "moments"), ({"marks": np.zeros(7, np.int32), "counts": np.zeros((4, 36), np.int64)}, "marks"),
    ({"values": np.zeros(66, np.uint8)[1:65]}, "address"),
])
def test_what_is_not_inside_its_buffer_is_refused(change: dict[str, Any], said: str) -> None:
    bins = FrozenBins(padded([[1.0]] * 2), np.zeros(2), np.ones(2))
    given_ = {"values": VALUES, "datatype": NUMBERS["FP32"], "offset": 0, "stride": 2, "n_rows": 8, "validity": None, "validity_offset": 0,
              "counts": np.zeros((2, 36), np.int64), "moments": MOMENTS.copy(), **change}
    with pytest.raises(ValueError, match=said):
        bins.add(**given_)
    assert not given_["counts"].any()


@pytest.mark.parametrize("edges", [np.zeros((1, 30)), np.zeros((0, 31)), np.zeros((1, 15))])
def test_edges_of_another_shape_are_refused(edges: Array) -> None:
    with pytest.raises(ValueError, match="one edge fewer"):
        FrozenBins(edges, np.zeros(len(edges)), np.ones(len(edges)))


# --- categories ---------------------------------------------------------------------------------------------------------

def arrow(values: list[bytes | None]) -> tuple[Array, Array, Array]:
    offsets = np.concatenate([[0], np.cumsum([len(v or b"") for v in values])]).astype(np.int32)
    valid = np.packbits([v is not None for v in values], bitorder="little") if values else np.zeros(1, np.uint8)
    return offsets, np.frombuffer(b"".join(v or b"" for v in values), np.uint8), valid


@settings(max_examples=50, deadline=None)
@given(keys=st.lists(st.binary(max_size=6), unique=True, max_size=40), picks=st.lists(st.none() | st.binary(max_size=2), max_size=60))
def test_codes_of_bytes(keys: list[bytes], picks: list[bytes | None]) -> None:
    values = [*picks, *keys[:20]]
    codes, unseen = np.empty(len(values), np.int32), np.full(4, NO_HASH, np.uint64)
    offsets, data, valid = arrow(values)
    CategoryTable(keys).encode_bytes(offsets, data, valid, 0, codes, unseen)
    want = [len(keys) + 1 if v is None else keys.index(v) if v in keys else len(keys) for v in values]
    assert codes.tolist() == want
    new = sorted({xxhash.xxh3_64_intdigest(v) for v in values if v is not None and v not in keys})[:4]
    assert unseen.tolist() == new + [NO_HASH] * (4 - len(new))


def test_codes_of_integers_are_those_of_their_text() -> None:
    values = np.array([0, -1, 7, 2**63 - 1, -(2**63), 12], np.int64)
    codes = np.empty(6, np.int32)
    table = CategoryTable([b"7", b"-1", b"9223372036854775807", b"-9223372036854775808"])
    table.encode_integers(values, np.array([0b011111], np.uint8), 0, codes)
    assert codes.tolist() == [4, 1, 0, 2, 3, 5]


def test_categories_are_named_once() -> None:
    with pytest.raises(ValueError, match="named twice"):
        CategoryTable([b"a", b"b", b"a"])


@pytest.mark.parametrize(("offsets", "n", "said"), [
    ([0, 2, 1], 2, "value 1"), ([0, 9], 1, "value 0"), ([-1, 1], 1, "value 0"), ([0, 1], 2, "2 codes")])
def test_texts_that_are_not_inside_their_buffer_are_refused(offsets: list[int], n: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CategoryTable([b"a"]).encode_bytes(np.array(offsets, np.int32), np.zeros(2, np.uint8), None, 0, np.zeros(n, np.int32))


# --- random Fourier features --------------------------------------------------------------------------------------------

def test_random_features_against_numpy() -> None:
    stream = np.random.default_rng(4)
    x = stream.normal(size=(40, 12)).astype(np.float32)
    x[7, 3] = np.nan
    weights, phases = stream.normal(size=(12, 32)).astype(np.float32), stream.uniform(0, 6, 32)
    valid = np.ones(40, bool)
    valid[9] = False
    buffer, bitmap = x.view(np.uint8).ravel(), np.packbits(valid, bitorder="little")
    chosen = np.arange(0, 40, 1)
    sums = np.zeros(32)
    n = fourier_add(buffer, NUMBERS["FP32"], 0, 12, 40, bitmap, 0, chosen, weights, phases, sums)
    usable = [i for i in range(40) if i not in (7, 9)]
    want = np.sqrt(2 / 32) * np.cos(x[usable].astype(np.float64) @ weights.astype(np.float64) + phases)
    assert n == 38
    assert np.allclose(sums, want.sum(axis=0), atol=40 * 2.0**-31 + 1e-12)
    parts = np.zeros(32)
    for part in np.array_split(stream.permutation(chosen), 7):
        fourier_add(buffer, NUMBERS["FP32"], 0, 12, 40, bitmap, 0, part, weights, phases, parts)
    assert np.array_equal(parts, sums)


@pytest.mark.parametrize(("rows", "features", "said"), [([40], 32, "row 40"), ([-1], 32, "row -1"), ([0], 30, "multiple")])
def test_random_features_of_rows_that_are_not_there_are_refused(rows: list[int], features: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fourier_add(np.zeros(40 * 12 * 4, np.uint8), NUMBERS["FP32"], 0, 12, 40, None, 0, np.array(rows),
                    np.zeros((12, features), np.float32), np.zeros(features), np.zeros(features))

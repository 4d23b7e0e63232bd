"""Pairs of answers, compared by the rules of a plan, against numpy on the same values."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from serve._core.compare import CompareHarness, element_value_for_test
from serve._core.tensors import datatype_table
from serve.errors import InvalidArgument
from serve.traffic import CompareRule
from tests.core import onnx_models as models

Array = np.ndarray[Any, Any]
FLOATS = ["FP16", "BF16", "FP32", "FP64"]
INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
ALL_ROWS = 1_000_000
NUMBERS = {row[1]: row[0] for row in datatype_table()}


def harness(folder: Path, datatype: str, dims: models.Dims, rules: tuple[CompareRule, ...] = (), max_batch: int = 64) -> CompareHarness:
    """y = x on both sides."""
    session = models.session(models.identity(folder / f"{datatype}.onnx", datatype, dims))
    return CompareHarness(session, session, max_batch, rules)


def compared(pair: CompareHarness, left: Array, right: Array) -> int:
    (share,) = pair.compare([[models.to_wire(left)]], [[models.to_wire(right)]])
    return share


# --- what the rules mean, in numpy --------------------------------------------------------------------------------------

def best_first(vector: Array) -> list[int]:
    """Indices by value, the largest first, NaN last, the lower index first among equals."""
    values = (vector if vector.dtype.kind in "iu" else vector.astype(np.float64)).tolist()
    return sorted(range(len(values)), key=lambda i: (values[i] != values[i], -values[i] if values[i] == values[i] else 0, i))


def vectors_agree(rule: CompareRule, a: Array, b: Array) -> bool:
    if rule.rule == "argmax":
        both = [best_first(v)[0] if not np.isnan(v.astype(np.float64)).all() else -1 for v in (a, b)]
        return both[0] == both[1]
    first, second = set(best_first(a)[:rule.k]), set(best_first(b)[:rule.k])
    return len(first & second) / len(first | second) >= rule.min_overlap


def rows_agree(rule: CompareRule, a: Array, b: Array) -> bool:
    if rule.rule == "exact":
        return a.tobytes() == b.tobytes()
    if rule.rule == "tolerance":
        for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
            if x == y or (x != x and y != y):
                continue
            if not (np.isfinite(x) and np.isfinite(y)) or abs(float(x) - float(y)) > rule.atol + rule.rtol * abs(float(x)):
                return False
        return True
    return all(vectors_agree(rule, u, v) for u, v in zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), strict=True))


def oracle(rule: CompareRule, left: Array, right: Array) -> int:
    differing = sum(not rows_agree(rule, a, b) for a, b in zip(left, right, strict=True))
    return differing * ALL_ROWS // len(left)


RULES = [CompareRule("y", "argmax"), CompareRule("y", "tolerance", atol=0.5, rtol=0.25), CompareRule("y", "exact"),
         CompareRule("y", "top_k", k=2, min_overlap=0.5), CompareRule("y", "top_k", k=3, min_overlap=1.0)]


@pytest.mark.parametrize("datatype", FLOATS + INTEGERS)
def test_every_rule_and_datatype_against_numpy(tmp_path: Path, datatype: str) -> None:
    pairs = [(rule, harness(tmp_path, datatype, ("n", 2, 5), (rule,))) for rule in RULES]
    kind = models.NUMPY_TYPES[datatype]
    special: list[float] = [0, 1, 2, 3, -1, -2] if datatype in [*FLOATS, "INT8", "INT16", "INT32", "INT64"] else [0, 1, 2, 3]
    if datatype in FLOATS:
        special += [np.nan, np.inf, -np.inf, -0.0, 0.375]
    random = np.random.default_rng(5)
    shares = set()
    for _ in range(60):
        rows = int(random.integers(1, 7))
        left = random.choice(np.array(special, np.float64), (rows, 2, 5)).astype(kind)
        right = np.where(random.random(left.shape) < 0.1, random.choice(np.array(special, np.float64), left.shape), left.astype(np.float64))
        for rule, pair in pairs:
            got = compared(pair, left, right.astype(kind))
            assert got == oracle(rule, left, right.astype(kind)), (rule, left, right)
            shares.add(got)
    assert {0, ALL_ROWS} < shares                           # the inputs reach more than one verdict


@settings(max_examples=200, deadline=None)
@given(data=st.data(), k=st.integers(1, 6), overlap=st.sampled_from([0.01, 0.2, 0.5, 1.0]))
def test_top_k_of_floats(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, k: int, overlap: float) -> None:
    rule = CompareRule("y", "top_k", k=k, min_overlap=overlap)
    pair = harness(tmp_path_factory.mktemp("top"), "FP32", ("n", 7), (rule,))
    values = hnp.arrays(np.float32, (3, 7), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan"), float("-inf")]))
    left, right = data.draw(values), data.draw(values)
    assert compared(pair, left, right) == oracle(rule, left, right)


def test_large_integers_are_not_rounded(tmp_path: Path) -> None:
    for datatype in ("INT64", "UINT64"):
        pair = harness(tmp_path, datatype, ("n", 2), (CompareRule("y", "argmax"),))
        kind = models.NUMPY_TYPES[datatype]
        left = np.array([[2**62, 2**62 + 1]], kind)
        assert compared(pair, left, left[:, ::-1].copy()) == ALL_ROWS
        assert compared(pair, left, left) == 0


def test_a_tie_goes_to_the_lower_index(tmp_path: Path) -> None:
    pair = harness(tmp_path, "FP32", ("n", 3), (CompareRule("y", "argmax"),))
    tie, first, second = (np.array([row], np.float32) for row in ([1, 1, 0], [1, 0, 0], [0, 1, 0]))
    assert compared(pair, tie, first) == 0
    assert compared(pair, tie, second) == ALL_ROWS


def test_rows_are_counted_once(tmp_path: Path) -> None:
    """Four rows: one differs in the first output, the same and another one in the second; the third output agrees."""
    session = models.session(models.two_by_two(tmp_path / "m.onnx"))
    pair = CompareHarness(session, session, 16, ())
    assert pair.rules == [("doubled_a", 0, 0, 1), ("negated_b", 1, 1, 4), ("sum", 2, 2, 2)]
    a = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
    b = np.zeros((4, 2, 3), np.int64)
    other_a, other_b = a.copy(), b.copy()
    other_a[1] = [4, 3]                                     # argmax differs, the sum does not
    other_b[1, 0, 0], other_b[3, 1, 2] = 1, 1
    assert pair.compare([[models.to_wire(a), models.to_wire(b)]], [[models.to_wire(other_a), models.to_wire(other_b)]]) == [500_000]


def test_each_request_of_a_batch_has_its_own_rows(tmp_path: Path) -> None:
    pair = harness(tmp_path, "FP32", ("n", 3), (CompareRule("y", "tolerance"),))
    left = [np.full((n, 3), n, np.float32) for n in (1, 2, 4)]
    right = [x.copy() for x in left]
    right[1][1, 2] += 1
    right[2][:3, 0] -= 1
    got = pair.compare([[models.to_wire(x)] for x in left], [[models.to_wire(x)] for x in right])
    assert got == [0, 500_000, 750_000]


@pytest.mark.parametrize(("left", "right", "share"), [
    ([["a", "bc"], ["", "x"]], [["a", "bc"], ["", "x"]], 0),
    ([["a", "bc"], ["", "x"]], [["ab", "c"], ["", "x"]], 500_000),     # the same bytes in a row, framed otherwise
    ([["a", "bc"], ["", "x"]], [["longer", "bc"], ["", "x"]], 500_000),
    ([["a", "bc"], ["", "x"]], [["longer", "bc"], ["", "y"]], ALL_ROWS),
])
def test_texts_are_compared_exactly(tmp_path: Path, left: list[list[str]], right: list[list[str]], share: int) -> None:
    session = models.session(models.exclaim(tmp_path / "m.onnx"))
    pair = CompareHarness(session, session, 8, ())
    both = [np.array([[text.encode() for text in row] for row in rows], np.object_) for rows in (left, right)]
    assert compared(pair, *both) == share


def test_a_shape_that_differs_is_a_disagreement_of_every_row(tmp_path: Path) -> None:
    pair = harness(tmp_path, "FP32", ("n", "k"), (CompareRule("y", "tolerance", atol=1e9),))
    zeros = np.zeros((2, 3), np.float32)
    assert compared(pair, zeros, zeros) == 0
    assert compared(pair, zeros, np.zeros((2, 4), np.float32)) == ALL_ROWS


def test_a_datatype_that_differs_is_a_disagreement_of_every_row(tmp_path: Path) -> None:
    left, right = (models.session(models.identity(tmp_path / f"{d}.onnx", d, ("n", 3))) for d in ("FP32", "INT32"))
    pair = CompareHarness(left, right, 8, (CompareRule("y", "argmax"),))
    zeros = np.zeros((2, 3), np.float32)
    assert compared(pair, zeros, zeros.astype(np.int32)) == ALL_ROWS


def test_a_model_that_is_not_batched_is_one_row(tmp_path: Path) -> None:
    pair = harness(tmp_path, "FP32", (4,), (CompareRule("y", "argmax"),), max_batch=0)
    x = np.array([1, 5, 2, 3], np.float32)
    assert compared(pair, x, x) == 0
    assert compared(pair, x, x[::-1].copy()) == ALL_ROWS
    exact = harness(tmp_path, "FP32", (4,), (CompareRule("y", "exact"),), max_batch=0)
    assert compared(exact, x, x + 1) == ALL_ROWS


def test_nothing_to_compare_agrees(tmp_path: Path) -> None:
    pair = harness(tmp_path, "FP32", ("n", "k"), (CompareRule("y", "argmax"),))
    empty = np.zeros((3, 0), np.float32)
    assert compared(pair, empty, empty) == 0


def test_outputs_are_found_by_name_in_another_order(tmp_path: Path) -> None:
    info = [models.info("x", "FP32", ["n", 2])]
    named = {"p": "Identity", "q": "Neg"}
    sessions = [models.session(models.save(tmp_path / f"{order}.onnx", [helper.make_node(named[o], ["x"], [o]) for o in order], info,
                                           [models.info(o, "FP32", ["n", 2]) for o in order])) for order in ("pq", "qp")]
    x = np.array([[1, 2]], np.float32)
    for left, right in itertools.product(sessions, sessions):
        pair = CompareHarness(left, right, 4, (CompareRule("p", "exact"), CompareRule("q", "exact")))
        assert compared(pair, x, x) == 0
        assert compared(pair, x, x + 1) == ALL_ROWS


def test_the_default_rules(tmp_path: Path) -> None:
    kinds = {"argmax": 1, "tolerance": 2, "exact": 4}
    for datatype, dims, kind in [("FP32", ("n", 10), "argmax"), ("FP16", ("n", 10), "argmax"), ("FP32", ("n", 1), "tolerance"),
                                 ("FP64", ("n",), "tolerance"), ("FP32", ("n", "k"), "tolerance"), ("INT64", ("n", 3), "exact"),
                                 ("BOOL", ("n", 3), "exact"), ("BYTES", ("n",), "exact")]:
        assert harness(tmp_path, datatype, dims).rules == [("y", 0, 0, kinds[kind])], (datatype, dims)


@pytest.mark.parametrize(("datatype", "dims", "rule", "text"), [
    ("FP32", ("n", 4), CompareRule("z", "exact"), "'z' is to be compared"),
    ("BYTES", ("n", 4), CompareRule("y", "argmax"), "datatype is BYTES"),
    ("BOOL", ("n", 4), CompareRule("y", "tolerance"), "datatype is BOOL"),
    ("FP32", ("n",), CompareRule("y", "argmax"), "one value"),
    ("FP32", ("n", 1), CompareRule("y", "argmax"), "one value"),
    ("FP32", ("n", 4), CompareRule("y", "top_k", k=4, min_overlap=0.5), "always agree"),
    ("FP32", ("n", 4), CompareRule("y", "top_k", k=0, min_overlap=0.5), "k is 0"),
    ("FP32", ("n", "k"), CompareRule("y", "top_k", k=1001, min_overlap=0.5), "want 1 to 1000"),
    ("FP32", ("n", 4), CompareRule("y", "top_k", k=2), "min_overlap is 0"),
])
def test_rules_that_do_not_fit(tmp_path: Path, datatype: str, dims: models.Dims, rule: CompareRule, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        harness(tmp_path, datatype, dims, (rule,))


def test_versions_without_a_common_output(tmp_path: Path) -> None:
    left = models.session(models.identity(tmp_path / "left.onnx"))
    right = models.session(models.two_by_two(tmp_path / "right.onnx"))
    with pytest.raises(InvalidArgument, match="0 outputs to compare"):
        CompareHarness(left, right, 4)


def test_half_floats_are_read_as_numpy_reads_them() -> None:
    for datatype, kind in (("FP16", np.float16), ("BF16", models.NUMPY_TYPES["BF16"])):
        for bits in np.arange(2**16, dtype=np.uint16):
            value = float(bits.view(kind)) if datatype == "FP16" else float(np.array(bits).view(kind))
            got = element_value_for_test(NUMBERS[datatype], bits.tobytes())
            assert got == value or (got != got and value != value), (datatype, bits)

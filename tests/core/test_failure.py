"""The native table of kinds against serve/errors.py, and how a failure's text is cut."""

import pytest

from serve._core.tensors import KINDS, fail_for_test, native_status
from serve.errors import STATUS


def test_native_kinds_have_the_statuses_of_errors_py():
    n_kinds, status = native_status()
    assert status == STATUS
    assert sorted(KINDS.values()) == list(range(n_kinds))


def test_kinds_are_in_the_order_of_errors_py():
    assert sorted(KINDS, key=KINDS.__getitem__) == list(STATUS)


@pytest.mark.parametrize("text", ["short", "x" * 511, "x" * 512, "x" * 5000, "x" + "é" * 300, "é" * 300, "xx" + "€" * 200, "x" * 509 + "𝄞"])
def test_texts_are_cut_between_characters(text):
    kind, got = fail_for_test(text.encode())
    assert kind == KINDS["INTERNAL"]
    assert text.startswith(got.decode())
    assert len(got) > 507 or got.decode() == text

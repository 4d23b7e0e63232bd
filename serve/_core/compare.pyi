# Answers held against each other. Native threads use the functions of compare.pxd; here is what tests see.
from collections.abc import Sequence
from typing import Self, TypeAlias

from typing_extensions import disjoint_base

from serve._core.ort import Session
from serve.traffic import CompareRule

_Wire: TypeAlias = tuple[Sequence[int], bytes]

@disjoint_base
class CompareHarness:
    def __new__(cls, left: Session, right: Session, max_batch: int, rules: tuple[CompareRule, ...] = ()) -> Self: ...
    @property
    def rules(self) -> list[tuple[str, int, int, int]]: ...
    def compare(self, left: list[list[_Wire]], right: list[list[_Wire]]) -> list[int]: ...

def element_value_for_test(datatype: int, content: bytes) -> float: ...

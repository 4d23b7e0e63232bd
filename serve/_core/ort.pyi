from collections.abc import Mapping
from typing import Any, Self, TypeAlias

from typing_extensions import disjoint_base

from serve.types import TensorSpec

@disjoint_base
class Session:
    path: str
    device: str
    device_id: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dimensions: dict[str, tuple[str, ...]]
    metadata: dict[str, str]
    producer: str
    graph_name: str
    description: str
    model_version: int
    @property
    def batchable(self) -> bool: ...
    def __new__(
        cls,
        path: str,
        device: str = "cpu",
        *,
        intra_op_threads: int = 0,
        optimization: str = "all",
        disable_cpu_fallback: bool = False,
        cuda: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Self: ...

_Spec: TypeAlias = tuple[str, str, list[int], int]

def signature_for_test(session: Session, max_batch: int) -> tuple[list[_Spec], list[_Spec], int]: ...

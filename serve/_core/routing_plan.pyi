from typing import Self

from typing_extensions import disjoint_base

from serve._core.engine import NativeVersion
from serve._core.units import UnitMemory
from serve.traffic import SPECIAL_ARMS as SPECIAL_ARMS
from serve.traffic import WHOLE_BP as WHOLE_BP
from serve.traffic import PlanReading, RoutingSpec

@disjoint_base
class NativePlan:
    model: str
    spec: RoutingSpec
    versions: list[NativeVersion]
    def __new__(
        cls, model: str, spec: RoutingSpec, versions: dict[str, NativeVersion], units: UnitMemory | None = None, wake_fd: int = -1
    ) -> Self: ...
    def assign(self, key: bytes) -> str: ...
    def positions(self, key: bytes) -> dict[str, float]: ...
    def read(self, is_final: bool = False) -> PlanReading: ...

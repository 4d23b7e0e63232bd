from typing import Self

from typing_extensions import disjoint_base

from serve._core.routing_plan import NativePlan

@disjoint_base
class RouteHarness:
    def __new__(cls, plan: NativePlan, headers: list[tuple[bytes, bytes]], parameters: list[tuple[bytes, bytes]]) -> Self: ...
    def route(self, repeats: int = 1) -> tuple[str, bool, float, float]: ...

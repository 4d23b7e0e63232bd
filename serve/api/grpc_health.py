"""`grpc.health.v1.Health`: one state for the server and for the inference service, which live and die together.

Source: the gRPC health checking protocol.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from serve.api.grpc_inference import SERVICE as INFERENCE_SERVICE
from serve.api.readiness import Readiness
from serve.errors import InvalidArgument, NotFound
from serve.protocol.messages import HealthCheckRequest, HealthCheckResponse

SERVICE = "grpc.health.v1.Health"
KNOWN = ("", INFERENCE_SERVICE)


class HealthService:
    """Check asks once, Watch is told of every change."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        """The state now. Raises NotFound for a service that is not known."""
        if request.service not in KNOWN:
            raise NotFound(f"unknown service '{request.service}'; known are '' (the server) and '{INFERENCE_SERVICE}'")
        return _response(self._readiness.is_ready())

    async def watch(self, requests: AsyncIterator[HealthCheckRequest]) -> AsyncGenerator[HealthCheckResponse, None]:
        """The state now and every change, until the caller closes the stream. Raises InvalidArgument for a stream without a request."""
        request = await anext(requests, None)
        if request is None:
            raise InvalidArgument("Watch takes one HealthCheckRequest; the stream ended without one")
        if request.service not in KNOWN:
            yield HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
            # The protocol keeps the stream open, as the service might become known; here it never does.
            await asyncio.get_running_loop().create_future()
        async with aclosing(self._readiness.changes()) as changes:
            async for is_ready in changes:
                yield _response(is_ready)


def _response(is_ready: bool) -> HealthCheckResponse:
    return HealthCheckResponse(status=HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING)

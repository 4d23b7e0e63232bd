"""`headrace.v1.Feedback`: labels and rewards over gRPC. docs/feedback.md."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from serve.api import feedback
from serve.api.feedback_desk import FeedbackDesk
from serve.errors import HeadraceError, InvalidArgument, grpc_code
from serve.protocol.messages import FeedbackItem, FeedbackRequest, FeedbackResponse
from serve.records import Label

SERVICE = "headrace.v1.Feedback"

_KINDS: Mapping[str, str] = {"number": "label", "text": "label", "flag": "label", "reward": "reward"}


class FeedbackService:
    """Raises HeadraceError for what is wrong with a request."""

    def __init__(self, desk: FeedbackDesk) -> None:
        self._desk = desk

    async def submit(self, request: FeedbackRequest) -> FeedbackResponse:
        """All items are kept, or none."""
        self._desk.check(request.model)
        feedback.check_count(len(request.feedback))
        labels = [_label(index, item) for index, item in enumerate(request.feedback)]
        return FeedbackResponse(accepted=await self._desk.take(request.model, labels, request.durable))

    async def submit_stream(self, requests: AsyncIterator[FeedbackRequest]) -> AsyncGenerator[FeedbackResponse, None]:
        """One response for each request, in order."""
        async for request in requests:
            try:
                response = await self.submit(request)
            except HeadraceError as error:
                response = FeedbackResponse(error_code=grpc_code(error), error_message=str(error))
            yield response


def _label(index: int, item: FeedbackItem) -> Label:
    try:
        member = item.WhichOneof("truth")
        if member is None:
            raise InvalidArgument("give number, text, flag or reward")
        truth = {_KINDS[member]: getattr(item, member)}
        return feedback.make_label(item.request_id, item.row, item.name, truth, item.time_ns or None)
    except InvalidArgument as error:
        raise InvalidArgument(f"feedback[{index}]: {error}; nothing of this request was taken") from None


__all__ = ["SERVICE", "FeedbackService"]

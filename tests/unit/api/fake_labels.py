"""A label writer that needs no disk."""

from collections.abc import Sequence
from concurrent.futures import Future

from serve.records import Label


class FakeLabels:
    """Fulfils serve.api.feedback_ports.Labels. failure: what happens to the next labels; holds: until `release`."""

    def __init__(self) -> None:
        self.kept: list[Label] = []
        self.models: list[str] = []
        self.durable: list[bool] = []
        self.failure: Exception | None = None
        self.refusal: Exception | None = None
        self.holds = False
        self._held: list[Future[None]] = []

    def submit(self, model: str, labels: Sequence[Label], *, durable: bool = False) -> "Future[None]":
        if self.refusal is not None:
            raise self.refusal
        done: Future[None] = Future()
        if self.failure is not None:
            done.set_exception(self.failure)
            return done
        self.kept += labels
        self.durable.append(durable)
        self.models.append(model)
        if self.holds:
            self._held.append(done)
        else:
            done.set_result(None)
        return done

    def release(self) -> None:
        for done in self._held:
            if not done.cancelled():
                done.set_result(None)

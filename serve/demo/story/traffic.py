"""What clients of the story do: they send pictures, and tell later what some of them were."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve import clock
from serve.client import Client, ClientError
from serve.demo.story.pictures import Pictures, broken
from serve.demo.story.scale import Scale

_COURIER_S = 0.2
_MAX_ITEMS = 10_000         # of one feedback request

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was answered. at_ns: wall clock, before it was sent. truth, predicted: int64 [rows]. is_told: its labels are sent
    back, sooner or later.
    """

    request_id: str
    at_ns: int
    version: str
    variant: str
    truth: Labels
    predicted: Labels
    is_broken: bool
    is_told: bool


class Ledger:
    """What the clients know: requests that were answered, and labels that were taken. Of any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._told: list[Asked] = []
        self._failures: list[str] = []

    def answered(self, one: Asked) -> None:
        with self._lock:
            self._asked.append(one)

    def told(self, ones: Iterable[Asked]) -> None:
        with self._lock:
            self._told += ones

    def failed(self, reason: str) -> None:
        with self._lock:
            self._failures.append(reason)

    def asked(self, wanted: Callable[[Asked], bool] = lambda one: True) -> list[Asked]:
        with self._lock:
            return [one for one in self._asked if wanted(one)]

    def labelled(self, wanted: Callable[[Asked], bool] = lambda one: True) -> list[Asked]:
        """Whose labels were taken."""
        with self._lock:
            return [one for one in self._told if wanted(one)]

    def failures(self) -> list[str]:
        with self._lock:
            return list(self._failures)


def n_rows(ones: Iterable[Asked]) -> int:
    """Of all of them."""
    return sum(len(one.truth) for one in ones)


def accuracy(ones: Iterable[Asked]) -> float:
    """The share of rows that were answered rightly; NaN of none."""
    rights = [one.truth == one.predicted for one in ones]
    return float(np.concatenate(rights).mean()) if rights else float("nan")


class Traffic:
    """Requests at a steady rate from one connection, labels on another. `with Traffic(...)`: it ends at the end, labels that are due told.

    pictures: those that are sent at first, through a scanner that works. Labels of what the broken one saw are kept back until
    `release_labels`.
    """

    def __init__(self, url: str, model: str, pictures: Pictures, scale: Scale, seed: int = 0) -> None:
        self.ledger = Ledger()
        self._pictures = pictures
        self._is_broken = False
        self._url, self._model, self._scale = url, model, scale
        self._rng = np.random.default_rng(seed)
        self._asking = threading.Lock()             # held from the choice of pictures to the answer
        self._stop = threading.Event()
        self._are_kept_back = threading.Event()
        self._are_kept_back.set()
        self._waiting: deque[Asked] = deque()       # appended by the sender, taken by the courier
        self._threads = [threading.Thread(target=run, name=run.__name__, daemon=True) for run in (self._send, self._tell)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more requests; every label that is not kept back is told."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def break_scanner(self) -> int:
        """Every request after this moment (nanoseconds since 1970) is of the broken scanner, and none before it."""
        with self._asking:
            self._is_broken = True
            return clock.wall_ns()

    def send(self, pictures: Pictures) -> int:
        """Every request after this moment is of these pictures, and none before it."""
        with self._asking:
            self._pictures = pictures
            return clock.wall_ns()

    def release_labels(self) -> None:
        """From now on the truth about the broken scanner's pictures comes too, that of the past at once."""
        self._are_kept_back.clear()

    def _send(self) -> None:
        interval_ns = round(1e9 / self._scale.requests_s)
        next_ns = clock.monotonic_ns()
        with Client(self._url) as client:
            while not self._stop.is_set():
                with self._asking:
                    self._ask(client)
                # Behind by more than a moment (a busy machine): what was missed is not made up for.
                next_ns = max(next_ns + interval_ns, clock.monotonic_ns() - 10 * interval_ns)
                self._stop.wait(max(0.0, (next_ns - clock.monotonic_ns()) / 1e9))

    def _ask(self, client: Client) -> None:
        pictures, is_broken = self._pictures, self._is_broken
        chosen = self._rng.integers(len(pictures), size=self._scale.rows)
        images = broken(pictures.images[chosen], self._rng) if is_broken else pictures.images[chosen]
        is_told = bool(self._rng.random() < self._scale.label_share)
        at_ns = clock.wall_ns()
        try:
            answer = client.infer(self._model, {"input": images}, outputs=["label"])
        except ClientError as error:
            self.ledger.failed(str(error))
            return
        one = Asked(answer.headers["x-request-id"], at_ns, answer.headers["x-headrace-version"], answer.headers["x-headrace-variant"],
                    pictures.labels[chosen], answer.outputs["label"], is_broken, is_told)
        self.ledger.answered(one)
        if is_told:
            self._waiting.append(one)

    def _tell(self) -> None:
        kept: list[Asked] = []
        sender = self._threads[0]
        with Client(self._url) as client:
            while True:
                is_last = not sender.is_alive()
                now_ns = clock.wall_ns()
                due_ns = now_ns if is_last else now_ns - int(self._scale.label_delay_s * 1e9)
                while self._waiting and self._waiting[0].at_ns <= due_ns:
                    kept.append(self._waiting.popleft())
                kept, told = self._parted(kept)
                self._deliver(client, told)
                if is_last:
                    return
                self._stop.wait(_COURIER_S)

    def _parted(self, ones: list[Asked]) -> tuple[list[Asked], list[Asked]]:
        """Those whose labels are kept back, and those that may be told."""
        if not self._are_kept_back.is_set():
            return [], ones
        return [one for one in ones if one.is_broken], [one for one in ones if not one.is_broken]

    def _deliver(self, client: Client, ones: list[Asked]) -> None:
        per_call = _MAX_ITEMS // self._scale.rows
        for first in range(0, len(ones), per_call):
            some = ones[first:first + per_call]
            items = [{"request_id": one.request_id, "row": row, "label": int(label), "time": clock.wall_ns()}
                     for one in some for row, label in enumerate(one.truth)]
            try:
                client.feedback_items(self._model, items)
            except ClientError as error:
                self.ledger.failed(f"feedback: {error}")
                continue
            self.ledger.told(some)


__all__ = ["Asked", "Ledger", "Traffic", "accuracy", "n_rows"]

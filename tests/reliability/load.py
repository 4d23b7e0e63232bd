"""Clients that ask without pause from threads of their own, and keep count of what became of it."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

from tests.reliability import clients

REFUSED = "refused"
BROKEN = "broken"       # a connection that ended before the answer
TOLD = "told to close"


class Load:
    """`n` threads that run `ask(counts, stopping)` until told to stop. counts: outcome -> how often, of all together."""

    def __init__(self, n: int, ask: Callable[["Load"], None]) -> None:
        self.counts: Counter[str | float] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._ask = ask
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(n)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def count(self, outcome: str | float) -> None:
        with self._lock:
            self.counts[outcome] += 1

    def stop(self) -> None:
        """Returns when every thread is done. Raises what one of them raised."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """As stop, for clients that end by themselves."""
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            self._ask(self)
        except BaseException as error:
            self._errors.append(error)


def keep_alive(address: tuple[str, int], request: bytes) -> Callable[[Load], None]:
    """One connection for as long as it lasts, then another."""

    def ask(load: Load) -> None:
        while not load.stopping:
            try:
                connection = clients.Http(address)
            except ConnectionRefusedError:
                load.count(REFUSED)
                return
            with connection:
                _ask_until_closed(load, connection, request)

    return ask


def _ask_until_closed(load: Load, connection: clients.Http, request: bytes) -> None:
    while not load.stopping:
        try:
            answer = connection.ask(request)
        except ConnectionError:
            load.count(BROKEN)
            return
        load.count(answer.status)
        if answer.closes:
            load.count(TOLD)
            return


def fresh(address: tuple[str, int], request: bytes) -> Callable[[Load], None]:
    """A connection for each request."""

    def ask(load: Load) -> None:
        while not load.stopping:
            try:
                with clients.Http(address) as connection:
                    load.count(connection.ask(request).status)
            except ConnectionRefusedError:
                load.count(REFUSED)
                return
            except ConnectionError:
                load.count(BROKEN)

    return ask

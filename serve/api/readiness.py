"""Readiness as something that can be asked and waited for."""

import asyncio
from collections.abc import AsyncGenerator, Callable


class Readiness:
    """Whether the server answers inferences, and news of it. All methods belong to the event loop's thread.

    The truth stays where it is made: is_ready is asked anew each time, and `notify` only says that the answer may have changed.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self.is_ready = is_ready
        self._news = asyncio.Event()

    def notify(self) -> None:
        """Wake every watcher; called after a model changed its state and when draining starts."""
        self._news.set()
        self._news = asyncio.Event()

    async def changes(self) -> AsyncGenerator[bool, None]:
        """The state now, then every other state seen after a notification; states that lasted less than a loop turn are skipped."""
        news = self._news
        told = self.is_ready()
        yield told
        while True:
            await news.wait()
            news = self._news
            now = self.is_ready()
            if now is not told:
                told = now
                yield told

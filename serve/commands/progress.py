"""A bar on standard error for work that takes long; nothing where that is no terminal, and nothing of it stays."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING

from serve import clock

if TYPE_CHECKING:
    import pyarrow as pa

    from serve.recording.query import Result

# What is done, how much of it, of how much; 0 of 0: nobody can tell. All of it: the bar goes.
Report = Callable[[str, int, int], None]

_INTERVAL_S = 0.1
# What is quick needs no bar.
_PATIENCE_NS = 300_000_000


@contextlib.contextmanager
def bar() -> Iterator[Report]:
    """One bar for everything that a command does."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, of: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    drawn = Progress(*columns, console=console, transient=True)
    task = drawn.add_task("", total=None)
    begun = clock.monotonic_ns()

    def report(what: str, done: int, of: int) -> None:
        drawn.update(task, description=what, completed=done, total=of or None)
        if done == of > 0:
            drawn.stop()        # rows are printed next
        elif clock.monotonic_ns() - begun > _PATIENCE_NS:
            drawn.start()

    try:
        yield report
    finally:
        drawn.stop()


def batches_of(result: "Result", what: str, report: Report) -> "Iterator[pa.RecordBatch]":
    """The batches of a query, reported until the first of them is there."""
    batches = iter(result)
    with ThreadPoolExecutor(1) as runner:
        first: Future[pa.RecordBatch | None] = runner.submit(next, batches, None)
        try:
            found = _awaited(first, lambda: report(what, round(1000 * result.share_done), 1000))
        except BaseException:
            result.interrupt()      # else the thread would be waited for until the query is done
            raise
    report(what, 1000, 1000)
    if found is not None:
        yield found
        yield from batches


def _awaited(first: "Future[pa.RecordBatch | None]", look: Callable[[], None]) -> "pa.RecordBatch | None":
    while True:
        try:
            return first.result(_INTERVAL_S)
        except NotYet:
            look()

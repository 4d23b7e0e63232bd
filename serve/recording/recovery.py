"""What became of the rows of a worker that is gone: read off its page once all of its journals are sealed, and put into the manifest.

Every row that was numbered is sealed, in a frame that does not check, cut off at the end of a journal, counted as dropped, or lost: it was
in a ring, or on its way to a journal, when the worker died. Only that last number is not written anywhere; it is what remains.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from serve.errors import ConfigurationError
from serve.recording.home import Home, is_kept
from serve.recording.jobs import Message
from serve.recording.local_store import sync_folder
from serve.recording.manifest import Line, ManifestState, RowCounts
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.page import PageNumbers, read_page
from serve.recording.store_port import RecordsStore


def epoch_line(numbers: PageNumbers, found: RowCounts, now_ns: int) -> Line:
    """The account of an epoch. found: rows of its journals of records, which are all sealed.

    appended: what its journals held, torn and bad rows included, whatever the page came to count. After a power cut a page may be older
    than the journals: then at least what was found had been numbered.
    """
    appended = found.sealed + found.torn + found.bad
    n_dropped = sum(numbers.dropped.values())
    assigned = max(numbers.assigned, appended + n_dropped)
    return {
        "type": "epoch", "epoch": numbers.epoch, "assigned": assigned, "appended": appended, "dropped": dict(numbers.dropped),
        "lost": assigned - appended - n_dropped, "torn_rows": found.torn, "bad_rows": found.bad, "is_clean": numbers.is_clean,
        "at_ns": now_ns,
    }


@dataclass(slots=True)
class RecoveryJob:
    """Accounts for the epochs of a home that have ended. current: as of Home.has_ended."""

    manifest: Manifest
    home: Home
    current: int | None
    name: str = "recovery"
    interval_s: float = 5.0

    def run(self, now_ns: int) -> list[Message]:
        """An `epoch` message for each that was accounted for."""
        unsealed = {name.epoch for name in self.home.all_journals() if name.state != "bad"}
        return [
            message for epoch in self.home.ended_epochs(self.current) if epoch not in unsealed for message in self._account(epoch, now_ns)
        ]

    def _account(self, epoch: int, now_ns: int) -> list[Message]:
        page = self.home.page(epoch)
        messages: list[Message] = []
        if self.manifest.state.epoch(epoch).end is None:
            numbers, messages = _read(page, epoch)
            line = epoch_line(numbers, self._found(epoch), now_ns)
            self.manifest.append(line)
            messages.append(line)
        page.unlink()
        sync_folder(page.parent)
        return messages


    def _found(self, epoch: int) -> RowCounts:
        """Under whatever name they were sealed."""
        states = [self.manifest.state, *self.manifest.others(self.home.identity())]
        found = [state.epochs[epoch].records for state in states if epoch in state.epochs]
        return RowCounts(sum(one.sealed for one in found), sum(one.torn for one in found), sum(one.bad for one in found))


def _read(page: Path, epoch: int) -> tuple[PageNumbers, list[Message]]:
    try:
        return read_page(page), []
    except ValueError as error:
        text = f"{error}; which rows of epoch {epoch} were lost is not known"
        return PageNumbers(epoch, 0, 0), [{"type": "error", "job": "recovery", "text": text}]


def highest_epoch(store: RecordsStore, replica: str) -> int:
    """The highest epoch that a replica's manifest knows, 0 without one: a state directory that replaces a lost one must not begin at 1.

    Raises as the store.
    """
    return max(read_manifest(store, replica).epochs, default=0)


def check_names(state: ManifestState, home: Home, current: int | None) -> None:
    """Raises ConfigurationError when the manifest has rows of another home by the names that rows of this one would get, or will have: a
    server of that home runs on this machine.

    current: the epoch that runs, None when none does.
    """
    if state.home_id not in ("", home.identity()) and state.host == os.uname().nodename and _is_kept_elsewhere(state, home):
        raise ConfigurationError(
            f"a server that runs here, with its records in {state.home}, is replica {state.replica} already; give this one another"
            " --replica-id")
    waiting = {name.epoch for name in home.all_journals()} | ({current} if current is not None else set())
    highest = max(state.epochs, default=0)
    if state.home_id not in ("", home.identity()) and waiting and min(waiting) <= highest:
        raise ConfigurationError(
            f"the manifest of replica {state.replica} has rows up to epoch {highest} from another state directory, and those of epoch"
            f" {min(waiting)} in {home.path} would get the same names. They wait in their journals; give another --replica-id")


def _is_kept_elsewhere(state: ManifestState, home: Home) -> bool:
    return Path(state.home) != home.path and is_kept(Path(state.home))


__all__ = ["RecoveryJob", "check_names", "epoch_line", "highest_epoch"]

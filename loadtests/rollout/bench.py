"""What every case is given, and what more than one of them does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from loadtests.bench.servers import Machine
from loadtests.rollout import models
from loadtests.rollout.load import until
from loadtests.rollout.service import Service
from serve.client.admin import AdminClient

ENDED = ("succeeded", "rolled_back", "failed")


@dataclass(frozen=True)
class Bench:
    """machine: cores and a folder of the case's own. is_quick: a few of everything, to see that it still runs. say: told of progress."""

    machine: Machine
    is_quick: bool
    say: Callable[[str], None]

    def sized(self, whole: int, quick: int) -> int:
        """How many, of something."""
        return quick if self.is_quick else whole

    @contextmanager
    def service(self, name: str, served: Mapping[str, Mapping[str, Any]], *flags: str) -> Iterator[Service]:
        """A server over a repository of its own. served: model -> arguments of `models.write_model`."""
        folder = self.machine.folder / name
        for model, arguments in served.items():
            models.write_model(folder / "models", model, **arguments)
        with Service(self.machine, folder / "models", folder, *flags) as service:
            yield service


def wait_for_end(admin: AdminClient, rollout: str, seconds: float, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """The rollout once it has ended, or is in one of the other phases. Raises TimeoutError."""
    shown: dict[str, Any] = {}

    def has_ended() -> bool:
        shown.update(admin.rollout(rollout))
        return shown["phase"] in (*ENDED, *others)

    until(has_ended, seconds, lambda: shown)
    return shown


def generation_of(admin: AdminClient, model: str) -> int:
    """The generation in force."""
    return int(admin.traffic(model)["generation"])


__all__ = ["ENDED", "Bench", "generation_of", "wait_for_end"]

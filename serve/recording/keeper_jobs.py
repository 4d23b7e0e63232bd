"""The jobs of every keeper: sealing, the accounts of epochs, and what it has to say about itself."""

from dataclasses import asdict, dataclass, field

from serve import clock
from serve.recording.compaction import CompactionJob
from serve.recording.jobs import Job, Keeping, Message
from serve.recording.keeper_settings import KeeperSettings
from serve.recording.recovery import RecoveryJob
from serve.recording.retention import RetentionJob
from serve.recording.sealing import Sealer
from serve.recording.spare_memory import SpareMemory

SEAL_S = 1.0


def error_text(error: BaseException) -> str:
    """One line, with the name of what it is unless that says nothing."""
    text = str(error) or "no text"
    return text if type(error).__module__ == "serve.errors" else f"{type(error).__name__}: {text}"


@dataclass(slots=True)
class SealingJob:
    """One closed journal a run. One that cannot be sealed is reported, and waits longer each time while the others go on."""

    keeping: Keeping
    name: str = "sealing"
    interval_s: float = SEAL_S
    _sealer: Sealer = field(init=False)
    _spare: SpareMemory = field(default_factory=SpareMemory)

    def __post_init__(self) -> None:
        self._sealer = Sealer(self.keeping.store, self.keeping.manifest, self.keeping.home, self.keeping.epoch)

    def run(self, now_ns: int) -> list[Message]:
        """A `sealed` message as in the manifest, or an `error` with the journal's name."""
        due = self._sealer.due(now_ns)
        self.interval_s = 0.0 if len(due) > 1 else SEAL_S
        if not due:
            self._spare.rest(clock.monotonic_ns())
            return []
        self._spare.use(clock.monotonic_ns())
        try:
            return self._sealer.seal(due[0], now_ns)
        except Exception as error:  # noqa: BLE001  whatever it is, the journal keeps its rows and is tried again
            return [{"type": "error", "job": self.name, "text": f"{due[0].file}: {error_text(error)}"}]


@dataclass(slots=True)
class StatusJob:
    """Numbers for metrics."""

    keeping: Keeping
    retention: RetentionJob
    name: str = "status"
    interval_s: float = 10.0

    def run(self, now_ns: int) -> list[Message]:
        """One `status`: {"journals" (that wait to be sealed), "unsealed_bytes", "bad_bytes", "used_bytes" (of the budget), "parts",
        "part_bytes", "rows": {table: {"sealed", "torn", "bad", "purged"}}, "at_ns"}.
        """
        state, home = self.keeping.manifest.state, self.keeping.home.n_bytes()
        return [{
            "type": "status", "journals": len(self.keeping.home.closed(self.keeping.epoch)), "unsealed_bytes": home.unsealed,
            "bad_bytes": home.bad, "used_bytes": self.retention.used(), "parts": len(state.parts),
            "part_bytes": sum(part.bytes for part in state.parts.values()),
            "rows": {table: asdict(counts) for table, counts in state.rows.items()}, "at_ns": now_ns,
        }]


def recording_jobs(settings: KeeperSettings, keeping: Keeping) -> list[Job]:
    """In the order in which they run when all are due. Raises ConfigurationError."""
    retention = RetentionJob(keeping, settings.retention_days, settings.disk_budget_bytes)
    jobs: list[Job] = [SealingJob(keeping), RecoveryJob(keeping.manifest, keeping.home, keeping.epoch), retention]
    if settings.delta:
        jobs.append(_delta_job(keeping))
    return [*jobs, CompactionJob(keeping), StatusJob(keeping, retention)]


def _delta_job(keeping: Keeping) -> Job:
    from serve.errors import ConfigurationError

    try:
        from serve.recording.delta import DeltaJob
    except ImportError as error:
        raise ConfigurationError(f"--records-delta needs deltalake: pip install 'headrace[delta]' ({error})") from error
    return DeltaJob(keeping)


__all__ = ["SealingJob", "StatusJob", "error_text", "recording_jobs"]

"""Servers of this bench: one model, recorded or not, and what their metrics say of records."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.bench.servers import get
from loadtests.rollout import models
from loadtests.rollout.bench import Bench
from loadtests.rollout.load import until
from loadtests.rollout.service import Service

MODEL = "mlp"
# More than a row waits for others at most.
SETTLED_S = 0.25
_COUNTERS = {
    "headrace_records_sampled_rows_total": "sampled", "headrace_records_appended_rows_total": "appended",
    "headrace_records_dropped_rows_total": "dropped", "headrace_records_lost_rows_total": "lost",
}


class Recorded(Service):
    """A server of a name, and where its records are."""

    def __init__(self, name: str, bench: Bench, folder: Path, *flags: str) -> None:
        self.name, self.records = name, folder / "records"
        super().__init__(bench.machine, folder / "models", folder, *flags)

    def journals(self) -> list[Path]:
        """Files whose rows are in no Parquet file yet, but for those that are being written and are empty so far."""
        return sorted((self.state_dir / "records" / "journals").glob("*"))

    def settle(self) -> None:
        """Waits until nothing has been written down for a while. By its files: to be asked would cost it time that is measured."""
        if not self.records.exists():
            return
        began = time.time()
        until(lambda: time.time() - max((path.stat().st_mtime for path in self.journals()), default=0.0) > SETTLED_S
              and time.time() - began > SETTLED_S, 30)

    def recording(self) -> dict[str, float]:
        """Rows by what became of them, of this worker."""
        body = get(f"http://127.0.0.1:{self.metrics_port}/metrics")
        if body is None:
            raise RuntimeError(f"no metrics:\n{self.server.log_tail()}")
        found = dict.fromkeys(_COUNTERS.values(), 0.0)
        for line in body.decode().splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if name in _COUNTERS:
                found[_COUNTERS[name]] += float(line.rpartition(" ")[2])
        return found

    def under_way(self) -> int:
        """Rows that are neither stored nor dropped yet."""
        facts = self.recording()
        return int(facts["sampled"] - facts["appended"] - facts["dropped"])


@contextmanager
def recorded(bench: Bench, name: str, *flags: str, settings: str = "") -> Iterator[Recorded]:
    """A server of the MLP. name: "off" records nothing; "1 % recorded" a sample. settings: lines of model.yaml."""
    folder = bench.machine.folder / name.replace(" ", "-").replace("%", "percent").replace(",", "")
    models.write_model(folder / "models", MODEL, kinds={models.STABLE: "stable"}, loaded=(models.STABLE,))
    if name.startswith("1 %"):
        settings += "recording: {sampling: 0.01}\n"
    with (folder / "models" / MODEL / "model.yaml").open("a") as file:
        file.write(settings)
    records = () if name == "off" else ("--records", str(folder / "records"))
    with Recorded(name, bench, folder, *records, *flags) as service:
        yield service


__all__ = ["MODEL", "Recorded", "recorded"]

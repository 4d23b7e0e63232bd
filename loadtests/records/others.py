"""CPU time for each recorded row, beside Python logging of JSON lines and BentoML's monitor."""

import json
import logging
import subprocess
import time
import uuid
from pathlib import Path

import numpy as np

from loadtests.bench.processes import pinned
from loadtests.bench.servers import ROOT, peer_python
from loadtests.judge.tables import Bound, Table
from loadtests.rollout.bench import Bench

LEAST = 20.0


def logging_us(folder: Path, rows: int) -> float:
    """Microseconds a row of a logger that writes one JSON object a line, as a service's own request log would."""
    logger = logging.getLogger("headrace.bench.rows")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = logging.FileHandler(folder / "rows.jsonl")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    random = np.random.default_rng(1)
    x, y = random.standard_normal((rows, 64)).astype(np.float32), random.standard_normal((rows, 10)).astype(np.float32)
    began = time.process_time()
    for i in range(rows):
        logger.info(json.dumps({
            "ts_ns": time.time_ns(), "request_id": str(uuid.uuid4()), "model": "mlp", "version": "1", "status": 200, "total_us": i,
            "x": x[i].tolist(), "y": y[i].tolist()}))
    cost = (time.process_time() - began) * 1e6 / rows
    logger.removeHandler(handler)
    handler.close()
    return cost


def monitor_us(folder: Path, rows: int, cores: str) -> float | None:
    """The same of BentoML's monitor, in its own venv; None where that is not installed."""
    python = peer_python("bentoml")
    if not python.exists():
        return None
    script = ROOT / "loadtests" / "peers" / "bentoml_monitor.py"
    done = subprocess.run(pinned(cores, [str(python), str(script), str(rows), str(folder)]), capture_output=True, text=True, check=True,
                          timeout=300)
    return float(done.stdout.split()[-1])


def others_table(bench: Bench, appended_us: float, sealed_us: float) -> Table:
    """appended_us, sealed_us: what a recorded row takes of the whole server's CPU time, in the journal and in Parquet."""
    rows = bench.sized(50_000, 2_000)
    others = {"Python logging, one JSON object a line": logging_us(bench.machine.folder, rows)}
    monitor = monitor_us(bench.machine.folder, rows, bench.machine.server_cores)
    notes = [f"64 float32 in and 10 out, {rows:,} rows. Ours is the CPU time of the whole server with recording on less that of one",
             "without, from the runs above; sealed: with the rows in zstd Parquet. The others' is CPU time of the process that logs."]
    if monitor is None:
        notes.append("BentoML is not installed (loadtests/peers/setup.sh bentoml).")
    else:
        others["BentoML's monitor, its default sink"] = monitor
    lines = [["Headrace, in the journal", f"{appended_us:.2f}", ""], ["Headrace, sealed", f"{sealed_us:.2f}", ""]]
    lines += [[name, f"{cost:.1f}", f"{cost / sealed_us:.0f}"] for name, cost in others.items()]
    bounds = [Bound(f"{name} over ours, sealed", cost / sealed_us, least=LEAST) for name, cost in others.items()]
    return Table("CPU time for each recorded row", ["", "us a row", "times ours"], lines, notes, bounds)


__all__ = ["others_table"]

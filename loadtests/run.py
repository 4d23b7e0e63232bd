"""Start a server with a small model, run the locust scenarios against it without a browser, leave reports/load.html.

usage: python -m loadtests.run [--seconds 30] [--users 50] [--max-p95-ms 100]        exit code: locust's, 1 when a limit is exceeded
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.bench import models
from loadtests.bench.servers import ROOT, Machine, headrace


def main(arguments: list[str]) -> int:
    """Run the load test; the limits are locust's to judge."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--max-failure-ratio", type=float, default=0.0)
    parser.add_argument("--max-p95-ms", type=float, default=100.0)
    options = parser.parse_args(arguments)
    report = ROOT / "reports" / "load.html"
    report.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headrace-load-") as folder:
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        model = models.mlp(Path(folder), "mlp", (64, 64, 10))
        with headrace(Machine(cores, cores, 1, Path(folder)), [model]) as server:
            done = subprocess.run([
                sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--headless", "--only-summary",
                "--users", str(options.users), "--spawn-rate", str(options.users),
                "--run-time", f"{options.seconds}s", "--stop-timeout", "5",
                "--host", f"http://127.0.0.1:{server.http_port}", "--grpc-target", f"127.0.0.1:{server.grpc_port}", "--model", model.name,
                "--max-failure-ratio", str(options.max_failure_ratio), "--max-p95-ms", str(options.max_p95_ms), "--html", str(report),
            ], check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=options.seconds + 60)
    print(f"report: {report.relative_to(ROOT)}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

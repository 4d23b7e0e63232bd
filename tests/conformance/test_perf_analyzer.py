"""NVIDIA's load generator, over both protocols: it must find all that it asks for, and its figures must agree with the server's."""

import re
import subprocess

import pytest

from tests.integration.running_server import ROOT, RunningServer

BINARY = ROOT / ".venv-clients" / "perf_analyzer" / "perf_analyzer"
CONCURRENCY = 2


@pytest.mark.client
@pytest.mark.skipif(not BINARY.exists(), reason="perf_analyzer is not installed: run tools/client_venvs.sh")
@pytest.mark.parametrize(("protocol", "options"), [
    ("http", []),
    ("grpc", []),
    ("grpc", ["--streaming", "--async"]),
    ("http", ["-b", "8"]),
])
def test_measures(server: RunningServer, protocol: str, options: list[str]) -> None:
    port = server.ports[protocol]
    command = [BINARY, "-m", "mlp", "-i", protocol, "-u", f"127.0.0.1:{port}", "--measurement-mode", "count_windows",
               "--measurement-request-count", "50", "--measurement-interval", "1000", "-s", "999", "--max-trials", "3",
               "--concurrency-range", str(CONCURRENCY), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    throughput = re.search(r"Throughput: ([\d.]+) infer/sec", done.stdout)
    assert throughput is not None, done.stdout
    assert float(throughput[1]) > 0
    counts = r"Server:.*?Inference count: (\d+).*?Execution count: (\d+).*?Successful request count: (\d+)"
    served = re.search(counts, done.stdout, re.DOTALL)
    assert served is not None, done.stdout
    inferences, executions, requests = map(int, served.groups())
    rows = 8 if "-b" in options else 1
    # The counters are read one after the other, while the last requests are in flight.
    assert abs(inferences - rows * requests) <= rows * CONCURRENCY
    assert 0 < executions <= requests + CONCURRENCY

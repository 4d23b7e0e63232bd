"""How each server is started, and how its answers and its own success counter are read."""

import contextlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from loadtests.bench.models import BenchModel
from loadtests.bench.processes import Server, can_connect, free_port
from loadtests.payloads import FloatRows

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "loadtests" / "peers"


@dataclass(frozen=True)
class Machine:
    """Where things run: cores as taskset lists, a folder for models and logs, the execution device of our server."""

    server_cores: str
    client_cores: str
    client_threads: int
    folder: Path
    device: str = "cpu"


def get(url: str) -> bytes | None:
    """Return the body of a 200, None of anything else."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def post(url: str, body: bytes) -> bytes:
    """Return the answer to a JSON POST. Raises OSError when it is not a success."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        answered: bytes = answer.read()
        return answered


@dataclass(frozen=True)
class Headrace:
    """Our server, serving bench models from their bare files."""

    server: Server
    http_port: int
    grpc_port: int

    def successes(self) -> int:
        """Return the successful requests of all models, as the statistics extension tells them."""
        body = get(f"http://127.0.0.1:{self.http_port}/v2/models/stats")
        if body is None:
            raise RuntimeError(f"no statistics from the server:\n{self.server.log_tail()}")
        return sum(model["inference_stats"]["success"]["count"] for model in json.loads(body)["model_stats"])


@contextlib.contextmanager
def headrace(machine: Machine, models: Sequence[BenchModel], *flags: str) -> Iterator[Headrace]:
    """Serve the models' files with default settings, but for the ports and the flags given."""
    http, grpc = free_port(), free_port()
    executable = Path(sys.executable).with_name("headrace")
    server = Server("headrace", [
        str(executable), "serve", *(str(model.path) for model in models), "--host", "127.0.0.1",
        "--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", "none", "--admin-port", "none",
        "--state-dir", str(machine.folder / "state"), "--device", machine.device, *flags,
    ], machine.server_cores, machine.folder / "headrace.log")
    try:
        server.wait_ready(lambda: get(f"http://127.0.0.1:{http}/v2/health/ready") is not None)
        yield Headrace(server, http, grpc)
    finally:
        server.stop()


def onnxruntime_library() -> Path:
    """Return the shared library inside the onnxruntime package. Raises FileNotFoundError without it."""
    spec = find_spec("onnxruntime")
    found = sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so*")) if spec and spec.origin else []
    if not found:
        raise FileNotFoundError("no libonnxruntime.so: install [cpu] or [gpu]")
    return found[0]


def build_floor(source: Path, folder: Path) -> Path:
    """Compile floor.c as its header says."""
    program = folder / "floor"
    compiler = shutil.which("cc") or "cc"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source), "-lnghttp2", "-lpthread", "-ldl"], check=True)
    return program


@contextlib.contextmanager
def floor(machine: Machine, program: Path, model: BenchModel, mode: str) -> Iterator[tuple[Server, int]]:
    """Run the floor program in one of its modes: thread, inline, spin."""
    port = free_port()
    sizes = ["x", str(model.input_shape[0]), "y", str(model.n_outputs)]
    command = [str(program), str(onnxruntime_library()), str(model.path), *sizes, str(port), mode]
    server = Server(f"floor {mode}", command, machine.server_cores, machine.folder / f"floor-{mode}.log")
    try:
        server.wait_ready(lambda: can_connect(port))
        yield server, port
    finally:
        server.stop()


@dataclass(frozen=True)
class Peer:
    """Another HTTP server: where to POST what, and whether its answer is right."""

    name: str
    server: Server
    url: str
    body: bytes

    def answer(self) -> list[float]:
        """Return the numbers of one answer, whatever they are wrapped in."""
        return flatten(json.loads(post(self.url, self.body)))


def flatten(value: object) -> list[float]:
    """Return the numbers of the innermost data of an answer: outputs[0].data, output, or the value itself."""
    if isinstance(value, dict):
        return flatten(value["outputs"][0]["data"] if "outputs" in value else next(iter(value.values())))
    if isinstance(value, list):
        return [number for part in value for number in flatten(part)]
    assert isinstance(value, int | float), f"not a number: {value!r}"
    return [float(value)]


def peer_python(name: str) -> Path:
    """Return the interpreter of a peer's venv, whether it is there or not."""
    return ROOT / ".venv-peers" / name / "bin" / "python"


@contextlib.contextmanager
def peer(machine: Machine, name: str, model: BenchModel, body: bytes) -> Iterator[Peer]:
    """Run loadtests/peers/NAME_peer.py in its own venv; it serves the model on the port that it is given and takes `body`."""
    port = free_port()
    folder = machine.folder / name
    folder.mkdir(exist_ok=True)
    python = peer_python(name)
    command = [str(python), str(PEERS / f"{name}_peer.py"), str(model.path), str(port)]
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    server = Server(name, command, machine.server_cores, machine.folder / f"{name}.log", cwd=folder, env=environment)
    path = f"/v2/models/{model.name}/infer" if name == "mlserver" else "/predict"
    found = Peer(name, server, f"http://127.0.0.1:{port}{path}", body)
    try:
        server.wait_ready(lambda: is_answering(found))
        yield found
    finally:
        server.stop()


def is_answering(found: Peer) -> bool:
    """Return whether the peer gives an answer to its request."""
    with contextlib.suppress(OSError, ValueError):
        return bool(found.answer())
    return False


def expected(model: BenchModel, rows: FloatRows) -> FloatRows:
    """Return what ONNX Runtime itself answers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": rows})[0], np.float32)

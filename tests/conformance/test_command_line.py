"""curl and nghttp against a running server."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.payloads import FLOATS, INFER, binary_request, grpc_request, json_request
from tests.integration.running_server import RunningServer

pytestmark = [pytest.mark.client]
VERSIONS = ["--http1.1", "--http2-prior-knowledge", "--http2"]       # --http2: HTTP/1.1 with an offer to upgrade, which is not taken up


def _run(*command: str | Path, sent: bytes | None = None) -> bytes:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed: run tools/debian.sh test")
    done = subprocess.run(command, input=sent, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def _curl(*arguments: str | Path, sent: bytes | None = None) -> bytes:
    return _run("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "20", *arguments, sent=sent)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_get(server: RunningServer, version: str) -> None:
    for port in (server.ports["http"], server.ports["grpc"]):
        url = f"http://127.0.0.1:{port}"
        assert json.loads(_curl(version, f"{url}/v2/health/live"))["live"] is True
        assert json.loads(_curl(version, f"{url}/v2/models/mlp"))["inputs"][0]["shape"] == [-1, 64]
    used = _curl(version, "-o", "/dev/null", "-w", "%{http_version}", f"{server.url}/v2")
    assert used == (b"2" if version == "--http2-prior-knowledge" else b"1.1")


def test_post(server: RunningServer, version: str) -> None:
    answer = json.loads(_curl(version, server.url + INFER, "-d", json_request().decode()))
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": FLOATS.ravel().tolist()}]


def test_chunked_post(server: RunningServer, version: str) -> None:
    answer = _curl(version, server.url + INFER, "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", sent=json_request(id="c"))
    assert json.loads(answer)["id"] == "c"


def test_large_post_that_expects_100_continue(server: RunningServer, version: str, tmp_path: Path) -> None:
    import numpy as np

    x = np.random.default_rng(5).standard_normal((1, 3 << 20)).astype(np.float32)
    body, headers = binary_request(x)
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.write_bytes(body)
    fields = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    _curl(version, f"{server.url}/v2/models/identity_fp32/infer", *fields, "-H", "Expect: 100-continue", "--data-binary", f"@{sent}",
          "-o", received)
    assert received.read_bytes().endswith(x.tobytes())


def test_compressed(server: RunningServer, version: str) -> None:
    import numpy as np

    body = json_request(np.ones((64, 4), np.float32))
    plain = _curl(version, server.url + INFER, "--data-binary", "@-", sent=body)
    packed = _curl(version, "--compressed", server.url + INFER, "--data-binary", "@-", sent=body)
    size = _curl(version, "--compressed", server.url + INFER, "--data-binary", "@-", "-o", "/dev/null", "-w", "%{size_download}", sent=body)
    assert packed == plain
    assert int(size) < len(plain) // 4


def test_head_and_options(server: RunningServer, version: str) -> None:
    assert b"200" in _curl(version, "--head", f"{server.url}/v2/health/ready").splitlines()[0]
    options = _run("curl", "--silent", "--include", version, "--request", "OPTIONS", server.url + INFER).decode().lower()
    assert "405" in options.splitlines()[0]
    assert "allow: post" in options


# Not over HTTP/2: curl before 8.0 breaks on using its own connection again (curl #10634).
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_several_requests_on_one_connection(server: RunningServer, version: str) -> None:
    said = _curl(version, *[f"{server.url}/v2/health/live"] * 5, "-w", "%{num_connects}\n")
    assert sum(int(line.rpartition(b"}")[2]) for line in said.splitlines()) == 1


def test_parallel_requests(server: RunningServer) -> None:
    said = _curl("--http1.1", "--parallel", *[f"{server.url}/v2/models/mlp"] * 30, "-w", "\n%{http_code}\n")
    assert said.count(b"200") == 30


def test_error(server: RunningServer, version: str) -> None:
    said = _run("curl", "--silent", version, f"{server.url}/v2/models/absent/infer", "-d", json_request().decode(), "-w", "\n%{http_code}")
    body, status = said.rsplit(b"\n", 1)
    assert status == b"404"
    assert json.loads(body) == {"error": "Request for unknown model: 'absent' is not found"}


def test_grpc_by_curl(server: RunningServer, tmp_path: Path) -> None:
    """gRPC is HTTP/2 and a prefix of five bytes."""
    message = grpc_request()
    headers = tmp_path / "headers"
    said = _curl("--http2-prior-knowledge", f"{server.url}/inference.GRPCInferenceService/ModelInfer", "-H", "te: trailers",
                 "-H", "content-type: application/grpc", "--data-binary", "@-", "-D", headers,
                 sent=b"\x00" + len(message).to_bytes(4, "big") + message)
    assert said.endswith(FLOATS.tobytes())
    assert "grpc-status: 0" in headers.read_text()


def test_nghttp(server: RunningServer, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(json_request())
    said = _run("nghttp", "--no-verify-peer", f"{server.url}{INFER}", f"--data={body}")
    assert json.loads(said)["outputs"][0]["data"] == FLOATS.ravel().tolist()
    verbose = _run("nghttp", "--verbose", "--null-out", "--multiply=50", "--window-bits=10", "--connection-window-bits=12", "--padding=64",
                   f"{server.url}/v2/models/mlp/config").decode()
    assert verbose.count(":status: 200") == 50
    assert "GOAWAY" not in verbose.split(":status: 200")[0]


def test_nghttp_upgrade_is_not_taken_up(server: RunningServer) -> None:
    """RFC 9113 dropped the upgrade from HTTP/1.1: the request is answered as if it had not been asked for."""
    said = _curl("-H", "Connection: Upgrade, HTTP2-Settings", "-H", "Upgrade: h2c", "-H", "HTTP2-Settings: AAMAAABkAAQAAP__",
                 f"{server.url}/v2/health/live")
    assert json.loads(said)["live"] is True

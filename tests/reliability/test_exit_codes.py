"""How `serve` ends when it cannot begin: the code and one line that says why."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import models
from tests.reliability.service import ROOT


def serve(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a service that ends by itself."""
    command = [sys.executable, "-m", "serve.cli", "serve", "--device", "cpu", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40, check=False, env=os.environ | environment)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


FREE_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "none", "--admin-port", "none")


def test_a_port_in_use_is_4(repository: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = serve(str(repository), "--state-dir", str(tmp_path), *FREE_PORTS, "--http-port", str(port))
    assert code == 4
    assert f"http port {port} on 127.0.0.1 is in use" in text
    assert "worker 1 started" not in text


def test_no_model_is_3(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, text = serve(str(tmp_path / "empty"), "--state-dir", str(tmp_path), *FREE_PORTS)
    assert (code, "no model could be loaded" in text) == (3, True)
    path = models.place(tmp_path / "broken", "m")
    path.write_bytes(b"not a model")
    code, text = serve(str(tmp_path / "broken"), "--state-dir", str(tmp_path), *FREE_PORTS)
    assert (code, "no model could be loaded" in text) == (3, True)
    assert text.count("worker 1 started") == 1
    assert "worker 2" not in text


@pytest.mark.parametrize(("setting", "value"), [("HEADRACE_HTTP_PORT", "many"), ("HEADRACE_MAX_BODY_BYTES", "1")])
def test_a_bad_environment_is_1(repository: Path, tmp_path: Path, setting: str, value: str) -> None:
    code, text = serve(str(repository), "--state-dir", str(tmp_path), **{setting: value})
    assert (code, value in text) == (1, True)


@pytest.mark.parametrize("text", ["no_such_setting: 1", "http_port: [1]", "http_port: 1\nhttp_port: 2", "- a list", "{"])
def test_a_bad_configuration_file_is_1(repository: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "headrace.yaml"
    file.write_text(text, encoding="utf-8")
    code, said = serve(str(repository), "--state-dir", str(tmp_path), "--config", str(file))
    assert (code, str(file) in said) == (1, True)


@pytest.mark.parametrize("arguments", [("--no-such-flag",), ("--http-port", "many"), ("--http-port", "70000")])
def test_a_bad_flag_is_2(repository: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert serve(str(repository), "--state-dir", str(tmp_path), *arguments)[0] == 2


def test_a_folder_that_does_not_exist_is_1(tmp_path: Path) -> None:
    code, text = serve(str(tmp_path / "nowhere"), "--state-dir", str(tmp_path), *FREE_PORTS)
    assert (code, "nowhere" in text) == (1, True)

"""Other people's clients against a running server, each in a process of its own (their message classes clash, and they warn).

A script of tests/clients prints one line for each of its checks; each is a test here.
"""

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.running_server import ROOT, RunningServer

SCRIPTS = ROOT / "tests" / "clients"
SCRIPT_S = 50


class Client(NamedTuple):
    """environment: under .venv-clients, "" for this interpreter's own."""

    environment: str
    script: str
    argument: str = ""

    @property
    def name(self) -> str:
        return f"{self.script.removesuffix('_checks')}-{self.argument}".rstrip("-")

    @property
    def python(self) -> Path:
        return ROOT / ".venv-clients" / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    @property
    def path(self) -> Path:
        return SCRIPTS / f"{self.script}.py"


CLIENTS = [
    Client("tritonclient", "tritonclient_checks", "http"),
    Client("tritonclient", "tritonclient_checks", "grpc"),
    Client("tritonclient", "tritonclient_http_checks"),
    Client("tritonclient", "tritonclient_grpc_checks"),
    Client("tritonclient", "tritonclient_aio_checks", "http"),
    Client("tritonclient", "tritonclient_aio_checks", "grpc"),
    Client("kserve", "kserve_checks", "rest"),
    Client("kserve", "kserve_checks", "grpc"),
    Client("", "grpcio_checks"),
]


def _checks(client: Client) -> list[str]:
    names = [node.name for node in ast.parse(client.path.read_text(encoding="utf-8")).body
             if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("check_")]
    return [name for name in names if not name.startswith("check_only_") or name.split("_")[2] == client.argument]


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Message classes and stubs of protos/, as anybody would generate them."""
    folder = tmp_path_factory.mktemp("stubs")
    protos = sorted(str(path) for path in (ROOT / "protos").glob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"--python_out={folder}",
                    f"--grpc_python_out={folder}", *protos], check=True, timeout=60)
    return folder


@pytest.fixture(scope="session")
def results(server: RunningServer, stubs: Path) -> Callable[[Client], dict[str, Any]]:
    """What the checks of a client's script said; it is run once."""
    @functools.cache
    def run(client: Client) -> dict[str, Any]:
        if not client.python.exists():
            pytest.skip(f"{client.environment} is not installed: run tools/client_venvs.sh")
        arguments = [json.dumps(server.addresses | {"stubs": str(stubs)}), *filter(None, [client.argument])]
        # A sanitizer that is loaded before everything else is for the server.
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_PRELOAD")}
        done = subprocess.run([client.python, client.path, *arguments], capture_output=True, text=True, timeout=SCRIPT_S, env=environment)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
        said = {line["check"]: line["error"] for line in lines}
        return said | {"exit": f"exited with {done.returncode}:\n{done.stderr[-2000:]}" if done.returncode else None}
    return run


@pytest.mark.client
@pytest.mark.parametrize(("client", "check"), [pytest.param(client, check, id=f"{client.name}-{check.removeprefix('check_')}")
                                               for client in CLIENTS for check in [*_checks(client), "exit"]])
def test_client(client: Client, check: str, results: Callable[[Client], dict[str, Any]]) -> None:
    said = results(client)
    assert check in said, f"{client.name} did not get as far as {check}: {said['exit']}"
    assert said[check] is None, said[check]

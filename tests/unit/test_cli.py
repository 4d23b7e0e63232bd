"""The command line: flags, exit codes, what is printed, without a server process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from serve import __version__, cli, supervisor
from serve.banner import banner
from serve.config import KEYS, Settings, environment_name, load_settings
from serve.control import InputLine, ModelLine, Ready
from serve.errors import ConfigurationError
from serve.listeners import PortInUse, Ports
from tests.unit.fake_server import FakeServer, can, fake_server

METADATA = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
TEXT_METADATA = {"name": "t", "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]}


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would have been served."""
    seen: list[Settings] = []

    def supervise(settings: Settings, announce: object) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(supervisor, "supervise", supervise)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    return seen


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, arguments, input=stdin)


def main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["headrace", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), capsys.readouterr().err


def test_flags_reach_the_settings(supervised: list[Settings], tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("log_format: json\n", encoding="utf-8")
    result = run("serve", "a.onnx", "b", "--http-port", "0", "--grpc-port", "none", "--no-strict-readiness", "--drain-timeout", "2",
                 "--busy-poll-us", "adaptive", "--model-control", "explicit", "--max-body-bytes", "2048", "--not-ready-status", "400",
                 "--io-threads", "3", "--config", str(file))
    assert (result.exit_code, result.output) == (0, "")
    settings, = supervised
    assert [path.name for path in settings.paths] == ["a.onnx", "b"]
    assert (settings.http_port, settings.grpc_port, settings.strict_readiness, settings.drain_timeout_s) == (0, None, False, 2)
    assert (settings.busy_poll_us, settings.model_control, settings.limits.max_body_bytes) == (200, "explicit", 2048)
    assert (settings.not_ready_status, settings.io_threads, settings.log_format) == (400, 3, "json")


def test_the_environment_is_read(supervised: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_PORT", "1234")
    monkeypatch.setenv("HEADRACE_PATHS", "/m")
    assert run("serve").exit_code == 0
    assert (supervised[0].http_port, supervised[0].paths) == (1234, (Path("/m"),))


def test_every_setting_has_its_flag() -> None:
    command = typer.main.get_command(cli.app).commands["serve"]     # type: ignore[attr-defined]
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {"--" + key.replace("_", "-") for key in KEYS if key != "paths"} <= flags
    assert {"--config", "--no-strict-readiness", "--max-deadline", "--drain-timeout"} <= flags


@pytest.mark.parametrize(("arguments", "code", "complaint"), [
    (("serve", "m", "--http-port", "x"), 2, "http_port = 'x' (flag): must be an integer or none"),
    (("serve", "m", "--nonsense"), 2, "No such option"),
    (("serve",), 1, "nothing to serve"),
    (("serve", "m", "--config", "/missing.yaml"), 1, "No such file"),
    (("serve", "m", "--http-port", "none", "--grpc-port", "none"), 1, "at least one must be on"),
    (("infer",), 2, "Missing argument"),
    (("infer", "m", "--text", "a", "--json", "{}"), 2, "give one of"),
    (("nonsense",), 2, "No such command")])
def test_what_cannot_be_understood(
    supervised: list[Settings], arguments: tuple[str, ...], code: int, complaint: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    exit_code, text = main(capsys, monkeypatch, *arguments)
    assert (exit_code, supervised) == (code, [])
    assert complaint in text


def test_a_bad_environment_is_configuration_not_usage(
    supervised: list[Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_DEVICE", "gpu")
    assert main(capsys, monkeypatch, "serve", "m")[0] == 1


def raising(error: Exception) -> Callable[..., int]:
    def supervise(settings: Settings, announce: object) -> int:
        raise error

    return supervise


@pytest.mark.parametrize(("outcome", "code"), [
    (PortInUse("http port 8000 is in use"), 4), (ConfigurationError("no such host"), 1)])
def test_what_the_supervisor_cannot_do(
    outcome: Exception, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "supervise", raising(outcome))
    assert main(capsys, monkeypatch, "serve", "m") == (code, f"headrace: {outcome}\n")


def test_the_supervisors_exit_code_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "supervise", lambda settings, announce: 130)
    assert run("serve", "m").exit_code == 130


def test_version_and_import_time_weight() -> None:
    assert run("--version").output == f"headrace {__version__}\n"
    heavy = {"numpy", "onnxruntime", "asyncio", "yaml", "fastapi"}
    script = f"import sys, serve.cli, serve.supervisor; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert told.stdout == "[]\n"


def settings(*paths: Path, **flags: Any) -> Settings:
    return load_settings({"paths": list(paths) or [Path("/models")], **flags}, {"HOME": "/"})


SMALL = ModelLine(name="m", versions=("1", "2"), inputs=(InputLine(name="x", datatype="FP32", shape=(-1, 2)),
                                                         InputLine(name="s", datatype="BYTES", shape=(-1,))))
LARGE = ModelLine(name="digits", versions=("2",), digests={"2": "sha256:0123456789abcdef"},
                  inputs=(InputLine(name="input", datatype="FP32", shape=(-1, 64)),))


def test_the_banner_says_where_what_and_how() -> None:
    text = banner(settings(), Ready(models=(LARGE, SMALL, ModelLine(name="bad", problem="failed to load 'bad': no")), device="cuda:0"),
                  Ports(http=8000, grpc=8001, metrics=None, admin=8003))
    request = ('{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 1.5]}, '
               '{"name": "s", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}')
    assert text.splitlines() == [
        f"headrace {__version__} serves, but is NOT ready: 1 of 3 models failed; on cuda:0",
        "  ports   http 127.0.0.1:8000   grpc 127.0.0.1:8001   admin 127.0.0.1:8003",
        "  models  digits  v2 (0123456789ab)  input FP32[N,64]",
        "          m  v1, v2  x FP32[N,2], s BYTES[N]",
        "          bad  not served  (failed to load 'bad': no)",
        f"  try     curl -s http://127.0.0.1:8000/v2/models/m/infer -d '{request}'",
        """          headrace infer m --json '{"x": [[1.5, 1.5]], "s": ["hello"]}'"""]


def test_the_banner_names_the_demo_and_a_port_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "_data").mkdir()
    (tmp_path / "_data" / "digits.npz").touch()
    text = banner(settings(tmp_path, host="0.0.0.0"), Ready(models=(LARGE,)), Ports(http=45678, grpc=None, metrics=None, admin=None))
    assert text.splitlines()[-2:] == [
        "  try     curl -s http://127.0.0.1:45678/v2/models/digits",
        f"          headrace infer digits --from-dataset --repository {tmp_path} --url http://127.0.0.1:45678"]


def test_the_banner_says_where_rows_are_recorded() -> None:
    ports = Ports(http=8000, grpc=None, metrics=None, admin=None)
    assert "recorded" not in banner(settings(), Ready(models=(LARGE,)), ports)
    for given, shown in (("/srv/records", "/srv/records"), ("s3://bucket/prefix", "s3://bucket/prefix")):
        lines = banner(settings(records=given), Ready(models=(LARGE,)), ports).splitlines()
        assert lines[1:3] == ["  ports   http 127.0.0.1:8000", f"  rows    recorded in {shown}"]
    by_environment = load_settings({"paths": [Path("/models")]}, {"HOME": "/", "HEADRACE_RECORDS": "/srv/records"})
    assert "\n  rows    recorded in /srv/records\n" in banner(by_environment, Ready(models=(LARGE,)), ports)


def test_the_banner_without_a_served_model() -> None:
    text = banner(settings(host="::1"), Ready(), Ports(http=None, grpc=9, metrics=None, admin=None))
    assert text.splitlines()[-1] == "  try     curl -s -X POST http://[::1]:9/v2/repository/index"


@pytest.mark.parametrize(("arguments", "stdin"), [
    (("--json", '{"x": [[1, 2.5]]}'), None), ((), '{"x": [[1, 2.5]]}')])
def test_values_in_json(arguments: tuple[str, ...], stdin: str | None) -> None:
    with fake_server() as url:
        can("/v2/models/m", METADATA)
        result = run("infer", "m", *arguments, "--url", url, stdin=stdin)
    assert result.exit_code == 0
    assert json.loads(result.output) == {"model_name": "echo", "model_version": "7", "outputs": {"x": [[1.0, 2.5]]}}


def test_values_as_text_and_a_version() -> None:
    with fake_server() as url:
        can("/v2/models/t/versions/stable", TEXT_METADATA)
        result = run("infer", "t", "--version", "stable", "--text", "wörld", "--text", "b", "--url", url)
    assert json.loads(result.output)["outputs"] == {"text": [["wörld"], ["b"]]}
    assert FakeServer.asked[-1][1] == "/v2/models/t/versions/stable/infer"


@pytest.mark.parametrize(("arguments", "complaint"), [
    (("--json", "{"), "the values cannot be sent: Expecting property name"), (("--json", "[]"), "must be an object"),
    (("--json", '{"y": 1}'), "model 'm' has no input 'y'; it has x"), (("--json", '{"x": ["a"]}'), "are no FP32"),
    (("--text", "a"), "--text is for a model of one BYTES input")])
def test_values_that_do_not_fit(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_server() as url:
        can("/v2/models/m", METADATA)
        code, text = main(capsys, monkeypatch, "infer", "m", *arguments, "--url", url)
    assert code == 1
    assert complaint in text


def test_models_load_and_unload() -> None:
    with fake_server() as url:
        can("/v2/repository/index", [{"name": "m", "version": "1", "state": "READY"}])
        can("/v2/repository/models/m/load", b"")
        can("/v2/repository/models/m/unload", b"")
        can("/v2/models/m/versions/1", {"name": "m", "headrace": {"digest": "sha256:0123456789abcdef"}})
        assert run("models", "--url", url).output.split() == [
            "model", "version", "state", "digest", "reason", "m", "1", "READY", "0123456789ab"]
        assert (run("load", "m", "--url", url).output, run("unload", "m", "--url", url).output) == ("loaded m\n", "unloaded m\n")


def test_the_servers_refusal_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server() as url:
        can("/v2/repository/models/m/load", {"error": "explicit model load / unload is not allowed"}, 400)
        assert main(capsys, monkeypatch, "load", "m", "--url", url) == (1, "headrace: 400: explicit model load / unload is not allowed\n")


def test_init_makes_an_empty_repository(tmp_path: Path) -> None:
    result = run("init", str(tmp_path / "r"))
    assert result.exit_code == 0
    assert f"headrace serve {tmp_path / 'r'}" in result.output
    assert list((tmp_path / "r").iterdir()) == []


def test_help_of_serve_names_variables_choices_and_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = run("serve", "--help").output
    for key in KEYS:
        if key != "paths":
            assert environment_name(key) in text
    for shown in ("PORT|none", "BYTES/S", "SECONDS", "debug|info|warning|error", "none|explicit"):
        assert shown in text
    assert "(default 8000; HEADRACE_HTTP_PORT)" in text


def test_what_is_ignored_is_said(supervised: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_METRICS_PORT", "tcp://10.0.0.1:8002")
    assert "headrace: HEADRACE_METRICS_PORT=tcp://10.0.0.1:8002 is ignored" in run("serve", "m").output
    (settings,) = supervised
    assert settings.metrics_port == 8002

"""Where settings come from, in which order, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.config import KEYS, SettingError, Settings, instances_on, load_settings, value_of
from serve.cpus import available_cpus
from serve.errors import ConfigurationError


def load(
    flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, file: Path | None = None, cpus: int = 8,
) -> Settings:
    return load_settings({"paths": ["m.onnx"], **(flags or {})}, {"HOME": "/home/x", **(environment or {})}, file, cpus)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "headrace.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults() -> None:
    s = load()
    assert (s.host, s.admin_host) == ("127.0.0.1", "127.0.0.1")
    assert (s.http_port, s.grpc_port, s.metrics_port, s.admin_port) == (8000, 8001, 8002, 8003)
    assert (s.device, s.io_threads, s.instances, s.busy_poll_us, s.model_control) == ("auto", 2, None, 200, "none")
    assert (s.not_ready_status, s.strict_readiness, s.lenient_config, s.access_log) == (503, True, False, False)
    assert (s.state_dir, s.paths) == (Path("/home/x/.local/state/headrace"), (Path("m.onnx").absolute(),))
    assert (s.drain_timeout_s, s.pre_stop_delay_s) == (30, 0)
    assert s.limits.model_dump() == {
        "max_body_bytes": 64 << 20, "max_in_flight_bytes": 1 << 30, "max_connections": 2000, "header_timeout_s": 10, "idle_timeout_s": 75,
        "min_body_rate": 1024, "max_streams": 1000, "max_deadline_s": 60}


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = written(tmp_path, "http_port: 1\ngrpc_port: 2\nmetrics_port: 3\nmax_body_bytes: 4096\n")
    s = load({"http_port": "5"}, {"HEADRACE_HTTP_PORT": "6", "HEADRACE_GRPC_PORT": "7"}, file)
    assert (s.http_port, s.grpc_port, s.metrics_port, s.admin_port, s.limits.max_body_bytes) == (5, 7, 3, 8003, 4096)


@pytest.mark.parametrize(("key", "text", "value"), [
    ("http_port", "none", None), ("http_port", "0", 0), ("busy_poll_us", "adaptive", 200), ("busy_poll_us", "0", 0),
    ("strict_readiness", "off", False), ("access_log", "TRUE", True), ("device", "cuda:12", "cuda:12"), ("drain_timeout", "1.5", 1.5),
    ("not_ready_status", "400", 400), ("instances", "3", 3), ("server_name", "triton", "triton"), ("log_format", "json", "json"),
    ("state_dir", "/s", Path("/s")), ("paths", "/a:/b", (Path("/a"), Path("/b")))])
def test_strings_mean_the_same_from_everywhere(key: str, text: str, value: object, tmp_path: Path) -> None:
    bare = {} if key == "paths" else {"paths": ["m"]}
    for settings in (load_settings({**bare, key: text}, {}), load_settings(bare, {f"HEADRACE_{key.upper()}": text}),
                     load_settings(bare, {}, written(tmp_path, f"{key}: '{text}'"))):
        assert getattr(settings, KEYS[key]) == value


@pytest.mark.parametrize(("key", "value", "allowed"), [
    ("http_port", "65536", "less than or equal to 65535"),
    ("http_port", "-1", "greater than or equal to 0"),
    ("http_port", "8e3", "an integer or none"),
    ("http_port", "", "an integer"),
    ("http_port", "10.0.0.1:8000", "an integer or none"),
    ("io_threads", "0", "greater than or equal to 1"),
    ("io_threads", "1_0", "an integer"),
    ("device", "gpu", "pattern"),
    ("device", "cuda:1\n", "pattern"),
    ("not_ready_status", "404", "503 or 400"),
    ("model_control", "poll", "'none' or 'explicit'"),
    ("strict_readiness", "maybe", "must be one of true"),
    ("drain_timeout", "nan", "number"),
    ("drain_timeout", "inf", "finite"),
    ("header_timeout", "0", "greater than 0"),
    ("max_body_bytes", "1", "greater than or equal to 1024"),
    ("max_body_bytes", "99999999999", "less than"),
    ("busy_poll_us", "fast", "or adaptive"),
    ("server_name", "", "at least 1"),
])
def test_a_bad_value_names_source_key_value_and_what_is_allowed(key: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(environment={f"HEADRACE_{key.upper()}": value})
    error = caught.value
    assert (error.source, error.key) == ("environment", key)
    assert allowed in error.allowed
    assert f"{key} = " in str(error)
    assert "(environment)" in str(error)
    with pytest.raises(SettingError) as caught:
        load({key: value})
    assert caught.value.source == "flag"


@pytest.mark.parametrize(("text", "complaint"), [
    ("http_prot: 1", "http_prot = 1 (file .*): no such setting; there are paths, host, http_port"),
    ("limits: {}", "no such setting"),
    ("http_port: 1.5", "http_port = 1.5"),
    ("http_port: true", "http_port = True"),
    ("http_port:", "has no value"),
    ("- 1", "must be a mapping"),
    ("access_log: 1", "access_log = 1"),
    ("paths: [1]", "must be a list of paths"),
    ("a: [", "expected"),
    ("http_port: 1\nhttp_port: 2", "more than once"),
    ("host: 1", "host = 1"),
    ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
])
def test_what_a_file_must_not_say(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint.replace("(", r"\(").replace("):", r"\):")):
        load_settings({}, {"HEADRACE_PATHS": "m"} if "paths" not in text else {}, written(tmp_path, text))


def test_files(tmp_path: Path) -> None:
    assert load(file=written(tmp_path, "# nothing\n")) == load()
    assert load_settings({}, {"HOME": "/"}, written(tmp_path, "paths: [/m]")).paths == (Path("/m"),)
    with pytest.raises(ConfigurationError, match="No such file"):
        load(file=tmp_path / "missing.yaml")


@pytest.mark.parametrize(("flags", "complaint"), [
    ({"http_port": "none", "grpc_port": "none"}, "at least one must be on"),
    ({"http_port": "9", "grpc_port": "9"}, "must differ"),
    ({"admin_host": "0.0.0.0"}, "admin_host '0.0.0.0' is not a loopback address"),
    ({"max_in_flight_bytes": "2048"}, "max_body_bytes 67108864 is over max_in_flight_bytes 2048")])
def test_rules_across_settings(flags: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load(flags)


@pytest.mark.parametrize("flags", [{"http_port": "0", "grpc_port": "0"}, {"admin_host": "::1"}, {"admin_host": "localhost"},
                                   {"admin_host": "0.0.0.0", "admin_port": "none"}])
def test_and_their_exceptions(flags: dict[str, str]) -> None:
    load(flags)


def test_nothing_to_serve() -> None:
    with pytest.raises(SettingError, match="nothing to serve"):
        load_settings({}, {})


def test_settings_survive_the_trip_to_the_worker_and_cannot_be_changed() -> None:
    settings = load({"http_port": "none", "instances": "4"})
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError):
        settings.host = "x"


def test_the_state_folder_follows_xdg() -> None:
    assert load(environment={"XDG_STATE_HOME": "/state"}).state_dir == Path("/state/headrace")
    assert load(environment={"XDG_STATE_HOME": "relative"}).state_dir == Path("/home/x/.local/state/headrace")


@pytest.mark.parametrize(("cpus", "io", "instances"), [(1, 1, 1), (2, 1, 1), (4, 1, 3), (16, 4, 12), (64, 16, 48)])
def test_threads_follow_the_cores(cpus: int, io: int, instances: int) -> None:
    settings = load(cpus=cpus)
    assert (settings.io_threads, instances_on(settings, False, cpus), instances_on(settings, True, cpus)) == (io, instances, 1)
    assert instances_on(load({"instances": "7"}), True, cpus) == 7


@pytest.mark.parametrize(("files", "cores"), [
    ({"cpu.max": "150000 100000\n"}, 2), ({"cpu.max": "max 100000\n"}, None), ({"cpu.max": "100 100000\n"}, 1),
    ({"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
    ({"cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 1),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None), ({}, None)])
def test_a_cgroup_quota_caps_the_cores(tmp_path: Path, files: dict[str, str], cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    proc = tmp_path / "cgroup"
    proc.write_text("9:name=systemd:/\n3:cpu,cpuacct:/a/b\n0::/a/b\n", encoding="ascii")
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text, encoding="ascii")
    assert available_cpus(proc, tmp_path / "fs") == (cores or 6)
    assert available_cpus(tmp_path / "missing", tmp_path / "fs") >= 1


@given(st.sampled_from(sorted(KEYS)), st.text(max_size=12))
def test_any_text_is_a_setting_or_a_configuration_error(key: str, text: str) -> None:
    try:
        outcome: Settings | ConfigurationError = load({key: text})
    except ConfigurationError as error:
        outcome = error
    assert isinstance(outcome, Settings) or key in str(outcome)


@pytest.mark.parametrize(("cpus", "io_threads", "instances"), [(1, 1, 1), (2, 1, 1), (16, 4, 12), (64, 16, 48), (128, 16, 64)])
def test_the_defaults_fit_the_machine_and_the_limits(cpus: int, io_threads: int, instances: int) -> None:
    settings = load_settings({"paths": ["m.onnx"]}, {}, cpus=cpus)
    assert settings.io_threads == io_threads
    assert instances_on(settings, on_gpu=False, cpus=cpus) == instances


def test_what_kubernetes_makes_of_a_services_name_is_no_setting() -> None:
    """A service called headrace-metrics puts its address into every container of the namespace under the name of our setting."""
    warned: list[str] = []
    environment = {"HEADRACE_METRICS_PORT": "tcp://10.0.0.1:8002", "HEADRACE_PORT": "tcp://10.0.0.1:8000", "HEADRACE_HTTP_PORT": "9000"}
    settings = load_settings({"paths": ["m.onnx"]}, {"HOME": "/home/x", **environment}, warn=warned.append)
    assert (settings.metrics_port, settings.http_port) == (8002, 9000)
    assert [text.split(" is ignored")[0] for text in warned] == ["HEADRACE_METRICS_PORT=tcp://10.0.0.1:8002"]
    with pytest.raises(SettingError, match="must be an integer"):
        load(environment={"HEADRACE_METRICS_PORT": "tcp:8002"})


@pytest.mark.parametrize(("key", "shown"), [
    ("http_port", "PORT|none"), ("not_ready_status", "503|400"), ("log_level", "debug|info|warning|error"), ("max_body_bytes", "BYTES"),
    ("drain_timeout", "SECONDS"), ("busy_poll_us", "MICROSECONDS|adaptive"), ("io_threads", "N"), ("server_name", "TEXT"),
    ("model_control", "none|explicit"), ("state_dir", "DIR")])
def test_values_are_shown_with_their_choices_or_unit(key: str, shown: str) -> None:
    assert value_of(key) == shown

import io
import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve.telemetry.line_writer import MAX_LINES
from serve.telemetry.logs import TRACE, Logs, LogSettings, configure_logs

LEVELS = {"trace": TRACE, "debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR,
          "critical": logging.CRITICAL}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(stream: io.StringIO) -> Iterator[Logs]:
    logs = configure_logs(LogSettings(), stream)
    yield logs
    logs.close()


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def log_every_level() -> None:
    for level in LEVELS.values():
        logging.getLogger("library").log(level, "%s %d", "level", level)


def logged_levels(stream: io.StringIO) -> set[str]:
    return {name for name, level in LEVELS.items() if f"level {level}" in {record["event"] for record in records(stream)}}


def test_a_record_of_ours_and_one_of_a_library_are_one_json_line_each(logs: Logs, stream: io.StringIO) -> None:
    structlog.get_logger("serve.models").info("loaded", model="digits", version="2")
    logging.getLogger("uvicorn.error").warning("closing %s", "now", extra={"color_message": "\x1b[36mclosing\x1b[0m", "port": 8003})
    ours, theirs = records(stream)
    timestamp = ours.pop("timestamp")
    assert datetime.fromisoformat(timestamp).tzinfo is not None
    assert len(timestamp) == len("2026-01-02T03:04:05.000006Z")
    assert ours == {"event": "loaded", "logger": "serve.models", "level": "info", "model": "digits", "version": "2"}
    assert theirs.items() >= {"event": "closing now", "logger": "uvicorn.error", "level": "warning", "port": 8003}.items()
    assert "color_message" not in theirs


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, {"info", "warning", "error", "critical"}),
    ({"log_info": False}, {"warning", "error", "critical"}),
    ({"log_info": True, "log_warning": False, "log_error": False}, {"info", "critical"}),
    ({"log_info": False, "log_warning": False, "log_error": False}, {"critical"}),
    ({"log_verbose_level": 1}, {"debug", "info", "warning", "error", "critical"}),
    ({"log_verbose_level": 2, "log_info": False}, {"trace", "debug", "warning", "error", "critical"}),
])
def test_levels_are_switched_one_by_one(logs: Logs, stream: io.StringIO, settings: dict[str, Any], expected: set[str]) -> None:
    logs.apply(LogSettings(**settings))
    log_every_level()
    assert logged_levels(stream) == expected


def test_a_change_holds_for_loggers_that_exist_already(logs: Logs, stream: io.StringIO) -> None:
    log = structlog.get_logger("serve.app").bind(part="x")
    log.debug("one")
    logs.apply(LogSettings(log_verbose_level=1))
    log.debug("two")
    logs.apply(LogSettings(log_info=False))
    log.info("three")
    assert [record["event"] for record in records(stream)] == ["two"]
    assert logs.settings == LogSettings(log_info=False)


def test_iso8601_stamps_whole_seconds(logs: Logs, stream: io.StringIO) -> None:
    logs.apply(LogSettings(log_format="ISO8601"))
    structlog.get_logger("x").info("hello")
    assert len(records(stream)[0]["timestamp"]) == len("2026-01-02T03:04:05Z")


def test_a_traceback_stays_in_its_line(logs: Logs, stream: io.StringIO) -> None:
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        structlog.get_logger("x").exception("failed")
    (record,) = records(stream)
    assert record["exception"].endswith("RuntimeError: two\nlines")


@given(st.text())
def test_no_text_of_a_client_makes_a_second_line_or_steers_the_terminal(text: str) -> None:
    for style in ("json", "console"):
        stream = io.StringIO()
        logs = configure_logs(LogSettings(), stream, style=style)  # type: ignore[arg-type]
        try:
            structlog.get_logger("x").info(text, name=text)
        finally:
            logs.close()
        line = stream.getvalue()
        assert line.endswith("\n")
        assert line[:-1].isprintable()
        assert style == "console" or json.loads(line)["name"] == text


def test_the_nastiest_name(logs: Logs, stream: io.StringIO) -> None:
    structlog.get_logger("x").info("request", model="a\r\n\x1b[31m\u2028b")
    assert stream.getvalue().count("\n") == 1
    assert records(stream)[0]["model"] == "a\r\n\x1b[31m\u2028b"


def test_a_terminal_gets_text_in_colour_and_a_pipe_gets_json() -> None:
    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        logs = configure_logs(LogSettings(), stream)
        try:
            structlog.get_logger("serve.app").warning("draining", seconds=5)
        finally:
            logs.close()
        line = stream.getvalue()
        assert line.startswith("{") == is_json
        assert ("\x1b[" in line) != is_json
        assert "draining" in line
        assert "seconds" in line


def test_close_gives_the_root_logger_back() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    logs = configure_logs(LogSettings(), io.StringIO())
    assert root.handlers != before[0]
    logs.close()
    assert (root.handlers, root.level) == before


@pytest.mark.parametrize("bad", [
    {"log_info": 1}, {"log_verbose_level": -1}, {"log_verbose_level": 1.0}, {"log_format": "xml"}, {"log_file": "x"},
])
def test_settings_are_strict(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LogSettings(**bad)


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    """The line about what is missing is a record like others."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        logs = configure_logs(LogSettings(), stream, style="json")
        for _ in range(MAX_LINES + 2000):
            logging.getLogger("library").warning("again")
        data = b""
        while b"dropped" not in data:
            data += os.read(reader, 1 << 16)
        logs.close()
    found = json.loads(next(line for line in data.decode().splitlines() if "dropped" in line))
    assert found["event"].endswith(" log lines dropped: nobody read them in time")
    assert (found["level"], found["logger"]) == ("warning", "serve.telemetry.logs")
    assert 0 < int(found["event"].split()[0]) <= 2000
    os.close(reader)

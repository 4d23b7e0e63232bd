"""Logs: structlog in front, the standard library's handlers behind, so that libraries' records take the same way out.

One line a record: JSON, or coloured text on a terminal. Levels are switched one by one, as the logging extension wants them (errors off and
informational records on is a legal choice), by one filter on the one handler. Whoever logs never waits for whoever reads (line_writer).
"""

import io
import logging
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import structlog
from pydantic import BaseModel, ConfigDict, Field
from structlog.typing import EventDict, Processor, WrappedLogger

from serve.telemetry.line_writer import LineWriter

LogFormat = Literal["default", "ISO8601"]
LOG_FORMATS: Final = ("default", "ISO8601")

# How long the end of the process waits for a reader.
CLOSE_TIMEOUT_S: Final = 2.0

# What verbose level 2 adds to level 1: records below DEBUG, which some libraries make.
TRACE: Final = 5


class LogSettings(BaseModel):
    """What is logged, in the words of the logging extension.

    log_verbose_level: 0 none, 1 debug records, 2 and above everything. log_format: "default" stamps microseconds, "ISO8601" whole seconds;
    both are UTC. Critical records are always logged.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = Field(default=0, ge=0, lt=1 << 31)
    log_format: LogFormat = "default"

    def is_enabled(self, level: int) -> bool:
        """Whether records of a standard-library level are logged."""
        if level >= logging.CRITICAL:
            return True
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        if level >= logging.INFO:
            return self.log_info
        return self.log_verbose_level >= (1 if level >= logging.DEBUG else 2)

    @property
    def lowest_level(self) -> int:
        """The lowest level of which anything is logged: what loggers may drop before a record is made."""
        for level in (TRACE, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            if self.is_enabled(level):
                return level
        return logging.CRITICAL


class Logs:
    """The process's log output. Made once, by `configure_logs`; settings may be replaced at any time, from any thread."""

    def __init__(
        self, settings: LogSettings, handler: logging.Handler, root: logging.Logger, writer: LineWriter | None = None,
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._writer = writer
        self._root = root
        self._previous = (list(root.handlers), root.level)
        handler.addFilter(self._is_enabled)
        root.handlers[:] = [handler]
        self.apply(settings)

    @property
    def settings(self) -> LogSettings:
        """What is in force."""
        return self._settings

    def apply(self, settings: LogSettings) -> None:
        """Put other settings in force, for all loggers at once."""
        self._settings = settings
        self._root.setLevel(settings.lowest_level)

    def close(self) -> None:
        """Give the standard library's root logger back as it was, structlog its defaults, and write what waits, within CLOSE_TIMEOUT_S."""
        self._root.handlers[:], level = self._previous
        self._root.setLevel(level)
        self._handler.close()
        structlog.reset_defaults()
        if self._writer is not None:
            self._writer.close(CLOSE_TIMEOUT_S)

    def timestamp(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Processor: when the record was made, in UTC (RFC 3339)."""
        record: logging.LogRecord = event["_record"]
        when = datetime.fromtimestamp(record.created, UTC)
        timespec = "microseconds" if self._settings.log_format == "default" else "seconds"
        return {"timestamp": when.isoformat(timespec=timespec).replace("+00:00", "Z"), **event}

    def _is_enabled(self, record: logging.LogRecord) -> bool:
        return self._settings.is_enabled(record.levelno)


def configure_logs(settings: LogSettings, stream: TextIO, *, style: Literal["auto", "json", "console"] = "auto") -> Logs:
    """Send every log record of the process to one stream.

    style: "auto" is console on a terminal and JSON elsewhere. A stream with a descriptor is written by a thread of its own.
    """
    is_console = style == "console" or (style == "auto" and stream.isatty())

    def describe(n_dropped: int) -> str:
        return handler.format(logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, "%d log lines dropped: nobody read them in time", (n_dropped,), None))

    writer = _line_writer(stream, describe)
    handler: logging.Handler = logging.StreamHandler(writer or stream)
    logs = Logs(settings, handler, logging.getLogger(), writer)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            logs.timestamp, _plain_uvicorn, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(is_console, stream),
        ],
    ))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:3],
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return logs


def _line_writer(stream: TextIO, describe: Callable[[int], str]) -> LineWriter | None:
    """None for a stream in memory, which nobody can block."""
    try:
        return LineWriter(stream.fileno(), describe)
    except io.UnsupportedOperation:
        return None


def _renderers(is_console: bool, stream: TextIO) -> list[Processor]:
    if is_console:
        return [_printable, structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), sort_keys=False, exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _plain_uvicorn(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: uvicorn says each of its messages twice, the second time with a terminal's colours in it."""
    event.pop("color_message", None)
    return event


def _printable(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Processor: text that came from a client cannot break a line or steer a terminal. (JSON escapes such characters by itself.)"""
    return {name: _escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

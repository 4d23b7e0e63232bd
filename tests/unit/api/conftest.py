import io
from collections.abc import Iterator

import pytest

from serve.api.grpc import GrpcApi
from serve.api.http import HttpApi
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.telemetry.logs import Logs, LogSettings, configure_logs
from tests.unit.api.fakes import FakeModels


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def readiness(models: FakeModels) -> Readiness:
    return Readiness(models.server_ready)


@pytest.fixture
def log_stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(log_stream: io.StringIO) -> Iterator[Logs]:
    logs = configure_logs(LogSettings(), log_stream, style="json")
    yield logs
    logs.close()


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings(model_control="explicit")


@pytest.fixture
def http(models: FakeModels, readiness: Readiness, logs: Logs, settings: ApiSettings) -> HttpApi:
    return HttpApi(models, readiness, logs, settings)


@pytest.fixture
def grpc(models: FakeModels, readiness: Readiness, logs: Logs, settings: ApiSettings) -> GrpcApi:
    return GrpcApi(models, readiness, logs, settings)

"""The admin API on a port of this machine, over a fake routing service, for tests of its clients."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from serve.api.admin import admin_app
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels


@contextmanager
def admin_server(routing: FakeRouting) -> Iterator[str]:
    """Its URL."""
    models = FakeModels()
    app = admin_app(models, Readiness(models.server_ready), ApiSettings(), routing)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()

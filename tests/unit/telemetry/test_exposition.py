import gzip

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.telemetry.exposition import metrics_app
from serve.telemetry.facts import RuntimeFacts
from serve.telemetry.metrics import HeadraceCollector, metrics_registry
from serve.types import VersionStatistics


@pytest.fixture
def client() -> httpx.AsyncClient:
    facts = RuntimeFacts(version="0.1.0", worker_epoch=1, start_time_s=0.0)
    statistics = [VersionStatistics(name="m", version="1", inference_count=3)]
    app = metrics_app(metrics_registry(HeadraceCollector(lambda: statistics, lambda: facts)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://metrics")


async def test_prometheus_text(client: httpx.AsyncClient) -> None:
    async with client:
        response = await client.get("/metrics", headers={"accept": "text/plain", "accept-encoding": "identity"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'nv_inference_count{model="m",version="1"} 3.0\n' in response.text
    assert list(text_string_to_metric_families(response.text))


async def test_openmetrics_is_negotiated(client: httpx.AsyncClient) -> None:
    async with client:
        response = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")


async def test_gzip_is_negotiated(client: httpx.AsyncClient) -> None:
    async with client, client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as response:
        raw = b"".join([chunk async for chunk in response.aiter_raw()])
    assert response.headers["content-encoding"] == "gzip"
    assert b"headrace_worker_epoch" in gzip.decompress(raw)


async def test_some_families_by_name(client: httpx.AsyncClient) -> None:
    async with client:
        response = await client.get("/metrics", params={"name[]": "nv_inference_count"})
    assert [family.name for family in text_string_to_metric_families(response.text)] == ["nv_inference_count"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("GET", "/metrics/", 404), ("GET", "/favicon.ico", 404),
                                                        ("POST", "/metrics", 405), ("PUT", "/", 404)])
async def test_nothing_else_is_there(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    async with client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-length"] == str(len(response.content))
    assert ("allow" in response.headers) == (status == 405)

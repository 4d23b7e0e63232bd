"""What GitHub, GitLab and Jenkins get, by their documentation; and the webhook that sends it."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from serve.errors import ConfigurationError
from serve.monitoring.ci_payloads import DEFAULT_TYPES, renderer
from serve.routing_setup import _webhooks
from serve.store.audit import AuditEntry
from serve.store.sqlite import SqliteStore
from serve.store.webhooks import Webhooks
from tests.unit.store.receiver import receiving

QUERY = "SELECT * FROM records_digits WHERE version IN ('1') AND ts_ns >= 5"
EVENT: dict[str, Any] = {
    "specversion": "1.0", "id": "c-7", "source": "headrace/main", "type": DEFAULT_TYPES[0], "subject": "digits", "sequence": "0" * 19 + "7",
    "data": {"actor": "headrace", "reason": "inputs have drifted",
             "evidence": {"version": "1", "since": "2026-01-31T12:00:00.000000Z", "query": QUERY, "alerts": [{"kind": "drift"}]}},
}
GITLAB = "https://gitlab.example/api/v4/projects/7/trigger/pipeline"
BUILD = "https://jenkins.example/job/retrain/buildWithParameters"
INVOKE = "https://jenkins.example/generic-webhook-trigger/invoke"
TOLD = {
    "HEADRACE_EVENT_TYPE": "dev.headrace.retrain.requested", "HEADRACE_EVENT_ID": "c-7", "HEADRACE_MODEL": "digits",
    "HEADRACE_VERSION": "1", "HEADRACE_SINCE": "2026-01-31T12:00:00.000000Z", "HEADRACE_QUERY": QUERY}


def form(body: bytes) -> dict[str, str]:
    return {name: value for name, [value] in parse_qs(body.decode(), strict_parsing=True).items()}


def test_github() -> None:
    render = renderer("github", "https://api.github.com/repos/o/r/dispatches", "ghp_secret")
    assert render is not None
    made = render(EVENT)
    body = json.loads(made.body)
    assert made.headers["authorization"] == "Bearer ghp_secret"
    assert body["event_type"] == "dev.headrace.retrain.requested"
    payload = body["client_payload"]
    assert payload["event"] == EVENT
    assert {f"HEADRACE_{name.upper()}": value for name, value in payload.items() if name != "event"} == TOLD
    assert len(payload) <= 10
    assert "secret" not in repr(made)


def test_github_refuses_long_payloads_so_the_evidence_is_left_out() -> None:
    render = renderer("github", "https://api.github.com/repos/o/r/dispatches", "t")
    assert render is not None
    long = {**EVENT, "data": {**EVENT["data"], "evidence": {**EVENT["data"]["evidence"], "alerts": ["x" * 100] * 1000}}}
    made = render(long)
    payload = json.loads(made.body)["client_payload"]
    assert len(made.body) < 65_535
    assert (payload["event"]["data"]["shortened"], payload["event"]["data"]["evidence"], payload["query"]) == (True, None, QUERY)


def test_gitlab() -> None:
    render = renderer("gitlab", GITLAB, "glptt-secret", "main")
    assert render is not None
    made = render(EVENT)
    sent = form(made.body)
    assert (made.content_type, sent.pop("token"), sent.pop("ref")) == ("application/x-www-form-urlencoded", "glptt-secret", "main")
    assert json.loads(sent.pop("variables[HEADRACE_EVENT]")) == EVENT
    assert sent == {f"variables[{name}]": value for name, value in TOLD.items()}


def test_jenkins_with_parameters() -> None:
    render = renderer("jenkins", BUILD, "ci:11aa")
    assert render is not None
    made = render(EVENT)
    sent = form(made.body)
    assert base64.b64decode(made.headers["authorization"].removeprefix("Basic ")) == b"ci:11aa"
    assert json.loads(sent.pop("HEADRACE_EVENT")) == EVENT
    assert sent == TOLD


def test_jenkins_generic_webhook() -> None:
    render = renderer("jenkins", INVOKE, "retrain-digits")
    assert render is not None
    made = render(EVENT)
    assert (json.loads(made.body), made.headers["token"], made.content_type) == (EVENT, "retrain-digits", "application/json")


@pytest.mark.parametrize(("format_", "url", "token", "ref", "said"), [
    ("github", "https://x/y", "", "", "needs token_file"), ("gitlab", GITLAB, "t", "", "needs ref"),
    ("jenkins", BUILD, "only-a-token", "", "USER:API_TOKEN"),
    ("bitbucket", "https://x/y", "t", "", "cloudevents, github, gitlab, jenkins")])
def test_what_cannot_be_sent_is_refused_at_the_start(format_: str, url: str, token: str, ref: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        renderer(format_, url, token, ref)


@pytest.mark.parametrize("text", [
    "- {url: 'https://x/y'}", "- {url: 'https://x/y', secret_file: s, types: dev.headrace.}", "- {secret_file: s}",
    "- {url: 'https://x/y', secret_file: s, colour: red}", "- {url: 'https://x/y', format: github}",
    "- {url: 'https://x/y', secret_file: none}"])
def test_webhooks_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "webhooks.yaml").write_text(text)
    (tmp_path / "s").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with pytest.raises(ConfigurationError, match=r"webhooks\.yaml|needs token_file"):
        _webhooks(tmp_path / "webhooks.yaml")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "state")
    yield store
    await store.close()


async def test_a_row_of_the_audit_starts_a_pipeline_and_others_do_not(store: SqliteStore, tmp_path: Path) -> None:
    """From the webhooks file to what arrives."""
    async with receiving(201) as receiver:
        (tmp_path / "token").write_text("glptt-secret\n")
        (tmp_path / "webhooks.yaml").write_text(f"- {{url: '{receiver.url}', format: gitlab, token_file: token, ref: main}}")
        webhooks = Webhooks(store, _webhooks(tmp_path / "webhooks.yaml"))
        (sender,) = webhooks._senders
        await sender.advance()      # a new webhook begins with what happens next
        await store.commit([], [AuditEntry("dev.headrace.traffic.set", "digits", "ada"),
                                AuditEntry(DEFAULT_TYPES[0], "digits", "headrace", "drift", evidence={"version": "3"})])
        await sender.advance()
        await webhooks.close()
    (request,) = receiver.requests
    sent = form(request.body)
    assert (sent["token"], sent["ref"], sent["variables[HEADRACE_VERSION]"]) == ("glptt-secret", "main", "3")
    assert "webhook-signature" not in request.headers
    assert sender.statistics.delivered == 1

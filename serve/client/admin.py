"""The client of the admin API: documents in, documents out. docs/admin-api.md says what they hold.

A refusal is an AdminError, which is a ClientError:

    NotKnown        404  no such model, rollout or experiment
    InTheWay        409  a rollout, or somebody else's change, forbids it
    Stale           412  the generation is not the newest: read again, repeat the change
    NotAcceptable   400, 422  the document; `errors` names its fields

Others are plain AdminErrors; a ClientError alone has no answer to show.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

from serve.client.connection import Answer, ClientError, Connected, Connection

DEFAULT_ADMIN_URL = "http://127.0.0.1:8003"

Document = dict[str, Any]
Verb = Literal["promote", "promote-full", "pause", "resume", "abort", "retry"]

JSON, YAML = "application/json", "application/yaml"


class AdminError(ClientError):
    """A refusal. problem: the last word of the problem's type ("stale"), "" where it has none; errors: the fields at fault."""

    def __init__(self, status: int, text: str, problem: str = "", errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(status, text)
        self.problem, self.errors = problem, tuple(errors)


class NotKnown(AdminError):
    pass


class InTheWay(AdminError):
    pass


class Stale(AdminError):
    pass


class NotAcceptable(AdminError):
    pass


_ERRORS: dict[int, type[AdminError]] = {400: NotAcceptable, 404: NotKnown, 409: InTheWay, 412: Stale, 422: NotAcceptable}


@dataclass(frozen=True, slots=True)
class Text:
    """A document as text, which the server reads: JSON or YAML, ours or in another system's form."""

    content: str
    content_type: str = JSON


class AdminClient(Connected):
    """`with AdminClient(actor="ada") as admin: admin.traffic("digits")`. One connection: use one for each thread.

    actor: who asks, default anonymous and the address. timeout_s: of an answer; a change that loads models takes as long as they do. Every
    method raises AdminError, or ClientError where there is no answer.
    """

    def __init__(self, url: str = DEFAULT_ADMIN_URL, actor: str = "", timeout_s: float = 600.0) -> None:
        self._connection = Connection(url, timeout_s, 8003)
        self._streams = (url, timeout_s)
        self._actor = actor

    def models(self) -> list[Document]:
        """Every version, its state and counters."""
        return list(self._ask("GET", "/models")["models"])

    def traffic(self, model: str) -> Document:
        """The plan with its `generation`, labels and state."""
        return self._ask("GET", f"{_model(model)}/traffic")

    def set_traffic(self, model: str, plan: Mapping[str, Any] | Text, generation: int, reason: str = "", wait: bool = True) -> Document:
        """Replaces the plan that has this generation. wait: until it is in force; else the answer's `state` may be "loading"."""
        return self._ask("PUT", f"{_model(model)}/traffic" + _query(wait=None if wait else "false"), plan, reason, generation)

    def clear_traffic(self, model: str, generation: int, reason: str = "") -> Document:
        return self._ask("DELETE", f"{_model(model)}/traffic", None, reason, generation)

    def assignment(self, model: str, key: str) -> Document:
        """Where a sticky key goes now."""
        return self._ask("GET", f"{_model(model)}/traffic/assignment" + _query(key=key))

    def counters(self, model: str) -> list[Document]:
        """What was counted under each generation that is still known, the newest last."""
        return list(self._ask("GET", f"{_model(model)}/traffic/counters")["generations"])

    def labels(self, model: str) -> Document:
        """{"labels": {label: version}, "generation": ...}."""
        return self._ask("GET", f"{_model(model)}/labels")

    def set_labels(self, model: str, labels: Mapping[str, str], generation: int, reason: str = "") -> Document:
        """Replaces all labels."""
        return self._ask("PUT", f"{_model(model)}/labels", labels, reason, generation)

    def start_rollout(
        self, model: str, plan: Mapping[str, Any] | Text, reason: str = "", to: str | None = None, dry_run: bool | None = None,
    ) -> Document:
        """to: the candidate, where the plan does not name it. dry_run: over the plan's own."""
        query = _query(to=to, dry_run=None if dry_run is None else str(dry_run).lower())
        return self._ask("POST", f"{_model(model)}/rollouts{query}", plan, reason)

    def rollouts(self, model: str = "") -> list[Document]:
        """Oldest first; of all models where none is named."""
        return list(self._ask("GET", f"{_model(model)}/rollouts" if model else "/rollouts")["rollouts"])

    def rollout(self, rollout: str) -> Document:
        return self._ask("GET", f"/rollouts/{_part(rollout)}")

    def command(self, rollout: str, verb: Verb, reason: str = "") -> Document:
        return self._ask("POST", f"/rollouts/{_part(rollout)}/{verb}", None, reason)

    def evidence(self, rollout: str) -> list[Document]:
        """Judgements, oldest first."""
        return list(self._ask("GET", f"/rollouts/{_part(rollout)}/evidence")["evidence"])

    def start_experiment(self, model: str, plan: Mapping[str, Any] | Text, reason: str = "") -> Document:
        return self._ask("POST", f"{_model(model)}/experiments", plan, reason)

    def experiments(self, model: str = "") -> list[Document]:
        """Oldest first; of all models where none is named."""
        return list(self._ask("GET", f"{_model(model)}/experiments" if model else "/experiments")["experiments"])

    def experiment(self, experiment: str) -> Document:
        """With its read-out."""
        return self._ask("GET", f"/experiments/{_part(experiment)}")

    def stop_experiment(self, experiment: str, keep: str = "", reason: str = "") -> Document:
        """keep: the variant that gets everything afterwards; "" takes the traffic back as it was."""
        return self._ask("POST", f"/experiments/{_part(experiment)}/stop" + _query(keep=keep or None), None, reason)

    def put_gate(self, model: str, version: str, report: Mapping[str, Any], reason: str = "") -> Document:
        """Stores what `headrace gate` found, for rollouts that ask for it."""
        return self._ask("PUT", f"{_model(model)}/gates/{_part(version)}", report, reason)

    def gates(self, model: str) -> list[Document]:
        """Stored reports, the newest first."""
        return list(self._ask("GET", f"{_model(model)}/gates")["gates"])

    def audit(self, after: int = 0, limit: int = 1000) -> list[Document]:
        """One page of audit rows."""
        return list(self._ask("GET", "/audit" + _query(after=str(after), limit=str(limit)))["events"])

    def all_audit(self) -> Iterator[Document]:
        """Every audit row from the first, page by page."""
        after, page = 0, self._ask("GET", "/audit" + _query(limit="1000"))
        while page["events"]:
            yield from page["events"]
            if int(page["next"]) <= after:
                raise ClientError(200, f"the audit's page behind row {after} ends at row {page['next']}: its rows are out of order")
            after = int(page["next"])
            page = self._ask("GET", "/audit" + _query(after=str(after), limit="1000"))

    def monitoring(self, model: str, version: str = "", variant: str = "", since: str = "", limit: int = 288) -> Document:
        """Drift, performance, data validation and alerts. since: RFC 3339 or seconds since the epoch; limit: windows of each series."""
        query = _query(version=version or None, variant=variant or None, since=since or None, limit=str(limit))
        return self._ask("GET", f"{_model(model)}/monitoring{query}")

    def baseline(self, model: str, version: str = "") -> Document:
        """What a version is compared with. version "": the one that an unversioned request gets."""
        return self._ask("GET", f"{_model(model)}/monitoring/baseline" + _query(version=version or None))

    def set_baseline(self, model: str, version: str, baseline: Mapping[str, Any] | Text, reason: str = "") -> Document:
        return self._ask("PUT", f"{_model(model)}/monitoring/baseline" + _query(version=version), baseline, reason)

    def acknowledge(self, model: str, alert: str, reason: str = "") -> Document:
        """Says that an alert was seen."""
        return self._ask("POST", f"{_model(model)}/monitoring/alerts/{_part(alert)}/acknowledge", None, reason)

    def events(self, after: int | None = None) -> Iterator[Document]:
        """Changes and verdicts as they happen, on a connection of its own; from audit row `after` on where given. Ends with the server."""
        connection = Connection(*self._streams, 8003)
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        try:
            response = connection.open("GET", "/admin/v1/events", headers)
            if response.status != 200:
                raise _error(Answer(response.status, response.reason, response.read(), {}))
            for line in response:
                if line.startswith(b"data: "):      # one line each: that is how our server writes them
                    yield json.loads(line[6:])
        except OSError as error:
            raise ClientError(0, f"no more events from {connection.url}: {error}") from error
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | Text | None = None, reason: str = "", generation: int | None = None,
    ) -> Document:
        headers: dict[str, str | bytes] = {}
        content = None
        if body is not None:
            text = body if isinstance(body, Text) else Text(json.dumps(body))
            content, headers["Content-Type"] = text.content.encode(), text.content_type
        if self._actor:
            headers["X-Headrace-Actor"] = self._actor.encode()
        if reason:
            headers["X-Headrace-Reason"] = reason.encode()
        if generation is not None:
            headers["If-Match"] = f'"{generation}"'
        answer = self._connection.ask(method, f"/admin/v1{path}", content, headers, once=method == "POST")
        if not 200 <= answer.status < 300:
            raise _error(answer)
        try:
            return dict(json.loads(answer.content))
        except (ValueError, TypeError) as error:
            raise ClientError(answer.status, f"{path} answered with something that is no document: {error}") from error


def _error(answer: Answer) -> AdminError:
    kind = _ERRORS.get(answer.status, AdminError)
    try:
        problem = json.loads(answer.content)
        return kind(answer.status, str(problem["detail"]), str(problem["type"]).rpartition(":")[2], problem.get("errors", ()))
    except (ValueError, KeyError, TypeError):
        return kind(answer.status, answer.content.decode("utf-8", "replace").strip() or answer.reason)


def _model(model: str) -> str:
    return f"/models/{_part(model)}"


def _part(text: str) -> str:
    return quote(text, safe="")


def _query(**given: str | None) -> str:
    found = {name: value for name, value in given.items() if value is not None}
    return f"?{urlencode(found)}" if found else ""

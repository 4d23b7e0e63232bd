"""An event as the call that starts a pipeline: GitHub's repository_dispatch, GitLab's pipeline trigger, Jenkins' two ways in.

    github    POST https://api.github.com/repos/OWNER/REPO/dispatches         JSON, Authorization: Bearer
    gitlab    POST https://gitlab.example/api/v4/projects/ID/trigger/pipeline form: token, ref, variables[...]
    jenkins   POST .../generic-webhook-trigger/invoke                         the CloudEvent as JSON, header `token`
              POST .../job/NAME/buildWithParameters                           form of parameters, Basic USER:API_TOKEN

A pipeline gets the same names everywhere: HEADRACE_EVENT (the CloudEvent as JSON) and, taken from it, HEADRACE_EVENT_TYPE,
HEADRACE_EVENT_ID, HEADRACE_MODEL, HEADRACE_VERSION, HEADRACE_SINCE and HEADRACE_QUERY (SQL for the rows). GitHub has them in
`client_payload`, in lower case and without the prefix, the CloudEvent as the object `event`. None of these systems tells one delivery of an
event from its repetition: HEADRACE_EVENT_ID does.
"""

import base64
from collections.abc import Mapping
from typing import Any, Literal, get_args
from urllib.parse import urlencode, urlsplit

from serve.errors import ConfigurationError
from serve.store.canonical import canonical
from serve.store.webhooks import Render, Rendered

Format = Literal["cloudevents", "github", "gitlab", "jenkins"]
FORMATS: tuple[str, ...] = get_args(Format)

# What starts a pipeline unless the webhook names other types.
DEFAULT_TYPES = ("dev.headrace.retrain.requested",)

# GitHub refuses more: 10 properties at the top of client_payload, 65,535 characters, 100 of an event_type.
_GITHUB_CHARACTERS = 60_000
_GITHUB_TYPE = 100
# A variable is an environment variable in the end, of which Linux takes 128 KiB.
_VARIABLE_CHARACTERS = 60_000

_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"


def renderer(format_: str, url: str, token: str, ref: str = "") -> Render | None:
    """How a webhook of this format writes an event; None for `cloudevents`, which the webhook does by itself.

    token: GitHub's personal access or app token, GitLab's trigger token, Jenkins' token of the plugin or USER:API_TOKEN. ref: GitLab's
    branch or tag. Raises ConfigurationError.
    """
    if format_ == "cloudevents":
        return None
    if format_ not in FORMATS:
        raise ConfigurationError(f"format {format_!r} of a webhook; allowed: {', '.join(FORMATS)}")
    if not token:
        raise ConfigurationError(f"a webhook of format {format_} needs token_file: the file with the token that {format_} asks for")
    if format_ == "github":
        return lambda event: _github(event, token)
    if format_ == "gitlab":
        if not ref:
            raise ConfigurationError("a webhook of format gitlab needs ref: the branch or tag whose pipeline is to run")
        return lambda event: _gitlab(event, token, ref)
    if not urlsplit(url).path.rstrip("/").endswith("/buildWithParameters"):
        return lambda event: Rendered(canonical(event).encode(), _JSON, {"token": token})
    if ":" not in token:
        raise ConfigurationError("a webhook to Jenkins' buildWithParameters needs USER:API_TOKEN in its token_file")
    return lambda event: _jenkins_form(event, token)


def variables(event: Mapping[str, Any]) -> dict[str, str]:
    """What a pipeline is told, by name."""
    told = event.get("data", {}).get("evidence") or {}
    return {
        "HEADRACE_EVENT_TYPE": str(event.get("type", "")),
        "HEADRACE_EVENT_ID": str(event.get("id", "")),
        "HEADRACE_MODEL": str(event.get("subject", "")),
        "HEADRACE_VERSION": str(told.get("version", "")),
        "HEADRACE_SINCE": str(told.get("since", "")),
        "HEADRACE_QUERY": str(told.get("query", "")),
        "HEADRACE_EVENT": canonical(_short(event, _VARIABLE_CHARACTERS)),
    }


def _github(event: Mapping[str, Any], token: str) -> Rendered:
    found = variables(event)
    payload = {name.removeprefix("HEADRACE_").lower(): value for name, value in found.items() if name != "HEADRACE_EVENT"}
    whole = _short(event, _GITHUB_CHARACTERS - len(canonical(payload)))
    body = {"event_type": str(event.get("type", ""))[:_GITHUB_TYPE], "client_payload": {**payload, "event": whole}}
    return Rendered(canonical(body).encode(), _JSON, {
        "authorization": f"Bearer {token}", "accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"})


def _gitlab(event: Mapping[str, Any], token: str, ref: str) -> Rendered:
    form = {"token": token, "ref": ref, **{f"variables[{name}]": value for name, value in variables(event).items()}}
    return Rendered(urlencode(form).encode(), _FORM, {})


def _jenkins_form(event: Mapping[str, Any], token: str) -> Rendered:
    credentials = base64.b64encode(token.encode()).decode()
    return Rendered(urlencode(variables(event)).encode(), _FORM, {"authorization": f"Basic {credentials}"})


def _short(event: Mapping[str, Any], limit: int) -> Mapping[str, Any]:
    """The event, where its JSON is too long without its evidence, which the audit has under the event's id."""
    if len(canonical(event)) <= limit:
        return event
    return {**event, "data": {**event.get("data", {}), "evidence": None, "shortened": True}}


__all__ = ["DEFAULT_TYPES", "FORMATS", "Format", "renderer", "variables"]

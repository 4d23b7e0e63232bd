"""Errors of the admin API as problem documents: RFC 9457, application/problem+json."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.faults import client_error
from serve.errors import HeadraceError, Unprocessable, http_status

MEDIA_TYPE = "application/problem+json"

_SHOWN_CHARACTERS = 60


class FieldError(BaseModel):
    """One thing that is wrong: in the body, where `pointer` says (a JSON pointer), or in the parameter or header of that name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    detail: str
    pointer: str | None = Field(default=None, examples=["#/variants/0/weight"])
    parameter: str | None = Field(default=None, examples=["limit"])


class Problem(BaseModel):
    """What went wrong. `type` tells problems apart, `detail` is for people, `errors` names the fields where there are any."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    type: str = Field(examples=["urn:headrace:problem:stale"])
    title: str = Field(examples=["Stale"])
    status: int = Field(examples=[412])
    detail: str = Field(examples=["generation 3 is not the newest, 5 is; read it again and repeat the change"])
    errors: list[FieldError] | None = None


class InvalidFields(Unprocessable):
    """A document that does not fit its schema. errors: every fault, not only the first."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.pointer or error.parameter}: {error.detail}" for error in errors))
        self.errors = tuple(errors)


def problem_of(error: HeadraceError) -> JSONResponse:
    """The answer to an error of ours. The fields of a document that was refused are those of the ValidationError that caused it."""
    errors: Sequence[FieldError] = ()
    if isinstance(error, InvalidFields):
        errors = error.errors
    elif isinstance(cause := error.__cause__, ValidationError):
        errors = [FieldError(pointer=pointer(one["loc"]), detail=_detail(one)) for one in _own_faults(cause)]
    return _answer(http_status(error), f"urn:headrace:problem:{error.kind.lower().replace('_', '-')}",
                   error.kind.replace("_", " ").capitalize(), str(error), errors)


async def refused_by_framework(_request: Request, error: Exception) -> JSONResponse:
    """No such path, wrong verb, and what the handlers refuse by status alone."""
    assert isinstance(error, HTTPException)
    return _answer(error.status_code, "about:blank", HTTPStatus(error.status_code).phrase, str(error.detail), (), error.headers)


async def invalid_parameters(_request: Request, error: Exception) -> JSONResponse:
    """A query parameter or header that does not fit."""
    assert isinstance(error, RequestValidationError)
    return problem_of(InvalidFields([FieldError(parameter=str(one["loc"][-1]), detail=_detail(one)) for one in error.errors()]))


class AnswerFaults:
    """Turns whatever a handler raises into a problem. Middleware, as the framework raises again after a handler for Exception."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if is_started or scope["type"] != "http":
                raise
            shown = client_error(error, f"{scope['method']} {scope['path']}")
            await problem_of(shown)(scope, receive, send)


def _answer(
    status: int, type_: str, title: str, detail: str, errors: Sequence[FieldError], headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body: dict[str, Any] = {"type": type_, "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = [error.model_dump(exclude_none=True) for error in errors]
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def _own_faults(error: ValidationError) -> list[Any]:
    """Without the collections that are too short only because what was in them is wrong."""
    found = error.errors(include_url=False)
    return [one for one in found if one["type"] != "too_short" or not any(
        len(other["loc"]) > len(one["loc"]) and other["loc"][:len(one["loc"])] == one["loc"] for other in found)]


def pointer(place: tuple[int | str, ...]) -> str:
    """RFC 6901, as a fragment of a URI."""
    return "#" + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)


def _detail(error: Any) -> str:
    """pydantic's message without its habits, and the value where it is short."""
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "missing"
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" or isinstance(error.get("input"), Mapping | list | tuple):
        return str(text)
    shown = repr(error.get("input"))
    return f"{text}, not {shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + '...'}"

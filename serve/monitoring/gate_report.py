"""What a gate found, as it is written, sent and stored. docs/schemas/gate-report.schema.json is generated from here."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid")

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
VersionNumber = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,17}$")]


def _moment(text: str) -> str:
    # Whoever stores the report asks later how old it is.
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"want RFC 3339 with its zone, got {text!r}")
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class Verdict(StrEnum):
    """NOT_ENOUGH_DATA is no success: nothing was found that is wrong, and not enough was seen to say that nothing is."""

    PASS = "pass"  # noqa: S105  a word, not a secret
    FAIL = "fail"
    NOT_ENOUGH_DATA = "not_enough_data"


class CheckStatus(StrEnum):
    """TOLD: measured, and held against nothing."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_ENOUGH_DATA = "not_enough_data"
    TOLD = "told"


class Check(BaseModel):
    """One thing that was looked at. value, low, high: what was measured and its confidence interval, null where it is no number. limit:
    what it was held against. details: more figures, by name.
    """

    model_config = _STRICT
    name: str
    status: CheckStatus
    text: str = Field(description="In one line, for people.")
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    n: int | None = Field(default=None, description="Rows, or runs, that it rests on.")
    details: Mapping[str, JsonValue] = {}


class GatedVersion(BaseModel):
    """digest: of its files as they were loaded."""

    model_config = _STRICT
    version: VersionNumber
    digest: Digest


class GateData(BaseModel):
    """rows: replayed. skipped: rows that could not be (a value was not recorded, or is of another type). labelled: rows with a label."""

    model_config = _STRICT
    source: str
    rows: int
    skipped: int = 0
    labelled: int = 0


class GateReport(BaseModel):
    """verdict: the worst of the checks; `told` counts for nothing. settings: what was asked."""

    model_config = _STRICT
    format: Literal[1] = 1
    model: str
    candidate: GatedVersion
    stable: GatedVersion | None = None
    verdict: Verdict
    checks: tuple[Check, ...]
    data: GateData
    settings: Mapping[str, Any]
    environment: Mapping[str, str] = Field(default={}, description="Software and machine that it was made on.")
    started: Moment = Field(description="RFC 3339, UTC.")
    finished: Moment

    @model_validator(mode="after")
    def _verdict_is_that_of_the_checks(self) -> Self:
        if self.verdict is not (said := verdict_of(check.status for check in self.checks)):
            raise ValueError(f"the verdict is {self.verdict}, and the checks say {said}")
        return self


def verdict_of(statuses: Iterable[CheckStatus]) -> Verdict:
    """The worst of the checks, failures before doubts. Where nothing was held against anything, nothing was shown."""
    found = set(statuses)
    if CheckStatus.FAIL in found:
        return Verdict.FAIL
    return Verdict.PASS if found - {CheckStatus.TOLD} == {CheckStatus.PASS} else Verdict.NOT_ENOUGH_DATA


__all__ = ["Check", "CheckStatus", "GateData", "GateReport", "GatedVersion", "Verdict", "verdict_of"]

"""What became true of a prediction, as a client says it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Of the row `row` of the request `request_id` to `model`. name: of what is told, where a model has several. label_ts_ns: when the
    truth was known, wall clock, by the client. One of value, text and reward says it.
    """

    model: str
    request_id: str
    row: int = 0
    name: str = "label"
    value: float | None = None
    text: str | None = None
    reward: float | None = None
    label_ts_ns: int | None = None


__all__ = ["Label"]

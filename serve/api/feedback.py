"""Feedback as clients send it: what became true of an answer that was given before. Values and checks, whatever the protocol; pure.

One item says: the answer to request `request_id`, row `row`, was about something whose truth is `label` (a number, a text, true or false),
or it was worth `reward`. docs/feedback.md says what becomes of it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from serve.errors import InvalidArgument
from serve.records import Label

MAX_ITEMS = 10_000
MAX_TEXT = 1_024        # characters of a label
MAX_ID = 1_024          # bytes of a request id: of a longer one a record has only the beginning
MAX_ROW = 2**31 - 1
# Beyond it a double does not hold every whole number.
MAX_WHOLE = 2**53

KEYS = ("request_id", "row", "label", "reward", "name", "time")
# What outcomes of a joined ground truth are called: nobody else's label may be.
BUILT_IN = ("accuracy", "auc", "brier", "f1", "mae", "mse")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# RFC 3339, section 5.6; datetime.fromisoformat reads more than that.
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)")


def items_of(body: Mapping[str, Any]) -> tuple[list[Any], str]:
    """The items of a JSON body, and how an item's place is called ("" of a single one). Raises InvalidArgument."""
    if "feedback" not in body:
        return [body], ""
    if len(body) > 1:
        other = next(key for key in body if key != "feedback")
        raise InvalidArgument(f"the body has 'feedback' and '{other}': send one item, or {{\"feedback\": [item, ...]}}")
    items = body["feedback"]
    if not isinstance(items, list):
        raise InvalidArgument(f"'feedback' must be an array of items, got {_shown(items)}")
    check_count(len(items))
    return items, "feedback"


def check_count(n: int) -> None:
    """Raises InvalidArgument for too many items, and for none."""
    if not n:
        raise InvalidArgument("'feedback' is empty: send at least one item")
    if n > MAX_ITEMS:
        raise InvalidArgument(f"'feedback' has {n:,} items; send at most {MAX_ITEMS:,} at once")


def labels_of(items: list[Any], place: str) -> list[Label]:
    """Every item, checked: one that is wrong refuses all. Raises InvalidArgument, which names its place (feedback[3])."""
    found = []
    for index, item in enumerate(items):
        try:
            found.append(_label(item))
        except InvalidArgument as error:
            if not place:
                raise
            raise InvalidArgument(f"{place}[{index}]: {error}; nothing of this request was taken") from None
    return found


def make_label(request_id: object, row: object, name: object, truth: Mapping[str, object], time: object) -> Label:
    """truth: {"label": value} or {"reward": value}. name: "" is "label", or "reward". time: None: not said. Raises InvalidArgument."""
    (kind, value), = truth.items()
    if not isinstance(name, str):
        raise InvalidArgument(f"'name' must be a string, got {_shown(name)}")
    name = name or kind
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"'name' must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit, got {_shown(name)}")
    if name in BUILT_IN:
        raise InvalidArgument(f"the name {name!r} is that of a metric which is computed from labels; choose another")
    number, text = (_number("reward", value), None) if kind == "reward" else _truth(value)
    return Label(
        request_id=_id(request_id), row=_whole("row", row, MAX_ROW), name=name, text=text,
        value=None if kind == "reward" else number, reward=number if kind == "reward" else None, label_ts_ns=_time(time))


def _label(item: Any) -> Label:
    if not isinstance(item, dict):
        raise InvalidArgument(f"an item must be a JSON object, got {_shown(item)}")
    if unknown := next((key for key in item if key not in KEYS), None):
        raise InvalidArgument(f"unknown key {unknown!r}; known are {', '.join(KEYS)}")
    truth = {kind: item[kind] for kind in ("label", "reward") if kind in item}
    if len(truth) != 1:
        raise InvalidArgument(f"give 'label' or 'reward', {'not both' if truth else 'one of them'}")
    if "request_id" not in item:
        raise InvalidArgument("'request_id' is missing: it is the id of the request, or x-request-id of its answer")
    return make_label(item["request_id"], item.get("row", 0), item.get("name", ""), truth, item.get("time"))


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise InvalidArgument(f"'{key}' must be a string of 1 to {MAX_TEXT:,} characters, got {_shown(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArgument(f"'{key}' holds half a character (a lone surrogate), got {_shown(value)}")
    return value


def _id(value: object) -> str:
    text = _text("request_id", value)
    if (n := len(text.encode())) > MAX_ID:
        raise InvalidArgument(f"'request_id' must have at most {MAX_ID:,} bytes of UTF-8, got {n:,}: {_shown(text)}")
    # The end of the line that it was cut from, mostly: nobody has such an id, and the label would find no row.
    if _CONTROL.search(text):
        raise InvalidArgument(f"'request_id' holds a control character, got {_shown(text)}: send the id alone, without the end of its line")
    return text


def _whole(key: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidArgument(f"'{key}' must be a whole number from 0 to {most}, got {_shown(value)}")
    return value


def _truth(value: object) -> tuple[float | None, str | None]:
    """(number, text), one of them None. true is 1, false 0."""
    if isinstance(value, str):
        return None, _text("label", value)
    return float(value) if isinstance(value, bool) else _number("label", value), None


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        wanted = "a number" if key == "reward" else "a number, a string, true or false"
        raise InvalidArgument(f"'{key}' must be {wanted}, got {_shown(value)}")
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise InvalidArgument(f"'{key}' must be at most 2^53, beyond which numbers are not exact, got {_shown(value)}; send a string")
    if not math.isfinite(value):
        raise InvalidArgument(f"'{key}' must be finite, got {value}")
    return float(value)


def _time(value: object) -> int | None:
    """Nanoseconds since the epoch, from themselves or from RFC 3339."""
    if value is None:
        return None
    if isinstance(value, str):
        return _instant(value)
    return _whole("time", value, 2**63 - 1)


def _instant(text: str) -> int:
    found = _RFC3339.fullmatch(text)
    wanted = f"'time' must be RFC 3339 with its zone (2026-12-01T09:30:00Z) or nanoseconds since 1970, got {_shown(text)}"
    if found is None:
        raise InvalidArgument(wanted)
    day, clock, fraction, zone = found.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{zone.upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(wanted) from None
    ns = int(whole.timestamp()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    return _whole("time", ns, 2**63 - 1)


def flag_of(query: Callable[[str], list[str]], name: str) -> bool:
    """A flag of the query string, false where it is not given. query: name -> its values. Raises InvalidArgument."""
    values = query(name)
    if len(values) > 1 or (values and values[0] not in ("true", "false")):
        raise InvalidArgument(f"the query parameter '{name}' must be true or false, got {_shown(', '.join(values))}")
    return values == ["true"]


def _shown(value: object) -> str:
    """As the client wrote it: JSON, but for texts, whose quotes would not be told from the message's."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = ["BUILT_IN", "MAX_ITEMS", "check_count", "flag_of", "items_of", "labels_of", "make_label"]

"""Legal holds: rows that nothing purges, whatever retention and the disk budget say, until somebody lifts the hold.

A hold is a file `_holds/<name>.json` of the records directory: {"name", "model", "from_ns", "to_ns", "reason", "by", "at_ns"}; the model
and the bounds may be null. Whoever may write there may place one; it binds every replica.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from serve.errors import Conflict, InvalidArgument, NotFound
from serve.recording.layout import HOLDS
from serve.recording.manifest import Part
from serve.recording.store_port import RecordsStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Rows of `model` (None: of every one) with from_ns <= ts_ns <= to_ns (None: no bound). by: who asked. at_ns: when it was placed."""

    name: str
    model: str | None = None
    from_ns: int | None = None
    to_ns: int | None = None
    reason: str = ""
    by: str = ""
    at_ns: int = 0

    def holds(self, part: Part) -> bool:
        """Whether it holds any row of a sealed file."""
        return (
            self.model in (None, part.name.model)
            and (self.from_ns is None or part.max_ts_ns >= self.from_ns)
            and (self.to_ns is None or part.min_ts_ns <= self.to_ns)
        )


def is_held(part: Part, holds: Iterable[Hold]) -> bool:
    """Whether any of them does."""
    return any(hold.holds(part) for hold in holds)


def read_holds(store: RecordsStore) -> tuple[list[Hold], list[str]]:
    """All holds, by name; and what is wrong with those that cannot be read, which then hold everything. Raises as the store."""
    holds, faults = [], []
    for file in store.list(HOLDS):
        name = file.path.removeprefix(f"{HOLDS}/").removesuffix(".json")
        try:
            holds.append(replace(_parse(store.read(file.path)), name=name))
        except FileNotFoundError:
            continue        # lifted meanwhile
        except InvalidArgument as error:
            holds.append(Hold(name=name))
            faults.append(f"{file.path}: {error}; until it is mended or removed nothing is purged")
    return holds, faults


def place_hold(store: RecordsStore, hold: Hold) -> None:
    """Placed when it returns. Raises InvalidArgument for one that means nothing, Conflict where there is one of that name; as the store."""
    if not _NAME.fullmatch(hold.name):
        raise InvalidArgument(f"the name {hold.name!r} of a hold is not up to 128 of A-Z a-z 0-9 . _ -, a letter or digit first")
    if hold.from_ns is not None and hold.to_ns is not None and hold.from_ns > hold.to_ns:
        raise InvalidArgument(f"the hold {hold.name} ends at {hold.to_ns} ns and begins later, at {hold.from_ns} ns; exchange them")
    if _path(hold.name) in {file.path for file in store.list(HOLDS)}:
        raise Conflict(f"there is a hold {hold.name!r}; take another name, or release it first: what only it holds may be purged then")
    store.write(_path(hold.name), json.dumps(asdict(hold), indent=1).encode() + b"\n")


def lift_hold(store: RecordsStore, name: str) -> None:
    """Raises NotFound when there is none of that name; as the store."""
    path = _path(name)
    if path not in {file.path for file in store.list(HOLDS)}:
        raise NotFound(f"there is no hold {name!r}; `headrace records holds` lists those there are")
    store.delete(path)


def _path(name: str) -> str:
    return f"{HOLDS}/{name}.json"


def _parse(content: bytes) -> Hold:
    try:
        values = json.loads(content)
        hold = Hold(**{name: values[name] for name in Hold.__slots__})
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgument(f"is no hold: {error!r}") from error
    if not isinstance(hold.model, str | None):
        raise InvalidArgument(f"is no hold: model is one name or null, not {hold.model!r}")
    if not all(bound is None or isinstance(bound, int) for bound in (hold.from_ns, hold.to_ns)):
        raise InvalidArgument(f"is no hold: from_ns and to_ns are nanoseconds or null, not {hold.from_ns!r} and {hold.to_ns!r}")
    return hold


__all__ = ["Hold", "is_held", "lift_hold", "place_hold", "read_holds"]

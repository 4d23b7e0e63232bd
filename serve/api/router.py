"""From method and path to a handler: a table of templates, kept as a tree of path segments.

A template's `{name}` matches one segment that is not empty. Of two templates that match, the one with the earlier literal segment wins:
`/v2/models/stats` before `/v2/models/{model}`. Segments are split first and percent-decoded after, so that a name may hold a slash.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from serve.errors import InvalidArgument

Target = TypeVar("Target")

_TORN = re.compile("%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Route(Generic[Target]):
    """One line of a routing table."""

    method: str
    template: str
    target: Target


@dataclass(frozen=True, slots=True)
class Match(Generic[Target]):
    """What a path leads to: a target per verb, and the decoded parameters in the template's order."""

    targets: Mapping[str, Target]
    parameters: tuple[str, ...]

    @property
    def allow(self) -> str:
        """Value of the Allow header; what can be got can be asked for by HEAD."""
        return ", ".join(sorted({*self.targets, "HEAD"} if "GET" in self.targets else self.targets))


@dataclass(slots=True)
class _Node(Generic[Target]):
    literals: "dict[str, _Node[Target]]" = field(default_factory=dict)
    parameter: "_Node[Target] | None" = None
    targets: dict[str, Target] = field(default_factory=dict)


class Router(Generic[Target]):
    """An immutable routing table. Raises ValueError at construction where two lines say the same method and path."""

    def __init__(self, routes: Iterable[Route[Target]]) -> None:
        self._root: _Node[Target] = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route[Target]) -> None:
        node = self._root
        for segment in _segments(route.template):
            if segment.startswith("{"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if route.method in node.targets:
            raise ValueError(f"two routes for {route.method} {route.template}")
        node.targets[route.method] = route.target

    def match(self, path: str) -> Match[Target] | None:
        """What the path leads to, whatever the verb; None where nothing does. Raises InvalidArgument for a name that is not UTF-8."""
        found = _walk(self._root, _segments(path), 0)
        if found is None:
            return None
        node, parameters = found
        return Match(node.targets, tuple(decode_segment(parameter) for parameter in parameters))


def _segments(path: str) -> list[str]:
    return path.split("/")


def _walk(node: _Node[Target], segments: list[str], at: int) -> tuple[_Node[Target], list[str]] | None:
    if at == len(segments):
        return (node, []) if node.targets else None
    segment = segments[at]
    literal = node.literals.get(segment)
    if literal is not None and (found := _walk(literal, segments, at + 1)) is not None:
        return found
    if node.parameter is not None and segment and (found := _walk(node.parameter, segments, at + 1)) is not None:
        return found[0], [segment, *found[1]]
    return None


def decode_segment(segment: str) -> str:
    """Percent-decode one path segment. Raises InvalidArgument for a % that is not followed by two digits, and for what is not UTF-8."""
    if _TORN.search(segment):
        raise InvalidArgument(f"the path segment {segment!r} has a % without two hexadecimal digits")
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the path segment {segment!r} is not UTF-8 once percent-decoded") from error

"""What the keeper has told of joined labels, in memory: cumulative values by model, generation, metric and arm.

The keeper's sums are durable and it tells all of them when it starts, so that nothing is kept here. What a message says replaces what an
earlier one said: a lost one is harmless.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from serve.traffic import OutcomeReading, OutcomeTally

Key = tuple[int, str]  # generation, metric


class OutcomeBoard:
    """Fulfils `serve.routing.ports.Outcomes`. Lives on one event loop.

    tell: takes {"type": "scopes", "model", "scope", "generations"}, which generations share their sticky units, for the keeper.
    """

    def __init__(self, tell: Callable[[Mapping[str, Any]], object] = lambda _: None) -> None:
        self._tell = tell
        self._models: dict[str, dict[Key, dict[str, OutcomeTally]]] = {}
        self._listed: dict[str, Sequence[OutcomeReading]] = {}
        self._scopes: dict[tuple[str, str], frozenset[int]] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        """A message {"type": "outcomes", "model", "readings": [{"generation", "name", "variant", "n", "total", "squares", "hits"}]}.

        Raises KeyError, TypeError or ValueError for what is none; then nothing of it is taken.
        """
        found = [
            ((int(r["generation"]), str(r["name"])), str(r["variant"]),
             OutcomeTally(int(r["n"]), float(r["total"]), float(r["squares"]), int(r["hits"])))
            for r in message["readings"]
        ]
        model = str(message["model"])
        held = self._models.setdefault(model, {})
        for key, variant, tally in found:
            held.setdefault(key, {})[variant] = tally
        self._listed.pop(model, None)

    def outcome_readings(self, model: str) -> Sequence[OutcomeReading]:
        """Ascending by generation and metric."""
        if model not in self._listed:       # drivers look several times a second, the keeper tells every ten
            held = self._models.get(model, {})
            self._listed[model] = [OutcomeReading(generation, name, dict(held[generation, name])) for generation, name in sorted(held)]
        return self._listed[model]

    def share_units(self, model: str, generations: Iterable[int], scope: str) -> None:
        """Told on when there is something new."""
        known = self._scopes.get((model, scope), frozenset())
        wanted = frozenset(generations)
        if wanted <= known:
            return
        self._scopes[model, scope] = known | wanted
        self._tell({"type": "scopes", "model": model, "scope": scope, "generations": sorted(wanted)})

    def repeat_scopes(self) -> None:
        """Tells all of them once more: the keeper was started anew."""
        for (model, scope), generations in self._scopes.items():
            self._tell({"type": "scopes", "model": model, "scope": scope, "generations": sorted(generations)})


class NoOutcomes:
    """Of a server that records nothing."""

    def outcome_readings(self, model: str) -> Sequence[OutcomeReading]:
        """None."""
        return ()

    def share_units(self, model: str, generations: Iterable[int], scope: str) -> None:
        """Nobody counts them."""


__all__ = ["NoOutcomes", "OutcomeBoard"]

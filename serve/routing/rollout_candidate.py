"""What a candidate has to go through before it gets anything: loaded, warm, its self-test passed, its schema the stable version's."""

from serve.errors import InvalidArgument
from serve.routing.ports import Models
from serve.routing.rollout_live import Live


async def load_candidate(live: Live, models: Models) -> None:
    """Raises HeadraceError with what is wrong with the candidate."""
    state = live.state
    if state.stable not in models.served(state.model):
        raise InvalidArgument(f"the stable version {state.stable} does not serve: there is nothing to hold the candidate against")
    for version in sorted({state.candidate, *(override.version for override in state.plan.overrides)} - {state.stable}, key=int):
        if version not in models.served(state.model):
            await models.load_version(state.model, version)
        await models.prove(state.model, version)
    change = models.schema_change(state.model, state.stable, state.candidate)
    if change and not state.plan.allow_schema_change:
        raise InvalidArgument(f"version {state.candidate} has another schema: {change}; set allow_schema_change to take it all the same")
    _drop_moved_output(live, models)


def _drop_moved_output(live: Live, models: Models) -> None:
    """Native counting finds the watched output by its place: where a candidate has it elsewhere, or not at all, it is not watched."""
    if live.output is None:
        return
    state, name = live.state, live.output.output
    ours, theirs = ([spec.name for spec in models.describe(state.model, version).outputs] for version in (state.stable, state.candidate))
    if name not in theirs or ours.index(name) != theirs.index(name):
        live.output = None


__all__ = ["load_candidate"]

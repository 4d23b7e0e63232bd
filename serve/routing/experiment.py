"""Experiments (A/B/n): from counts to a read-out that holds whenever it is looked at. Pure functions; docs/experiments.md explains them.

begin -> put_in_force (once a generation, before its first reading) -> fold (whenever the counters are read) -> read_out; next_weights under
Thompson sampling, then put_in_force again.
"""

from serve.routing.experiment_allocation import next_weights
from serve.routing.experiment_plan import ExperimentPlan, to_plan
from serve.routing.experiment_readout import has_units, read_out
from serve.routing.experiment_state import ExperimentState, begin, fold, put_in_force, resume

__all__ = [
    "ExperimentPlan", "ExperimentState", "begin", "fold", "has_units", "next_weights", "put_in_force", "read_out", "resume", "to_plan",
]

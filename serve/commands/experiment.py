"""`headrace experiment`."""

from pathlib import Path
from typing import Annotated

import typer

from serve.commands.common import DEFAULT_ADMIN, Admin, Json, Model, Reason, Who, connected, group, plan_file, show

experiment = group("experiment", "Versions beside each other for a period, with a read-out that may be looked at any time.")

Experiment = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's id.")]


@experiment.command("start")
def start(
    model: Model, plan: Annotated[Path, typer.Option("--plan", metavar="FILE", help="The plan in JSON or YAML; - is standard input.")],
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Start an experiment."""
    with connected(admin, who) as client:
        document = client.start_experiment(model, plan_file(plan), reason)
    show(document, as_json, f"{document['id']}: {document['phase']}")


@experiment.command("list")
def list_experiments(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only of this model.", show_default=False)] = "",
    as_json: Json = False, admin: Admin = DEFAULT_ADMIN,
) -> None:
    """All experiments, oldest first."""
    from serve.commands.experiment_view import experiments_table

    with connected(admin) as client:
        found = client.experiments(model)
    show(found, as_json, experiments_table(found))


@experiment.command("show")
def show_experiment(name: Experiment, as_json: Json = False, admin: Admin = DEFAULT_ADMIN) -> None:
    """Counts, comparisons with their intervals, and the sample ratio."""
    from serve.commands.experiment_view import experiment_picture

    with connected(admin) as client:
        document = client.experiment(name)
    show(document, as_json, experiment_picture(document))


@experiment.command("stop")
def stop(
    name: Experiment,
    keep: Annotated[str, typer.Option("--keep", metavar="VARIANT", help="It gets everything; else the traffic goes back to what it was.",
                                      show_default=False)] = "",
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """End an experiment."""
    from serve.commands.experiment_view import experiment_picture

    with connected(admin, who) as client:
        document = client.stop_experiment(name, keep, reason)
    show(document, as_json, experiment_picture(document))

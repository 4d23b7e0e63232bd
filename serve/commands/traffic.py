"""`headrace traffic` and `headrace label`."""

from pathlib import Path
from typing import Annotated

import typer

from serve.commands.common import DEFAULT_ADMIN, Admin, Json, Model, Reason, Who, connected, group, plan_file, show
from serve.commands.shares import edited_plan, parse_labels, parse_shadows, parse_shares

traffic = group("traffic", "How a model's requests are split over its versions.")
label = group("label", "Names for versions; `stable` answers what no plan splits.")


@traffic.command("show")
def show_traffic(model: Model, as_json: Json = False, admin: Admin = DEFAULT_ADMIN) -> None:
    """The plan in force, and what was counted under it."""
    from serve.commands.traffic_view import traffic_picture

    with connected(admin) as client:
        document, counters = client.traffic(model), client.counters(model)
    show({**document, "counters": counters}, as_json, traffic_picture(document, counters))


@traffic.command("set")
def set_traffic(
    model: Model,
    shares: Annotated[list[str] | None, typer.Argument(metavar="VERSION=PERCENT...", help="All of them; they sum to 100.")] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="A whole plan in JSON or YAML instead; - is standard input.")]
    = None,
    sticky_header: Annotated[str, typer.Option("--sticky-header", metavar="NAME", help="Requests with the same value go the same way.",
                                               show_default=False)] = "",
    sticky_parameter: Annotated[str, typer.Option("--sticky-parameter", metavar="NAME", help="The same by a request parameter.",
                                                  show_default=False)] = "",
    no_sticky: Annotated[bool, typer.Option("--no-sticky", help="Each request is drawn by itself.")] = False,
    shadow: Annotated[list[str] | None, typer.Option("--shadow", metavar="VERSION=PERCENT", help="Run so many again on it; 0 ends it.")]
    = None,
    anew: Annotated[bool, typer.Option("--anew", help="Take nothing over from the plan in force.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is in force.")] = True,
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Split requests: `headrace traffic set digits 1=90 2=10`. What is not given stays as it is in force."""
    from serve.commands.traffic_view import traffic_picture

    if bool(file) == bool(shares):
        raise typer.BadParameter("give VERSION=PERCENT... or --file")
    if sum(map(bool, (sticky_header, sticky_parameter, no_sticky))) > 1:
        raise typer.BadParameter("give one of --sticky-header, --sticky-parameter and --no-sticky")
    if file and (sticky_header or sticky_parameter or no_sticky or shadow or anew):
        raise typer.BadParameter("--file is the whole plan: write it there")
    sticky = {"header": sticky_header} if sticky_header else {"parameter": sticky_parameter} if sticky_parameter else None
    try:
        weights = parse_shares(shares or ()) if not file else {}
        shadows = parse_shadows(shadow) if shadow else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with connected(admin, who) as client:
        before = client.traffic(model)
        current = None if anew or before["implied"] else before["plan"]
        plan = plan_file(file) if file else edited_plan(current, weights, sticky, bool(sticky) or no_sticky, shadows)
        document = client.set_traffic(model, plan, before["generation"], reason, wait)
    show(document, as_json, traffic_picture(document))


@traffic.command("clear")
def clear_traffic(model: Model, as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN) -> None:
    """Forget the plan: requests go to `stable`, or to the latest version."""
    from serve.commands.traffic_view import traffic_picture

    with connected(admin, who) as client:
        document = client.clear_traffic(model, client.traffic(model)["generation"], reason)
    show(document, as_json, traffic_picture(document))


@traffic.command("who")
def who_gets(
    model: Model, key: Annotated[str, typer.Argument(metavar="KEY", help="A value of the sticky header or parameter.")],
    as_json: Json = False, admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Where a sticky key goes now."""
    with connected(admin) as client:
        found = client.assignment(model, key)
    show(found, as_json, f"{found['unit']}: variant {found['variant']}, version {found['version']} (generation {found['generation']})")


@label.command("set")
def set_labels(
    model: Model, labels: Annotated[list[str], typer.Argument(metavar="LABEL=VERSION...", help="LABEL= removes one.")],
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Name versions: `headrace label set digits stable=1`. Other labels stay."""
    from serve.commands.traffic_view import labels_picture

    try:
        given = parse_labels(labels)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with connected(admin, who) as client:
        before = client.labels(model)
        wanted = {name: version for name, version in {**before["labels"], **given}.items() if version}
        document = client.set_labels(model, wanted, before["generation"], reason)
    show(document, as_json, labels_picture(document))


@label.command("show")
def show_labels(model: Model, as_json: Json = False, admin: Admin = DEFAULT_ADMIN) -> None:
    """What versions are called."""
    from serve.commands.traffic_view import labels_picture

    with connected(admin) as client:
        document = client.labels(model)
    show(document, as_json, labels_picture(document))

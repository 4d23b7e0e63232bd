"""The story from its beginning to its end."""

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from serve.client.admin import AdminClient
from serve.demo.story import afterwards, audit, mending, watching
from serve.demo.story.commands import Headrace, Places
from serve.demo.story.narration import Narrator
from serve.demo.story.pictures import Parts
from serve.demo.story.receiver import receiving
from serve.demo.story.scale import Scale
from serve.demo.story.server import RunningServer, running_server
from serve.demo.story.stage import DEGRADED, DRIFT, RETRAIN, Stage
from serve.demo.story.traffic import Traffic
from serve.demo.story.versions import MODEL
from serve.errors import HeadraceError


def tell(folder: Path, scale: Scale, console: Console) -> Narrator:
    """Tells it on the console, and returns its checks: what ends it early is one that does not hold. folder: empty, and kept."""
    narrator, places = Narrator(console), Places(folder)
    narrator.say(f"everything is in {folder}")
    try:
        pictures = watching.made_ready(narrator, scale, places)
        server = _served(narrator, scale, places, pictures)
        audit.ended(narrator, Headrace(places, narrator.command), places, server)
    except (HeadraceError, OSError) as error:
        narrator.check("the story goes on", False, error)
    narrator.ending()
    narrator.say(f"report.html, gate-2.json, server.log, records/, state/ and data/ are in {folder}")
    return narrator


def _served(narrator: Narrator, scale: Scale, places: Places, pictures: Parts) -> RunningServer:
    """Everything that needs the server; it has ended then."""
    with ExitStack() as stack:
        receiver, webhooks = stack.enter_context(receiving(places.folder, [DRIFT, DEGRADED, RETRAIN]))
        server = stack.enter_context(running_server(places, webhooks, narrator.command))
        admin = stack.enter_context(AdminClient(server.admin, "story"))
        traffic = stack.enter_context(Traffic(server.url, MODEL, pictures.before, scale))
        stage = Stage(narrator, scale, places, pictures, Headrace(places, narrator.command), server, admin, traffic, receiver)
        watching.as_expected(stage)
        story, event = watching.broken(stage)
        run = stack.enter_context(mending.training(stage, event))
        watching.confirmed(stage, story)
        mending.retrained(stage, event, run)
        rollout = mending.released(stage, run.cut_ns)
        afterwards.played(stage)
        afterwards.counted(stage)
        audit.audited(stage, event, rollout)
        afterwards.regained(stage, story, rollout)
        afterwards.reported(stage)
    return server


__all__ = ["tell"]

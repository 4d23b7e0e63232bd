"""Acts 1 to 3: a model and its baseline, traffic that is as expected, and a scanner that breaks."""

from serve.demo.story.commands import Headrace, Places
from serve.demo.story.narration import Narrator
from serve.demo.story.on_event import events_in
from serve.demo.story.pictures import DEAD_COLUMNS, SIDE, Parts, logistic, parts
from serve.demo.story.retrain import make_baseline
from serve.demo.story.scale import Scale
from serve.demo.story.stage import PATIENCE_S, RETRAIN, Document, Stage, Story, estimated, realised, standing, windows_of
from serve.demo.story.traffic import accuracy, n_rows
from serve.demo.story.versions import MODEL, write_model, write_pictures, write_version
from serve.demo.story.waiting import pause, until

# Between an estimate and the truth: what the story takes for agreement.
CLOSE = 0.1
_FELL = 0.1


def made_ready(narrator: Narrator, scale: Scale, places: Places) -> Parts:
    """Act 1, before there is a server."""
    narrator.act("1  A model, and what it was made for")
    found = parts()
    old = found.fitted.and_also(found.reference)
    digest = write_pictures(places.data / "training.parquet", old)
    write_model(places.repository, scale, {"training_data": "training.parquet", "training_data_digest": digest})
    write_version(places.repository, "1", logistic(found.fitted))
    narrator.say(f"version 1 is a logistic regression, fitted to {len(found.fitted)} digits of scikit-learn's 1,797")
    reference = places.data / "reference.parquet"
    write_pictures(reference, found.reference)
    narrator.say(f"its baseline is made of {len(found.reference)} others with their labels: of what it was fitted to a model is too sure")
    make_baseline(Headrace(places, narrator.command), places, "1", reference)
    narrator.check("the baseline lies beside the model", (places.repository / MODEL / "1" / "baseline.json").is_file())
    return found


def as_expected(stage: Stage) -> None:
    """Act 2."""
    narrator, scale = stage.narrator, stage.scale
    narrator.act("2  Traffic as expected")
    narrator.say(f"{scale.requests_s:g} requests a second of {scale.rows} digits that nobody has seen; {scale.label_share:.0%} of them "
                 f"are told {scale.label_delay_s:g} s later what they were")
    pause(scale.clean_s)
    document = stage.admin.monitoring(MODEL)
    narrator.check("no alert", not document["alerts"], _said(document))
    narrator.say(f"the clients themselves know: {accuracy(stage.traffic.ledger.labelled()):.1%} of the answers were right")


def broken(stage: Stage) -> tuple[Story, Document]:
    """Act 3, until the labels come. Returns the retrain event too."""
    narrator = stage.narrator
    narrator.act("3  The scanner breaks: two of its eight columns are dead, the others are noisy")
    broken_ns = stage.traffic.break_scanner()
    narrator.say("from now on nobody knows what the pictures were: their labels are kept back")
    document = _alarmed(stage)
    story = _before_labels(stage, broken_ns, document)
    event = _asked_for_retraining(stage)
    stage.traffic.release_labels()
    narrator.say("now the labels come")
    return story, event


def _alarmed(stage: Stage) -> Document:
    """The document in which both alerts stand."""
    found: list[Document] = []

    def is_alarmed() -> bool:
        found[:] = [stage.admin.monitoring(MODEL)]
        return {"drift", "estimated_performance"} <= standing(found[0], "1").keys()

    until(is_alarmed, "an alert of drift and one of estimated performance", PATIENCE_S, stage.server.fault)
    return found[0]


def _before_labels(stage: Stage, broken_ns: int, document: Document) -> Story:
    """What is known although no label of the broken scanner has come."""
    narrator = stage.narrator
    clean, after = windows_of(document, "1", to_ns=broken_ns), windows_of(document, "1", from_ns=broken_ns)
    story = Story(broken_ns, estimated(clean), estimated(after))
    narrator.table(("window", "rows", "drifted", "estimated accuracy", "as good as the baseline", ""), [
        (one["from"][11:19], f"{one['rows']:,}", f"{one['n_drifted']} of {one['n_features']}", f"{one['estimated']['accuracy']:.3f}",
         "{:.3f} to {:.3f}".format(*one["bands"]["accuracy"]), "broken" if one["to_ns"] > broken_ns else "")
        for one in document["windows"] if one["concluded"]])
    alerts = standing(document, "1")
    alert = alerts["drift"]
    window_ns = stage.scale.window_s * 1e9
    narrator.check("in no window before was there drift", bool(clean) and not any(one["n_drifted"] for one in clean),
                   f"{len(clean)} windows")
    narrator.check("no alert is about the time before", all(one["since_ns"] > broken_ns - window_ns for one in document["alerts"]))
    narrator.check("drift is raised", True, f"{alert['id']}: {alert['evidence']['said']}")
    worst = str(alert["evidence"]["features"][0]["feature"])
    dead = {f"input[{row * SIDE + column}]" for row in range(SIDE) for column in DEAD_COLUMNS}
    narrator.check("and it names the dead columns", worst in dead, f"the worst is {worst}")
    said = alerts["estimated_performance"]["evidence"]["said"]
    narrator.check("the estimated accuracy has fallen", story.broken_estimate < story.clean_estimate - _FELL,
                   f"from {story.clean_estimate:.3f} to {story.broken_estimate:.3f}; {said}")
    sql = f"SELECT count(*) AS n FROM records_{MODEL}_labelled WHERE ts_ns >= {broken_ns}"     # noqa: S608  names and numbers of our own
    n_known = stage.headrace.query(sql)[0]["n"]
    n_told = n_rows(stage.traffic.ledger.labelled(lambda one: one.is_broken))
    narrator.check("before any label of these pictures has come", n_known == n_told == 0, f"{n_known} of them are recorded")
    return story


def _asked_for_retraining(stage: Stage) -> Document:
    inbox = stage.places.inbox
    until(lambda: events_in(inbox, RETRAIN), "a retrain event at the command", PATIENCE_S, stage.server.fault)
    (event, *others) = events_in(inbox, RETRAIN)
    until(lambda: stage.receiver.of_type(RETRAIN), "a retrain event at the webhook", PATIENCE_S, stage.server.fault)
    stage.narrator.check("retraining is asked for once, of the command and of the webhook alike",
                         not others and [one["id"] for one in stage.receiver.of_type(RETRAIN)] == [event["id"]], event["data"]["reason"])
    stage.narrator.say(f"its rows: {event['data']['evidence']['query']}")
    return event


def confirmed(stage: Stage, story: Story) -> None:
    """Act 3, after that."""
    found: list[Document] = []

    def is_confirmed() -> bool:
        found[:] = [stage.admin.monitoring(MODEL)]
        return "realised_performance" in standing(found[0], "1") and realised(found[0], "1", story.broken_ns)[1] >= stage.scale.min_rows

    until(is_confirmed, "an alert of realised performance", PATIENCE_S, stage.server.fault)
    share, n_labelled = realised(found[0], "1", story.broken_ns)
    narrator = stage.narrator
    narrator.check("labels confirm the estimate", abs(share - story.broken_estimate) < CLOSE,
                   f"{share:.3f} by {n_labelled:,} labels, {story.broken_estimate:.3f} was estimated")
    known = accuracy(stage.traffic.ledger.labelled(lambda one: one.is_broken))
    narrator.check("and so do the clients", abs(share - known) < CLOSE, f"{known:.3f}")
    clean, n_clean = realised(found[0], "1", to_ns=story.broken_ns)
    narrator.check("before, it was as good as its baseline", abs(clean - story.clean_estimate) < CLOSE,
                   f"{clean:.3f} by {n_clean:,} labels")


def _said(document: Document) -> str:
    n_windows = sum(one["concluded"] for one in document["windows"])
    return f"{n_windows} windows are concluded" + "".join(f"; {one['id']}: {one['evidence'].get('said')}" for one in document["alerts"])


__all__ = ["CLOSE", "as_expected", "broken", "confirmed", "made_ready"]

"""What the judge said of recorded predictions, drawn."""

from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.text import Text

from serve.commands.rollout_view import findings_table, verdict_text
from serve.routing.judge.judgement import Judgement

_DONE = {
    "rollback": "It would have taken the candidate back here.", "promote": "It would have promoted the candidate here.",
    "hold": "It would have held the step.", "continue": "It would have gone on: too little was recorded to say.",
}


def moment(after_s: float, judgement: Judgement) -> Text:
    """One line. after_s: recorded seconds since the first judgement."""
    return Text.assemble((f"{after_s:>10,.1f} s  ", "dim"), verdict_text(judgement.verdict.value, judgement.why))


def judgement_picture(judgement: Judgement) -> RenderableType:
    """The last judgement with its tests."""
    return Group(Text(), findings_table([asdict(finding) for finding in judgement.findings]), Text(),
                 Text(_DONE[judgement.verdict.value], "bold"))

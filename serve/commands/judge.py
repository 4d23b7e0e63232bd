"""`headrace judge`: the judge without a server."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.commands.common import Json, console, group
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.routing.judge.judgement import Judgement
    from serve.routing.judge.settings import JudgeSettings

# As `rollout watch` has them; "continue": too little was recorded to say.
EXIT_CODES = {"promote": 0, "rollback": 10, "hold": 11, "continue": 13}

judge = group("judge", "The judge over recorded predictions.")


@judge.command("replay")
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines, or Parquet where pyarrow is installed; - is standard input.")],
    settings: Annotated[Path | None, typer.Option("--settings", metavar="FILE", show_default=False, help="The judge's settings in JSON or "
                                                  "YAML: the part `judge` of a rollout plan.")] = None,
    stable: Annotated[str, typer.Option("--stable", metavar="VARIANT")] = "1",
    candidate: Annotated[str, typer.Option("--candidate", metavar="VARIANT")] = "2",
    share: Annotated[float | None, typer.Option("--share", metavar="SHARE", show_default=False, help="Of the candidate as it was set, 0.1 "
                                                "for instance; else it is estimated from the rows.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="That the step asks for.")] = 60.0,
    requests: Annotated[int, typer.Option("--requests", min=0, help="Of the candidate that the step asks for.")] = 500,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Leave with 0 for promote, 10 rollback, 11 hold, 13 too little to say.")]
    = False,
    as_json: Json = False,
) -> None:
    """What would the judge have done, and when: a line for each change of its verdict, up to the one that a rollout acts on."""
    from serve.commands.judge_view import judgement_picture, moment
    from serve.commands.recorded_rows import read_rows
    from serve.routing.judge import replay as over

    loaded = _settings(settings)
    judgements = over.replay(read_rows(file), loaded, stable=stable, candidate=candidate, share=share, needed_s=seconds,
                             needed_requests=requests)
    try:
        told = changes(judgements)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from error
    begun, (_, last) = told[0][0], told[-1]
    if as_json:
        for at, judgement in told:
            print(json.dumps({"ts_ns": at, **_plain(judgement)}, ensure_ascii=False))
    else:
        for at, judgement in told:
            console().print(moment((at - begun) / 1e9, judgement), soft_wrap=True)
        console().print(judgement_picture(last))
    raise typer.Exit(EXIT_CODES[last.verdict.value] if exit_code else 0)


def changes(judgements: "Iterable[tuple[int, Judgement]]") -> "list[tuple[int, Judgement]]":
    """The first judgement, those whose verdict differs from the one before, and the last; nothing behind the first rollback or promote."""
    told: list[tuple[int, Judgement]] = []
    last: tuple[int, Judgement] | None = None
    for found in judgements:
        last = found
        if not told or found[1].verdict is not told[-1][1].verdict:
            told.append(found)
        if found[1].verdict.value in ("rollback", "promote"):
            break
    return told if last is None or told[-1] is last else [*told, last]


def _settings(path: Path | None) -> "JudgeSettings":
    from serve.routing.documents import read_document, validated
    from serve.routing.judge.settings import JudgeSettings

    if path is None:
        return JudgeSettings()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    return validated(JudgeSettings, read_document(text))


def _plain(judgement: "Judgement") -> dict[str, object]:
    from serve.store.canonical import plain

    return dict(plain(dataclasses.asdict(judgement)))

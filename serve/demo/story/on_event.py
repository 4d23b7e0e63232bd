"""The monitoring command of the story: `--monitor-command 'python -m serve.demo.story.on_event FOLDER'`.

A command has a minute, and a training may take longer: so it only puts the event where the pipeline looks for work, named by its id, and
leaves. An event that comes twice is one file.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def put(event: dict[str, Any], folder: Path) -> Path:
    """Writes it whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{quote(str(event['id']), safe='')}.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(event), encoding="utf-8")
    unfinished.replace(path)
    return path


def events_in(folder: Path, type_: str) -> list[dict[str, Any]]:
    """Those of a type, in the order of the audit."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted((event for event in found if event["type"] == type_), key=lambda event: str(event["sequence"]))


if __name__ == "__main__":
    put(json.loads(sys.stdin.read()), Path(sys.argv[1]))

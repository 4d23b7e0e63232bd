"""`python -m serve.demo.story [--folder DIR] [--quick]`: tells the story. Leaves with 0 when everything in it is true, else with 1."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from serve.demo.story.scale import FULL, QUICK
from serve.errors import HeadraceError

_WIDTH = 150        # of a pipe, which has none


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 for what is not true, 2 for what is in the way, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m serve.demo.story", description="A model that meets a broken scanner.")
    parser.add_argument("--folder", type=Path, help="where everything is written; default a new one that is kept")
    parser.add_argument("--quick", action="store_true", help="shorter windows and stages, less traffic")
    given = parser.parse_args(words)
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="headrace-story-"))).absolute()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(_WIDTH, console.width))
    try:
        from serve.demo.story.telling import tell
    except ImportError as error:
        print(f"headrace: {error.name} is not installed: pip install 'headrace[cpu,demo,records]'", file=sys.stderr)
        return 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise HeadraceError(f"{folder} is not empty: remove what is there, or name another folder")
        narrator = tell(folder, QUICK if given.quick else FULL, console)
    except (HeadraceError, OSError) as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if narrator.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())

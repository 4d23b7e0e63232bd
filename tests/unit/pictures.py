"""What is drawn, as text with single spaces."""

from rich.console import Console, RenderableType


def drawn(picture: RenderableType, width: int = 140) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(picture)
    return "\n".join(" ".join(line.split()) for line in captured.get().splitlines())

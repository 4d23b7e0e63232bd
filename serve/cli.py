"""The `headrace` command. What a command needs is imported when it runs, so that --help stays quick."""

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve import __version__
from serve.commands.audit import audit
from serve.commands.experiment import experiment
from serve.commands.feedback import feedback
from serve.commands.gate import gate
from serve.commands.judge import judge
from serve.commands.monitor import monitor
from serve.commands.records import records
from serve.commands.rollout import rollout
from serve.commands.traffic import label, traffic
from serve.config import KEYS, SettingError, environment_name, field_of, group_of, load_settings, value_of
from serve.errors import ConfigurationError, HeadraceError

if TYPE_CHECKING:
    from serve.client import Client

CONFIGURATION, USAGE, PORT_IN_USE = 1, 2, 4
_PANELS = {"": "Settings", "limits": "Limits", "recording": "Recording"}
DEFAULT_URL = "http://127.0.0.1:8000"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="A model-serving runtime: ONNX models over HTTP and gRPC, with no Python on the request path.")

for group in (traffic, label, rollout, experiment, judge, audit, records, monitor):
    app.add_typer(group)
app.command()(feedback)

Url = Annotated[str, typer.Option("--url", help="The server's HTTP address.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]


def main() -> None:
    """Console script. Our own errors become one line on standard error and an exit code."""
    try:
        app(prog_name="headrace")
    except HeadraceError as error:
        _complain(error)
        sys.exit(CONFIGURATION)


@app.callback(invoke_without_command=True)
def headrace(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """`headrace --version`."""
    if version:
        print(f"headrace {__version__}")
        raise typer.Exit


def serve(paths: list[Path] | None, config: Path | None, **flags: Any) -> None:
    """Serve models: PATH is a .onnx file, a model folder or a repository of those."""
    from serve.banner import banner
    from serve.listeners import PortInUse
    from serve.supervisor import supervise

    try:
        settings = load_settings({"paths": paths or None, **flags}, os.environ, config, warn=_warn)
        code = supervise(settings, lambda ready, ports: _show(banner(settings, ready, ports)))
    except SettingError as error:
        _complain(error)
        code = USAGE if error.source == "flag" else CONFIGURATION
    except PortInUse as error:
        _complain(error)
        code = PORT_IN_USE
    raise typer.Exit(code)


def _flag_of(key: str) -> inspect.Parameter:
    field = field_of(key)
    flag = "--" + key.replace("_", "-")
    is_bool = field.annotation is bool
    shown = str(field.default).lower() if is_bool else field.default
    default = "" if field.is_required() or field.default is None or key == "io_threads" else f"default {shown}; "
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_bool else flag, help=f"{field.description} ({default}{environment_name(key)})",
        metavar=None if is_bool else value_of(key), show_default=False,
        rich_help_panel=_PANELS[group_of(key)])
    kind: Any = bool if is_bool else str
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`serve` has one flag for each setting, so that no setting can be forgotten: config.py says what there is."""
    by_name = {"paths": Annotated[list[Path] | None, typer.Argument(metavar="PATH", show_default=False)],
               "config": Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in YAML.", show_default=False)]}
    fixed = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in by_name.items()]
    command.__signature__ = inspect.Signature([*fixed, *(_flag_of(key) for key in KEYS if key != "paths")])      # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


app.command()(_with_flags(serve))
app.command()(gate)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    demo: Annotated[bool, typer.Option("--demo", help="With models: digits (two versions), magika, normalise.")] = False,
) -> None:
    """Make a model repository."""
    from serve.demo.repository import write_demo, write_empty

    (write_demo if demo else write_empty)(folder, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"headrace serve {folder}")


@app.command()
def infer(
    model: Model,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Files whose types magika is to name.")] = None,
    version: Annotated[str | None, typer.Option("--version", metavar="V", help="A version or a label.")] = None,
    values: Annotated[str | None, typer.Option("--json", metavar="JSON", help='{"input": [[...]], ...}; else from standard input.')] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A row of the one BYTES input; may be repeated.")] = None,
    from_dataset: Annotated[bool, typer.Option("--from-dataset", help="The demo's held-out digits, beside ONNX Runtime.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many rows of the data set.")] = None,
    repository: Annotated[Path, typer.Option("--repository", metavar="DIR", help="What `headrace init DIR --demo` made.")] = Path("demo"),
    url: Url = DEFAULT_URL,
) -> None:
    """Ask a model."""
    from serve.client import Client
    from serve.demo import views

    if sum(map(bool, (files, values, text, from_dataset))) > 1:
        raise typer.BadParameter("give one of FILE, --json, --text and --from-dataset")
    with Client(url) as client:
        if from_dataset:
            code = views.show_heldout(client, repository, model, version, limit)
        elif files:
            code = views.show_file_types(client, repository, model, version, files)
        else:
            code = _infer_values(client, model, version, values, text)
    raise typer.Exit(code)


def _infer_values(client: "Client", model: str, version: str | None, values: str | None, text: list[str] | None) -> int:
    from serve.client.tensors import array_from
    from serve.demo.views import as_json

    specs = {spec["name"]: spec for spec in client.metadata(model, version).get("inputs", [])}
    if not text and values is None and sys.stdin.isatty():
        raise typer.BadParameter(f"give --json, --text or standard input; {model} takes {json.dumps(list(specs.values()))}")
    try:
        if text:
            given: dict[str, Any] = {_only_text_input(model, specs): text}
        else:
            given = json.loads(sys.stdin.read() if values is None else values)
            if not isinstance(given, dict):
                raise ConfigurationError('the values must be an object: {"input name": values, ...}')
        inputs = {name: array_from(specs[name]["datatype"], value) for name, value in given.items()}
        if text:
            (name, array), = inputs.items()
            inputs[name] = array.reshape(-1, *[1] * (len(specs[name]["shape"]) - 1))
    except KeyError as error:
        raise ConfigurationError(f"model {model!r} has no input {error.args[0]!r}; it has {', '.join(specs)}") from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the values cannot be sent: {error}") from error
    print(as_json(client.infer(model, inputs, version)))
    return 0


def _only_text_input(model: str, specs: dict[str, Any]) -> str:
    if len(specs) == 1 and (name := next(iter(specs))) and specs[name]["datatype"] == "BYTES":
        return name
    raise ConfigurationError(f"--text is for a model of one BYTES input; {model!r} has {json.dumps(list(specs.values()))}")


@app.command()
def models(url: Url = DEFAULT_URL) -> None:
    """List model versions and their states."""
    from serve.client import Client
    from serve.demo.views import show_index

    with Client(url) as client:
        index = client.index()
        show_index(index, client.digests(index))


@app.command()
def load(model: Model, url: Url = DEFAULT_URL) -> None:
    """Load a model, or load it again (servers with --model-control explicit)."""
    from serve.client import Client

    with Client(url) as client:
        client.load(model)
    print(f"loaded {model}")


@app.command()
def unload(model: Model, url: Url = DEFAULT_URL) -> None:
    """Unload a model (servers with --model-control explicit)."""
    from serve.client import Client

    with Client(url) as client:
        client.unload(model)
    print(f"unloaded {model}")


def _show(text: str) -> None:
    with contextlib.suppress(OSError):      # a reader that has left (`| head`) must not stop the service
        print(text, flush=True)


def _warn(text: str) -> None:
    print(f"headrace: {text}", file=sys.stderr)


def _complain(error: Exception) -> None:
    print(f"headrace: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()

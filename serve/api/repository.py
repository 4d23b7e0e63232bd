"""Rules of the repository extension that both protocols share."""

from collections.abc import Mapping

from serve.api.ports import ApiSettings
from serve.errors import InvalidArgument, NotImplementedHere

REPOSITORY_NAME_REFUSED = "'repository_name' specification is not supported: this server has one repository; leave the name out"
_NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled; start the server with --model-control explicit"


def check_model_control(settings: ApiSettings) -> None:
    """Raises InvalidArgument, with the text that Triton's clients look for, unless clients may load and unload."""
    if settings.model_control != "explicit":
        raise InvalidArgument(_NOT_EXPLICIT)


def refuse_repository_name(name: str) -> None:
    """Raises NotImplementedHere unless the name is empty."""
    if name:
        raise NotImplementedHere(REPOSITORY_NAME_REFUSED)


def load_override(model: str, parameters: Mapping[str, object]) -> str | None:
    """The configuration override among the parameters of a load request, None where there is none.

    Raises InvalidArgument for uploaded files, unknown parameters and values of the wrong type.
    """
    for name in parameters:
        if name.startswith("file:"):
            raise InvalidArgument(f"failed to load '{model}': model files are not accepted over the network ('{name}'); "
                                  "put them into the repository and load again")
        if name != "config":
            raise InvalidArgument(f"failed to load '{model}': unknown load parameter '{name}'; known is 'config'")
    config = parameters.get("config")
    if config is not None and not isinstance(config, str):
        raise InvalidArgument(
            f"failed to load '{model}': the parameter 'config' must be a string that holds JSON, got {type(config).__name__}")
    return config


def check_unload_parameters(model: str, parameters: Mapping[str, object]) -> None:
    """Raises InvalidArgument for unknown parameters. There are no ensembles, so that `unload_dependents` holds whatever it says."""
    for name, value in parameters.items():
        if name != "unload_dependents":
            raise InvalidArgument(f"failed to unload '{model}': unknown unload parameter '{name}'; known is 'unload_dependents'")
        if not isinstance(value, bool):
            raise InvalidArgument(f"failed to unload '{model}': 'unload_dependents' must be true or false, got {value!r}")

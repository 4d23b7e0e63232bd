"""Recording where it is asked for: what it needs is an extra, which a server that records nothing does without."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from serve.config import Settings
from serve.errors import ConfigurationError
from serve.models.lifecycle import ModelManager

if TYPE_CHECKING:
    from serve.recording_setup import Recording


def open_recording(settings: Settings, models: Callable[[], ModelManager], stable: Callable[[str], str]) -> "Recording | None":
    """None without --records. models: asked for once there are any. stable: the version that a model's stable traffic goes to.

    Raises ConfigurationError: the extra is not installed, or the directories do not let it begin.
    """
    if settings.recording.records is None:
        return None
    try:
        from serve.recording_setup import Recording, Server
    except ImportError as error:
        raise ConfigurationError(f"--records needs what is not installed ({error.name}): pip install 'headrace[records]'") from error
    return Recording(settings, Server(
        describe=lambda model, version: models().describe(model, version), stable=stable,
        folder_of=lambda model, version: models().version_folder(model, version)))


__all__ = ["open_recording"]

"""Models: where they lie, what their configuration says, which versions are loaded, and the seam to the engine that runs them."""

from serve.models.config import ModelConfig
from serve.models.crash_marks import CrashMarks
from serve.models.disk import DiskRepository
from serve.models.engine_port import Engine, LoadedVersion, LoadSpec, PublishedModel
from serve.models.lifecycle import LifecycleOptions, ModelManager, Progress
from serve.models.resolution import ResolvedConfig, resolve

__all__ = [
    "CrashMarks",
    "DiskRepository",
    "Engine",
    "LifecycleOptions",
    "LoadSpec",
    "LoadedVersion",
    "ModelConfig",
    "ModelManager",
    "Progress",
    "PublishedModel",
    "ResolvedConfig",
    "resolve",
]

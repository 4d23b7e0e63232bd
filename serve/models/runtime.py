"""Where ONNX Runtime and CUDA are on this machine, and which device the models run on.

The `onnxruntime` package is only located, never imported: with a CUDA provider, its own copy of the library and ours would overwrite
each other's globals.
"""

import ctypes
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve._core.ort_library import load_library
from serve.errors import ConfigurationError

CPU_DISTRIBUTION = "onnxruntime"
GPU_DISTRIBUTION = "onnxruntime-gpu"
# What the extra `gpu` asks for.
GPU_INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
CUDA_DRIVER = "libcuda.so.1"
# onnxruntime-gpu >= 1.28 is built for CUDA 13, which driver 580 is the first to speak; cuDriverGetVersion counts 1000 * major + 10 * minor.
CUDA_MAJOR = 13
CUDA_VERSION = 1000 * CUDA_MAJOR
# What the CUDA provider needs, in the order in which each finds the ones before it, by folder of the nvidia wheels.
CUDA_LIBRARIES = (
    ("cu13/lib", "libcudart.so.13"),
    ("cu13/lib", "libcublasLt.so.13"),
    ("cu13/lib", "libcublas.so.13"),
    ("cu13/lib", "libcurand.so.10"),
    ("cu13/lib", "libcufft.so.12"),
    ("cu13/lib", "libnvrtc.so.13"),
    ("cudnn/lib", "libcudnn.so.9"),
)

Load = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What this machine offers to the CUDA provider."""

    provider: bool  # the installed ONNX Runtime has it
    driver: bool  # libcuda.so.1 can be loaded
    devices: int  # device nodes


def find_library() -> Path:
    """Path of libonnxruntime, without importing anything.

    Raises ConfigurationError: no ONNX Runtime is installed, or two that overwrite each other's files.
    """
    versions = {name: version for name in (CPU_DISTRIBUTION, GPU_DISTRIBUTION) if (version := _installed_version(name))}
    if len(versions) == 2:
        both = " and ".join(f"{name} {version}" for name, version in versions.items())
        raise ConfigurationError(
            f"{both} are both installed and overwrite each other's files: run `pip uninstall -y {CPU_DISTRIBUTION} {GPU_DISTRIBUTION}`, "
            f"then `{GPU_INSTALL}` (with an NVIDIA GPU) or `pip install {CPU_DISTRIBUTION}`"
        )
    spec = importlib.util.find_spec("onnxruntime")
    folders = [Path(place) / "capi" for place in (spec.submodule_search_locations or [])] if spec else []
    libraries = sorted(library for folder in folders for library in folder.glob("libonnxruntime.so*"))
    if not libraries:
        raise ConfigurationError(f"ONNX Runtime is missing: run `pip install {CPU_DISTRIBUTION}`, with a GPU `{GPU_INSTALL}`")
    return libraries[-1]


def find_accelerator(library: Path, *, devices: Path = Path("/dev"), load: Load = ctypes.CDLL) -> Accelerator:
    """Look for the CUDA provider beside `library`, for the driver and for device nodes."""
    nodes = [node for node in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name)]
    return Accelerator(provider=(library.parent / CUDA_PROVIDER).exists(), driver=_loads(CUDA_DRIVER, load), devices=len(nodes))


def choose_device(setting: str, accelerator: Accelerator) -> str:
    """The device of a `--device` setting: "cpu" or "cuda:N". auto is the first GPU, or the CPU where there is none.

    Raises ConfigurationError: no such setting, or a GPU was asked for that is not there.
    """
    missing = _why_no_cuda(accelerator)
    if setting == "cpu" or (setting == "auto" and missing):
        return "cpu"
    if setting == "auto":
        return "cuda:0"
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", setting)
    if match is None:
        raise ConfigurationError(f"device is {setting!r}; it can be auto, cpu, cuda or cuda:N")
    if missing:
        raise ConfigurationError(f"device is {setting!r}, but {missing}")
    number = int(match[1] or 0)
    if number >= accelerator.devices:
        raise ConfigurationError(f"device is {setting!r}, but this machine has {accelerator.devices} GPU(s), counted from 0")
    return f"cuda:{number}"


def resolve_device(setting: str, library: Path | None = None) -> str:
    """choose_device for this machine. library: what find_library said. Raises ConfigurationError as both do."""
    return choose_device(setting, find_accelerator(library or find_library()))


def preload_cuda(folders: list[Path] | None = None, *, load: Load | None = None) -> None:
    """Load the driver and the CUDA libraries for all of the process, from the nvidia wheels where they are installed.

    folders: the nvidia packages' folders (default: as installed). Raises ConfigurationError: a library is missing, the driver too old.
    """
    load = load or (lambda name: ctypes.CDLL(name, ctypes.RTLD_GLOBAL))
    if folders is None:
        spec = importlib.util.find_spec("nvidia")
        folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    _check_driver(load)
    for folder, name in CUDA_LIBRARIES:
        places = [str(path) for path in (parent / folder / name for parent in folders) if path.exists()]
        try:
            load(places[0] if places else name)
        except OSError as error:
            raise ConfigurationError(f"CUDA library {name} cannot be loaded ({error}): run `{GPU_INSTALL}`") from error


def start_runtime(setting: str = "auto", *, intra_op_threads: int = 1, spinning: bool = False) -> str:
    """Find and load ONNX Runtime for this process, and CUDA where the device needs it; returns the device.

    setting: as in choose_device. intra_op_threads, spinning: as in load_library. Raises ConfigurationError.
    """
    library = find_library()
    device = resolve_device(setting, library)
    if device != "cpu":
        preload_cuda()
    load_library(str(library), intra_op_threads=intra_op_threads, spinning=spinning)
    return device


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _loads(name: str, load: Load) -> bool:
    try:
        load(name)
    except OSError:
        return False
    return True


def _why_no_cuda(accelerator: Accelerator) -> str | None:
    if not accelerator.provider:
        return f"this ONNX Runtime has no CUDA provider: run `pip uninstall -y {CPU_DISTRIBUTION}`, then `{GPU_INSTALL}`"
    if not accelerator.driver:
        return f"the NVIDIA driver is missing ({CUDA_DRIVER} cannot be loaded): install driver 580 or newer"
    if accelerator.devices == 0:
        return "no GPU is visible (/dev/nvidia0 is missing): give the machine or container one"
    return None


def _check_driver(load: Load) -> None:
    try:
        driver = load(CUDA_DRIVER)
    except OSError as error:
        raise ConfigurationError(f"the NVIDIA driver cannot be loaded ({error}): install driver 580 or newer") from error
    version = ctypes.c_int(0)
    status = driver.cuDriverGetVersion(ctypes.byref(version))  # type: ignore[attr-defined]
    if status != 0:
        raise ConfigurationError(f"the NVIDIA driver does not answer (error {status} of cuDriverGetVersion): reinstall driver 580 or newer")
    if version.value < CUDA_VERSION:
        speaks = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise ConfigurationError(f"the NVIDIA driver speaks CUDA {speaks}; ONNX Runtime needs {CUDA_MAJOR}.0: install driver 580 or newer")

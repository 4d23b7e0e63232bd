"""Finding ONNX Runtime and CUDA, and choosing a device, on machines that are described to the code."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve._core import ort_library
from serve.errors import ConfigurationError
from serve.models import runtime
from serve.models.runtime import Accelerator

GPU = Accelerator(provider=True, driver=True, devices=2)
NO_PROVIDER = Accelerator(provider=False, driver=True, devices=2)
NO_DRIVER = Accelerator(provider=True, driver=False, devices=2)
NO_DEVICE = Accelerator(provider=True, driver=True, devices=0)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend that these distributions are installed, with one package folder."""

    def install(*names: str, files: tuple[str, ...] = ()) -> Path:
        def version(name: str) -> str:
            if name in names:
                return "1.31.1"
            raise importlib.metadata.PackageNotFoundError(name)

        def find_spec(name: str) -> ModuleSpec | None:
            if name != "onnxruntime" or not names:
                return None
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(tmp_path)]
            return spec

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        (tmp_path / "capi").mkdir()
        for file in files:
            (tmp_path / "capi" / file).touch()
        return tmp_path / "capi"

    return install


def test_the_library_of_this_machine_is_found_without_importing_the_package():
    script = "import sys; from serve.models.runtime import find_library; print(find_library()); print('onnxruntime' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    path, imported = result.stdout.split()
    assert Path(path).is_file()
    assert imported == "False"


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_either_distribution_will_do(installed, name):
    folder = installed(name, files=("libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so"))
    assert runtime.find_library() == folder / "libonnxruntime.so.1.31.1"


def test_both_distributions_are_refused_with_the_way_out(installed):
    installed("onnxruntime", "onnxruntime-gpu", files=("libonnxruntime.so.1.31.1",))
    both = r"onnxruntime 1\.31\.1 and onnxruntime-gpu 1\.31\.1 .*pip uninstall -y onnxruntime onnxruntime-gpu"
    with pytest.raises(ConfigurationError, match=both):
        runtime.find_library()


@pytest.mark.parametrize("names", [(), ("onnxruntime",)])
def test_no_library_says_what_to_install(installed, names):
    installed(*names)
    with pytest.raises(ConfigurationError, match=r"pip install onnxruntime`, with a GPU `pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        runtime.find_library()


@pytest.mark.parametrize(("setting", "accelerator", "device"), [
    ("auto", GPU, "cuda:0"), ("auto", NO_PROVIDER, "cpu"), ("auto", NO_DRIVER, "cpu"), ("auto", NO_DEVICE, "cpu"),
    ("cpu", GPU, "cpu"), ("cpu", NO_PROVIDER, "cpu"),
    ("cuda", GPU, "cuda:0"), ("cuda:0", GPU, "cuda:0"), ("cuda:1", GPU, "cuda:1"),
])
def test_device_of_a_setting(setting, accelerator, device):
    assert runtime.choose_device(setting, accelerator) == device


@pytest.mark.parametrize(("setting", "accelerator", "text"), [
    ("cuda", NO_PROVIDER, r"this ONNX Runtime has no CUDA provider: .*onnxruntime-gpu\[cuda,cudnn\]"),
    ("cuda:0", NO_DRIVER, r"the NVIDIA driver is missing .*580"),
    ("cuda", NO_DEVICE, "no GPU is visible"),
    ("cuda:2", GPU, r"this machine has 2 GPU\(s\)"),
    ("gpu", GPU, "device is 'gpu'; it can be auto, cpu, cuda or cuda:N"),
    ("cuda:", GPU, "device is 'cuda:'"), ("cuda:-1", GPU, "device is 'cuda:-1'"),
    ("", GPU, "device is ''"), ("CPU", GPU, "device is 'CPU'"),
])
def test_a_device_that_cannot_be_had_is_an_error_of_one_line(setting, accelerator, text):
    with pytest.raises(ConfigurationError, match=text) as caught:
        runtime.choose_device(setting, accelerator)
    assert "\n" not in str(caught.value)


def cannot_load(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


def test_the_accelerator_is_what_is_there(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    library = tmp_path / "libonnxruntime.so.1"
    assert runtime.find_accelerator(library, devices=tmp_path, load=cannot_load) == Accelerator(provider=False, driver=False, devices=2)
    (tmp_path / runtime.CUDA_PROVIDER).touch()
    assert runtime.find_accelerator(library, devices=tmp_path, load=str) == GPU


def test_a_setting_is_resolved_on_this_machine(tmp_path):
    assert runtime.resolve_device("cpu") == "cpu"
    assert runtime.resolve_device("auto", tmp_path / "libonnxruntime.so.1") == "cpu"
    with pytest.raises(ConfigurationError, match="no CUDA provider"):
        runtime.resolve_device("cuda", tmp_path / "libonnxruntime.so.1")


class Loader:
    """Notes what is loaded; the driver answers with a version."""

    def __init__(self, version: int = 13000, status: int = 0, absent: str = "") -> None:
        self.version, self.status, self.absent = version, status, absent
        self.loaded: list[str] = []

    def __call__(self, name: str) -> object:
        if self.absent and name.endswith(self.absent):
            cannot_load(name)
        self.loaded.append(name)
        return SimpleNamespace(cuDriverGetVersion=self._driver_version)

    def _driver_version(self, out) -> int:
        out._obj.value = self.version
        return self.status


def test_cuda_is_loaded_in_order_from_the_wheels_where_they_are(tmp_path):
    for folder, name in runtime.CUDA_LIBRARIES[:6]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).touch()
    loader = Loader()
    runtime.preload_cuda([tmp_path / "elsewhere", tmp_path], load=loader)
    assert loader.loaded == ["libcuda.so.1", *[str(tmp_path / "cu13/lib" / name) for name in (
        "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcufft.so.12", "libnvrtc.so.13")], "libcudnn.so.9"]


@pytest.mark.parametrize(("loader", "text"), [
    (Loader(absent="libcuda.so.1"), "the NVIDIA driver cannot be loaded .*580 or newer"),
    (Loader(version=12040), r"speaks CUDA 12\.4; ONNX Runtime needs 13\.0: install driver 580 or newer"),
    (Loader(status=999), "does not answer .error 999"),
    (Loader(absent="libcublasLt.so.13"), r"CUDA library libcublasLt\.so\.13 cannot be loaded .*onnxruntime-gpu\[cuda,cudnn\]"),
])
def test_what_cuda_lacks_is_an_error_of_one_line(tmp_path, loader, text):
    with pytest.raises(ConfigurationError, match=text) as caught:
        runtime.preload_cuda([tmp_path], load=loader)
    assert "\n" not in str(caught.value)


def test_the_runtime_starts_on_the_cpu():
    assert runtime.start_runtime("cpu") == "cpu"
    assert ort_library.is_loaded()


def test_the_runtime_loads_cuda_before_the_library(monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(runtime, "resolve_device", lambda setting, library: "cuda:1")
    monkeypatch.setattr(runtime, "preload_cuda", lambda: order.append("cuda"))
    monkeypatch.setattr(runtime, "load_library", lambda path, **options: order.append("library"))
    assert runtime.start_runtime("cuda:1") == "cuda:1"
    assert order == ["cuda", "library"]

"""Each thing that keeps a GPU from being used, faked."""

from types import SimpleNamespace

import pytest

from prospr_ops.utils import gpu

CUDA = {
    "cuda": True,
    "cuda_compiler": "NVIDIA 13.0.88",
    "cuda_architectures": ["sm_80", "sm_90", "compute_120"],
}
DRIVER = gpu.Driver(13, 1)
NONE = {"cuda": False, "cuda_compiler": "", "cuda_architectures": []}


@pytest.fixture
def machine(monkeypatch):
    """Makes a machine with a GPU that will be used, but for what a test takes away."""

    def make(build=CUDA, tensorflow=True, driver=DRIVER, visible=True, capability=(9, 0)):
        devices = [SimpleNamespace(name="/physical_device:GPU:0")] if visible else []
        details = {"device_name": "NVIDIA H100", "compute_capability": capability}
        config = SimpleNamespace(
            list_physical_devices=lambda _: devices,
            experimental=SimpleNamespace(get_device_details=lambda _: details),
        )
        test = SimpleNamespace(is_built_with_cuda=lambda: tensorflow)
        monkeypatch.setattr(gpu, "tf", SimpleNamespace(config=config, test=test))
        monkeypatch.setattr(gpu, "_native", SimpleNamespace(build_info=lambda: build))
        monkeypatch.setattr(gpu, "find_driver", lambda: driver)
        return gpu.gpu_use()

    return make


def test_one_that_will_be_used(machine):
    assert machine() == "yes: NVIDIA H100, compute capability 9.0"
    assert machine(capability=(8, 9)).startswith("yes")  # machine code of 8.0
    assert machine(capability=(13, 0)).startswith("yes")  # PTX


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ({"build": NONE}, "prospr_ops was built without CUDA kernels"),
        ({"tensorflow": False, "visible": False}, "TensorFlow was built without CUDA"),
        ({"driver": None, "visible": False}, "there is no NVIDIA driver"),
        ({"driver": gpu.Driver(13, 0), "visible": False}, "the NVIDIA driver sees no GPU"),
        ({"visible": False}, "TensorFlow does not"),
        ({"driver": gpu.Driver(12, 1)}, "runs CUDA 12, but the kernels were built with CUDA 13"),
        ({"capability": (7, 5)}, "not for NVIDIA H100, compute capability 7.5"),
        ({"capability": (10, 0)}, "built for sm_80, sm_90, compute_120, not"),
    ],
)
def test_what_keeps_it_from_being_used(machine, monkeypatch, missing, reason):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = machine(**missing)
    assert said.startswith("no: ")
    assert reason in said
    assert ";" not in said  # nothing else is in the way


def test_a_driver_without_gpus_names_what_hides_them(machine, monkeypatch):
    without = {"driver": gpu.Driver(13, 0), "visible": False}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine(**without) == "no: the NVIDIA driver sees no GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert machine(**without).endswith("sees no GPU (CUDA_VISIBLE_DEVICES is '-1')")


def test_all_reasons_are_named_at_once(machine):
    said = machine(build=NONE, tensorflow=False, driver=None, visible=False)
    assert said.count(";") == 2


def test_the_driver_of_this_machine_is_asked():
    driver = gpu.find_driver()
    assert driver is None or driver.cuda > 0


@pytest.mark.parametrize(("result", "gpus"), [(0, 2), (100, 0)])
def test_a_driver_answers(monkeypatch, result, gpus):
    def answer(value):
        def fill(pointer):
            pointer._obj.value = value
            return 0

        return fill

    library = SimpleNamespace(
        cuDriverGetVersion=answer(13010), cuInit=lambda _: result, cuDeviceGetCount=answer(2)
    )
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda _: library)
    assert gpu.find_driver() == gpu.Driver(13, gpus)

"""Facts from files and a program of the kinds that machines with NVIDIA cards have, decisions from captured facts."""

import dataclasses
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, refusal
from packaging.requirements import Requirement

import trainer
from bert_ja import devices, training
from bert_ja.cli import StageError
from bert_ja.devices import Card, Facts

H100 = Card("NVIDIA H100 80GB HBM3", (9, 0))
T4, V100 = Card("Tesla T4", (7, 5)), Card("Tesla V100-SXM2-16GB", (7, 0))
B200, K80 = Card("NVIDIA B200", (10, 0)), Card("Tesla K80", (3, 7))
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")  # torch.cuda.get_arch_list()
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
TOO_OLD = (  # torch.cuda.init() of torch 2.11 with CUDA 13.0 on driver 570.153.02
    "The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_GPU = "No CUDA GPUs are available"
MISMATCH = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error 803: system has unsupported display driver / cuda driver combination"
)
CPU_BUILD = Facts(torch="2.13.0+cpu", cards=(H100,), driver="570.86.15", refusal="it is a CPU build")
CUDA_13 = Facts(torch="2.13.0+cu130", cuda="13.0", kernels=CU130, cards=(H100,), driver="580.95.05")
WORKING = dataclasses.replace(CUDA_13, usable=(H100,))
PIP = f"run {shlex.quote(sys.executable)} -m pip install torch=="
CU126_STEP = f"{PIP}2.13.0+cu126 --index-url https://download.pytorch.org/whl/cu126"
CU130_STEP = f"{PIP}2.13.0+cu130 --index-url https://download.pytorch.org/whl/cu130"
ON_CPU = "pass --trainer.accelerator cpu (test.py: --accelerator cpu), or"

VERSIONS = {  # the first line of /proc/driver/nvidia/version
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  515.65.01  Wed Mar 16 11:24:05 UTC 2022": "515.65.01",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  (dvs-builder@U16-A24-9-2)  "
    "Thu Oct 10 12:15:00 UTC 2024": "565.57.01",
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  "
    "(buildbrain@mobile-u64-6336-d8000)  Tue Jan  7 17:35:12 PST 2025": "540.4.0",
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  384.81  Wed Aug 17 22:24:07 PDT 2016": "384.81",
}
INFORMATION = """\
Model: \t\t GeForce GTX {model}
IRQ:   \t\t 63
GPU UUID: \t GPU-e953c3c5-dba7-029e-ce44-7b51417131df
Video BIOS: \t 86.02.40.00.48
Bus Type: \t PCIe
DMA Size: \t 47 bits
DMA Mask: \t 0x7fffffffffff
Bus Location: \t 0000:17:00.0
Device Minor: \t {minor}
Blacklisted:\t No
"""
AVX2_ONLY = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu sse2 avx avx2 fma\n\nprocessor\t: 1\n"
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve bf16 i8mm\n"


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def two_cards(tmp_path) -> Path:
    """/proc and /dev of a machine with two cards, whose order on the bus is not that of their device files."""
    return written(
        tmp_path,
        {
            "proc/driver/nvidia/version": [*VERSIONS][0] + "\nGCC version:  gcc version 12.2.0 (GCC) \n",
            "proc/driver/nvidia/gpus/0000:17:00.0/information": INFORMATION.format(model="1080 Ti", minor=1),
            "proc/driver/nvidia/gpus/0000:65:00.0/information": INFORMATION.format(model="TITAN X", minor=0),
            "proc/cpuinfo": AVX2_ONLY,
            **dict.fromkeys(("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"), ""),
        },
    )


@pytest.fixture
def nvidia_smi(tmp_path_factory, monkeypatch):
    """A function that puts an nvidia-smi on the PATH, a shell script that does what its text says."""
    folder = tmp_path_factory.mktemp("bin")

    def install(text: str) -> Path:
        path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    return install


# Facts


@pytest.mark.parametrize(("line", "version"), VERSIONS.items())
def test_the_driver_tells_its_version(line, version, tmp_path):
    written(tmp_path, {"proc/driver/nvidia/version": line + "\nGCC version:  gcc version 12.2.0 (GCC) \n"})
    assert devices.driver_version(tmp_path) == version


def test_a_machine_without_a_driver_has_no_version_and_no_card(tmp_path):
    assert devices.driver_version(tmp_path) is None
    assert devices.system_cards(tmp_path) == ()


def test_cards_are_those_of_the_device_files_in_their_order(two_cards):
    assert devices.system_cards(two_cards) == (Card("GeForce GTX TITAN X"), Card("GeForce GTX 1080 Ti"))
    (two_cards / "dev" / "nvidia0").unlink()  # docker run --gpus device=...
    assert devices.system_cards(two_cards) == (Card("GeForce GTX 1080 Ti"),)


def test_a_container_without_device_files_has_no_card_though_the_driver_is_seen(two_cards):
    for file in (two_cards / "dev").iterdir():
        file.unlink()
    assert devices.system_cards(two_cards) == ()
    facts = devices.read_facts(False, two_cards)
    assert devices.problem(facts, "auto") is None
    assert devices.describe(facts, "cpu").endswith(
        "; NVIDIA driver 515.65.01 is loaded, but this container was given no card"
    )


def test_a_device_file_alone_is_a_card_without_a_name(tmp_path):
    written(tmp_path, {"dev/nvidia0": "", "dev/nvidia10": "", "dev/nvidia2": ""})
    assert devices.system_cards(tmp_path) == (Card("NVIDIA card"),) * 3


def test_nvidia_smi_tells_names_capabilities_and_the_driver(nvidia_smi):
    nvidia_smi("printf '570.86.15, 9.0, NVIDIA H100 80GB HBM3\\n570.86.15, [N/A], NVIDIA, the other\\n'")
    assert devices.smi_cards() == ((H100, Card("NVIDIA, the other")), "570.86.15")


@pytest.mark.parametrize(
    "text",
    [
        'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9',
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2",
        "echo 'No devices were found'",
        "exec sleep 60",
    ],
)
def test_an_nvidia_smi_that_fails_or_hangs_tells_nothing(text, nvidia_smi):
    nvidia_smi(text)
    assert devices.smi_cards(seconds=1) == ((), None)


def test_without_nvidia_smi_there_is_nothing_to_ask(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.smi_cards() == ((), None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a card here")
def test_facts_of_a_machine_come_from_all_their_sources(two_cards, nvidia_smi, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    nvidia_smi("echo '570.86.15, 9.0, NVIDIA H100 80GB HBM3'")
    facts = devices.read_facts(True, two_cards)
    assert (facts.cards, facts.driver, facts.visible) == ((H100,), "515.65.01", "")
    assert (facts.cpu, facts.flags) == ("AMD EPYC 7B13", {"fpu", "sse2", "avx", "avx2", "fma"})
    assert (facts.torch, facts.cuda, facts.usable) == (torch.__version__, torch.version.cuda, ())
    assert facts.refusal and facts.threads == torch.get_num_threads()


def test_facts_for_a_run_on_the_cpu_ask_no_program(two_cards, nvidia_smi):
    folder = nvidia_smi('touch "$(dirname "$0")/asked"')
    facts = devices.read_facts(False, two_cards)
    assert not (folder / "asked").exists()
    assert facts.cards == (Card("GeForce GTX TITAN X"), Card("GeForce GTX 1080 Ti"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card that torch can use")
def test_a_real_card_is_found_by_torch_and_by_the_system():
    facts = devices.read_facts()
    assert facts.usable and facts.cards and facts.driver and not facts.refusal
    assert devices.problem(facts, "gpu") is None
    assert facts.usable[0].name in devices.describe(facts, "gpu")


# Problems


@pytest.mark.parametrize(
    ("kernels", "capability", "runs"),
    [
        (CU130, (7, 5), True),
        (CU130, (7, 0), False),  # V100
        (CU130, (8, 9), True),  # sm_86
        (CU130, (10, 3), True),  # sm_100
        (CU130, (12, 1), True),  # sm_120
        (CU130, (13, 0), True),  # compute_120
        (CU130[:-1], (11, 0), False),
        (CU126, (6, 1), True),
        (CU126, (5, 0), True),
        (CU126, (10, 0), False),
        (CU126, (3, 7), False),
        (("sm_90a",), (9, 0), True),
        (("sm_90a", "compute_90a"), (9, 1), False),
        (("sm_100f",), (10, 3), True),
        (("sm_100f", "compute_100f"), (12, 0), False),
        (("sm_86",), (8, 0), False),
    ],
)
def test_kernels_run_on_later_cards_of_their_major_and_ptx_on_all_later_ones(kernels, capability, runs):
    assert devices.runs_on(kernels, capability) is runs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, f"NVIDIA H100 80GB HBM3 (compute capability 9.0) of this machine: {ON_CPU} {CU126_STEP}"),
        ({"driver": "580.95.05"}, f"(compute capability 9.0) of this machine: {ON_CPU} {CU130_STEP}"),
        ({"cards": (V100,), "driver": "580.95.05"}, f"(compute capability 7.0) of this machine: {ON_CPU} {CU126_STEP}"),
        ({"cards": (Card(),)}, f"NVIDIA card of this machine: {ON_CPU} {CU126_STEP}"),
        ({"cards": (B200,)}, f"of this machine: {ON_CPU} update the NVIDIA driver 570.86.15 to 580 or newer"),
        ({"driver": "470.57.02"}, f"of this machine: {ON_CPU} update the NVIDIA driver 470.57.02 to 525 or newer"),
        (
            {"cards": (K80,), "driver": "470.57.02"},
            f"{ON_CPU} install a build of torch that fits, see https://pytorch.org/get-started/locally",
        ),
        (
            {"cards": (T4,), "machine": "aarch64"},
            f"{ON_CPU} install a build of torch that fits, see https://pytorch.org/get-started/locally",
        ),
        (
            {"driver": None},
            f"{ON_CPU} install a build of torch that fits, see https://pytorch.org/get-started/locally",
        ),
    ],
)
def test_a_cpu_build_beside_a_card_is_told_the_build_for_driver_and_card(changes, sentence):
    for accelerator in ("auto", "gpu", "cuda"):
        said = devices.problem(dataclasses.replace(CPU_BUILD, **changes), accelerator)
        assert said.startswith("torch 2.13.0 (CPU build) cannot use the ")
        assert said.endswith(sentence)


def test_the_command_is_not_satisfied_by_the_build_that_is_there():
    (pin,) = re.findall(r"torch==\S+", devices.problem(CPU_BUILD, "auto"))
    assert Requirement("torch==2.13.0").specifier.contains("2.13.0+cpu")
    assert not Requirement(pin).specifier.contains("2.13.0+cpu")
    assert Requirement(pin).specifier.contains("2.13.0+cu126")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"driver": "570.153.02", "refusal": TOO_OLD},
            "the NVIDIA driver 570.153.02 is too old for torch 2.13.0 with CUDA 13.0, which needs 580 or newer to use "
            f"the NVIDIA H100 80GB HBM3 (compute capability 9.0): {ON_CPU} {CU126_STEP}",
        ),
        (
            {"driver": "570.153.02", "refusal": TOO_OLD, "cards": (B200,)},
            "the NVIDIA driver 570.153.02 is too old for torch 2.13.0 with CUDA 13.0, which needs 580 or newer to use "
            f"the NVIDIA B200 (compute capability 10.0): {ON_CPU} update the NVIDIA driver 570.153.02 to 580 or newer",
        ),
        (  # an unknown CUDA and a driver that only torch has seen
            {"cuda": "14.0", "driver": None, "refusal": TOO_OLD},
            "the NVIDIA driver is too old for torch 2.13.0 with CUDA 14.0, which needs a newer one to use the NVIDIA "
            f"H100 80GB HBM3 (compute capability 9.0): {ON_CPU} install a build of torch that fits, see "
            "https://pytorch.org/get-started/locally",
        ),
        (
            {"refusal": MISMATCH},
            f"torch 2.13.0 with CUDA 13.0 cannot use the NVIDIA H100 80GB HBM3 (compute capability 9.0) ({MISMATCH}): "
            f"{ON_CPU} see what nvidia-smi says of the driver (after an update of it, restart the machine)",
        ),
        (
            {"refusal": NO_GPU, "visible": ""},
            f"CUDA_VISIBLE_DEVICES='' hides the NVIDIA H100 80GB HBM3 (compute capability 9.0): {ON_CPU} unset that "
            "variable",
        ),
    ],
)
def test_a_card_that_torch_cannot_start_stops_a_run(changes, sentence):
    facts = dataclasses.replace(CUDA_13, **changes)
    assert devices.problem(facts, "auto") == devices.problem(facts, "gpu") == sentence


@pytest.mark.parametrize(
    ("visible", "hides"),
    [("", True), ("-1", True), ("1", True), ("NoDevFiles", True), ("0", False), ("0,1", False), (None, False)],
)
def test_only_a_variable_that_leaves_no_card_is_blamed(visible, hides):
    said = devices.problem(dataclasses.replace(CUDA_13, refusal=NO_GPU, visible=visible), "auto")
    assert said.startswith("CUDA_VISIBLE_DEVICES=") is hides
    assert NO_GPU in said or hides


def test_a_card_without_kernels_is_told_the_build_that_has_them():
    facts = dataclasses.replace(CUDA_13, usable=(V100,))
    assert devices.problem(facts, "auto") == (
        "torch 2.13.0 with CUDA 13.0 has no kernels for the Tesla V100-SXM2-16GB (compute capability 7.0) (sm_75 sm_80 "
        f"sm_86 sm_90 sm_100 sm_120 compute_120): {ON_CPU} {CU126_STEP}"
    )
    older = dataclasses.replace(CUDA_13, torch="2.11.0", cuda="12.6", kernels=CU126, usable=(B200,))
    assert devices.problem(older, "gpu").endswith(CU130_STEP.replace("2.13.0", "2.11.0"))


def test_a_card_that_works_is_no_problem_whatever_the_build_says_of_its_kernels():
    assert devices.problem(WORKING, "auto") is None
    assert devices.problem(dataclasses.replace(WORKING, kernels=(), usable=(V100,)), "gpu") is None


def test_nothing_is_a_problem_for_a_run_on_the_cpu():
    for facts in (CPU_BUILD, CUDA_13, dataclasses.replace(CUDA_13, usable=(V100,)), Facts(torch="2.13.0")):
        assert devices.problem(facts, "cpu") is None


def test_a_machine_without_a_card_trains_on_the_cpu_unless_a_gpu_is_asked_for():
    facts = Facts(torch="2.13.0+cu130", cuda="13.0", refusal="Found no NVIDIA driver on your system.")
    assert devices.problem(facts, "auto") is None
    for accelerator in ("gpu", "cuda"):
        assert devices.problem(facts, accelerator) == (
            f"trainer.accelerator is {accelerator}, and no NVIDIA driver shows a card here: {ON_CPU} install the "
            "driver (a container needs docker run --gpus all)"
        )


def test_cards_of_amd_and_apple_are_left_to_lightning():
    rocm = Facts(torch="2.13.0+rocm7.2", rocm="7.2", cards=(H100,), usable=(Card("AMD Instinct MI250X"),))
    mac = Facts(torch="2.13.0", mps=True)
    for accelerator in ("auto", "gpu"):
        assert devices.problem(rocm, accelerator) is None
        assert devices.problem(mac, accelerator) is None
    assert devices.describe(rocm, "gpu") == "device: AMD Instinct MI250X, torch 2.13.0 with ROCm 7.2"
    assert devices.accelerator_used(mac, "gpu") == "mps"
    assert devices.precision_warning(rocm, "gpu", "bf16-mixed") is None


# Which card, and in which precision


def test_the_cards_of_a_run_are_those_that_devices_names():
    cards = (H100, T4, V100)
    for asked in (1, "1", [0], "0,"):
        assert devices.chosen(cards, asked) == (H100,)
    for asked in ([1], "1,"):
        assert devices.chosen(cards, asked) == (T4,)
    assert devices.chosen(cards, 2) == (H100, T4)
    assert devices.chosen(cards, [2, 0]) == devices.chosen(cards, "2,0") == (V100, H100)
    for asked in ("auto", -1, "-1", [7], 0):  # the last two are refused by Lightning
        assert devices.chosen(cards, asked) == cards


def test_what_lightning_makes_of_the_accelerator():
    assert devices.accelerator_used(WORKING, "auto") == "gpu"
    assert devices.accelerator_used(Facts(torch="2.13.0"), "auto") == "cpu"
    assert devices.accelerator_used(WORKING, "cpu") == "cpu"
    assert devices.accelerator_used(WORKING, "tpu") == "tpu"


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "bf16", "16-mixed", "16", 16])
def test_bf16_on_a_cpu_without_instructions_for_it_gets_a_warning(precision):
    facts = Facts(torch="2.13.0+cpu", flags=frozenset({"avx2", "avx512f"}))
    assert devices.precision_warning(facts, "cpu", precision) == (
        f"trainer.precision {precision} is bf16 on a CPU, and this one has neither amx_bf16 nor avx512_bf16, without "
        "which a step took 42 times as long as in fp32: set trainer.precision: 32-true"
    )
    for flag in ("amx_bf16", "avx512_bf16", "bf16"):
        able = dataclasses.replace(facts, flags=facts.flags | {flag})
        assert devices.precision_warning(able, "cpu", precision) is None
    assert devices.precision_warning(dataclasses.replace(facts, flags=frozenset()), "cpu", precision) is None


@pytest.mark.parametrize("precision", [None, 32, "32-true", "64", "16-true"])
def test_other_precisions_get_no_warning(precision):
    facts = Facts(torch="2.13.0", flags=frozenset({"avx2"}), usable=(T4,))
    assert devices.precision_warning(facts, "cpu", precision) is None
    assert devices.precision_warning(facts, "gpu", precision) is None


def test_bf16_on_a_card_below_ampere_gets_a_warning():
    turing = dataclasses.replace(WORKING, usable=(H100, T4))
    for precision in ("bf16-mixed", "bf16-true", "bf16"):
        assert devices.precision_warning(WORKING, "gpu", precision) is None
        assert devices.precision_warning(turing, "gpu", precision) == (
            f"trainer.precision {precision} is emulated on the Tesla T4 (compute capability 7.5), bf16 begins with "
            "8.0: set trainer.precision: 16-mixed"
        )
    assert devices.precision_warning(turing, "gpu", "16-mixed") is None


# What is said


def test_the_first_line_names_device_driver_and_torch():
    assert devices.describe(WORKING, "gpu") == (
        "device: NVIDIA H100 80GB HBM3 (compute capability 9.0), NVIDIA driver 580.95.05, torch 2.13.0 with CUDA 13.0"
    )
    several = dataclasses.replace(WORKING, usable=(T4, T4, V100), driver=None)
    assert devices.describe(several, "gpu") == (
        "device: Tesla T4 (compute capability 7.5), Tesla V100-SXM2-16GB (compute capability 7.0), torch 2.13.0 with "
        "CUDA 13.0"
    )
    assert devices.describe(WORKING, "tpu") == "device: tpu, torch 2.13.0 with CUDA 13.0"


def test_the_first_line_of_a_run_on_the_cpu_names_what_makes_it_fast_and_what_is_not_used(tmp_path):
    xeon = Facts(
        torch="2.13.0+cpu", cpu="Intel(R) Xeon(R) Processor", flags=frozenset({"avx2", "amx_bf16", "sse2"}), threads=2
    )
    line = "device: cpu, Intel(R) Xeon(R) Processor (amx_bf16 avx2), 2 threads, torch 2.13.0 (CPU build)"
    assert devices.describe(xeon, "cpu") == line
    beside = dataclasses.replace(xeon, cards=(T4,), driver="570.86.15")
    assert devices.describe(beside, "cpu") == (
        f"{line}; not used: Tesla T4 (compute capability 7.5), NVIDIA driver 570.86.15"
    )
    arm = devices.read_facts(False, written(tmp_path, {"proc/cpuinfo": GRAVITON}))
    assert "device: cpu, " in devices.describe(arm, "cpu") and "(bf16)" in devices.describe(arm, "cpu")


def test_a_slow_precision_is_said_behind_the_device(two_cards, capsys):
    devices.require_device("cpu", "auto", "bf16-mixed", two_cards)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("device: cpu, AMD EPYC 7B13 (avx2), ")
    assert first.endswith("; not used: GeForce GTX TITAN X, GeForce GTX 1080 Ti, NVIDIA driver 515.65.01")
    assert second.startswith("warning: trainer.precision bf16-mixed is bf16 on a CPU") and second.endswith("32-true")


# The stages


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_training_stops_beside_a_card_before_data_is_read(nvidia_smi, tmp_path):
    nvidia_smi("echo '580.95.05, 9.0, NVIDIA H100 80GB HBM3'")
    said = refusal("trainer.py", "--config", CONFIG, "--trainer.accelerator", "auto", cwd=tmp_path)
    release = torch.__version__.partition("+")[0]
    assert said == (
        f"torch {release} (CPU build) cannot use the NVIDIA H100 80GB HBM3 (compute capability 9.0) of this machine: "
        f"{ON_CPU} {CU130_STEP.replace('2.13.0', release)}"
    )


def test_the_cpu_can_be_asked_for_beside_a_card(nvidia_smi, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nvidia_smi("echo '580.95.05, 9.0, NVIDIA H100 80GB HBM3'")
    with pytest.raises(StageError, match=r"^output/model"):  # the next thing that is missing
        training.TrainingCLI(["--config", str(CONFIG), "--trainer.accelerator=cpu"])
    assert capsys.readouterr().err.startswith("device: cpu, ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a card here")
def test_a_gpu_that_is_not_there_is_refused_in_our_words(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    if devices.system_cards():
        pytest.skip("there is a card here")
    with pytest.raises(StageError, match="^trainer.accelerator is gpu, and no NVIDIA driver shows a card here: "):
        trainer.main(["--trainer.accelerator", "gpu"])


# Compilation


def test_compilation_needs_a_compiler_and_the_headers_of_python(monkeypatch, tmp_path):
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for on_gpu, language, package in ((True, "C", "gcc"), (False, "C++", "g++")):
        with pytest.raises(StageError) as refused:
            devices.require_compiler(on_gpu)
        assert str(refused.value) == (
            f"model.compile is true, and this machine has no {language} compiler: install it (apt-get install "
            f"{package}), or set model.compile: false"
        )
    (tmp_path / "mine").touch(0o755)
    monkeypatch.setenv("CC", "mine")
    headers = tmp_path / "include"
    monkeypatch.setattr(devices.sysconfig, "get_path", lambda name: str(headers))
    with pytest.raises(
        StageError, match=f"this machine has no {headers}/Python.h: install it .apt-get install python3-dev"
    ):
        devices.require_compiler(True)
    headers.mkdir()
    (headers / "Python.h").touch()
    devices.require_compiler(True)

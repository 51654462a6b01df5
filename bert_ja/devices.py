"""The device of a run: what the machine has, what torch can use of it, and what to do where the two differ.

`read_facts` asks the machine and decides nothing; `problem`, `precision_warning` and `describe` decide from its facts
and ask nothing; `require_device` puts them together.
"""

import dataclasses
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import torch

from bert_ja.cli import StageError, say

GPU = ("auto", "gpu", "cuda")  # values of trainer.accelerator that mean a card where there is one
ON_CPU = "pass --trainer.accelerator cpu (test.py: --accelerator cpu)"
# Oldest driver for a major version of CUDA, all minor ones alike (docs.nvidia.com/deploy/cuda-compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# CUDA 12.6 and 13.0 are the two that every torch from 2.11 to 2.14 is built for: wheel index, CUDA, and the lowest and
# highest compute capability of its kernels (RELEASE.md of pytorch, "PyTorch CUDA Support Matrix"). Best one first.
WHEELS = (("cu130", 13, (7, 5), (12, 1)), ("cu126", 12, (5, 0), (9, 0)))
LOWEST_ON_ARM = (8, 0)  # of the wheels for aarch64
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # of /proc/cpuinfo; the last one is ARM's
FAST_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16")  # what tells how fast a CPU is
BF16_CAPABILITY = (8, 0)  # Ampere; older cards emulate it


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU: its name and, where it is known, its compute capability, (9, 0) for an H100."""

    name: str = "NVIDIA card"
    capability: tuple[int, int] | None = None

    def __str__(self) -> str:
        known = f" (compute capability {self.capability[0]}.{self.capability[1]})" if self.capability else ""
        return self.name + known


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `read_facts` found."""

    torch: str  # version, "2.13.0+cu130"
    cuda: str | None = None  # that torch is built with, "13.0"
    rocm: str | None = None  # likewise, for cards of AMD
    mps: bool = False  # the GPU of an Apple machine
    kernels: tuple[str, ...] = ()  # ("sm_90", "compute_90"), of torch
    usable: tuple[Card, ...] = ()  # cards that torch has started
    refusal: str = ""  # why it has none, in torch's words
    cards: tuple[Card, ...] = ()  # NVIDIA cards that this machine, or this container, has
    driver: str | None = None  # of NVIDIA, "570.86.15"
    visible: str | None = None  # the variable CUDA_VISIBLE_DEVICES
    machine: str = "x86_64"
    cpu: str = "unknown"
    flags: frozenset[str] = frozenset()
    threads: int = 1

    @property
    def build(self) -> str:
        """torch in words: torch 2.13.0 with CUDA 13.0."""
        kind = f"with CUDA {self.cuda}" if self.cuda else f"with ROCm {self.rocm}" if self.rocm else "(CPU build)"
        return f"torch {self.torch.partition('+')[0]} {kind}"


# Tensor-core peaks for dense fp16 and bf16 with fp32 accumulation, in TFLOP/s, from NVIDIA's data sheets (which often
# print twice as much, "with sparsity"), by the name that the driver gives. No laptop cards and no MIG slices.
PEAKS = {
    r"H200|H100 80GB HBM3|GH200 480GB": 989,
    r"H100 NVL|H200 NVL": 835,
    r"H100 PCIe": 756,
    r"A100-SXM4-\d+GB|A100-PCIE-40GB|A100 80GB PCIe": 312,
    r"L40S": 362,
    r"L40": 181,
    r"L4": 121,
    r"A30|GeForce RTX 4090": 165,
    r"RTX A6000": 155,
    r"A40": 150,
    r"A10|V100-SXM2-\d+GB": 125,
    r"V100-PCIE-\d+GB": 112,
    r"GeForce RTX 3090": 71,
    r"T4": 65,
}


def peak_flops(name: str) -> float | None:
    """FLOP/s that a card of this name could reach in fp16 or bf16, None where that is not known for certain."""
    found = (tera for pattern, tera in PEAKS.items() if re.fullmatch(f"(NVIDIA|Tesla) ({pattern})", name))
    return next((tera * 1e12 for tera in found), None)


# Facts


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _field(text: str, *names: str) -> str:
    """The value of the first `name : value` line: ("Model: \t Tesla T4", "Model") -> "Tesla T4"."""
    found = re.search(rf"^(?:{'|'.join(names)})[ \t]*:[ \t]*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def system_cards(root: Path = Path("/")) -> tuple[Card, ...]:
    """Cards that have a device file, named where the driver tells its model.

    The file decides: a container that was given no card still sees the machine's /proc/driver/nvidia.
    """
    names = {}
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        text = _text(path)
        names[_field(text, "Device Minor")] = _field(text, "Model") or Card.name
    minors = [path.name.removeprefix("nvidia") for path in root.glob("dev/nvidia[0-9]*")]
    return tuple(Card(names.get(minor, Card.name)) for minor in sorted(filter(str.isdecimal, minors), key=int))


def driver_version(root: Path = Path("/")) -> str | None:
    """The version of the NVIDIA driver in the kernel, "570.86.15"; a container that was given no card sees it too."""
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", _text(root / "proc/driver/nvidia/version"))
    return found.group(1) if found else None


def smi_cards(seconds: float = 30) -> tuple[tuple[Card, ...], str | None]:
    """(cards, driver) of nvidia-smi, ((), None) where it is not, fails, or takes longer than `seconds`."""
    command = ["nvidia-smi", "--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired):
        return (), None
    # What a card does not have reads [N/A]. Errors go to stdout too, and old drivers know no compute_cap.
    rows = re.findall(r"^([\d.]+), (?:(\d+)\.(\d+)|[^,\n]*), (.+)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not rows:
        return (), None
    cards = tuple(Card(name.strip(), (int(major), int(minor)) if major else None) for _, major, minor, name in rows)
    return cards, rows[0][0]


def torch_cards() -> tuple[tuple[Card, ...], str]:
    """(cards that torch can start, "") or ((), its reason): torch.cuda.is_available() only counts, under Lightning."""
    if not (torch.version.cuda or torch.version.hip):
        return (), "it is a CPU build"
    try:
        with warnings.catch_warnings():  # of cards that it has no kernels for, in a page of text
            warnings.simplefilter("ignore")
            torch.cuda.init()
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return (), (str(error).strip().splitlines() or [type(error).__name__])[0]
    return tuple(Card(card.name, (card.major, card.minor) if torch.version.cuda else None) for card in found), ""


def read_facts(with_cards: bool = True, root: Path = Path("/")) -> Facts:
    """The facts of this machine, from /proc, /dev, nvidia-smi and torch.

    `with_cards` False starts neither CUDA nor nvidia-smi, which can hang where a driver is broken: a run on the CPU
    must not need them.
    """
    usable, refusal = torch_cards() if with_cards else ((), "")
    driver = driver_version(root)
    cards, of_smi = smi_cards() if with_cards and not (usable and driver) else ((), None)
    info = _text(root / "proc/cpuinfo")
    return Facts(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        rocm=torch.version.hip,
        mps=torch.backends.mps.is_available(),
        kernels=tuple(torch.cuda.get_arch_list()),
        usable=usable,
        refusal=refusal,
        cards=cards or system_cards(root),
        driver=driver or of_smi,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        machine=platform.machine(),
        cpu=_field(info, "model name") or platform.machine(),
        flags=frozenset(_field(info, "flags", "Features").split()),
        threads=torch.get_num_threads(),
    )


def name_of(device: torch.device) -> str:
    """A device as a model card names it: "NVIDIA H100 80GB HBM3", "AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = read_facts(with_cards=False)
    threads = f"{facts.threads} thread{'s' * (facts.threads > 1)}"
    return f"{facts.cpu}, {threads}" if device.type == "cpu" else device.type


# Decisions


def runs_on(kernels: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether a card can run one of these kernels: sm_86 runs on 8.6 and 8.9, compute_86 (PTX) on 9.0 too.

    sm_90a is for 9.0 alone, sm_100f for 10.x (CUDA C++ Programming Guide, Compute Capability).
    """
    for kind, major, minor, suffix in re.findall(r"\b(sm|compute)_(\d+)(\d)([af]?)\b", " ".join(kernels)):
        built = (int(major), int(minor))
        same_major, ptx = built[0] == capability[0], kind == "compute" and not suffix
        if built == capability or (suffix != "a" and built < capability and (same_major or ptx)):
            return True
    return False


def _major(version: str | None) -> int:
    return int(version.split(".")[0]) if version else 0


def _hides(visible: str | None, cards: int) -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves none of so many cards: CUDA stops at the first entry that is no card."""
    first = (visible or "").partition(",")[0].strip()
    return visible is not None and not (first.isdecimal() and int(first) < cards)


def install_step(facts: Facts, card: Card) -> str:
    """What brings a torch that runs on this card with its driver: a command, a newer driver, or a page to read.

    The command pins the version with its +cuNNN: to pip, an installed 2.13.0+cpu satisfies torch==2.13.0.
    """
    release = re.match(r"\d+\.\d+\.\d+", facts.torch)
    arm = facts.machine == "aarch64"
    drivers = {
        index: OLDEST_DRIVER[cuda]
        for index, cuda, lowest, highest in WHEELS
        if card.capability is None or max(lowest, LOWEST_ON_ARM if arm else lowest) <= card.capability <= highest
    }
    fitting = [index for index, oldest in drivers.items() if oldest <= _major(facts.driver)]
    if release and fitting:
        torch_there = f"torch=={release.group()}+{fitting[0]} --index-url https://download.pytorch.org/whl/{fitting[0]}"
        return f"run {shlex.quote(sys.executable)} -m pip install {torch_there}"
    if facts.driver and drivers and not fitting:
        return f"update the NVIDIA driver {facts.driver} to {min(drivers.values())} or newer"
    return "install a build of torch that fits, see https://pytorch.org/get-started/locally"


def _unusable(facts: Facts) -> str:
    """The sentence about cards of which torch can start none."""
    card, oldest = facts.cards[0], OLDEST_DRIVER.get(_major(facts.cuda), 0)
    if facts.cuda is None:
        return f"{facts.build} cannot use the {card} of this machine: {ON_CPU}, or {install_step(facts, card)}"
    # Hidden cards stop a run too. The variable is often inherited, from a scheduler or a notebook: a run that takes it
    # for a wish trains on the CPU for weeks before anyone looks, a run that stops costs those who meant it one flag.
    if "No CUDA GPUs are available" in facts.refusal and _hides(facts.visible, len(facts.cards)):
        return f"CUDA_VISIBLE_DEVICES={shlex.quote(facts.visible)} hides the {card}: {ON_CPU}, or unset that variable"
    if "too old" in facts.refusal or (facts.driver and _major(facts.driver) < oldest):
        return (
            f"the NVIDIA driver{f' {facts.driver}' if facts.driver else ''} is too old for {facts.build}, which needs "
            f"{f'{oldest} or newer' if oldest else 'a newer one'} to use the {card}: {ON_CPU}, or "
            f"{install_step(facts, card)}"
        )
    return (
        f"{facts.build} cannot use the {card} ({facts.refusal}): {ON_CPU}, or see what nvidia-smi says of the driver "
        "(after an update of it, restart the machine)"
    )


def problem(facts: Facts, accelerator) -> str | None:
    """Why a run with this trainer.accelerator must not start, in one sentence that ends in what mends it, or None.

    Only NVIDIA cards are judged: AMD's and Apple's are Lightning's business. "cpu" never has a problem; "auto" has one
    beside a card that cannot be used, since it would take weeks instead of hours.
    """
    if accelerator not in GPU or facts.rocm or facts.mps:
        return None
    if not facts.usable and facts.cards:
        return _unusable(facts)
    if not facts.usable and accelerator != "auto":
        return (
            f"trainer.accelerator is {accelerator}, and no NVIDIA driver shows a card here: {ON_CPU}, or install the "
            "driver (a container needs docker run --gpus all)"
        )
    for card in facts.usable if facts.kernels else ():
        if card.capability and not runs_on(facts.kernels, card.capability):
            kernels = " ".join(facts.kernels)
            return f"{facts.build} has no kernels for the {card} ({kernels}): {ON_CPU}, or {install_step(facts, card)}"
    return None


def accelerator_used(facts: Facts, accelerator) -> str:
    """What Lightning makes of trainer.accelerator on this machine: "gpu", "mps", "cpu", or the value itself."""
    if accelerator not in GPU:
        return str(getattr(accelerator, "class_path", accelerator))
    return "gpu" if facts.usable else "mps" if facts.mps else "cpu"


def precision_warning(facts: Facts, used: str, precision) -> str | None:
    """What is faster than bf16 on a device that has no units for it, or None; `used` as of accelerator_used.

    16-mixed counts on a CPU, where Lightning takes it for bf16-mixed. A CPU whose flags are unknown gets no warning.
    """
    asked, bf16 = f"trainer.precision {precision}", "bf16" in str(precision)
    slow_cpu = bool(facts.flags) and facts.flags.isdisjoint(BF16_FLAGS)
    if used == "cpu" and slow_cpu and (bf16 or str(precision) in ("16", "16-mixed")):
        return (  # measured for BERT base on an AMD core with AVX2
            f"{asked} is bf16 on a CPU, and this one has neither amx_bf16 nor avx512_bf16, without which a step took "
            "42 times as long as in fp32: set trainer.precision: 32-true"
        )
    for card in facts.usable if used == "gpu" and bf16 else ():
        if card.capability and card.capability < BF16_CAPABILITY:
            return f"{asked} is emulated on the {card}, bf16 begins with 8.0: set trainer.precision: 16-mixed"
    return None


def _names(cards: tuple[Card, ...]) -> str:
    return ", ".join(dict.fromkeys(map(str, cards)))


def describe(facts: Facts, used: str) -> str:
    """The line at the start of a run: its device, the driver, torch and its CUDA; `used` as of accelerator_used."""
    driver = [f"NVIDIA driver {facts.driver}"] if facts.driver else []
    if used == "gpu":
        return f"device: {', '.join([_names(facts.usable), *driver, facts.build])}"
    if used != "cpu":
        return f"device: {used}, {facts.build}"
    fast = " ".join(flag for flag in FAST_FLAGS if flag in facts.flags)
    cpu = facts.cpu + (f" ({fast})" if fast else "")
    line = f"device: cpu, {cpu}, {facts.threads} threads, {facts.build}"
    if facts.cards:
        return f"{line}; not used: {', '.join([_names(facts.cards), *driver])}"
    return line + (f"; {driver[0]} is loaded, but this container was given no card" if driver else "")


def chosen(cards: tuple[Card, ...], devices) -> tuple[Card, ...]:
    """The cards that trainer.devices names: 1 the first one, [1] and "1," the second, "auto" and -1 all.

    Numbers that no card has are left to Lightning, which says so.
    """
    if str(devices).isdecimal():
        return cards[: int(devices)] or cards
    named = () if str(devices) == "-1" else map(int, re.findall(r"\d+", str(devices)))
    return tuple(cards[number] for number in named if number < len(cards)) or cards


def require_device(accelerator, devices, precision, root: Path = Path("/")) -> None:
    """Say which device a run with these options of `trainer:` gets, and warn of a precision that is slow on it.

    Raises StageError where the machine has an NVIDIA card that torch cannot use and nobody asked for the CPU.
    """
    facts = read_facts(accelerator in GPU, root)
    facts = dataclasses.replace(facts, usable=chosen(facts.usable, devices))
    if sentence := problem(facts, accelerator):
        raise StageError(sentence)
    used = accelerator_used(facts, accelerator)
    say(describe(facts, used))
    if warning := precision_warning(facts, used, precision):
        say(f"warning: {warning}")


# Compilation


def require_compiler(on_gpu: bool) -> None:
    """Refuse model.compile on a machine without the compiler that torch calls, C for a GPU and C++ for a CPU."""
    variable, *names = ("CC", "gcc", "clang", "cc") if on_gpu else ("CXX", "g++", "clang++", "c++")
    named = os.environ.get(variable)
    headers = Path(sysconfig.get_path("include"), "Python.h")
    found = any(map(shutil.which, [named] if named else names))
    if not found or not headers.is_file():
        what = f"no {'C' if on_gpu else 'C++'} compiler" if not found else f"no {headers}"
        package = ("gcc" if on_gpu else "g++") if not found else "python3-dev"
        raise StageError(
            f"model.compile is true, and this machine has {what}: install it (apt-get install {package}), or set "
            "model.compile: false"
        )

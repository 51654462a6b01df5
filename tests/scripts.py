"""Runs scripts of the repository, each in a process of its own that need not import torch, Lightning and transformers.

A server imports them once; the process of a script is forked from it, and imports what the script itself is: so a
refusal takes a test a tenth of a second instead of eight. What depends on a new interpreter has one (conftest.stage).
"""

import multiprocessing
import multiprocessing.reduction
import os
import runpy
import sys
from pathlib import Path

LIBRARIES = ["pytorch_lightning.cli", "transformers.models.bert.modeling_bert", "tensorboard.compat"]
LIBRARIES += ["torch.utils.tensorboard", "sentencepiece", "fire", "orjson", "huggingface_hub"]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(LIBRARIES)


class Descriptor:
    """An open file of this process that the new one gets as a number of its own."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self) -> tuple:
        return _received, (multiprocessing.reduction.DupFd(self.number),)


def _received(sent) -> int:
    return sent.detach()


def _become(script: Path, arguments: list[str], cwd: Path, environment: dict[str, str], streams: list[int]) -> None:
    """In the new process: what a shell and the interpreter would have made of it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


def start(script: Path, arguments: list[str], cwd: Path, streams: list[int]) -> multiprocessing.Process:
    """Start a script with these arguments, the environment of this process, and its input, output and errors."""
    streams = list(map(Descriptor, streams))
    process = context.Process(target=_become, args=(script, arguments, cwd.absolute(), dict(os.environ), streams))
    process.start()
    return process

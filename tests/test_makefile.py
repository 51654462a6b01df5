"""make .venv, as far as it needs no network: on an environment that has everything already."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def clone(tmp_path) -> Path:
    for name in ("Makefile", "requirements.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=200)


@pytest.mark.full
def test_an_environment_with_a_fitting_torch_is_used_and_set_up_once(clone):
    options = (".venv", f"PYTHON={sys.executable}", "PIP_ARGS=--no-index")
    first = make(clone, *options)
    assert first.returncode == 0, first.stderr
    assert f"using the torch of {sys.executable}" in first.stdout
    code = "import torch, transformers; print(torch.__file__)"
    ours = subprocess.run([clone / ".venv/bin/python", "-c", code], capture_output=True, text=True)
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ours.stdout == here.stdout != ""
    assert "venv" not in make(clone, *options).stdout.replace("'.venv'", "")


@pytest.mark.full
def test_an_installation_that_fails_is_not_taken_for_done(clone):
    (clone / "requirements.txt").write_text("no-such-package-of-bert-ja==1.0\n")
    for _ in range(2):
        failed = make(clone, ".venv", f"PYTHON={sys.executable}", "PIP_ARGS=--no-index")
        assert failed.returncode != 0
        assert "no-such-package-of-bert-ja" in failed.stderr


def test_a_missing_python_is_told(clone):
    failed = make(clone, ".venv", "PYTHON=no-such-python")
    assert failed.returncode != 0
    assert "no-such-python is not Python 3.11 or newer: name one with make PYTHON=..." in failed.stderr

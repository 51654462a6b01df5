"""The folder of a model in sentence-transformers, as README shows it: the mean of the last layer over the tokens."""

import re
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from test_parity import write_bert
from test_tokenization import small_model

from bert_ja import tokenization

PYTHON = ROOT / ".venv-sentence" / "bin" / "python"


def snippet() -> str:
    """README's lines for sentence-transformers."""
    blocks = re.findall(r"```python\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "import sentence_transformers" in block]
    return block


@pytest.mark.full
def test_readmes_lines_give_the_mean_over_the_tokens(tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    if not PYTHON.is_file():
        pytest.skip(".venv-sentence is not built: make .venv-sentence")
    folder = write_bert(tmp_path / "release" / "bert-base-ja")
    tokenization.write_tokenizer_folder(small_model(), folder)
    code = snippet() + "\nimport numpy\nnumpy.save('vectors.npy', vectors)"
    done = subprocess.run([PYTHON, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "tensor([[1.0000, 0." in done.stdout
    sentences = re.findall(r'"([^"]*。)"', snippet())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in sentences]
    assert len(sentences) == 2
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), torch.stack(means).numpy(), atol=1e-6)

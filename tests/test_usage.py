"""The released folder in use, as README and the model card show it: each example runs on the pipeline's release."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

NAME = "release/bert-base-ja"  # in README


def examples(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def of_readme() -> list[str]:
    """The Python below "The released folder in use"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return examples(text.partition("### The released folder in use\n")[2].partition("\n## ")[0])


def of_card(release: Path) -> list[str]:
    return [code.replace("NAME", NAME) for code in examples((release / "README.md").read_text(encoding="utf-8"))]


def run(code: str, release: Path) -> dict:
    """The names that an example has made."""
    assert NAME in code
    made: dict = {}
    exec(code.replace(NAME, str(release)), made)
    return made


def test_the_card_and_readme_fill_masks_as_the_card_says(release, capsys):
    for code in (of_readme()[0], of_card(release)[0]):
        run(code, release)
        printed = capsys.readouterr().out
        assert len(printed.splitlines()) == 5
        assert f"This model answers:\n\n```text\n{printed}```\n" in (release / "README.md").read_text()


def test_a_fine_tuning_starts_from_the_released_weights_and_learns(release):
    import torch
    from safetensors.torch import load_file

    code = of_readme()[1]
    assert code == of_card(release)[1]
    start = run(code.replace("range(3)", "range(0)"), release)["model"].state_dict()
    released = load_file(release / "model.safetensors")
    assert all(torch.equal(start[name], released[name]) for name in released if name in start)
    assert sum(name in start for name in released) > 30
    longer = code.replace("range(3)", "range(20)").replace("lr=5e-5", "lr=1e-3")  # of a small model, quickly
    torch.manual_seed(0)
    assert run(longer, release)["loss"].item() < 0.3 < 0.693  # ln 2, of a model that knows nothing


def test_readme_has_an_example_for_each_use():
    used = [re.search(r"^(?:from|import) (\w+)", code)[1] for code in of_readme()]
    assert used == ["transformers", "torch", "sentence_transformers", "numpy"]


@pytest.mark.parametrize("picture", ["loss_curve.png"])
def test_the_card_shows_pictures_that_lie_beside_it(release, picture):
    assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", (release / "README.md").read_text()) == [picture]
    assert (release / picture).read_bytes().startswith(b"\x89PNG")

"""Stage 7: the SentencePiece model to the tokenizer files of a model folder, built anew and verified.

Reads output/spm/sp.model; writes spm.model, tokenizer.json, tokenizer_config.json and tokenizer.meta.json into the
folder of export_model.py and touches nothing else there. What is there already must be the same bytes:

    python3 convert_tokenizer.py --spm_model output/spm/sp.model --output_dir model

--check_only True only compares a folder on any text: a JSON report on stdout, exit code 2 on a difference.
"""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from bert_ja import cli, files, tokenization

SPM_MODEL = "output/spm/sp.model"
TRAINING_TEXT = Path("data/train.txt")
SAMPLE_LINES, SAMPLE_SEED = 10_000, 1000  # of the training text, when no text is named
RECORD = files.TOKENIZER_RECORD  # meta.json is export_model.py's
NAME_A_TEXT = "pass --text_file with a text of one sentence a line"


def read_config(folder: Path) -> dict:
    """The model's config.json, empty where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise cli.StageError(f"{path} is damaged (not a JSON object): run export_model.py again")
    return config


def require_same_vocabulary(folder: Path, config: dict, spm_model: Path, vocab_size: int) -> None:
    expected = config.get("vocab_size", vocab_size)
    if expected != vocab_size:
        raise cli.StageError(
            f"{folder / 'config.json'} has vocab_size {expected}, {spm_model} has {vocab_size} pieces: "
            "pass the --spm_model that this model was trained with"
        )


def own_length(config_text: bytes) -> int | None:
    """The model_max_length of a tokenizer_config.json."""
    try:
        length = json.loads(config_text)["model_max_length"]
    except (ValueError, KeyError, TypeError):
        return None
    return length if isinstance(length, int) else None


def require_same_bytes(folder: Path, spm_model: Path, built: dict[str, bytes]) -> None:
    """Refuse to overwrite a tokenizer file with another; tokenizer_config.json may differ in model_max_length alone."""
    for name, content in built.items():
        path = folder / name
        found = path.read_bytes() if path.is_file() else content
        if found == content:
            continue
        length = own_length(found) if name == tokenization.CONFIG_FILE else None
        if length is None or found != tokenization.tokenizer_config_json(length).encode():
            raise cli.StageError(
                f"{path} is not what {spm_model} gives: pass the --spm_model that this model was trained with, "
                f"or move {name} away to have it built anew"
            )
        cli.say(f"{path}: model_max_length {length} is replaced by {own_length(content)}, the model's positions")


def text_lines(text: Path | None) -> tuple[Iterable[str], str]:
    """The lines to compare beside our own list, and what they are: all of a text, or a sample of the training text."""
    if text is not None:
        return tokenization.read_lines(text), str(text)
    eligible = tokenization.count_lines(TRAINING_TEXT).eligible
    sample = tokenization.draw_lines(TRAINING_TEXT, eligible, SAMPLE_LINES, SAMPLE_SEED, "parity")
    return sample, f"the sample of {TRAINING_TEXT}"


def compare(folder: Path, model: bytes, text: Path | None, private: bool) -> tokenization.Parity:
    """AutoTokenizer of `folder` against SentencePiece, on our own list and the text."""
    spm = tokenization.load_model(model)
    found = tokenization.check_parity(folder, tokenization.ADVERSARIAL_LINES, spm, "our own list", private)
    if text is None and not TRAINING_TEXT.is_file():
        cli.say(f"{TRAINING_TEXT} not found: only our own list is compared (pass --text_file to compare more)")
        return found
    lines, source = text_lines(text)
    lines = tqdm(lines, unit=" lines", unit_scale=True, desc="comparing")
    return found + tokenization.check_parity(folder, lines, spm, source, private)


def verify(
    folder: Path, model: bytes, built: dict[str, bytes], text: Path | None, private: bool
) -> tokenization.Parity:
    """Compare the files to be written, beside what else AutoTokenizer would read in `folder`, before they get there."""
    with files.work_folder(folder) as work:
        for path in sorted(folder.glob("*.json")):
            shutil.copyfile(path, work / path.name)
        for name, content in built.items():
            (work / name).write_bytes(content)
        found = compare(work, model, text, private)
    tokenization.require_parity(found, folder)
    return found


def report(folder: Path, spm_model: Path, model: bytes, text: Path | None, private: bool) -> None:
    """Print the comparison of a folder as JSON; raise StageError on a difference."""
    found = compare(folder, model, text, private)
    facts = tokenization.tokenizer_facts(spm_model)
    said = {"folder": str(folder), "tokenizer": facts, **found.record(), "first_difference": found.first}
    print(json.dumps(said, ensure_ascii=False, indent=1))
    tokenization.require_parity(found, folder)


def convert(folder: Path, spm_model: Path, model: bytes, text: Path | None, private: bool) -> tokenization.Parity:
    """Build, verify and write the tokenizer files of a model folder, and their record."""
    config = read_config(folder)
    facts = tokenization.tokenizer_facts(spm_model)
    require_same_vocabulary(folder, config, spm_model, facts["vocab_size"])
    files.require_space(folder, 2 * tokenization.folder_bytes(facts["vocab_size"]), "the tokenizer")  # work folder too
    built = tokenization.folder_files(model, config.get("max_position_embeddings", 512))
    require_same_bytes(folder, spm_model, built)
    parity = verify(folder, model, built, text, private)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    for name, content in built.items():
        files.write_bytes(folder / name, content)
    record = {
        "stage": "convert_tokenizer.py",
        "versions": files.versions("sentencepiece", "tokenizers", "transformers"),
        "inputs": [files.describe(spm_model)],
        "outputs": [files.describe(folder / name) for name in built],
        "tokenizer": facts,
        "parity": parity.record(),
        "corpus": files.corpus_facts(files.read_record(spm_model.parent), private),
        "history": files.history(spm_model.parent),
        "run": files.run_facts(spm_model=spm_model, output_dir=folder, text_file=text),
    }
    files.write_record(folder, record, RECORD)
    return parity


def main(
    spm_model: str | None = None,
    output_dir: str = "model",
    text_file: str | None = None,
    check_only: bool = False,
    private_corpus: bool | None = None,
) -> None:
    """Build the tokenizer files of a model folder from its SentencePiece model, or check those that are there.

    Args:
        spm_model: SentencePiece model to build from, output/spm/sp.model unless named; with --check_only the one to
            compare with, the folder's own spm.model unless named.
        output_dir: Model folder to write the files into, made when absent; its config.json decides on
            model_max_length. With --check_only the folder to check.
        text_file: Text whose every line is compared; unless named, 10,000 lines of data/train.txt where that is. Our
            own list of hard lines is always compared.
        check_only: Write nothing, compare, and print a JSON report.
        private_corpus: True keeps every piece of the text out of what this and all later stages print and record;
            when not given, what the record of the text, of the tokenizer or of the model folder says.
    """
    started = time.time()
    folder, text = Path(output_dir), Path(text_file) if text_file else None
    if folder.exists() and not folder.is_dir():
        raise cli.StageError(f"{folder} is a file, --output_dir needs a model folder")
    if check_only and not folder.is_dir():
        raise cli.StageError(f"{folder} not found: pass --output_dir with the tokenizer or model folder to check")
    source = tokenization.model_path(spm_model or (folder if check_only else SPM_MODEL))
    model = tokenization.read_model(source)
    if text is not None:
        files.require_text(text, NAME_A_TEXT)
    private = files.is_private(source.parent, folder, text or TRAINING_TEXT, asked=private_corpus)
    if check_only:
        report(folder, source, model, text, private)
        return
    parity = convert(folder, source, model, text, private)
    cli.say(
        f"wrote {', '.join(tokenization.FOLDER_FILES)} to {folder}, same ids by AutoTokenizer on "
        f"{parity.lines:,} lines, in {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)

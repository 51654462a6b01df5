"""What a release folder holds: model files without paths, card, changelog, picture, and the record of it all."""

import dataclasses
import shutil
from pathlib import Path

from bert_ja import cli, disclosure, files, hub, loss_curve, model_card, tokenization

STAGE = "release_model.py"
CARD, CHANGELOG = hub.CARD, hub.CHANGELOG
PLAIN_JSON = ("config.json", "tokenizer_config.json", "special_tokens_map.json")


def require_unedited(release: Path, changelog: Path | None) -> None:
    """Refuse to replace a card or changelog that somebody has edited since; one passed with --changelog is kept."""
    record = files.read_record(release) or {}
    for file in record.get("outputs", []):
        path = release / file["name"]
        passed = changelog is not None and changelog.resolve() == path.resolve()
        if file["name"] in (CARD, CHANGELOG) and path.is_file() and not passed and files.sha256(path) != file["sha256"]:
            hint = f", or pass --changelog {path}" if file["name"] == CHANGELOG else ""
            raise cli.StageError(f"{path} was edited, and the edit would be lost: move it away first{hint}")


def try_out(folder: Path, prompts: tuple[str, ...]) -> model_card.Tried:
    """What a folder that has passed the gate makes of the card's prompts."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tried = model_card.try_out(transformers.AutoModelForMaskedLM.from_pretrained(folder), tokenizer, prompts)
    spm_model = folder / tokenization.MODEL_FILE
    return dataclasses.replace(tried, spm_sha256=files.sha256(spm_model) if spm_model.is_file() else None)


def copy_model(folder: Path, source: Path, records: list[dict]) -> None:
    """Copy the files that the records name, without what a tokenizer of elsewhere tells of the machine it is from."""
    for name in sorted({file["name"] for record in records for file in record["outputs"]}):
        shutil.copyfile(source / name, folder / name)
        if name in PLAIN_JSON and (removed := disclosure.remove_paths(folder / name)):
            cli.say(f"left out of {name}, a path of this machine stands there: {', '.join(removed)}")
        if name.endswith(".model") and (removed := disclosure.remove_training_facts(folder / name)):
            cli.say(f"left out of {name}, of its training: {', '.join(removed)}")


def write_texts(folder: Path, facts: model_card.Facts, tag: str, changelog: bytes | None, template: str) -> None:
    """What describes a model: loss curve, card, changelog, .gitattributes."""
    facts = dataclasses.replace(facts, tried=try_out(folder, facts.prompts))
    if curve := facts.model.get("curve"):
        picture = loss_curve.draw(curve, facts.training.get("unigram_entropy"), model_card.second_name(facts))
        files.write_bytes(folder / model_card.PICTURE, picture)
    files.write_bytes(folder / CARD, model_card.model_card(facts, template).encode())
    files.write_bytes(folder / CHANGELOG, changelog or model_card.changelog(facts, tag).encode())
    files.write_bytes(folder / hub.ATTRIBUTES, hub.gitattributes(folder))


def release_record(facts: model_card.Facts, tag: str, outputs: list[dict], written: dict, history: dict) -> dict:
    """The record of a release: the records that it comes from, and nothing of this machine (no field `run`).

    `written` is said of each other format; `history` is that of all records, once.
    """
    scores = facts.scores
    records = [record for record in (facts.model, facts.tokenizer, facts.test_record) if record]
    records += [score.record for score in scores.values()]
    scored = {stage: {"result": score.content, "whole": score.whole} for stage, score in scores.items()}

    def hidden(name: str) -> bool:
        return facts.test_is_private and name in model_card.COUNTS

    return {
        "stage": STAGE,
        "options": {"name": facts.name, "license": facts.license, "tag": tag},
        "versions": files.versions("huggingface_hub", "transformers", "torch"),
        "inputs": list({file["name"]: file for record in records for file in record["outputs"] if file}.values()),
        "outputs": outputs,
        "tokenizer": facts.model["tokenizer"],
        "corpus": facts.corpus | {"private": any(files.corpus_facts(record)["private"] for record in records)},
        "result": facts.test and {name: facts.test[name] for name in facts.test if not hidden(name)},
        **({"scores": scored} if scored else {}),
        "formats": written,
        "records": {record["stage"]: {n: value for n, value in record.items() if n != "history"} for record in records},
        **history,
    }

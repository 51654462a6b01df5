"""Stage 8: an exported model to a release folder: model files, model card (README.md), loss curve, CHANGELOG.md.

Reads model/ (of export_model.py and convert_tokenizer.py), the result of test.py and those of the evaluations, all with
their records; writes release/NAME/, which holds no path and no name of this machine, after loading it once. With --repo
ACCOUNT/NAME it shows what it would upload to the Hub, and with --push True it does:

    python3 release_model.py --name bert-base-ja --test_result test_result.json

--verify RELEASE --data DIR releases nothing: it makes text, tokenizer and samples of a release again, from its dump.
"""

import dataclasses
import json
import re
from pathlib import Path

from bert_ja import (
    cli,
    disclosure,
    files,
    gate,
    hub,
    licences,
    model_card,
    release_folder,
    release_inputs,
    results,
    score_card,
    verification,
)
from bert_ja import formats as other_formats
from bert_ja.release_folder import STAGE

LICENSE = re.compile(r"[a-z0-9]+([.+-][a-z0-9]+)*", re.ASCII)


def check(model: Path, release: Path, name: str, license: str | None) -> None:
    """Refuse what cannot work, before anything is read."""
    cli.require(
        {
            "--name must be a repository name of the Hub without the account (letters, digits, -, _ and ., at most 96; "
            f"no -- or .., no - or . at an end, no .git), got {name!r}": hub.NAME.fullmatch(name) is not None,
            "--license must be a licence as the Hub abbreviates it, such as cc-by-sa-4.0, apache-2.0 or other, "
            f"got {license!r}": license is None or LICENSE.fullmatch(license) is not None,
        }
    )
    if not model.is_dir():
        raise cli.StageError(f"{model} is not a folder: run export_model.py first, or pass --model_dir")
    if release.resolve().is_relative_to(model.resolve()) or model.resolve().is_relative_to(release.resolve()):
        raise cli.StageError(f"{release} and {model} must be two folders: name another --release_dir")
    files.require_replaceable(release, STAGE)


def say_doubts(facts: model_card.Facts, records: list[dict | None], template: str) -> None:
    """Name on stderr what the card leaves out, and what its user has to judge."""
    for text in dict.fromkeys(text for record in records for text in disclosure.paths_in(record, facts.private)):
        cli.say(f"warning: left out of the release, it names a path of this machine: {text!r}")
    if unknown := model_card.unknown(facts, template):
        cli.say(f"not known, and left out of the card: {', '.join(unknown)}")
    for doubt in licences.doubts(facts.license, facts.licensed):
        cli.say(f"warning: {doubt}")
    if facts.private:
        cli.say(
            "warning: the corpus is private, and the vocabulary (spm.model, tokenizer.json) holds words of its text: "
            "read it before you hand the release on"
        )


def publish(release: Path, repo: str, tag: str, public: bool, token: str | None) -> None:
    """Upload a release, or show what would be uploaded where there is no token."""
    if token is not None:
        print(hub.push(release, repo, tag, public, token))
        return
    print(hub.plan(release, repo, tag, public))
    cli.say("nothing was sent: the same command with --push True uploads this")


def main(
    model_dir: str = "model",
    name: str | None = None,
    release_dir: str = "release",
    test_result: str | None = "test_result.json",
    jglue_result: str | None = None,
    text_result: str | None = None,
    license: str | None = None,
    changelog: str | None = None,
    formats: str = "safetensors",
    card_template: str | None = None,
    prompts: str | None = None,
    repo: str | None = None,
    push: bool = False,
    public: bool = False,
    tag: str = "v1.0",
    verify: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
) -> None:
    """Make the folder of a release; show or do what publishes it. Or, with --verify, check one.

    Args:
        model_dir: Folder of export_model.py, its tokenizer verified by convert_tokenizer.py.
        name: Name of the model: of its folder, of its repository on the Hub, and in the card; when not given, that of
            --repo, or else bert-base-ja.
        release_dir: Folder in which the folder NAME is made; an earlier release there is replaced.
        test_result: What test.py printed for the exported checkpoint, with its record beside it; none releases
            without results, and the card says that the model was not evaluated.
        jglue_result: What evaluate_jglue.py wrote, jglue.json or its folder, for the exported weights or their
            checkpoint; the card and its metadata have the scores then.
        text_result: The same for evaluate_text.py; of a file with several models, the scores of this one are taken.
        license: Licence of the model, as the Hub abbreviates it. When not given, cc-by-sa-4.0 where one of its texts is
            under CC BY-SA, as Wikipedia is, else that of the text, which must then be known. The licences of the texts
            come from their records.
        changelog: Your own changelog of the model, Markdown; when not given, one with a first entry is written. The
            version that is published needs an entry in it, under a heading such as ## v1.0.
        formats: Formats of the weights, parted by commas: safetensors, which is always there, onnx, tensorflow.
        card_template: Your own model card, made of configs/model_card.md: Markdown in which $facts are filled in. A
            line with a fact that is not known is left out.
        prompts: Text of prompts, one a line with one [MASK] each, whose fillings the card shows; when not given, the
            published one and three more.
        repo: Repository on the Hub, ACCOUNT/NAME; what would be uploaded there is shown, and nothing is sent.
        push: Upload to --repo: one commit, with a tag. The token comes from HF_TOKEN or `hf auth login`. After a
            failure run the same command again.
        public: Let everybody see the repository; without it only your account does.
        tag: Version of the release: its tag on the Hub, and its entry in the changelog.
        verify: Folder of a release to check; nothing is released then. Text, tokenizer and samples are made again by
            the recorded stages and compared. Each stage gets a line (ok, differs, not checked), stdout a JSON report;
            exit code 2 where anything differs or could be checked and was not.
        data: With --verify, folder of the dump's files, or of the text that the release was made from.
        work_dir: With --verify, folder for what is made again, as large as text and samples; it stays, and a
            verification that was ended goes on in it. When not given, a temporary one.
    """
    if verify is not None:
        checker = {"--verify needs --data, the folder of the dump or text that the release was made from": bool(data)}
        cli.require(checker | {"--verify releases nothing: leave --repo, --push and --public out": not (repo or push)})
        verification.verify(Path(verify), Path(data), Path(work_dir) if work_dir else None)
        return
    cli.require({"--data and --work_dir go with --verify RELEASE": data is None and work_dir is None})
    hub.check(repo, push, public, tag)
    name = release_inputs.name_of(repo, name)
    source, release = Path(model_dir), Path(release_dir) / name
    check(source, release, name, license)
    template, filled = model_card.read_template(card_template), model_card.read_prompts(prompts)
    token, chosen = hub.require_token(repo) if push else None, other_formats.require(formats)
    model, tokenizer = release_inputs.read_model(source)
    result, test = release_inputs.read_test(test_result, model, source) if test_result else (None, None)
    scored = release_inputs.read_scores({results.JGLUE: jglue_result, results.TEXT: text_result}, model, source)
    own_changelog = release_inputs.read_changelog(changelog, repo, tag)
    release_folder.require_unedited(release, Path(changelog) if changelog else None)
    size, private = sum(file["size"] for file in model["outputs"]), files.is_private(source)
    files.require_space(release_dir, int(1.01 * size * (1 + 2 * len(chosen))) + files.MEGABYTE, "the release")
    facts = model_card.Facts(
        name=name,
        license=license or "",
        model=model_card.public(model, private),
        tokenizer=model_card.public(tokenizer, private),
        config=json.loads((source / "config.json").read_text(encoding="utf-8")),
        parameters=model_card.count_parameters(source / "model.safetensors"),
        test=result,
        test_record=model_card.public(test, private),
        scores={stage: score_card.published(result, private) for stage, result in scored.items()},
        prompts=filled,
    )
    facts = dataclasses.replace(facts, license=license or release_inputs.require_license(facts))
    say_doubts(facts, [model, tokenizer, test, *(result.record for result in scored.values())], template)
    history = {} if private else verification.history_of(model_card.public, model, tokenizer, test)

    with files.output_folder(release, STAGE) as folder:
        release_folder.copy_model(folder, source, [record for record in (model, tokenizer) if record])
        gate.require_as_recorded(folder, source, model, private)
        written = other_formats.write(folder, chosen)
        release_folder.write_texts(folder, facts, tag, own_changelog, template)
        outputs = files.describe_folder(folder)
        files.write_record(folder, release_folder.release_record(facts, tag, outputs, written, history))
    size = sum(file["size"] for file in outputs)
    cli.say(
        f"wrote {len(outputs)} files, {size / files.MEGABYTE:,.1f} MB, to {release}, which answers as the export did"
    )
    if repo is not None:
        publish(release, repo, tag, public, token)


if __name__ == "__main__":
    cli.run(main)

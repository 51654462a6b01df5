"""Stage 6: a checkpoint to a Hugging Face model folder: weights, configuration and the run's tokenizer.

The folder loads offline with AutoModelForMaskedLM, BertForPreTraining and pipeline("fill-mask"); before it is put into
place it is loaded again, and its logits are compared with the checkpoint's:

    python3 export_model.py --ckpt_path best --output_dir model
"""

import json
import shutil
from pathlib import Path

from bert_ja import cli, encoding, files, tokenization

STAGE = "export_model.py"
LINES = (
    "日本語の文です。",
    "東京都に住んでいます。",
    "Tokyo 2020は延期された。",
)  # that a copied tokenizer is tried with
LARGEST_DIFFERENCE = 1e-5  # between logits of the checkpoint and of the exported folder


def write_tokenizer(source: Path, folder: Path, positions: int) -> None:
    """The run's tokenizer: ours with the model's longest sample as its model_max_length, any other byte for byte."""
    if tokenization.is_ours(source):
        tokenization.write_tokenizer_folder((source / tokenization.MODEL_FILE).read_bytes(), folder, positions)
        return
    for file in tokenization.tokenizer_files(source):
        shutil.copyfile(file, folder / file.name)
    trained, exported = encoding.open_encoder(source), tokenization.load_tokenizer(folder)
    wanted, found = trained.encode(list(LINES)), exported(list(LINES), add_special_tokens=False)["input_ids"]
    for line, ids, others in zip(LINES, wanted, found, strict=True):
        if ids != others:
            raise cli.StageError(
                f"AutoTokenizer does not tokenize as {source} did in training ({line}: {others} and {ids}): nothing "
                "was written, as the exported model would get ids that it was not trained with"
            )


def write_model(model, vocabulary, folder: Path) -> None:
    """Weights and config.json, under the architecture that the Hub's fill-mask widget looks for."""
    config = model.config
    config.pad_token_id, config.cls_token_id, config.sep_token_id = vocabulary.pad, vocabulary.cls, vocabulary.sep
    config.bos_token_id, config.eos_token_id, config.mask_token_id = vocabulary.cls, vocabulary.sep, vocabulary.mask
    model.save_pretrained(folder)
    path = folder / "config.json"
    written = json.loads(path.read_text()) | {"architectures": ["BertForMaskedLM"]}
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def largest_difference(model, folder: Path, vocabulary) -> float:
    """The largest difference between the logits of the model and of the folder, loaded anew, on random ids."""
    import torch
    from transformers import AutoModelForMaskedLM, BertForPreTraining

    ids = torch.randint(
        vocabulary.size, (4, min(64, model.config.max_position_embeddings)), generator=torch.Generator().manual_seed(0)
    )
    model.set_attn_implementation("sdpa")  # these are padded rows, packed ones need their places in rows
    with torch.no_grad():
        expected = model.eval()(ids)
        pretraining = BertForPreTraining.from_pretrained(folder).eval()(ids)
        masked = AutoModelForMaskedLM.from_pretrained(folder).eval()(ids)
    pairs = (
        (expected.prediction_logits, pretraining.prediction_logits),
        (expected.seq_relationship_logits, pretraining.seq_relationship_logits),
        (expected.prediction_logits, masked.logits),
    )
    return max(float((one - other).abs().max()) for one, other in pairs)


def main(ckpt_path: str = "best", config: str | None = None, output_dir: str = "model") -> None:
    """Export a checkpoint as a Hugging Face model folder.

    Args:
        ckpt_path: Checkpoint file, run folder (its best), best or last (both of the newest run).
        config: Configuration of the run; the config.yaml beside the checkpoint's folder when not given.
        output_dir: Folder to write; replaced if it was written by this stage.
    """
    from bert_ja import training

    training.quiet_start()
    training.quiet_loading()
    files.require_replaceable(output_dir, STAGE)
    path = training.find_checkpoint(ckpt_path)
    checkpoint = training.load_checkpoint(path)
    arguments = ["--config", str(training.find_config(config, path)), "--trainer.callbacks=null"]
    arguments += ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    arguments += ["--trainer.precision=32-true", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    command = training.TrainingCLI(arguments, checkpoint, save_config_callback=None)
    module, data = command.model, command.datamodule
    training.require_same_vocabulary(path, checkpoint, data.vocabulary)
    training.load_weights(module, path, checkpoint)
    corpus = files.corpus_facts(checkpoint["provenance"], data.is_private())

    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    files.require_space(Path(output_dir).absolute().parent, weights, "the exported model")
    with training.one_line_failures(), files.output_folder(output_dir, STAGE) as folder:
        write_model(module.model, data.vocabulary, folder)
        write_tokenizer(Path(data.tokenizer_model), folder, module.hparams.max_position_embeddings)
        difference = largest_difference(module.model, folder, data.vocabulary)
        if not difference <= LARGEST_DIFFERENCE:
            raise cli.StageError(
                f"the exported model differs from {path} by {difference:.2e} (at most {LARGEST_DIFFERENCE:.0e} is "
                "allowed): nothing was written, please report this"
            )
        record = {
            "stage": STAGE,
            "options": {},
            "versions": files.versions("torch", "transformers"),
            "inputs": [files.describe(path)],
            "outputs": files.describe_folder(folder),
            "tokenizer": data.vocabulary.facts(),
            "model": {name: value for name, value in checkpoint["hyper_parameters"].items() if name[0] != "_"},
            "steps": checkpoint["global_step"],
            "training": {name: fact for name, fact in checkpoint["provenance"].items() if name != "history"},
            **training.run_history(path, checkpoint),
            "corpus": corpus,
            "history": checkpoint["provenance"].get("history", []),  # earlier versions wrote none
            "run": files.run_facts(checkpoint=path, output_dir=output_dir),
        }
        files.write_record(folder, record)
    size = sum(file["size"] for file in record["outputs"])
    cli.say(
        f"wrote {len(record['outputs'])} files, {size / files.MEGABYTE:,.1f} MB, to {output_dir} "
        f"(step {checkpoint['global_step']:,}, largest difference of logits {difference:.1e})"
    )


if __name__ == "__main__":
    cli.run(main)

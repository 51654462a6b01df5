"""Stage 4: samples to a trained BERT, under lightning_logs/version_N (configuration, TensorBoard events, checkpoints).

Reads the JSONL files of prepare_train_data.py and a configuration; every option is in --help and --print_config:

    python3 trainer.py --print_config > config.yaml
    python3 trainer.py --doctor --config config.yaml
    python3 trainer.py --config config.yaml
    python3 trainer.py --resume
"""

import sys
import time

from bert_ja import cli, files


def report_start(trainer, plan, entropy: float) -> None:
    cli.say(f"training in {trainer.log_dir}")
    for line in plan.lines():
        cli.say(line)
    cli.say(f"unigram entropy of the training tokens: {entropy:.3f} nats; an MLM loss below it has learned context")


def report_end(trainer, entropy: float, started: float) -> None:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if "val_mlm_loss" in metrics:
        nsp = f", NSP accuracy {metrics['val_nsp_accuracy']:.4f}" if "val_nsp_accuracy" in metrics else ""
        each = "".join(
            f"; {name}: loss {metrics[f'val_loss/{name}']:.4f}, MLM loss {metrics[f'val_mlm_loss/{name}']:.4f}"
            for name in trainer.lightning_module.valid_names
        )
        cli.say(
            f"validation: loss {metrics['val_loss']:.4f}, MLM loss {metrics['val_mlm_loss']:.4f} (unigram entropy "
            f"{entropy:.3f}){nsp}{each}"
        )
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    cli.say(
        f"trained {trainer.global_step:,} optimizer steps in {time.time() - started:.0f} s, "
        f"best checkpoint: {best or '-'}"
    )


def prepare(command, before) -> tuple:
    """All that a run does before its first step but for writing, checks above all; `before` is what it goes on from.

    Returns its plan, the unigram entropy of its training tokens, and the line of its attention. Raises StageError.
    """
    from bert_ja import continuing, devices, monitoring, resuming, training
    from bert_ja.dataset import unigram_entropy
    from bert_ja.plan import make_plan, require_possible

    trainer, model, data = command.trainer, command.model, command.datamodule
    if trainer.logger is None:
        raise cli.StageError("trainer.logger is false, but a run stands in the logger's folder: leave that key out")
    if trainer.fast_dev_run:
        raise cli.StageError("trainer.fast_dev_run leaves no run to look at: set trainer.max_steps: 5 instead")
    if not before:
        resuming.require_new(trainer.log_dir)
    positions = model.hparams.max_position_embeddings
    for part in ("train", "valid"):
        data.require(part, positions)
    continued = before.content["provenance"].get("continued_from") if before else None
    if (folder := model.from_pretrained) is not None and not before:
        training.quiet_loading()
        private = data.is_private(folder)
        continued = continuing.begin(model.model, folder, data.tokenizer_model, data.vocabulary, private)
    if model.hparams.compile:
        devices.require_compiler(trainer.strategy.root_device.type == "cuda")
    columns = data.columns("train", positions)
    data.trainer = trainer  # as Lightning sets it, later
    plan = make_plan(trainer, data, model, training.kept_checkpoints(trainer))
    require_possible(plan, trainer, model.hparams.num_warmup_steps)
    if not columns[0].paired:
        model.leave_out_second_task()
    files.require_space(trainer.log_dir, plan.disk_bytes, "the set of checkpoints")
    entropy = unigram_entropy(columns, data.vocabulary)
    valid = data.columns("valid", positions)
    for part, opened in (("train", columns), ("valid", valid)):
        training.require_types(list(data.shares[part]), opened, model.hparams.type_vocab_size)
    training.require_monitor(trainer, valid)
    training.require_steps(trainer, model, plan.steps)
    data.plan_masks(plan.steps)
    training.require_shareable(trainer, list(data.shares["valid"]), valid)
    model.provenance = training.data_facts(data, continued) | {
        "unigram_entropy": entropy,
        "settings": training.settings(command.config, trainer),
    }
    if before:
        resuming.go_on(before, trainer, model, data)
    monitoring.attach(trainer, model, data, entropy)
    return plan, entropy, model.choose_attention(trainer.strategy.root_device, training.attention_dtype(trainer))


def main(arguments: list[str]) -> None:
    started = time.time()
    from bert_ja import doctor, resuming, training
    from bert_ja.callbacks import ExpectedEnd
    from bert_ja.memory import MemoryTrial

    training.quiet_start()
    training.join_run()
    arguments, examined = doctor.take_option(arguments)
    arguments, asked = resuming.take_option(arguments)
    before = resuming.find(asked) if asked is not None else None
    command = resuming.command(before, arguments) if before else training.TrainingCLI(arguments)
    if examined:
        doctor.examine(command, before, prepare)
        return
    trainer = command.trainer
    plan, entropy, attention = prepare(command, before)
    report_start(trainer, plan, entropy)
    cli.say(attention)
    trainer.callbacks += [MemoryTrial(), ExpectedEnd(plan.steps)]
    with (
        resuming.full_disks(trainer.log_dir),
        training.one_line_failures(),
        resuming.interruptions(trainer.log_dir),
        resuming.alone_in(trainer),
    ):
        if before and trainer.is_global_zero:
            resuming.put_newer_aside(before)
        trainer.fit(command.model, datamodule=command.datamodule, ckpt_path=before and before.path)
    report_end(trainer, entropy, started)


if __name__ == "__main__":
    with cli.one_line_errors("trainer.py"):
        main(sys.argv[1:])

"""Fine-tuning: features, batches, what is learned, and what is refused."""

import numpy as np
import pytest
import torch
import transformers
from texts import text, write_tokenizer

from bert_ja import finetuning, scores, tokenization, training
from bert_ja.cli import StageError
from bert_ja.finetuning import Collation, Device, Setting
from bert_ja.jglue import TASKS, Example

LINES = text(40, seed=3).split()
CPU = Device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small BERT with random weights and its tokenizer."""
    folder = write_tokenizer(tmp_path_factory.mktemp("encoder") / "model", LINES, 120)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=120, max_position_embeddings=40, pad_token_id=0, **size)
    transformers.BertForPreTraining(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenization.load_tokenizer(folder)


def pairs(count: int) -> list[Example]:
    """Pairs of lines; the label is 1 where the second repeats the first."""
    lines = [LINES[at % len(LINES)][:6] for at in range(count)]
    return [
        Example((line, line if at % 2 else LINES[(at * 7 + 3) % len(LINES)][:6]), at % 2)
        for at, line in enumerate(lines)
    ]


def test_features_are_what_the_tokenizer_makes_of_a_pair(tokenizer):
    example = Example((LINES[0], LINES[1]), 2)
    rows, cut = finetuning.features(TASKS["jnli"], tokenizer, 2, 40, [example])
    expected = tokenizer(LINES[0], LINES[1])
    assert rows == [{**{name: expected[name] for name in finetuning.PADDED}, "labels": 2}]
    assert cut == 0


def test_what_is_too_long_is_cut_and_counted(tokenizer):
    examples = [Example(("".join(LINES[:10]), LINES[1]), 0), Example((LINES[0], LINES[1]), 1)]
    rows, cut = finetuning.features(TASKS["jnli"], tokenizer, 2, 24, examples)
    assert cut == 1
    assert len(rows[0]["input_ids"]) == 24
    assert rows[0]["input_ids"].count(tokenizer.sep_token_id) == 2  # both texts are still there


def test_a_choice_is_a_row_for_each_choice(tokenizer):
    example = Example(("問い", *LINES[:5]), 4)
    (feature,), cut = finetuning.features(TASKS["jcommonsenseqa"], tokenizer, 2, 40, [example])
    assert [row["input_ids"] for row in feature["choices"]] == [
        tokenizer("問い", line)["input_ids"] for line in LINES[:5]
    ]
    assert (feature["labels"], cut) == (4, 0)
    batch = Collation(tokenizer, "choice")([feature, feature])
    longest = finetuning.length(feature)
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (2, 5, longest)
    assert batch["labels"].tolist() == [4, 4]


def test_a_batch_is_padded_to_its_own_longest_row(tokenizer):
    rows, _ = finetuning.features(
        TASKS["jsts"], tokenizer, 2, 40, [Example(("あ", "い"), 0.5), Example((LINES[0], LINES[1]), 4.0)]
    )
    batch = Collation(tokenizer, "regression")(rows)
    lengths = [len(row["input_ids"]) for row in rows]
    assert batch["input_ids"].shape == (2, max(lengths))
    assert batch["attention_mask"].sum(-1).tolist() == lengths
    assert batch["labels"].dtype == torch.float32
    alone, _ = finetuning.features(TASKS["jsts"], tokenizer, 1, 40, [Example(("あ", "い"), 0.5)])
    assert "token_type_ids" not in Collation(tokenizer, "regression")(alone)


def test_batches_hold_each_feature_once_an_epoch_with_others_of_its_length():
    lengths = np.random.default_rng(5).integers(5, 100, 1003).tolist()
    batches = finetuning.Batches(lengths, 16, seed=3)
    first, second = list(batches), list(batches)
    for epoch in (first, second):
        assert len(epoch) == len(batches) == 63
        assert sorted(at for batch in epoch for at in batch) == list(range(1003))
        positions = sum(len(batch) * max(lengths[at] for at in batch) for batch in epoch)
        assert positions / sum(lengths) < 1.15
    assert first != second
    assert list(finetuning.Batches(lengths, 16, seed=3)) == first != list(finetuning.Batches(lengths, 16, seed=4))
    means = [np.mean([lengths[at] for at in batch]) for batch in first]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4  # not from long to short


def tuned(folder, tokenizer, examples, seed: int, epochs: int = 3, task: str = "jcola"):
    rows, _ = finetuning.features(TASKS[task], tokenizer, 2, 40, examples)
    collate = Collation(tokenizer, TASKS[task].kind)
    torch.manual_seed(seed)
    model = finetuning.load_model(TASKS[task], folder, random_weights=False)
    trainer, module = finetuning.train(model, collate, rows, Setting(3e-3, epochs, 8), CPU, seed, "test")
    return trainer, module, collate, rows


def test_a_task_is_learned_and_predictions_come_in_the_order_of_the_features(folder, tokenizer):
    examples = [Example((LINES[at % 20] + ("あ" if at % 2 else "いい"),), at % 2) for at in range(64)]
    trainer, module, collate, rows = tuned(folder, tokenizer, examples, 1, epochs=8)
    logits = finetuning.predict(trainer, module, collate, rows, 16)
    labels = np.array([example.label for example in examples])
    found = scores.of_classes(np.stack([row for (row,) in logits]), labels, ("accuracy",))
    assert found["accuracy"] > 0.9
    alone = module.model.eval()(**{k: v for k, v in collate(rows[5:6]).items() if k != "labels"}).logits[0]
    assert logits[5][0] == pytest.approx(alone.detach().numpy(), abs=1e-5)


def test_the_same_seed_gives_the_same_model_and_another_one_another(folder, tokenizer):
    examples = [Example((line,), at % 2) for at, line in enumerate(LINES[:24])]
    weights = [tuned(folder, tokenizer, examples, seed, epochs=1)[1].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["model.classifier.weight"], weights[2]["model.classifier.weight"])


@pytest.mark.parametrize("random_weights", [False, True])
def test_dropout_is_at_work_in_training_and_not_in_predicting(folder, tokenizer, random_weights):
    model = finetuning.load_model(TASKS["jcola"], folder, random_weights)
    seen = []
    model.dropout.register_forward_hook(lambda module, *_: seen.append(module.training))
    rows, _ = finetuning.features(TASKS["jcola"], tokenizer, 2, 40, [Example((line,), 1) for line in LINES[:8]])
    collate = Collation(tokenizer, "classification")
    trainer, module = finetuning.train(model, collate, rows, Setting(1e-3, 2, 8), CPU, 1, "test")
    finetuning.predict(trainer, module, collate, rows, 8)
    assert seen == [True, True, False]


def test_dropout_of_fine_tuning_is_not_that_of_pre_training(folder, tmp_path):
    model = transformers.BertForPreTraining.from_pretrained(folder)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(tmp_path)
    for options, rate in (({}, 0.1), ({"dropout": 0.25}, 0.25), ({"dropout": 0.0}, 0.0)):
        for task in ("jnli", "jcommonsenseqa", "jsquad"):
            made = finetuning.load_model(TASKS[task], tmp_path, False, **options)
            rates = {module.p for module in made.modules() if isinstance(module, torch.nn.Dropout)}
            rates |= {layer.attention.self.dropout.p for layer in made.bert.encoder.layer}
            assert rates == {rate}


def test_an_architecture_with_another_dropout_keeps_its_own(folder, tmp_path):
    options = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ModernBertConfig(vocab_size=200, **options, mlp_dropout=0.05, pad_token_id=0)
    transformers.ModernBertForMaskedLM(config).save_pretrained(tmp_path)
    made = finetuning.load_model(TASKS["jnli"], tmp_path, False, dropout=0.3)
    assert made.config.mlp_dropout == 0.05
    assert not hasattr(made.config, "hidden_dropout_prob")


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_zero(folder):
    model = finetuning.load_model(TASKS["jsts"], folder, random_weights=False)
    module = finetuning.FineTuning(model, Setting(1e-3, 4, warmup_ratio=0.1), steps=40)
    made = module.configure_optimizers()
    optimizer, schedule, rates = made["optimizer"], made["lr_scheduler"]["scheduler"], []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert optimizer.param_groups[0]["lr"] == 0


def test_weight_decay_spares_biases_and_layer_norms(folder):
    model = finetuning.load_model(TASKS["jsts"], folder, random_weights=False)
    decayed, spared = finetuning._groups(model, 0.01)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_weights_come_from_the_folder_or_are_drawn(folder):
    own = transformers.BertForPreTraining.from_pretrained(folder).bert.state_dict()
    loaded = finetuning.load_model(TASKS["jnli"], folder, random_weights=False)
    assert all(torch.equal(value, own[name]) for name, value in loaded.bert.state_dict().items())
    assert loaded.classifier.out_features == 3
    drawn = finetuning.load_model(TASKS["jnli"], folder, random_weights=True)
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(drawn.bert.state_dict()[name], own[name])


def test_random_weights_of_a_half_precision_model_are_trained_in_full(folder, tmp_path):
    transformers.BertForPreTraining.from_pretrained(folder).bfloat16().save_pretrained(tmp_path)
    for random_weights in (True, False):
        model = finetuning.load_model(TASKS["jnli"], tmp_path, random_weights)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_folder_without_all_of_the_encoder_is_refused(folder, tmp_path):
    model = transformers.BertForPreTraining.from_pretrained(folder)
    weights = {name: value for name, value in model.state_dict().items() if ".query." not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(
        StageError, match=r"has no weights of bert\.encoder\.layer\.0\.attention\.self\.query.* and 1 more"
    ):
        finetuning.load_model(TASKS["jnli"], tmp_path, random_weights=False)


def test_an_encoder_without_a_pooler_is_taken_and_it_is_said(folder, tmp_path, capsys):
    training.quiet_loading()
    transformers.BertForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path)
    finetuning.load_model(TASKS["jnli"], tmp_path, random_weights=False)
    assert "has no pooler: it starts at random" in capsys.readouterr().err
    finetuning.load_model(TASKS["jsquad"], tmp_path, random_weights=False)
    assert capsys.readouterr().err == ""


def test_each_kind_of_head_gives_its_logits(folder, tokenizer):
    examples = {
        "jsts": [Example((LINES[0], LINES[1]), 1.0)] * 3,
        "jnli": [Example((LINES[0], LINES[1]), 1)] * 3,
        "jcommonsenseqa": [Example(("問い", *LINES[:5]), 1)] * 3,
    }
    shapes = {}
    for name, given in examples.items():
        trainer, module, collate, rows = tuned(folder, tokenizer, given, 1, epochs=1, task=name)
        shapes[name] = [part.shape for part in finetuning.predict(trainer, module, collate, rows, 2)[0]]
    assert shapes == {"jsts": [(1,)], "jnli": [(3,)], "jcommonsenseqa": [(5,)]}

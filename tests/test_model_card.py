"""The card of records written here by hand, whole, and what it leaves out when they say less."""

import dataclasses
import json

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from bert_ja import model_card
from bert_ja.model_card import Facts, changelog, has_path, metadata, parse_result, public, strings

CORPUS = {
    "name": "jawiki",
    "license": "CC BY-SA 4.0",
    "source": "Japanese Wikipedia, https://ja.wikipedia.org/",
    "dump": {"date": "2026-11-01", "file": "jawiki-20261101-pages-articles.xml.bz2", "sha256": "da01", "sha1": "da02"},
}
COUNTS = {
    "sentences": 20113542,
    "documents": 1420000,
    "samples": 18693542,
    "tokens": 1084225436,
    "random_pairs": 9346771,
}
MODEL = {
    "stage": "export_model.py",
    "versions": {"bert-ja": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
    "tokenizer": {"sha256": "70c0", "vocab_size": 32000},
    "model": {
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "lr": 0.0001,
        "num_warmup_steps": 10000,
        "lr_schedule": "constant",
        "optimizer": "adam",
        "weight_decay": 0.0,
    },
    "steps": 210000,
    "training": {
        "samples": {"train": {"name": "train.jsonl", "size": 1234567, "sha256": "5a01"}},
        "counts": COUNTS,
        "longest_sample": 300,
        "corpus": CORPUS,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "unigram_entropy": 7.0625,
    },
}
PARITY = {"lines": 10045, "with_mask": 10045, "pairs": 10044, "differences": 0, "known_differences": {"a": 3, "b": 1}}
CONFIG = {
    "model_type": "bert",
    "vocab_size": 32000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
RESULT = {
    "test_loss": 2.798677921295166,
    "mlm_loss": 2.25,
    "mlm_accuracy": 0.5625,
    "perplexity": 9.487735836358526,
    "nsp_loss": 0.548677921295166,
    "nsp_accuracy": 0.75,
    "samples": 500000,
    "tokens": 29000000,
}
FACTS = Facts(
    name="bert-base-ja",
    license="cc-by-sa-4.0",
    model=MODEL,
    tokenizer={"stage": "convert_tokenizer.py", "parity": PARITY},
    config=CONFIG,
    parameters=111207170,
    test=RESULT,
    test_record={"corpus": CORPUS},
)
FRONT_MATTER = """\
datasets:
- wikipedia
language: ja
library_name: transformers
license: cc-by-sa-4.0
pipeline_tag: fill-mask
tags:
- bert
- japanese
- masked-lm
widget:
- text: 専門として[MASK]を専攻しています
model-index:
- name: bert-base-ja
  results:
  - task:
      type: fill-mask
      name: Masked language modelling
    dataset:
      name: jawiki, test samples
      type: jawiki
      split: test
    metrics:
    - type: loss
      value: 2.798677921295166
      name: Test loss (MLM + NSP)
    - type: loss
      value: 2.25
      name: MLM loss (nats a masked token)
    - type: perplexity
      value: 9.487735836358526
      name: MLM perplexity
    - type: accuracy
      value: 0.5625
      name: MLM accuracy
  - task:
      type: text-classification
      name: Next sentence prediction
    dataset:
      name: jawiki, test samples
      type: jawiki
      split: test
    metrics:
    - type: loss
      value: 0.548677921295166
      name: NSP loss (nats a sample)
    - type: accuracy
      value: 0.75
      name: NSP accuracy
"""
BODY = """
# bert-base-ja

A Japanese BERT, pre-trained with masked words and next sentences.

## How to use

`NAME` stands for this folder, or for its repository on the Hub.

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model="NAME")
for guess in fill_mask("専門として[MASK]を専攻しています"):
    print(guess["token_str"], round(guess["score"], 4))
```

`BertForPreTraining.from_pretrained("NAME")` has the next-sentence head as well; every other BERT class starts a
fine-tuning from these weights. Exported with transformers 5.23.0, torch 2.13.0.

## Training data

- Corpus: jawiki
- Source: Japanese Wikipedia, https://ja.wikipedia.org/
- Licence of the text: CC BY-SA 4.0
- Dump: of 2026-11-01, `jawiki-20261101-pages-articles.xml.bz2`, sha256 `da01`, sha1 `da02`
- Training part: 1,420,000 documents, 20,113,542 sentences
- Samples: 18,693,542, 1,084,225,436 tokens (58.0 a sample), 50.0% with a random second part
- Sample file: 1,234,567 bytes, sha256 `5a01`

## Model

- BERT with a masked-LM and a next-sentence head, 111,207,170 parameters
- 12 layers, width 768, 12 attention heads, feed-forward width 3,072
- Reads up to 512 tokens
- Vocabulary: 32,000

## Tokenizer

- SentencePiece unigram model, 32,000 pieces
- Special pieces: `<pad>`, `<unk>`, `[CLS]`, `[SEP]`, `[MASK]`
- `spm.model`: sha256 `70c0`
- `AutoTokenizer` was compared with SentencePiece on 10,045 lines: 0 differences, and 4 of known kinds

## Training

- 210,000 optimizer steps
- Optimizer: adam
- Learning rate: 0.0001, after a linear warm-up over 10,000 steps, then constant
- Dropout: 0.1, of attention weights 0.0
- Trained with torch 2.13.0, transformers 5.23.0

## Evaluation

Means over 500,000 test samples (29,000,000 tokens) of jawiki:

| Measure | Value |
|---|---|
| Test loss (MLM + NSP) | 2.7987 |
| MLM loss (nats a masked token) | 2.2500 |
| MLM perplexity | 9.4877 |
| MLM accuracy | 0.5625 |
| NSP loss (nats a sample) | 0.5487 |
| NSP accuracy | 0.7500 |

Knowing only how frequent each token of the training samples is would give an MLM loss of 7.0625 (unigram entropy).

## Intended use and limits

- Meant for filling masks in Japanese text and as the start of a fine-tuning. It does not write text.
- Its predictions are not facts. It repeats what its training text holds, errors and prejudices included; how much of \
these was not measured.
- Its longest training sample had 300 of 512 tokens: the positions beyond were never trained.
- Measure it on your own task before you rely on it.

## Licence and attribution

This model is released under `cc-by-sa-4.0`.

The training text (Japanese Wikipedia, https://ja.wikipedia.org/) is by Wikipedia contributors, who are named in each \
article's history, under CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/.
"""
CHANGELOG = """\
# Changelog of bert-base-ja

## v1.0

- First release: 12 layers of width 768, 111,207,170 parameters, vocabulary 32,000, trained for 210,000 optimizer steps
- Training text: jawiki, dump of 2026-11-01
- MLM loss 2.2500 on 500,000 test samples
"""


def with_training(**changes) -> Facts:
    """FACTS with another `training` in the model's record."""
    return dataclasses.replace(FACTS, model=MODEL | {"training": MODEL["training"] | changes})


def with_corpus(**changes) -> Facts:
    return with_training(corpus=CORPUS | changes)


def section(facts: Facts, title: str) -> str:
    """The text below a heading of the card."""
    return model_card.model_card(facts).partition(f"## {title}\n\n")[2].partition("\n\n## ")[0].rstrip("\n")


def test_card_of_known_facts():
    assert model_card.model_card(FACTS) == f"---\n{FRONT_MATTER}---\n{BODY}"
    assert FACTS.unknown() == []


def test_changelog_of_known_facts():
    assert changelog(FACTS) == CHANGELOG


def test_the_hub_client_reads_the_card_back():
    card = ModelCard(model_card.model_card(FACTS))
    assert card.data.to_dict() == metadata(FACTS).to_dict() == yaml.safe_load(FRONT_MATTER)
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    names = model_card.TOTAL | model_card.MLM_METRICS | model_card.NSP_METRICS
    assert measured == {name: RESULT[key] for key, (_, name) in names.items()}


# What the records do not say


BARE = Facts(
    name="bert-x",
    license="mit",
    model=MODEL | {"training": {}, "versions": {}},
    tokenizer={"stage": "convert_tokenizer.py"},
    config=CONFIG,
    parameters=7,
)


def test_bare_records_give_a_card_that_invents_nothing():
    assert metadata(BARE).to_dict() == {
        "language": "ja",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "fill-mask",
        "tags": ["bert", "japanese", "masked-lm"],
        "widget": [{"text": "専門として[MASK]を専攻しています"}],
    }
    unknown = "- The origin and the licence of the training text are unknown: no record says them."
    assert section(BARE, "Training data") == unknown
    assert section(BARE, "Evaluation") == "Not evaluated: this release was made without a test result."
    assert section(BARE, "Licence and attribution") == (
        "This model is released under `mit`.\n\nThe licence of the training text is unknown."
    )
    assert "AutoTokenizer" not in section(BARE, "Tokenizer")
    assert "Trained with" not in section(BARE, "Training")
    assert "longest" not in section(BARE, "Intended use and limits")
    assert section(BARE, "How to use").endswith("a\nfine-tuning from these weights.")
    text = model_card.model_card(BARE)
    assert [word for word in ("Wikipedia", "wikipedia", "CC BY-SA", "None", "nan") if word in text] == []


def test_bare_records_name_what_is_unknown():
    assert BARE.unknown() == [
        "the name of the training text",
        "the source of the training text",
        "the licence of the training text",
        "how many samples there were",
        "the model's test result",
    ]
    assert with_corpus(dump=None).unknown() == ["the dump of the training text"]


def test_changelog_of_bare_records():
    assert changelog(BARE).splitlines()[5:] == ["- Training text: of unknown origin", "- Not evaluated"]


def test_another_text_is_not_called_wikipedia():
    facts = with_corpus(name="wac", source="our own crawl", license="CC0", dump=None)
    assert section(facts, "Licence and attribution").endswith(
        "The training text (our own crawl) is under this licence: CC0."
    )
    assert "datasets" not in metadata(facts).to_dict()
    assert section(facts, "Training data").splitlines()[:3] == [
        "- Corpus: wac",
        "- Source: our own crawl",
        "- Licence of the text: CC0",
    ]


def test_wikipedia_of_unknown_licence_is_said_to_be_unknown():
    facts = with_corpus(license=None)
    assert section(facts, "Licence and attribution").endswith(
        "The licence of the training text (Japanese Wikipedia, https://ja.wikipedia.org/) is unknown."
    )
    assert "- Licence of the text: unknown" in section(facts, "Training data")


def test_another_licence_of_wikipedia_gets_no_link_to_this_one():
    facts = with_corpus(license="CC BY-SA 3.0 and GFDL")
    assert section(facts, "Licence and attribution").endswith("under CC BY-SA 3.0 and GFDL.")


@pytest.mark.parametrize(
    "dump, expected",
    [
        ({"date": None, "file": "a.xml", "sha256": "da"}, "- Dump: of unknown date, `a.xml`, sha256 `da`"),
        ({"date": "2026-11-01"}, "- Dump: of 2026-11-01"),
    ],
)
def test_dump_that_is_known_in_part(dump, expected):
    assert section(with_corpus(dump=dump), "Training data").splitlines()[3] == expected


def test_test_samples_of_unknown_origin():
    facts = dataclasses.replace(FACTS, test_record={"corpus": None})
    first = metadata(facts).to_dict()["model-index"][0]["results"][0]
    assert first["dataset"] == {"name": "test samples of unknown origin", "type": "unknown", "split": "test"}
    assert "samples (29,000,000 tokens) of a text of unknown origin:" in section(facts, "Evaluation")


def test_a_model_without_next_sentences_has_no_results_of_them():
    facts = dataclasses.replace(FACTS, test=RESULT | {"nsp_loss": None, "nsp_accuracy": None})
    assert len(metadata(facts).to_dict()["model-index"][0]["results"]) == 1
    assert "NSP loss" not in section(facts, "Evaluation")


def test_every_position_trained_is_no_limit():
    facts = with_training(longest_sample=512)
    assert "longest" not in section(facts, "Intended use and limits")


def test_settings_of_the_run_where_the_record_has_them():
    settings = {"samples_per_step": 256, "gradient_clip_val": 1.0, "precision": "16-mixed", "seed": 1000}
    options = MODEL["model"] | {"optimizer": "adamw", "weight_decay": 0.01, "lr_schedule": "linear"}
    facts = with_training(settings=settings)
    facts = dataclasses.replace(facts, model=facts.model | {"model": options})
    assert section(facts, "Training").splitlines()[:8] == [
        "- 210,000 optimizer steps",
        "- 256 samples an optimizer step",
        "- Optimizer: adamw, weight decay 0.01",
        "- Learning rate: 0.0001, after a linear warm-up over 10,000 steps, then linear to zero",
        "- Dropout: 0.1, of attention weights 0.0",
        "- Gradient norm clipped at 1.0",
        "- Precision: 16-mixed",
        "- Seed: 1000",
    ]


def test_the_model_that_was_continued_is_named_first():
    facts = with_training(continued_from={"name": "bert-base-japanese-v3", "weights": [], "corpus": CORPUS})
    first = "- Continued from the model bert-base-japanese-v3"
    assert section(facts, "Training").splitlines()[:2] == [first, "- 210,000 optimizer steps"]
    assert "Continued" not in section(with_training(continued_from=None), "Training")


@given(st.text(), st.text(), st.text())
def test_no_name_of_a_corpus_breaks_the_card(name, source, license):
    facts = with_corpus(name=name, source=source, license=license)
    facts = dataclasses.replace(facts, test_record={"corpus": {"name": name}})
    text = model_card.model_card(facts)
    card = ModelCard(text)
    assert card.data.to_dict() == metadata(facts).to_dict()
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == [line for line in BODY.split("\n") if line.startswith("#")]


# Records without what is private


def test_public_keeps_all_but_the_machine():
    record = {
        "stage": "x",
        "run": {"host": "h", "paths": {"a": "/a"}},
        "model": {"lr": 0.1, "_instantiator": "module"},
        "inputs": [{"name": "a.txt", "size": 3}, {"run": 1}],
        "source": "/home/taro/a.txt",
        "none": None,
    }
    assert public(record) == {
        "stage": "x",
        "model": {"lr": 0.1},
        "inputs": [{"name": "a.txt", "size": 3}, {}],
        "source": None,
        "none": None,
    }
    assert list(strings(record)) == ["x", "a.txt", "/home/taro/a.txt"]


def private_facts(**changes) -> Facts:
    """FACTS of a private corpus, as release_model.py has them."""
    record = MODEL | {"training": MODEL["training"] | changes, "corpus": {"private": True}}
    records = (public(record, True), public(FACTS.tokenizer, True), public(FACTS.test_record, True))
    return dataclasses.replace(FACTS, **dict(zip(("model", "tokenizer", "test_record"), records, strict=True)))


def test_the_card_of_a_private_corpus_says_its_name_source_and_licence_alone():
    facts = private_facts()
    assert facts.private
    assert not FACTS.private
    assert section(facts, "Training data").splitlines() == [
        "- Corpus: jawiki",
        "- Source: Japanese Wikipedia, https://ja.wikipedia.org/",
        "- Licence of the text: CC BY-SA 4.0",
        "- The text is private: this is all that is said of it",
    ]
    said = [line for line in model_card.model_card(facts).split("\n") if line not in model_card.model_card(FACTS)]
    assert said == ["- The text is private: this is all that is said of it"]
    for figure in ("1,420,000", "20,113,542", "18,693,542", "1,084,225,436", "5a01", "da01", "7.0625", "2026-11-01"):
        assert figure in model_card.model_card(FACTS) + changelog(FACTS)
        assert figure not in model_card.model_card(facts) + changelog(facts) + json.dumps(facts.model)
    assert "- Its longest training sample had 300 of 512 tokens" in section(facts, "Intended use and limits")
    assert facts.unknown() == []


def test_a_private_corpus_of_unknown_origin_is_said_to_be_both():
    assert section(private_facts(corpus=None), "Training data").splitlines() == [
        "- The origin and the licence of the training text are unknown: no record says them.",
        "- The text is private: this is all that is said of it",
    ]


@pytest.mark.parametrize(
    "text",
    ["/home/taro/a.txt", "mine, /data/a", "~/a.txt", r"C:\texts\a.txt", "file:///a", "(/mnt/a)", r"\\server\share"],
)
def test_paths_are_known(text):
    assert has_path(text)


@pytest.mark.parametrize(
    "text",
    ["", "jawiki", "Japanese Wikipedia, https://ja.wikipedia.org/", "CC BY-SA 3.0/GFDL", "CC BY / GFDL", "3:10", "a~b"],
)
def test_names_and_addresses_are_no_paths(text):
    assert not has_path(text)


# Results


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"mlm_loss": float("inf")}, "mlm_loss is inf"),
        ({"mlm_loss": None}, "mlm_loss is None"),
        ({"samples": "many"}, "samples is many"),
        ({"nsp_accuracy": True}, "nsp_accuracy is True"),
    ],
)
def test_results_that_are_none(changes, reason):
    with pytest.raises(ValueError, match=reason):
        parse_result(json.dumps(RESULT | changes))


def test_parse_result_keeps_the_known_keys_only():
    assert parse_result(json.dumps(RESULT | {"path": "/a", "nsp_loss": None})) == RESULT | {"nsp_loss": None}

"""The card of records written here by hand, whole, and what it leaves out when they say less."""

import dataclasses
import json
import string

import evaluations
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from texts import write_wordpiece

from bert_ja import model_card, results, score_card
from bert_ja.cli import StageError
from bert_ja.model_card import Facts, Tried, changelog, metadata, parse_result, public

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
        "options": {"objective": "nsp"},
        "settings": {
            **{"samples_per_step": 256, "gradient_clip_val": 1.0, "precision": "16-mixed", "seed": 1000},
            **{"mlm_probability": 0.15, "mask_replace_prob": 0.8, "random_replace_prob": 0.1},
        },
    },
    "seen": {"samples": 53760000, "tokens": 3118080000},
    "hardware": [{"device": "NVIDIA H100 80GB HBM3", "devices": 8, "seconds": 4711.2}],
    "curve": {"train_mlm_loss": [[50, 9.5], [100, 7.25]]},
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
GUESSES = [("医学", 0.25), ("文学", 0.125), ("法学", 0.0625), ("工学", 0.03125), ("経済学", 0.015625)]
TRIED = Tried(
    mask="[MASK]",
    special_pieces=("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    tokenizer="`PreTrainedTokenizerFast` (Unigram)",
    filled={"専門として[MASK]を専攻しています": GUESSES, "朝ご飯に[MASK]を食べた。": [("パン", 0.5), *GUESSES]},
)
FACTS = Facts(
    name="bert-base-ja",
    license="cc-by-sa-4.0",
    model=MODEL,
    tokenizer={"stage": "convert_tokenizer.py", "parity": PARITY},
    config=CONFIG,
    parameters=111207170,
    test=RESULT,
    test_record={"corpus": CORPUS},
    prompts=tuple(TRIED.filled),
    tried=TRIED,
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
- text: 朝ご飯に[MASK]を食べた。
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
      revision: '2026-11-01'
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
      revision: '2026-11-01'
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
    print(guess["token_str"], round(guess["score"], 3))
```

This model answers:

```text
医学 0.25
文学 0.125
法学 0.062
工学 0.031
経済学 0.016
```

And to other sentences:

```text
朝ご飯に[MASK]を食べた。
  パン 0.5
  医学 0.25
  文学 0.125
```

A fine-tuning starts from these weights with any other BERT class:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

texts, labels = ["とても良い店でした。", "二度と行きません。"], torch.tensor([1, 0])
tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModelForSequenceClassification.from_pretrained("NAME", num_labels=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
for step in range(3):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
```

- `BertForPreTraining.from_pretrained("NAME")` has the next-sentence head as well.
- Exported with transformers 5.23.0, torch 2.13.0

## Training data

- Text: jawiki
  - Source: Japanese Wikipedia, https://ja.wikipedia.org/
  - Licence: CC BY-SA 4.0
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
- 256 samples an optimizer step
- Seen: 53,760,000 samples, 3,118,080,000 tokens
- Optimizer: adam
- Learning rate: 0.0001, after a linear warm-up over 10,000 steps, then constant
- Dropout: 0.1, of attention weights 0.0
- Masked: 15.0% of the tokens, of which 80.0% became the mask, 10.0% a random token, and the others stayed
- Gradient norm clipped at 1.0
- Precision: 16-mixed
- Seed: 1000
- Hardware: 8 x NVIDIA H100 80GB HBM3, 79 min
- Trained with torch 2.13.0, transformers 5.23.0

![Losses of training and validation over the optimizer steps](loss_curve.png)

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

The text jawiki (Japanese Wikipedia, https://ja.wikipedia.org/) is by Wikipedia contributors, who are named in each \
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
    assert model_card.unknown(FACTS) == []


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
    model=MODEL | {"training": {}, "versions": {}, "seen": None, "hardware": None, "curve": None},
    tokenizer={"stage": "convert_tokenizer.py"},
    config=CONFIG,
    parameters=7,
)


def headings(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("#")]


def test_bare_records_give_a_card_that_invents_nothing():
    assert metadata(BARE).to_dict() == {
        "language": "ja",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "fill-mask",
        "tags": ["bert", "japanese", "masked-lm"],
        "widget": [{"text": prompt} for prompt in model_card.PROMPTS],
    }
    text = model_card.model_card(BARE)
    left = [line for line in headings(BODY)[1:] if line not in ("## Training data", "## Evaluation")]
    assert headings(text) == ["# bert-x", *left]
    assert "A Japanese BERT, pre-trained with masked words.\n" in text
    assert section(BARE, "Licence and attribution") == (
        "This model is released under `mit`.\n\nThe licence of the training text is unknown."
    )
    assert section(BARE, "Training").splitlines() == [
        "- 210,000 optimizer steps",
        "- Optimizer: adam",
        "- Learning rate: 0.0001, after a linear warm-up over 10,000 steps, then constant",
        "- Dropout: 0.1, of attention weights 0.0",
    ]
    words = ("AutoTokenizer` was", "longest", "answers", "Exported", "Wikipedia", "CC BY-SA", "None", "nan", "$", "png")
    assert [word for word in words if word in text] == []


def test_bare_records_name_what_is_unknown():
    assert model_card.unknown(BARE) == [
        *("export versions", "sources", "training part", "samples", "sample files", "tokenizer check"),
        *("samples per step", "seen", "masking", "gradient clipping", "precision", "seed", "hardware"),
        *("training versions", "loss curve", "test samples", "results", "untrained positions"),
    ]
    assert model_card.unknown(with_corpus(dump=None)) == ["dump of jawiki"]
    assert model_card.unknown(with_corpus(license=None, name=None)) == [
        "name of the training text",
        "licence of the training text",
    ]


def test_changelog_of_bare_records():
    assert changelog(BARE).splitlines()[5:] == ["- Training text: of unknown origin", "- Not evaluated"]


def test_another_text_is_not_called_wikipedia():
    facts = with_corpus(name="wac", source="our own crawl", license="CC0", dump=None)
    assert section(facts, "Licence and attribution").endswith(
        "The text wac (our own crawl) is under this licence: CC0."
    )
    assert "datasets" not in metadata(facts).to_dict()
    assert section(facts, "Training data").splitlines()[:3] == [
        "- Text: wac",
        "  - Source: our own crawl",
        "  - Licence: CC0",
    ]


def test_wikipedia_of_unknown_licence_is_said_to_be_unknown():
    facts = with_corpus(license=None)
    assert section(facts, "Licence and attribution").endswith(
        "The licence of the training text (Japanese Wikipedia, https://ja.wikipedia.org/) is unknown."
    )
    assert "Licence" not in section(facts, "Training data")


def test_another_licence_of_wikipedia_gets_no_link_to_this_one():
    facts = with_corpus(license="CC BY-SA 3.0 and GFDL")
    assert section(facts, "Licence and attribution").endswith("under CC BY-SA 3.0 and GFDL.")


@pytest.mark.parametrize(
    "dump, expected",
    [
        ({"date": None, "file": "a.xml", "sha256": "da"}, "  - Dump: of unknown date, `a.xml`, sha256 `da`"),
        ({"date": "2026-11-01"}, "  - Dump: of 2026-11-01"),
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
    settings = {"samples_per_step": 256, "gradient_clip_val": None, "precision": "32-true"}
    options = MODEL["model"] | {"optimizer": "adamw", "weight_decay": 0.01, "lr_schedule": "linear"}
    facts = with_training(settings=settings)
    hardware = [{"device": "A", "devices": 1, "seconds": 90.4}, {"device": "B", "devices": 2, "seconds": 360_000}]
    facts = dataclasses.replace(facts, model=facts.model | {"model": options, "hardware": hardware})
    assert section(facts, "Training").splitlines()[3:8] == [
        "- Optimizer: adamw, weight decay 0.01",
        "- Learning rate: 0.0001, after a linear warm-up over 10,000 steps, then linear to zero",
        "- Dropout: 0.1, of attention weights 0.0",
        "- Precision: 32-true",
        "- Hardware: A, 90 s; 2 x B, 100.0 h",
    ]
    assert model_card.unknown(facts) == ["masking", "seed"]  # not the clipping, which there was none of


def test_a_masking_rate_that_fell_is_said_with_both_its_ends():
    settings = {"mlm_probability": 0.3, "mlm_probability_end": 0.15, "mask_replace_prob": 0.8}
    facts = with_training(settings=settings | {"random_replace_prob": 0.1})
    assert (
        "- Masked: 30.0% (at the first step, linearly to 15.0% at the last) of the tokens, of which 80.0% became the "
        "mask, 10.0% a random token, and the others stayed"
    ) in section(facts, "Training").splitlines()
    constant = with_training(settings=facts.training["settings"] | {"mlm_probability_end": None})
    assert "- Masked: 30.0% of the tokens, of which" in section(constant, "Training")


def test_the_model_that_was_continued_is_named_first_with_its_licence():
    continued = {"name": "bert-base-japanese-v3", "license": "apache-2.0", "weights": [], "corpus": None}
    facts = with_training(continued_from=continued)
    first = "- Continued from the model bert-base-japanese-v3, which is under `apache-2.0`"
    assert section(facts, "Training").splitlines()[:2] == [first, "- 210,000 optimizer steps"]
    assert section(facts, "Licence and attribution").endswith(
        "The model bert-base-japanese-v3, from which the training continued, is under this licence: apache-2.0."
    )
    assert model_card.unknown(facts) == []
    assert "Continued" not in section(with_training(continued_from=None), "Training")


def test_a_model_of_unknown_licence_that_was_continued_is_said_to_be_one():
    facts = with_training(continued_from={"name": "old", "license": None, "corpus": None})
    assert section(facts, "Training").startswith("- Continued from the model old\n")
    assert section(facts, "Licence and attribution").endswith("has a licence that is not known here.")
    assert model_card.unknown(facts) == ["licence of old"]


@pytest.mark.parametrize(
    "objective, first, last",
    [
        ("nsp", "masked words and next sentences.", "Measure"),
        ("sop", "masked words and the order of sentences.", "Measure"),
        ("none", "masked words.", "Its next-sentence head was not trained."),
    ],
)
def test_the_tasks_are_those_of_the_samples(objective, first, last):
    facts = with_training(options={"objective": objective}, longest_sample=512)
    assert f"A Japanese BERT, pre-trained with {first}\n" in model_card.model_card(facts)
    assert f"\n- {last}" in section(facts, "Intended use and limits")
    assert ("Its next-sentence head" in model_card.model_card(facts)) == (objective == "none")


# Several texts


HOSPITAL = {"name": "hospital", "license": "in-house", "source": "our reports", "dump": None}


def with_sources(*sources: dict, **changes) -> Facts:
    return with_corpus(name="jawiki; hospital", license=None, source=None, dump=None, sources=list(sources), **changes)


def test_each_text_is_in_the_card_with_its_share_and_its_own_licence():
    facts = with_sources(CORPUS | {"share": 0.7}, HOSPITAL | {"share": 0.3})
    assert section(facts, "Training data").splitlines()[:7] == [
        "- Text: jawiki, 70.0% of the samples",
        "  - Source: Japanese Wikipedia, https://ja.wikipedia.org/",
        "  - Licence: CC BY-SA 4.0",
        "  - Dump: of 2026-11-01, `jawiki-20261101-pages-articles.xml.bz2`, sha256 `da01`, sha1 `da02`",
        "- Text: hospital, 30.0% of the samples",
        "  - Source: our reports",
        "  - Licence: in-house",
    ]
    attribution = section(facts, "Licence and attribution").split("\n\n")[1:]
    assert attribution[0].startswith("The text jawiki (Japanese Wikipedia, https://ja.wikipedia.org/) is by Wikipedia")
    assert attribution[1:] == ["The text hospital (our reports) is under this licence: in-house."]
    assert metadata(facts).to_dict()["datasets"] == ["wikipedia"]
    assert changelog(facts).splitlines()[5] == "- Training text: jawiki, dump of 2026-11-01; hospital"
    assert model_card.unknown(facts) == []


def test_a_text_of_which_nothing_is_known_is_said_beside_the_others():
    nothing = {"name": None, "license": None, "source": None, "dump": None, "share": 0.3}
    facts = with_sources(CORPUS | {"share": 0.7}, nothing)
    assert "- Text: a text of unknown name, 30.0% of the samples\n" in section(facts, "Training data")
    assert section(facts, "Licence and attribution").endswith("The licence of the training text is unknown.")
    missing = ["name of the training text", "source of the training text", "licence of the training text"]
    assert model_card.unknown(facts) == missing


def test_texts_behind_the_tokenizer_and_the_model_that_was_continued_are_in_the_card():
    books = {"name": "books", "license": "CC BY 4.0", "source": "a library", "dump": None}
    facts = with_training(continued_from={"name": "old", "license": "mit", "corpus": books})
    tokenizer = FACTS.tokenizer | {"corpus": HOSPITAL | {"private": False}}
    facts = dataclasses.replace(facts, tokenizer=tokenizer)
    lines = section(facts, "Training data").splitlines()
    behind = ", behind the model or the tokenizer that this one was begun with"
    assert [line for line in lines if line.startswith("- Text: ")] == [
        *("- Text: jawiki", f"- Text: books{behind}", f"- Text: hospital{behind}")
    ]
    text = section(facts, "Licence and attribution")
    assert "The text books (a library) is under this licence: CC BY 4.0.\n" in text
    assert "The text hospital (our reports) is under this licence: in-house.\n" in text
    assert [each["name"] for each in facts.licensed] == ["jawiki", "books", "hospital", "old"]
    same = dataclasses.replace(FACTS, tokenizer=FACTS.tokenizer | {"corpus": CORPUS})
    assert model_card.model_card(same) == model_card.model_card(FACTS)


# Tokenizers


def test_a_tokenizer_that_is_not_sentencepiece_is_what_transformers_says_of_it():
    tried = dataclasses.replace(TRIED, tokenizer="`BertJapaneseTokenizer` (mecab, wordpiece)", mask="<mask>")
    facts = dataclasses.replace(FACTS, tokenizer=None, tried=tried)
    assert section(facts, "Tokenizer").splitlines() == [
        "- `BertJapaneseTokenizer` (mecab, wordpiece), 32,000 pieces",
        "- Special pieces: `<pad>`, `<unk>`, `[CLS]`, `[SEP]`, `[MASK]`",
        "- Its files: sha256 `70c0`",
    ]
    assert model_card.unknown(facts) == []
    assert 'for guess in fill_mask("専門として<mask>を専攻しています"):\n' in model_card.model_card(facts)
    assert metadata(facts).to_dict()["widget"][1] == {"text": "朝ご飯に<mask>を食べた。"}


def test_a_wordpiece_model_is_tried_with_its_own_mask(tmp_path):
    """One as people in Japan continue from: MeCab, WordPiece, another name for the mask."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "<m>",
        *("朝ご飯", "朝", "ご", "飯", "##ご", "##飯", "に", "を", "食べ", "た", "。"),
    ]
    folder = write_wordpiece(tmp_path, pieces, mask_token="<m>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForMaskedLM(BertConfig(vocab_size=len(pieces), max_position_embeddings=16, **shape)).eval()
    found = model_card.try_out(model, tokenizer, ["朝ご飯に[MASK]を食べた。"])
    assert found.tokenizer == "`BertJapaneseTokenizer` (mecab, wordpiece)"
    assert (found.mask, found.special_pieces) == ("<m>", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<m>"))
    assert [len(guesses) for guesses in found.filled.values()] == [model_card.LIKELIEST]
    facts = dataclasses.replace(FACTS, tokenizer=None, prompts=tuple(found.filled), tried=found)
    assert 'fill_mask("朝ご飯に<m>を食べた。")' in model_card.model_card(facts)
    with pytest.raises(StageError, match=r"the prompt 朝ご飯に.* has 24 tokens, the model reads 16: shorten it"):
        model_card.try_out(model, tokenizer, ["朝ご飯に" * 10 + "[MASK]。"])


# The template


def card_of(path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return model_card.model_card(FACTS, model_card.read_template(str(path)))


def test_a_template_of_ones_own_is_filled_in(tmp_path):
    text = "---\n$metadata\nthumbnail: a.png\n---\n\n# ${name}の説明\n\n価格は$$5、$steps ステップ。\n"
    written = card_of(tmp_path / "card.md", text)
    assert (
        written == f"---\n{FRONT_MATTER}thumbnail: a.png\n---\n\n# bert-base-jaの説明\n\n価格は$5、210,000 ステップ。\n"
    )


def test_lines_blocks_and_sections_with_a_fact_that_is_not_known_go():
    text = "# $name\n\n## A\n\n### B\n\n- $gone\n\n```\n# no heading\n$gone\n```\n\n## C\n\n- $gone\n- $here\n\n## D\n"
    known = {"name": "n", "gone": None, "here": "h"}
    assert model_card.fill(text, known) == ("# n\n\n## C\n\n- h\n", ["gone"])
    kept = ("# n\n\n## A\n\n### B\n\n- x\n\n```\n# no heading\nx\n```\n\n## C\n\n- x\n- h\n", [])
    assert model_card.fill(text, known | {"gone": "x"}) == kept
    assert model_card.fill(text, known | {"gone": ""}) == ("# n\n\n## C\n\n- h\n", [])  # does not apply


HEAD = "---\n$metadata\n---\n"


@pytest.mark.parametrize(
    "text, said",
    [
        (f"{HEAD}# $nam\n", "line 4: $nam is no fact of a card, those are metadata, name, license, "),
        (f"{HEAD}$5\n", "line 4: a $ that begins no fact must be written $$"),
        ("# $name\n", " must begin with the lines ---, $metadata and ---, and what YAML you add between them"),
        (f"---\n$metadata\na: [\n---\n{HEAD}", " must begin with the lines ---, $metadata and ---, "),
    ],
)
def test_a_template_that_cannot_become_a_card_is_refused(tmp_path, text, said):
    with pytest.raises(StageError) as error:
        card_of(tmp_path / "card.md", text)
    assert str(error.value).startswith(f"{tmp_path / 'card.md'}{' ' * said.startswith('line')}{said}")


def test_every_fact_has_a_place_in_our_template():
    template = model_card.TEMPLATE.read_text(encoding="utf-8")
    assert sorted(string.Template(template).get_identifiers()) == sorted(model_card.values(FACTS))


def test_prompts_of_ones_own(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("患者は[MASK]を訴えた。\n\n [MASK]を処方した。\n", encoding="utf-8")
    assert model_card.read_prompts(str(path)) == ("患者は[MASK]を訴えた。", "[MASK]を処方した。")
    path.write_text("患者は[MASK]を[MASK]。\n", encoding="utf-8")
    with pytest.raises(
        StageError, match=r"'患者は\[MASK\]を\[MASK\]。' must have one \[MASK\]: give each prompt a line"
    ):
        model_card.read_prompts(str(path))
    path.write_text("\n \n")
    with pytest.raises(StageError, match="has no prompt"):
        model_card.read_prompts(str(path))
    assert model_card.read_prompts(None) == model_card.PROMPTS


@given(st.text(), st.text(), st.text())
def test_no_name_of_a_corpus_breaks_the_card(name, source, license):
    facts = with_corpus(name=name, source=source, license=license)
    facts = dataclasses.replace(facts, test_record={"corpus": {"name": name}})
    text = model_card.model_card(facts)
    card = ModelCard(text)
    assert card.data.to_dict() == metadata(facts).to_dict()
    assert headings(text) == headings(BODY)


# Of a private corpus


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
        "- Text: jawiki",
        "  - Source: Japanese Wikipedia, https://ja.wikipedia.org/",
        "  - Licence: CC BY-SA 4.0",
        "- The text is private: this is all that is said of it",
    ]
    said = [line for line in model_card.model_card(facts).split("\n") if line not in model_card.model_card(FACTS)]
    assert said == ["- The text is private: this is all that is said of it"]
    secrets = ("1,420,000", "20,113,542", "18,693,542", "1,084,225,436", "5a01", "da01", "7.0625", "3,118,080,000")
    for figure in (*secrets, "2026-11-01", "医学", "パン"):
        assert figure in model_card.model_card(FACTS) + changelog(FACTS)
        assert figure not in model_card.model_card(facts) + changelog(facts) + json.dumps(facts.model)
    assert "- Its longest training sample had 300 of 512 tokens" in section(facts, "Intended use and limits")
    assert model_card.unknown(facts) == []


def test_a_private_corpus_of_unknown_origin_is_said_to_be_both():
    facts = private_facts(corpus=None)
    assert section(facts, "Training data") == "- The text is private: this is all that is said of it"
    assert section(facts, "Licence and attribution").endswith("The licence of the training text is unknown.")
    assert model_card.unknown(facts) == ["sources"]


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


def test_a_model_that_was_continued_has_no_positions_or_head_that_were_never_trained():
    facts = with_training(continued_from={"name": "bert-x", "license": "mit"}, longest_sample=128)
    assert "- The longest sample of this training had 128 of 512 tokens: what is beyond stayed as it was.\n" in (
        model_card.model_card(facts)
    )
    facts = with_training(continued_from={"name": "bert-x", "license": "mit"}, options={"objective": "none"})
    assert "- Its next-sentence head is as it was before this training.\n" in model_card.model_card(facts)


def test_the_second_task_has_its_own_name():
    card = model_card.model_card(with_training(options={"objective": "sop"}))
    assert "| SOP loss (nats a sample) |" in card and "Sentence order prediction" in card and "NSP" not in card


def test_figures_of_a_private_test_text_stay_where_they_are():
    facts = dataclasses.replace(FACTS, test_record={"corpus": CORPUS | {"private": True}})
    for text in (model_card.model_card(facts), model_card.changelog(facts)):
        assert f"{RESULT['samples']:,}" not in text and f"{RESULT['tokens']:,}" not in text
        assert f"{RESULT['mlm_loss']:.4f}" in text


# Scores of the evaluations


def result(content: dict, stage: str, **corpus) -> results.Result:
    record = {"stage": stage, "outputs": [], "corpus": evaluations.CORPUS | corpus}
    return results.Result("x.json", stage, content, record, results.sums(content)[0])


def with_scores(private: bool = False, **changes) -> Facts:
    """FACTS with scores, as release_model.py has them; `changes` are of those of JGLUE."""
    jglue = result(evaluations.jglue(evaluations.model("5a"), **changes), results.JGLUE)
    text = result(evaluations.text(evaluations.model("5a")), results.TEXT)
    found = {each.stage: score_card.published(each, private) for each in (jglue, text)}
    return dataclasses.replace(private_facts() if private else FACTS, scores=found)


SCORES = """\
Fine-tuned on the training part of each task of [JGLUE](https://github.com/yahoojapan/JGLUE), mean ± standard \
deviation of 3 seeds:

| Task | Measure | Validation | Test |
|---|---|---|---|
| JSTS v1.3 | Pearson correlation | 0.880 ± 0.005 | 0.870 ± 0.005 |
| JSTS v1.3 | Spearman correlation | 0.830 ± 0.005 | - |
| JSQuAD v1.3 | Exact match | 0.880 ± 0.005 | - |
| JSQuAD v1.3 | F1 | 0.830 ± 0.005 | - |

- JSTS: learning rate 5e-05, 4 epochs, batches of 32, at most 128 tokens (4 examples are longer); chosen among 2 \
settings by the validation part, whose scores are a little too high for that
- JSQuAD: learning rate 5e-05, 4 epochs, batches of 32, at most 384 tokens; no other setting was tried
- Questions of JSQuAD of whose answers none begins and ends where tokens do: 1.0% (training), 2.5% (validation)
- Sentences of the tasks that stand in the training text too: JSTS 3 of 2,914 (training), 3 of 2,914 (validation)

Without a fine-tuning, on 1,234 sentences (45,678 characters) of aozora, without 2 sentences that are too long for the \
model:

| Measure | Value |
|---|---|
| Pseudo-likelihood (bits a character) | 3.5000 |
| Pseudo-perplexity a character | 11.3137 |
| Pseudo-likelihood, each token masked alone (bits a character) | 3.2500 |
| Masked words filled at the first guess (share) | 0.2500 |
| Masked words filled in five guesses (share) | 0.5000 |
| Masked content words filled at the first guess (share) | 0.1250 |
| Masked content words filled in five guesses (share) | 0.3750 |
| Next sentences told from others (share) | 0.7500 |
| Characters a token | 1.7500 |
| Unknown tokens (share) | 0.0010 |
| Words that are one token (share) | 0.6250 |
| Words that begin and end where tokens do (share) | 0.9375 |"""


def test_scores_of_the_evaluations_stand_behind_the_test_result():
    facts = with_scores()
    assert section(facts, "Evaluation") == f"{section(FACTS, 'Evaluation')}\n\n{SCORES}"
    assert model_card.unknown(facts) == []
    alone = dataclasses.replace(facts, test=None, test_record=None)
    assert section(alone, "Evaluation") == SCORES
    assert changelog(alone).splitlines()[-1] == (
        "- Scores on JGLUE (JSTS, JSQuAD) and a text without fine-tuning stand in the model card"
    )


def test_the_hub_reads_the_scores_as_results_of_data_sets_of_their_own():
    facts = with_scores()
    card = ModelCard(model_card.model_card(facts))
    assert card.data.to_dict() == metadata(facts).to_dict()
    assert len(card.data.eval_results) == 6 + 5 + 8
    first = metadata(facts).to_dict()["model-index"][0]["results"][2]
    assert first == {
        "task": {"type": "sentence-similarity", "name": "Sentence similarity"},
        "dataset": {
            **{"name": "JGLUE JSTS v1.3", "type": "jglue", "config": "jsts", "split": "validation"},
            "revision": "v1.3",
        },
        "metrics": [
            {"type": "pearsonr", "value": 0.88, "name": "Pearson correlation (mean of 3 seeds)"},
            {"type": "spearmanr", "value": pytest.approx(0.83), "name": "Spearman correlation (mean of 3 seeds)"},
        ],
    }
    of_text = [found for found in card.data.eval_results if found.dataset_name == "aozora, running text"]
    assert [(found.metric_type, found.metric_value) for found in of_text] == [
        (kind, evaluations.MEASURES[key]) for key, (kind, _) in results.TEXT_METRICS.items()
    ]


def test_one_seed_has_no_deviation_and_another_part_to_train_on_is_said():
    facts = with_scores(pearson=(0.5,), train_split="valid")
    said = section(facts, "Evaluation")
    held_out = "nine tenths of the validation part, the rest of which is what validation means here,"
    assert f"Fine-tuned on {held_out} of each task of [JGLUE](" in said
    assert "JGLUE), one seed:\n" in said
    assert "| JSTS v1.3 | Pearson correlation | 0.500 | 0.490 |\n" in said
    names = [found.metric_name for found in metadata(facts).eval_results if found.dataset_type == "jglue"]
    assert names == ["Pearson correlation (one seed, fine-tuned on valid)"]  # on test alone


def test_an_overlap_that_nobody_looked_for_is_named_as_unknown():
    content = evaluations.jglue(evaluations.model("5a"))
    content["training_text"] = None  # it was looked for in a text that may be another
    found = score_card.published(result(content, results.JGLUE), False)
    facts = dataclasses.replace(FACTS, scores={results.JGLUE: found})
    assert model_card.unknown(facts) == ["jglue overlap"]
    assert "Without a fine-tuning" not in section(facts, "Evaluation")


def test_a_measure_that_a_model_has_not_has_no_row():
    content = evaluations.text(evaluations.model("5a"), nsp_accuracy=None)
    found = score_card.published(result(content, results.TEXT, name=None), False)
    facts = dataclasses.replace(FACTS, scores={results.TEXT: found})
    said = section(facts, "Evaluation")
    assert "Next sentences told" not in said and "of a text of unknown origin, without 2 sentences" in said
    types = {found.task_type for found in score_card.eval_results(facts.scores)}
    assert types == {"fill-mask"}


def test_of_a_private_text_the_card_has_scores_and_no_figures():
    facts = with_scores(private=True)
    said = section(facts, "Evaluation")
    assert "Without a fine-tuning, on aozora:\n" in said
    assert "| JSTS v1.3 | Pearson correlation | 0.880 ± 0.005 |" in said
    assert "stand in the training text too" not in said
    assert model_card.unknown(facts) == []

"""bert-ja: from a Japanese text corpus to a released BERT. One module a noun, in the order in which data meets them."""

__version__ = "0.1.0"

"""Where the tokens of a text stand in it: characters of the original text, whatever the tokenizer makes of it.

Fast tokenizers say so themselves. Slow ones, such as BertJapaneseTokenizer (MeCab and WordPiece), do not: there the
pieces are looked for in the text, both in NFKC, without spaces and capitals, which such tokenizers drop.
"""

import difflib
import itertools
import unicodedata
from collections.abc import Iterator

from bert_ja import encoding, tokenization

Span = tuple[int, int]  # characters of a text: the first, and the one behind the last
HOLE = "\uffff"  # no character: stands for an unknown token where two texts are compared


# Texts that are compared


def _clusters(text: str) -> Iterator[Span]:
    """The shortest parts of a text whose normal forms make that of the whole: "ｶﾞ" is one, か + U+3099 too."""
    start = 0
    for end in range(1, len(text)):
        part, after = (unicodedata.normalize("NFKC", piece) for piece in (text[start:end], text[end]))
        marks = after and unicodedata.combining(after[0])
        if not marks and unicodedata.normalize("NFKC", text[start : end + 1]) == part + after:
            yield start, end
            start = end
    if text:
        yield start, len(text)


def normalised(text: str) -> tuple[str, list[Span]]:
    """A text in NFKC, and what each of its characters was: "ｶﾞ㌔" -> ("ガキロ", [(0, 2), (2, 3), (2, 3)])."""
    if unicodedata.is_normalized("NFKC", text):
        return text, [(place, place + 1) for place in range(len(text))]
    parts = [(unicodedata.normalize("NFKC", text[start:end]), (start, end)) for start, end in _clusters(text)]
    return "".join(part for part, _ in parts), [span for part, span in parts for _ in part]


def is_seen(character: str) -> bool:
    """Whether a character leaves ink, as neither spaces nor control and format characters do, which tokenizers drop."""
    return (
        not character.isspace() and character != tokenization.SPACE and unicodedata.category(character)[0] not in "CZ"
    )


def _folded(text: str, marks: bool) -> tuple[str, list[Span]]:
    """`normalised` without capitals and what is not seen, and without `marks` as some tokenizers strip accents."""
    letters, spans = [], []
    for character, span in zip(*normalised(text), strict=True):
        form = character.casefold() if marks else unicodedata.normalize("NFD", character.casefold())
        kept = [letter for letter in form if is_seen(letter) and (marks or unicodedata.category(letter) != "Mn")]
        letters += kept
        spans += [span] * len(kept)
    return "".join(letters), spans


def _literal(piece: str, marks: bool) -> str:
    plain = piece[2:] if piece.startswith("##") and len(piece) > 2 else piece
    return _folded(plain, marks)[0]


# Places of pieces, in characters of a folded text


def _run_places(run: list[str], start: int) -> list[Span]:
    ends = list(itertools.accumulate(map(len, run), initial=start))
    return list(itertools.pairwise(ends))


def _exact(pieces: list[str | None], text: str) -> list[Span | None] | None:
    """Where the known pieces stand when they and unknown ones (None, one character or more) make the whole text.

    None where they do not. Pieces behind an unknown one are taken to stand where they first can, the last at the end.
    """
    places: list[Span | None] = []
    runs = [(unknown, list(group)) for unknown, group in itertools.groupby(pieces, lambda piece: piece is None)]
    at = least = 0  # where the next piece stands at the earliest; how many unknown ones stand before it
    for number, (unknown, run) in enumerate(runs):
        if unknown:
            places += [None] * len(run)
            least = len(run)
            continue
        joined = "".join(run)
        is_last = number == len(runs) - 1
        found = len(text) - len(joined) if is_last else text.find(joined, at + least) if least else at
        if not text.startswith(joined, max(found, 0)) or found < at + least or (not least and found != at):
            return None
        places += _run_places(run, found)
        at, least = found + len(joined), 0
    return places if at + least <= len(text) and (least or at == len(text)) else None


def _likeliest(pieces: list[str | None], text: str) -> list[Span | None]:
    """Where most of the known pieces stand, in their order, where the tokenizer drops or changes a part of the text."""
    joined = "".join(HOLE if piece is None else piece for piece in pieces)
    matcher = difflib.SequenceMatcher(None, joined, text, autojunk=False)
    place = {a + step: b + step for a, b, size in matcher.get_matching_blocks() for step in range(size)}
    places, at = [], 0
    for piece in pieces:
        length = 1 if piece is None else len(piece)
        found = [place[letter] for letter in range(at, at + length) if letter in place]
        places.append((found[0], found[-1] + 1) if found else None)
        at += length
    return places


def _filled(places: list[Span | None], length: int) -> list[Span]:
    """Places with the unknown ones between their neighbours: one character each where there are so many, else all."""
    filled: list[Span] = []
    for known, group in itertools.groupby(enumerate(places), lambda item: item[1] is not None):
        group = list(group)
        if known:
            filled += [place for _, place in group]
            continue
        start, after = filled[-1][1] if filled else 0, group[-1][0] + 1
        end = places[after][0] if after < len(places) else length
        each = len(group) == end - start
        filled += [(start + step, start + step + 1) if each else (start, end) for step in range(len(group))]
    return filled


def _places(pieces: list[str | None], text: str, marks: bool) -> tuple[list[Span | None], bool]:
    """(where pieces stand in a folded text, None for unknown ones; whether they make the whole text)."""
    literals = [None if piece is None else _literal(piece, marks) for piece in pieces]
    exact = _exact(literals, text)
    return (_likeliest(literals, text), False) if exact is None else (exact, True)


# Tokens


def _in_words(words: list[tuple[str, int]], pieces: list[str | None], text: str, marks: bool) -> list[Span] | None:
    """Where the pieces of words stand: first the words in the text, then the pieces in theirs. None if they do not."""
    found, exact = _places([word for word, _ in words], text, marks)
    if not exact:
        return None
    spans, rest = [], iter(pieces)
    for (_, tokens), (start, end) in zip(words, found, strict=True):
        inner, _ = _places(list(itertools.islice(rest, tokens)), text[start:end], marks)
        spans += [(start + first, start + last) for first, last in _filled(inner, end - start)]
    return spans


def _spans(words: list[tuple[str, int]] | None, pieces: list[str | None], text: str) -> list[Span]:
    """Characters of a text that pieces stand for; marks are left aside where pieces do not make the text with them."""
    for marks in (True, False):
        folded, sources = _folded(text, marks)
        found = _in_words(words, pieces, folded, marks) if words else None
        if found is None:
            places, exact = _places(pieces, folded, marks)
            found = _filled(places, len(folded)) if exact or not marks else None
        if found is not None:
            break
    sources.append((len(text), len(text)))
    return [(sources[start][0], sources[end - 1][1] if end > start else sources[start][0]) for start, end in found]


def _slow_offsets(tokenizer, text: str) -> tuple[list[int], list[Span]]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    known = [None if token == tokenizer.unk_token_id else piece for token, piece in pieces]
    return ids, _spans(encoding.words_of(tokenizer, text, len(ids)), known, text)


def offsets(tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """(ids of a text without special tokens, the characters of the text that each stands for) by any tokenizer.

    Neighbours share a character of which both have a part (㌔ as キ and ロ). An unknown token of a slow tokenizer is
    its word, or what lies between its neighbours; (p, p) where that is nothing. Characters that are in no span are
    those that the tokenizer drops, such as spaces.
    """
    if not tokenizer.is_fast:
        return _slow_offsets(tokenizer, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["input_ids"], [tuple(span) for span in encoded["offset_mapping"]]

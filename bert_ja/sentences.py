"""Prose -> sentences, as Japanese writes them.

`split()` ends a sentence at 。 and at ！ or ？ behind Japanese prose, but not within quotations and parentheses,
so that 「行く。帰る。」と言った。 stays one sentence. A bracket that stays open for more than 400 characters, or for
ever, protects nothing. Nothing is changed but white space around sentences. `cut()` divides a sentence that is
longer than SentencePiece takes. Both are linear in the length of the text.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

# ---------------------------------------------------------------- brackets

PAIRS = dict(zip("「『（(【〈《“〔［[｢", "」』）)】〉》”〕］]｣", strict=True))
CLOSERS = {closer: opener for opener, closer in PAIRS.items()}
SIGNS = re.escape("".join(PAIRS) + "".join(CLOSERS))
BRACKET = re.compile(f"[{SIGNS}]")
STOPS = "。｡．！？!?."
# A bracket with another one or a stop in it, or not closed. Most paragraphs have none, so that no bracket matters.
BRACKET_THAT_MATTERS = re.compile(
    "|".join(rf"{re.escape(opener)}[^{SIGNS}{STOPS}]*+(?!{re.escape(closer)})" for opener, closer in PAIRS.items())
)
MAX_QUOTATION = 400  # characters; a longer "quotation" is mostly a bracket that somebody forgot to close


def _quotations(text: str) -> list[tuple[int, int]]:
    """Return where the outermost brackets open and close: "a（b「c」）" -> [(1, 6)].

    A closer skips unclosed openers above its own and is ignored without one; counting the openers of each kind
    keeps this linear.
    """
    found: list[tuple[int, int]] = []
    stack: list[tuple[str, int]] = []
    waiting = dict.fromkeys(PAIRS, 0)
    for match in BRACKET.finditer(text):
        sign, place = match[0], match.start()
        if sign in PAIRS:
            stack.append((sign, place))
            waiting[sign] += 1
            continue
        while waiting[CLOSERS[sign]]:
            top, start = stack.pop()
            waiting[top] -= 1
            if top == CLOSERS[sign]:
                _keep_outermost(found, start, place)
                break
    return found


def _keep_outermost(found: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a pair unless it is too long to be a quotation; the pairs within it, found before it, go."""
    if end - start > MAX_QUOTATION:
        return
    while found and found[-1][0] > start:
        found.pop()
    found.append((start, end))


# ---------------------------------------------------------------- ends

# A stop, further stops and the closing brackets behind it, which all stay with their sentence.
CLOSING = f"[{re.escape(''.join(CLOSERS))}]"
# What parentheses add behind 。 belongs to the sentence before it: at the end of a paragraph or before another stop,
# "である。（後述）。"; behind a quotation, "「来た。」（太郎）「見た。」"; and where it is long or says so,
# "である。（2000年の調査による）しかし". What else stands there begins the next: "（左から）", "（）内は".
INSIDE = f"[^（）(){STOPS}]*+(?<![、・])"
IS_ASIDE = f"(?=[^（）(){STOPS}]{{15}})|(?={INSIDE}(?:(?<=よる|より|参照|現在|時点|当時|のみ|可能|年度)|(?<=\\d年)))"
ASIDE = (
    rf"(?:(?<=[。．｡」』])\s*[（(](?![ 　）)])"
    rf"(?:{INSIDE}[）)](?=\s*(?:[。．]|\Z))|(?<=[」』][（(]){INSIDE}[）)](?=[「『])"
    rf"|(?:{IS_ASIDE}){INSIDE}[）)](?![のはがをに内、])))?"
)
END = re.compile(
    rf"[{STOPS}][。｡．！？!?]*(?:[…‥](?:(?<=[！？!?].)|(?=[…‥]*\s*(?:{CLOSING}|\Z)))[。｡．！？!?…‥]*)?"
    rf"{CLOSING}*(?:\s+{CLOSING}+)*{ASIDE}"
)
# Names with a stop in them: モーニング娘。OG, ゲスの極み乙女。
NAME = re.compile("(?:モーニング娘|カントリー娘|ココナッツ娘|ミニモニ|ゲスの極み乙女)$")
# Behind a noun, a particle means that the sentence goes on, as in 娘。の歌. Words that merely begin with such a
# sign go on in hiragana (のちに, とくに, もし), what a particle marks mostly begins otherwise.
PARTICLE = re.compile(r"\s*(?:[のはがをにともでへや](?![ぁ-ん])|の(?!ち)|を|から|まで|など|という|といった|って)")
RUN = re.compile("(?:[「『][^「」『』]*[」』])+(?:など|にお[いけ]|[のはがをやも])")  # 「来た。」「見た。」などは
SAID = re.compile(r"\s+と(?:[^ぁ-ん]|い[うっ])")  # ああ！　と叫ぶ
NO_START = frozenset("、，,;；:：。・）」』】〉》〕］)]=＝〜～/／♪☆★")
PROSE = re.compile("[ぁ-ん一-鿿々〆」』）)]")
BEHIND_DOT = re.compile(r"\s+(?![a-z])|[^\x00-\u3000\d]")  # not in ファミ通.com, 毎日. jp
KANJI_NUMBER = re.compile(r"[〇一二三四五六七八九十][．.]\s?[〇一二三四五六七八九]")
WESTERN_END = re.compile(r"(?<![a-z])(?!(?:etc|vol|vols|eds|dept|univ|approx|fig|figs|var|subsp)\.)[a-z]{3,}\.$")
WESTERN_START = re.compile(r"\s+[A-Z][a-z]")


def _ends_at_mark(text: str, place: int, end: int) -> bool:
    """Tell whether ！ or ？ ends a sentence: "行くか？そう" yes, "Yahoo!ニュース", "ハイキュー!!", "けいおん！の" no.

    Half-width signs stand in names more often than at ends, so they need white space behind them.
    """
    if not PROSE.match(text, place - 1) or text[end] in "のはがをにともでへや":
        return False
    return (text[place] in "！？" or text[end].isspace()) and not SAID.match(text, end)


def _ends_at_dot(text: str, place: int, end: int) -> bool:
    """Tell whether a dot ends a sentence: "である．次に" and "the end. They" yes, "J. Smith", "３．５" no."""
    if PROSE.match(text, place - 1):
        goes_on = PARTICLE.match(text, end) or KANJI_NUMBER.match(text, place - 1)
        return bool(BEHIND_DOT.match(text, end)) and not goes_on
    western = WESTERN_END.search(text, max(0, place - 20), place + 1)
    return bool(western and end == place + 1 and WESTERN_START.match(text, end))


def _ends_sentence(text: str, place: int, end: int) -> bool:
    """Tell whether the stop at `place`, which takes text up to `end` with it, ends a sentence outside brackets."""
    if end == len(text):
        return True
    if place == 0 or text[end] in NO_START:
        return False
    if text[place] in "。｡":
        hiragana = "ぁ" <= text[place - 1] <= "ん"
        return hiragana or not (PARTICLE.match(text, end) or NAME.search(text, max(0, place - 10), place))
    return (_ends_at_dot if text[place] in "．." else _ends_at_mark)(text, place, end)


def _ends_quotation(text: str, quotation: tuple[int, int], start: int, end: int) -> bool:
    """Tell whether a sentence from `start` ends with its bracket at `end`: "「来た。」「見た。」" twice.

    Only if the bracket is the whole sentence, and no one goes on behind it: not "「来た。」と言う。".
    """
    if end <= quotation[1] or text[start : quotation[0]].strip():
        return False
    following = text[end : end + 1]
    if RUN.match(text, end, end + MAX_QUOTATION):
        return False
    if text[quotation[0]] in "（(":
        return not (following in NO_START or PARTICLE.match(text, end))
    return not following or following.isspace() or following in "「『（("


def _ends(text: str) -> Iterator[int]:
    """Yield the places where sentences end."""
    start = 0
    quotations = iter(_quotations(text) if BRACKET_THAT_MATTERS.search(text) else [])
    nowhere = (len(text), len(text))
    quotation = next(quotations, nowhere)
    for match in END.finditer(text):
        place, end = match.span()
        while quotation[1] < place:
            quotation = next(quotations, nowhere)
        within = quotation[0] < place
        if _ends_quotation(text, quotation, start, end) if within else _ends_sentence(text, place, end):
            yield end
            start = end


def split(paragraph: str) -> list[str]:
    """Split a paragraph into sentences: "「行く。」と言った。来た。" -> ["「行く。」と言った。", "来た。"].

    Nothing but white space around sentences is lost; no sentence begins with 」, ） or another stop.
    """
    places = [0, *_ends(paragraph), len(paragraph)]
    return [sentence for start, end in pairwise(places) if (sentence := paragraph[start:end].strip())]


# ---------------------------------------------------------------- sentences that are too long

# Where to cut, best first: behind a stop, a semicolon, a comma, a closing bracket, a space.
NO_FRESH_START = f"(?!{CLOSING}|[、。，．])"
CUTS = [re.compile(f"[{signs}]{NO_FRESH_START}") for signs in ("。．！？", "；;", "、，", "」』）)】", r"\s")]


def cut(sentence: str, max_bytes: int = 4192) -> list[str]:
    """Cut a sentence into pieces of at most `max_bytes` bytes of UTF-8: ("あ、いう", 9) -> ["あ、", "いう"].

    4,192 is the longest line that SentencePiece takes; longer ones it skips without a word. Raises ValueError
    below 4 bytes, which one character may need.
    """
    if max_bytes < 4:
        raise ValueError(f"max_bytes is {max_bytes}; a character can need 4 bytes")
    if len(sentence) * 4 <= max_bytes:
        return [sentence] if (sentence := sentence.strip()) else []
    pieces, start = [], 0
    while start < len(sentence):
        end = start + _piece_length(sentence[start : start + max_bytes + 1], max_bytes)
        pieces.append(sentence[start:end].strip())
        start = end
    return [piece for piece in pieces if piece]


def _piece_length(text: str, max_bytes: int) -> int:
    """Return how many characters to take: all if they fit, or up to the last good point in the second half."""
    fitting = len(text.encode()[:max_bytes].decode(errors="ignore"))
    if fitting == len(text):
        return fitting
    for signs in CUTS:
        ends = [match.end() for match in signs.finditer(text, fitting // 2, fitting)]
        if ends:
            return ends[-1]
    return fitting

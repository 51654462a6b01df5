"""Lines that are hard to tokenize: a list of our own, and any text's lines recombined with odd characters."""

from collections.abc import Iterator

from bert_ja import draws

PIECE = 20  # characters of a line that are recombined
ADVERSARIAL_LINES = (
    "",
    " ",
    "　",
    "日本語の文です。",
    "㈱東京商会と㍿大阪、㌔と㎡、①②③、Ⅳ世、ⅷ。",
    "ｶﾞｷﾞｸﾞとﾊﾟﾋﾟ、ｱｲｳ、ｰ。",
    "か\u3099き\u3099は\u309aひ\u309a、ウ\u3099。",
    "東京～大阪〜京都、３〜５、〰。",
    "ゼロ\u200b幅\u200cの\u200d字と\ufeff印、\u2060結合。",
    "改行\u00a0しない\u202f空白\u2009と\u2003字幅。",
    "　　行頭と　　行中と行末の全角空白　　",
    "  行頭と  行中と   行末の半角空白   ",
    "絵文字😀と👨‍👩‍👧‍👦と🏳️‍🌈と👍🏽と🇯🇵。",
    "𠮷野家と𩸽と𠀋、髙﨑、神神、辻󠄀、葛󠄁。",
    "龘靐齉爨麤鱻、彁暃椦、鿫。",
    "ＡＢＣａｂｃ０１２３！？（）［］｛｝＠＃。",
    "［ＭＡＳＫ］は全角、[MASK]は半角、[mask]は小文字。",
    "[MASK]",
    "[MASK][MASK]",
    " [MASK] と [MASK]  、[MASK]。「[MASK]」([MASK])",
    "前[MASK] 後、前 [MASK]後、前　[MASK]　後",
    "[MASK]で始まり[MASK]",
    "[MAS K] [ MASK] [MASK",
    "改行の残り\r",
    "タブ\tと\t\t二つのタブ\t",
    "縦\x0b書\x0c頁\x1c区\x85切\u2028行\u2029段。",
    "制御\x00文字\x07と\x1b[0mと\x7f。",
    "▁下線 ▁ と▁▁二つ",
    "▅使われる字",
    "café naïve Ångström ﬁne ﬂow ſtraße Ǆ İstanbul ŉ",
    "cafe\u0301 A\u030angstro\u0308m n\u0303 a\u0323\u0301 a\u0301\u0323",
    "한국어와 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "العربية ﷺ ﻻ עברית हिन्दी ไทย",
    "½¼¾ x² H₂O ℃ ™ © ® … ‥ ・ ･ ― — – ‐ ‑ −",
    "「『【《〈（｢｣）〉》】』」、。，．､｡゛゜ﾞﾟ",
    "www.example.com/?q=%E3%81%82&r=1#x foo_bar@example.co.jp",
    "々〆ヶヵゝゞヽヾ〇ー一二三",
    "\ue000外字\uf8ff\ufffd\U0010ffff",
    "あ" * 1500,
    "。".join(["長い行の中の文で、数は多いが語は少ない"] * 120),
    "<pad>と<unk>は、文中では文字の並びである。",
    "[CLS]や[SEP]も、文中では文字の並びである。",
    "［ＳＥＰ］や＜ｕｎｋ＞も同じ。",
    "Ａ\u0301とｶ\u0301とㇺ\u309a、㊙\u0301。",
)


ODD = (
    *("\u3099", "\u309a", "か\u3099", "は\u309a", "う\u3099", "ｶﾞ", "ﾊﾟ", "ｳﾞ", "ﾞ", "ﾟ", "ｱｲｳ", "ｰ", "゛", "゜"),  # kana
    *("\u0301", "e\u0301", "n\u0303", "a\u0323\u0301", "a\u0301\u0323", "ê\u0301", "Ａ\u0301", "㊙\u0301"),  # marks
    *("\u20dd", "\u0327", "\u0489", "ก\u0e33", "नि", "क्ष", "ש\u05c1", "ا\u0651"),  # of other scripts
    *("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u200e", "\u202e"),  # of no width
    *("　", "　　", "  ", "\u00a0", "\u2003", "\u2009", "\u202f", "\u3164", "\u115f", "\u180e", "\u1680"),  # spaces
    *("\t", "\x07", "\x0b", "\x0c", "\x1b[0m", "\x1c", "\x7f", "\x85", "\x8f", "\x9f"),  # control
    *("\u2028", "\u2029", "\r"),
    *(
        "[MASK]",
        " [MASK] ",
        "[MASK] ",
        " [MASK]",
        "[MASK][MASK]",
        "［ＭＡＳＫ］",
        "[mask]",
        "[MASK",
        "[ＭASK]",
        "〔MASK〕",
    ),
    *(
        "<pad>",
        "<unk>",
        "[CLS]",
        "[SEP]",
        "＜ｕｎｋ＞",
        "［ＳＥＰ］",
        "<s>",
        "</s>",
        "<0x0A>",
        "[PAD]",
        "[UNK]",
    ),  # pieces
    *(
        "▁",
        "▁▁",
        " ▁ ",
        "▅",
        "_",
        "⁇",
        " ⁇ ",
        "\ufffd",
        "\ufffc",
        "\ue000",
        "\uf8ff",
        "\U0010ffff",
    ),  # SentencePiece's own
    *("😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🏽", "🇯🇵", "1️⃣", "\ufe0f", "\U000e0100", "\U000e0041"),  # emoji, selectors
    *("𠮷", "𩸽", "神", "辻󠄀", "葛󠄁", "髙", "⼀", "⺟", "𛀁", "㋿", "龘", "彁"),  # kanji and old kana
    *(
        "㈱",
        "㍿",
        "㌔",
        "㎡",
        "①",
        "Ⅳ",
        "ⅷ",
        "½",
        "ﷺ",
        "ﬁ",
        "ſ",
        "ŉ",
        "Ǆ",
        "…",
        "‥",
        "㍻",
        "℃",
        "™",
        "²",
        "⑴",
    ),  # compatibility
    *("～", "〜", "－", "−", "―", "￥", "＼", "￣", "ＡＢＣ", "０１", "！？", "｢｣", "､｡･"),  # full and half width
    *("한", "\u1112\u1161\u11ab", "조\u11bf", "\u1100", "\u11ab", "ﾡ", "العربية", "עברית", "हिन्दी", "ไทย", "İ", "ß"),
)


def _odd_line(lines: list[str], stream) -> str:
    """A piece of a line and one of another, with one to four odd characters put between any two of theirs."""
    places = draws.uniform(stream, range(13))
    text = ""
    for which, where in (places[:2], places[2:4]):
        line = lines[int(which * len(lines))]
        start = int(where * (len(line) + 1))
        text += line[start : start + PIECE]
    for where, which in zip(places[5 : 6 + int(4 * places[4])], places[9:], strict=False):
        place = int(where * (len(text) + 1))
        text = text[:place] + ODD[int(which * len(ODD))] + text[place:]
    return text


def odd_lines(lines: list[str], count: int, seed: int = 0) -> Iterator[str]:
    """Yield `count` recombinations of a text's lines with odd characters: marks, spaces, widths, literal pieces, ...

    Each depends on the lines, the seed and its number alone.
    """
    for number in range(count):
        yield _odd_line(lines, draws.key(seed, "odd line", number))

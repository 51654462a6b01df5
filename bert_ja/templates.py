"""Templates of Japanese Wikipedia whose argument is text: {{lang|en|tea}} shows tea.

The pages of the templates are not in a dump's articles, so what they show is told here.
"""

import re
from collections.abc import Callable

from bert_ja.marks import DIVIDER, HOLE

HAS_WORD = re.compile(r"\w")


class Arguments:
    """Arguments of a template: ["a", "label=b", "2=c"] -> at(0) == "a", at(1) == "c", by_name["label"] == "b"."""

    # HTML attributes (<span style="...">) are no names: a name is a word.
    NAME = re.compile(r"\s*(\w[\w \-]{0,20}?)\s*=")

    def __init__(self, arguments: list[str]) -> None:
        self.positional: list[str] = []
        self.by_name: dict[str, str] = {}
        for argument in arguments:
            named = self.NAME.match(argument)
            if named:
                self.by_name[named[1]] = argument[named.end() :].strip()
            else:
                self.positional.append(argument)

    def at(self, place: int) -> str:
        """Return a positional argument, -1 being the last one, or "" if it is not there."""
        if place < len(self.positional) and self.positional:
            return self.positional[place]
        return self.by_name.get(str(max(place, 0) + 1), "")


def ruby(base: str, *readings: str) -> str:
    """Set readings behind their word: ("紫陽花", "あじさい") -> "紫陽花（あじさい）".

    This is what browsers without ruby show (<rp>), how Wikipedia gives readings in its first sentences, and how
    plain Japanese text does it. So all kinds of ruby end alike. Emphasis dots and empty readings say nothing.
    """
    said = [reading.strip("（）() \u3000") for reading in readings]
    reading = "、".join(reading for reading in said if HAS_WORD.search(reading))
    return f"{base}（{reading}）" if base and reading else base


def _convert(arguments: Arguments) -> str:
    """{{convert|3|C|F}} -> 3℃: the value as the author measured it, without the conversion."""
    unit = {"C": "℃", "F": "°F", "sqmi": "平方マイル", "mi": "マイル", "ft": "フィート", "in": "インチ"}
    unit |= {"sqkm": "km2", "yd": "ヤード", "lb": "ポンド", "nmi": "海里"}
    return arguments.at(0) + unit.get(arguments.at(1), arguments.at(1))


def _value(arguments: Arguments) -> str:
    """{{val|6.02|e=23|u=/mol}} -> 6.02×10^23/mol."""
    named = arguments.by_name
    power = f"×10^{named['e']}" if named.get("e") else ""
    return arguments.at(0) + power + (named.get("u") or named.get("ul") or "")


def _fraction(arguments: Arguments) -> str:
    """{{sfrac|1|2}} -> 1/2, {{frac|3}} -> 1/3, {{frac|2|1|3}} -> 2 1/3."""
    whole, above, below = ([""] * 3 + (["1"] if len(arguments.positional) == 1 else []) + arguments.positional)[-3:]
    return f"{whole} {above}/{below}".strip()


def _format_number(number: str) -> str:
    """{{formatnum:1234567.8}} -> 1,234,567.8; what is no plain number stays as it is."""
    whole, point, rest = number.partition(".")
    return f"{int(whole):,}{point}{rest}" if re.fullmatch(r"-?[0-9]{1,30}", whole) else number


PARSER_FUNCTIONS: dict[str, Callable[[str], str]] = {"#expr": lambda text: HOLE, "formatnum": _format_number}

# Names in lower case, spaces written as _. What shows its first argument: fonts and pronunciation, sizes and styles,
# words of a language, links to other Wikipedias; and those that _rule() knows by their ends.
SHOWS_FIRST = """
    ipa ipa2 ipa3 ipa4 ipalink 発音記号 unicode nastaliq 特殊文字フォント 補助漢字フォント 拡張漢字フォント
    jis2004フォント jis90フォント cp932フォント 機種依存文字 高線 下げ核 簡体字 繁体字 新字体 旧字体 ピン音 拼音
    small smaller large larger big nobold nowrap nobr sub em strong bold underline 下線 上線 overline 傍点 圏点
    取消線 縦書き mono code kbd var math mvar mathbf visible_anchor vanc by abbr tooltip linktext
    en de fr es it pt ru la el grc nl sv da no fi is pl cs sk hu ro bg sr hr sl sq mk uk be lt lv et tr ar fa he
    hi ur bn ta th vi id ms ko zh ja eo eu ca gl cy ga gd mn ka hy az kk uz ky tl km lo my ne si am sw af yi bo
    nihongo 未訳 日本語版にない記事リンク 訳語疑問点 太字 斜体 smallcaps huge script serif pron-en
"""
SHOWS_SECOND = "lang rtl-lang wikt-lang color font_color fontcolor 色 背景色 fontsize font-size resize audio audio-ipa"
SHOWS_LAST = "transl translit 翻字 llang langwithname rtl-langwithname interlang 拡張漢字"
RUBY = "ルビ ruby ふりがな 振り仮名 読み仮名 読み仮名_ruby不使用"
BLOCK_QUOTES = "quote quotation cquote blockquote squote 引用 引用文"
JOINED = "chem chem2 化学式 gaps ipac-en"
BLOCK_LINES = "indent 字下げ center centre"  # shown like a line with ":" before it
SIGNS = {"!": "|", "=": "=", "・": "・", "·": "·", "snd": " – ", "ndash": "–", "mdash": "—", "spaces": " ", "sp": " "}
SIGNS |= {"―": "――", "ダッシュ": "――", "'": "'", "colon": ":", "0": "", "-": "", "clear": ""}
SIGNS |= dict.fromkeys(["nbsp", "space", "thinsp"], " ") | {"dot": "・", "くの字点": "〳〵", "currentyear": HOLE}


Rule = str | Callable[[Arguments], str]
TEMPLATES: dict[str, Rule] = dict(SIGNS)
TEMPLATES |= dict.fromkeys(SHOWS_FIRST.split(), lambda arguments: arguments.at(0))
TEMPLATES |= dict.fromkeys(SHOWS_SECOND.split(), lambda arguments: arguments.at(1) or arguments.by_name.get("text", ""))
TEMPLATES |= dict.fromkeys(SHOWS_LAST.split(), lambda arguments: arguments.at(-1))
TEMPLATES |= dict.fromkeys(RUBY.split(), lambda arguments: ruby(arguments.at(0), *arguments.positional[1:]))
TEMPLATES |= dict.fromkeys(BLOCK_QUOTES.split(), lambda arguments: DIVIDER + arguments.at(0) + DIVIDER)
TEMPLATES |= dict.fromkeys(BLOCK_LINES.split(), lambda arguments: f"\n:{arguments.at(0)}\n")
TEMPLATES |= dict.fromkeys(JOINED.split(), lambda arguments: "".join(arguments.positional))
TEMPLATES |= dict.fromkeys(["convert", "cvt"], _convert)
TEMPLATES |= dict.fromkeys(["sfrac", "frac", "分数"], _fraction)
TEMPLATES |= dict.fromkeys(
    ["仮リンク", "ill2", "ill", "リンク仮"],
    lambda arguments: arguments.by_name.get("label") or arguments.at(0),
)
TEMPLATES |= dict.fromkeys(["val", "数値"], _value)
TEMPLATES |= {"sup": lambda arguments: f"<sup>{arguments.at(0)}</sup>"}  # a tag, which knows what stands before it
TEMPLATES |= {"e": lambda arguments: f"×10^{arguments.at(0)}", "10^": lambda arguments: f"10^{arguments.at(0)}"}


def rule(name: str) -> Rule | None:
    """Look a template up: a sign, a function of its arguments, or None for one that shows no prose."""
    # lang-en, lang-fr-short, IPA-de; and passages that somebody doubts: 要出典範囲, いつ範囲, 独自研究範囲
    if name.startswith(("lang-", "ipa-", "link-")) or name.endswith("範囲"):
        return TEMPLATES["ipa"]
    return TEMPLATES.get(name)

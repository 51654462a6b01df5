"""Templates of Japanese Wikipedia whose argument is text: {{lang|en|tea}} shows tea.

The pages of the templates are not in a dump's articles, so what they show is told here.
"""

import functools
import re
from collections.abc import Callable

from bert_ja.marks import DIVIDER, GAP, HIDE, HOLE, MARK

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


Rule = str | Callable[[Arguments], str]  # a text, or what makes one of the arguments


def ruby(base: str, *readings: str) -> str:
    """Set readings behind their word: ("紫陽花", "あじさい") -> "紫陽花（あじさい）".

    This is what browsers without ruby show (<rp>), how Wikipedia gives readings in its first sentences, and how
    plain Japanese text does it. So all kinds of ruby end alike. Emphasis dots and empty readings say nothing.
    """
    said = [reading.strip("（）() \u3000") for reading in readings]
    reading = "、".join(reading for reading in said if HAS_WORD.search(reading))
    return f"{base}（{reading}）" if base and reading else base


UNITS = {"C": "℃", "degC": "℃", "F": "°F", "sqmi": "平方マイル", "mi": "マイル", "ft": "フィート", "in": "インチ"}
UNITS |= {"sqkm": "km2", "yd": "ヤード", "lb": "ポンド", "oz": "オンス", "nmi": "海里", "acre": "エーカー"}
RANGES = {"-": "〜", "–": "〜", "to": "〜", "and": "と", "or": "または", "x": "×", "×": "×", "by": "×", "+/-": "±"}
PARTED_UNITS = ("ft", "yd", "lb")  # 6 feet 2 inches


def _convert(arguments: Arguments) -> str:
    """{{convert|3|C|F}} -> 3℃, {{convert|5|-|8|km|mi}} -> 5〜8km: as the author measured it, without the conversion."""
    value, unit, other, other_unit = (arguments.at(place) for place in range(4))
    if unit in RANGES:
        return value + RANGES[unit] + other + UNITS.get(other_unit, other_unit)
    shown = value + UNITS.get(unit, unit)
    parted = unit in PARTED_UNITS and other[:1].isdigit() and other_unit
    return shown + other + UNITS.get(other_unit, other_unit) if parted else shown


def _value(arguments: Arguments) -> str:
    """{{val|6.02|e=23|u=/mol}} -> 6.02×10^23/mol, {{val|1.67|0.03}} -> 1.67±0.03, {{val|1.67|(3)}} -> 1.67(3)."""
    named, error = arguments.by_name, arguments.at(1)
    power = f"×10^{named['e']}" if named.get("e") else ""
    error = error if error.startswith("(") or not error else f"±{error}"
    return arguments.at(0) + error + power + UNITS.get(unit := named.get("u") or named.get("ul") or "", unit)


ICON_LABELS = ("発音", "聞く", "音声", "再生", "試聴", "listen", "help", "info")


def _audio(arguments: Arguments) -> str:
    """{{Audio|f.ogg|Norge}} -> Norge, {{Audio|f.ogg||de|Wien|ヴィーン}} -> Wien（ヴィーン）; an icon has no text."""
    label = arguments.at(1)
    return "" if label in ICON_LABELS else label or ruby(arguments.at(3), arguments.at(4))


def _phonetic(arguments: Arguments) -> str:
    """{{IPA|oː}} -> [oː], with brackets that are hidden, or they would be markup."""
    return _in_signs(arguments.at(0), HIDE[ord("[")], HIDE[ord("]")])


def _phonemic(arguments: Arguments) -> str:
    """{{ipa|oː}} -> /oː/."""
    return _in_signs(arguments.at(0), "/", "/")


def _in_signs(sounds: str, before: str, behind: str) -> str:
    """Few authors write the signs themselves, which adds none."""
    return sounds if not sounds or sounds[0] in "[/" + before else before + sounds + behind


# What {{lang-en|tea}} and {{lang-en-short|tea}} set before their text: 英語: tea, 英: tea. Others set the name only.
LANGUAGE_TABLE = """
    en 英語 英 de ドイツ語 独 fr フランス語 仏 la ラテン語 羅 el ギリシア語 希 it イタリア語 伊 es スペイン語 西
    pt ポルトガル語 葡 nl オランダ語 蘭 ru ロシア語 露 zh 中国語 中 ko 朝鮮語 朝 pl ポーランド語 波
    sv スウェーデン語 典 da デンマーク語 丁 no ノルウェー語 諾 fi フィンランド語 芬 hu ハンガリー語 洪 tr トルコ語 土
    sa サンスクリット 梵 ar アラビア語 - grc 古代ギリシア語 - cs チェコ語 - sk スロバキア語 - sl スロベニア語 -
    hr クロアチア語 - sr セルビア語 - bg ブルガリア語 - ro ルーマニア語 - uk ウクライナ語 - be ベラルーシ語 -
    et エストニア語 - lv ラトビア語 - lt リトアニア語 - is アイスランド語 - ga アイルランド語 - cy ウェールズ語 -
    gd スコットランド・ゲール語 - ca カタルーニャ語 - gl ガリシア語 - eu バスク語 - oc オック語 - br ブルトン語 -
    lb ルクセンブルク語 - mt マルタ語 - sq アルバニア語 - mk マケドニア語 - bs ボスニア語 - hy アルメニア語 -
    ka グルジア語 - az アゼルバイジャン語 - kk カザフ語 - uz ウズベク語 - ky キルギス語 - tk トルクメン語 -
    tg タジク語 - mn モンゴル語 - bo チベット語 - fa ペルシア語 - he ヘブライ語 - ur ウルドゥー語 - hi ヒンディー語 -
    bn ベンガル語 - ta タミル語 - te テルグ語 - ne ネパール語 - si シンハラ語 - my ビルマ語 - th タイ語 -
    lo ラーオ語 - km クメール語 - vi ベトナム語 - id インドネシア語 - ms マレー語 - tl タガログ語 - sw スワヒリ語 -
    am アムハラ語 - so ソマリ語 - af アフリカーンス語 - zu ズールー語 - xh コサ語 - qu ケチュア語 - eo エスペラント -
    ain アイヌ語 - haw ハワイ語 - mi マオリ語 -
"""
LANGUAGES = {code: (name, short) for code, name, short in zip(*[iter(LANGUAGE_TABLE.split())] * 3, strict=True)}


def _labelled(name: str) -> Rule:
    """The rule of lang-CODE and lang-CODE-short."""
    code, short, _ = name.removeprefix("lang-").partition("-short")
    label = LANGUAGES.get(code, ("-", "-"))[bool(short)]
    before = "" if label == "-" else f"{label}: "
    return lambda arguments: before + arguments.at(0) if arguments.at(0) else ""


def _fraction(arguments: Arguments) -> str:
    """{{sfrac|1|2}} -> 1/2, {{frac|3}} -> 1/3, {{frac|2|1|3}} -> 2 1/3."""
    whole, above, below = ([""] * 3 + (["1"] if len(arguments.positional) == 1 else []) + arguments.positional)[-3:]
    return f"{whole} {above}/{below}".strip()


def _format_number(number: str) -> str:
    """{{formatnum:1234567.8}} -> 1,234,567.8; what is no plain number stays as it is."""
    whole, point, rest = number.partition(".")
    return f"{int(whole):,}{point}{rest}" if re.fullmatch(r"-?[0-9]{1,30}", whole) else number


# {{JPN}} shows a flag and 日本.
COUNTRY_TABLE = """
    JPN 日本 USA アメリカ合衆国 GBR イギリス UK イギリス ENG イングランド SCO スコットランド WAL ウェールズ
    NIR 北アイルランド FRA フランス DEU ドイツ GER ドイツ ITA イタリア ESP スペイン PRT ポルトガル POR ポルトガル
    NLD オランダ NED オランダ BEL ベルギー LUX ルクセンブルク CHE スイス SUI スイス AUT オーストリア SWE スウェーデン
    NOR ノルウェー DNK デンマーク DEN デンマーク FIN フィンランド ISL アイスランド IRL アイルランド POL ポーランド
    CZE チェコ SVK スロバキア HUN ハンガリー ROU ルーマニア BGR ブルガリア BUL ブルガリア GRC ギリシャ GRE ギリシャ
    SVN スロベニア SLO スロベニア HRV クロアチア CRO クロアチア SRB セルビア BIH ボスニア・ヘルツェゴビナ
    MNE モンテネグロ MKD 北マケドニア ALB アルバニア RUS ロシア UKR ウクライナ BLR ベラルーシ EST エストニア
    LVA ラトビア LAT ラトビア LTU リトアニア MDA モルドバ GEO ジョージア ARM アルメニア AZE アゼルバイジャン
    KAZ カザフスタン UZB ウズベキスタン TUR トルコ ISR イスラエル IRN イラン IRQ イラク SYR シリア LBN レバノン
    JOR ヨルダン SAU サウジアラビア KSA サウジアラビア QAT カタール ARE アラブ首長国連邦 UAE アラブ首長国連邦
    KWT クウェート AFG アフガニスタン PAK パキスタン IND インド NPL ネパール BGD バングラデシュ BAN バングラデシュ
    LKA スリランカ MMR ミャンマー THA タイ LAO ラオス KHM カンボジア CAM カンボジア VNM ベトナム VIE ベトナム
    MYS マレーシア MAS マレーシア SGP シンガポール SIN シンガポール IDN インドネシア INA インドネシア PHL フィリピン
    PHI フィリピン TLS 東ティモール BRN ブルネイ CHN 中国 PRC 中華人民共和国 TWN 台湾 TPE チャイニーズタイペイ
    ROC 中華民国 HKG 香港 MAC マカオ KOR 韓国 ROK 大韓民国 PRK 北朝鮮 MNG モンゴル AUS オーストラリア
    NZL ニュージーランド PNG パプアニューギニア FJI フィジー VUT バヌアツ VAN バヌアツ TUV ツバル NRU ナウル
    PLW パラオ WSM サモア TON トンガ KIR キリバス SLB ソロモン諸島 MHL マーシャル諸島 CAN カナダ MEX メキシコ
    CUB キューバ JAM ジャマイカ HTI ハイチ DOM ドミニカ共和国 PRI プエルトリコ GTM グアテマラ HND ホンジュラス
    SLV エルサルバドル NIC ニカラグア CRI コスタリカ PAN パナマ COL コロンビア VEN ベネズエラ ECU エクアドル
    PER ペルー BOL ボリビア BRA ブラジル PRY パラグアイ PAR パラグアイ URY ウルグアイ URU ウルグアイ CHL チリ CHI チリ
    ARG アルゼンチン EGY エジプト LBY リビア TUN チュニジア DZA アルジェリア ALG アルジェリア MAR モロッコ
    SDN スーダン ETH エチオピア KEN ケニア UGA ウガンダ TZA タンザニア RWA ルワンダ COD コンゴ民主共和国
    COG コンゴ共和国 CMR カメルーン NGA ナイジェリア NGR ナイジェリア GHA ガーナ CIV コートジボワール SEN セネガル
    MLI マリ AGO アンゴラ ZMB ザンビア ZWE ジンバブエ MOZ モザンビーク MDG マダガスカル NAM ナミビア BWA ボツワナ
    ZAF 南アフリカ共和国 RSA 南アフリカ共和国 VAT バチカン EUR 欧州連合 EU 欧州連合 SSR ソビエト連邦 URS ソビエト連邦
    GDR 東ドイツ FRG 西ドイツ YUG ユーゴスラビア TCH チェコスロバキア
"""
COUNTRIES = dict(zip(*[iter(COUNTRY_TABLE.split())] * 2, strict=True))

PARSER_FUNCTIONS: dict[str, Callable[[str], str]] = {"#expr": lambda text: HOLE, "formatnum": _format_number}

# Names in lower case, spaces written as _. What shows its first argument: fonts and pronunciation, sizes and styles,
# words of a language, links to other Wikipedias; and those that rule() knows by their ends.
SHOWS_FIRST = """
    ipa2 ipa3 ipa4 ipalink unicode nastaliq 特殊文字フォント 補助漢字フォント 拡張漢字フォント
    jis2004フォント jis90フォント cp932フォント 機種依存文字 高線 下げ核 簡体字 繁体字 新字体 旧字体 ピン音 拼音
    small smaller large larger big nobold nowrap nobr sub em strong bold underline 下線 上線 overline 傍点 圏点
    取消線 縦書き mono code kbd var math mvar mathbf visible_anchor vanc by abbr tooltip linktext
    en de fr es it pt ru la el grc nl sv da no fi is pl cs sk hu ro bg sr hr sl sq mk uk be lt lv et tr ar fa he
    hi ur bn ta th vi id ms ko zh ja eo eu ca gl cy ga gd mn ka hy az kk uz ky tl km lo my ne si am sw af yi bo
    nihongo 未訳 日本語版にない記事リンク 訳語疑問点 太字 斜体 smallcaps huge script serif pron-en
    bigger 学名 snamei 読み よみ 音声ルビ
"""
SHOWS_SECOND = "lang rtl-lang wikt-lang ラテン翻字 fontsize font-size resize"
COLOURS = "color font_color fontcolor 色 背景色"  # one or two of them, then the text
SHOWS_LAST = "transl translit 翻字 langwithname rtl-langwithname interlang 拡張漢字 font"
RUBY = "ルビ ruby ふりがな 振り仮名"  # a third argument says how they look
READINGS = "読み仮名 読み仮名_ruby不使用"
BLOCK_QUOTES = "quote quotation cquote blockquote squote 引用 引用文"
JOINED = "chem chem2 化学式 gaps ipac-en"
BLOCK_LINES = "indent 字下げ center centre"  # shown like a line with ":" before it
SIGNS = {"!": "|", "=": "=", "・": "・", "·": "·", "snd": " – ", "ndash": "–", "mdash": "—", "spaces": " ", "sp": " "}
SIGNS |= {"―": "――", "ダッシュ": "――", "'": "'", "colon": ":", "0": "", "-": "", "clear": ""}
SIGNS |= dict.fromkeys(["nbsp", "space", "thinsp"], " ") | {"dot": "・", "くの字点": "〳〵", "currentyear": HOLE}

TEMPLATES: dict[str, Rule] = dict(SIGNS)
TEMPLATES |= dict.fromkeys(SHOWS_FIRST.split(), lambda arguments: arguments.at(0))
TEMPLATES |= dict.fromkeys(SHOWS_SECOND.split(), lambda arguments: arguments.at(1) or arguments.by_name.get("text", ""))
TEMPLATES |= dict.fromkeys(SHOWS_LAST.split(), lambda arguments: arguments.at(-1))
TEMPLATES |= dict.fromkeys(COLOURS.split(), lambda arguments: arguments.at(-1) if arguments.at(1) else "")
TEMPLATES |= dict.fromkeys(RUBY.split(), lambda arguments: ruby(arguments.at(0), arguments.at(1)))
TEMPLATES |= dict.fromkeys(READINGS.split(), lambda arguments: ruby(arguments.at(0), *arguments.positional[1:]))
TEMPLATES |= {"audio-ipa": TEMPLATES["lang"]}
TEMPLATES |= {"llang": lambda arguments: ruby(arguments.at(1), arguments.at(2)), "audio": _audio}
TEMPLATES |= {"flag": lambda arguments: COUNTRIES.get(arguments.at(0), arguments.at(0))}
TEMPLATES |= dict.fromkeys(["国旗", "flagcountry", "fb", "fbw", "fb-rt", "fbw-rt"], TEMPLATES["flag"])
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


# Templates that show nothing of a sentence: notes, sources, doubts, links to other pages, icons.
ASIDE = re.compile(
    r"出典|脚注|要|いつ|誰|だれ|どこ|どれ|何|検証|疑問|独自|曖昧|無効|リンク|中立|正確性|注|補|参照|観点|言葉|更新|編集|加筆"
    r"|ref|^rp?$|efn|^sfn|cite|citation|note|anchor|アンカー|clear|icon|アイコン|^main|^see|^sic|^by$|^when|^who|^where"
    r"|dubious|fact|link|webarchive|isbn|doi|issn|jstor|pmid|commons|wikt|default|coord|座標一覧|^ウィキ(?!座標度)|^tl|^\W*$"
)


@functools.lru_cache(10_000)  # a page repeats its templates, and pages those of others
def rule(name: str) -> Rule:
    """What a template shows: a sign, or a function of its arguments.

    Of one that has no rule MARK or GAP, as its name tells whether a sentence is whole without it.
    """
    if name == "発音記号" or name in ("IPA", "iPA") or name.startswith(("IPA-", "iPA-")):
        return _phonetic
    if name in COUNTRIES:
        return COUNTRIES[name]
    name = name.lower()
    if name.startswith("lang-"):
        return _labelled(name)
    if name == "ipa":
        return _phonemic
    # link-en; and passages that somebody doubts: 要出典範囲, いつ範囲, 独自研究範囲
    if name.startswith(("ipa-", "link-")) or name.endswith("範囲"):
        return TEMPLATES["ipa2"]
    return TEMPLATES.get(name, MARK if ASIDE.search(name) else GAP)

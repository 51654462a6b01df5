"""Wikitext of one page of Japanese Wikipedia -> paragraphs of clean prose.

`clean()` works in five steps, each one pass over the text: (1) what is not wikitext goes (comments, refs,
formulas, galleries); (2) the page is cut at its headings and sections without prose go; (3) brackets are matched
and expanded: links, templates, tables; (4) inline markup goes; (5) lines become paragraphs. Where something
inside a sentence was dropped, a private mark stands until the end, and punctuation is mended beside such marks
only: "（英: ）" that lost its word goes, `main()` stays. Nothing is normalised. Time is linear in the page length.
"""

import functools
import html
import re
from collections.abc import Iterator

from bert_ja import sentences, templates
from bert_ja.marks import BREAK, DIVIDER, GAP, HIDE, HOLE, MARK, SHOW, UNWANTED
from bert_ja.templates import HAS_WORD

REDIRECT = re.compile(r"\s*[#＃](?:REDIRECT|転送|リダイレクト)\s*[:：]?\s*\[\[", re.IGNORECASE)


def is_redirect(text: str) -> bool:
    """Tell whether a page only points to another one: `#転送 [[東京都]]`."""
    return REDIRECT.match(text) is not None


# ---------------------------------------------------------------- 1. what is not wikitext

ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def _entity(match: re.Match) -> str:
    """&eacute; -> é, &lt; -> a hidden <. Line breaks become spaces; control and private characters are dropped."""
    text = html.unescape(match[0])
    if text.isspace():
        return text if text == "\u3000" else " "
    shown = text.isprintable() or text in "\u200c\u200d\u200e\u200f"
    return UNWANTED.sub("", text).translate(HIDE) if shown else ""


RAW_TAGS = (
    "nowiki pre syntaxhighlight source ref references math chem ce gallery timeline score imagemap hiero graph"
    " mapframe maplink templatedata templatestyles inputbox categorytree"
)
RAW = re.compile(rf"<(?:!--|({RAW_TAGS.replace(' ', '|')})(?=[\s/>])[^<>]*>)", re.IGNORECASE)
# A ref cannot hold a ref or a heading: reaching one of these means that its own end is missing.
CLOSE = {"!--": re.compile("-->"), "ref": re.compile(r"</ref\s*>|(?=<ref[\s/>]|\n=)", re.IGNORECASE)}
CLOSE |= {tag: re.compile(rf"</{tag}\s*>", re.IGNORECASE) for tag in RAW_TAGS.split() if tag != "ref"}
# TeX that plain signs can show: \alpha_{1} \in A -> α1 ∈ A. Any other formula leaves a hole.
TEX_SIGNS = """
    alpha α beta β gamma γ delta δ epsilon ε varepsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ
    pi π rho ρ sigma σ tau τ upsilon υ phi φ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π
    Sigma Σ Phi Φ Psi Ψ Omega Ω times × div ÷ pm ± cdot · le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ ll ≪ gg ≫ approx ≈ sim ∼
    simeq ≃ cong ≅ equiv ≡ propto ∝ to → rightarrow → longrightarrow → mapsto ↦ leftarrow ← Rightarrow ⇒ colon : mid |
    Leftrightarrow ⇔ iff ⇔ infty ∞ in ∈ notin ∉ ni ∋ subset ⊂ subseteq ⊆ supset ⊃ cup ∪ cap ∩ setminus ∖ emptyset ∅
    varnothing ∅ forall ∀ exists ∃ neg ¬ land ∧ wedge ∧ lor ∨ vee ∨ oplus ⊕ otimes ⊗ circ ∘ ast ∗ nabla ∇ partial ∂
    hbar ℏ angle ∠ perp ⊥ prime ′ dots … ldots … cdots … langle ⟨ rangle ⟩ sin sin cos cos tan tan log log ln ln exp exp
"""
TEX_STYLES = "mathrm mathbf mathbb mathcal mathit text rm bf it operatorname boldsymbol left right displaystyle quad"
TEX = dict(zip(TEX_SIGNS.split()[::2], TEX_SIGNS.split()[1::2], strict=True)) | dict.fromkeys(TEX_STYLES.split(), "")
TEX_SPACE = re.compile(r"\\[,;:! ]|[\s~]+")
TEX_FRACTION = re.compile(r"\\[dt]?frac *\{(\w+)\} *\{(\w+)\}")
TEX_POWER = re.compile(r"\^ *\{([^{}]*[+/-][^{}]*)\}")
TEX_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|([{}%#]))")
MAX_TEX = 200  # characters


def _formula(tex: str) -> str:
    r"""Return the signs of a formula, hidden, or a hole: "x_{1} \le 2^{n}" -> "x1 ≤ 2^n", "\sqrt{n}" -> a hole."""
    text = TEX_FRACTION.sub(r"\1/\2", TEX_SPACE.sub(" ", tex[: MAX_TEX + 1]))
    text = TEX_COMMAND.sub(lambda sign: (sign[2] or TEX.get(sign[1], sign[0])).translate(HIDE), text)
    text = re.sub("[{}_]", "", TEX_POWER.sub(r"^(\1)", text)).replace("^∘", "°").strip()
    return HOLE if len(tex) > MAX_TEX or re.search(r"[\\&]|</?[a-z]{2}", text) else text.translate(HIDE)


def _raw_text(tag: str, attributes: str, body: str) -> str:
    """What a finished raw element leaves in the page: ("nowiki", "", "[[X]]") -> the hidden "[[X]]"."""
    if tag == "nowiki" or (tag in ("syntaxhighlight", "source") and "inline" in attributes):
        return body.replace("\n", " ").translate(HIDE)
    if tag in ("math", "chem", "ce"):
        return _formula(body)
    return MARK


def _raw_element(text: str, opener: re.Match, unclosed: set[str]) -> tuple[str, int]:
    """Return what the element behind an opener leaves in the page, and where the text goes on.

    An element that is never closed costs its line, up to the next opener, and no more; the end tag of those in
    `unclosed` is never looked for again.
    """
    tag, body = (opener[1] or "!--").lower(), opener.end()
    if opener[0].endswith("/>"):
        return MARK, body
    closer = None if tag in unclosed else CLOSE[tag].search(text, body)
    if not closer or not closer[0]:
        unclosed |= set() if closer else {tag}
        next_opener = RAW.search(text, body)
        limit = next_opener.start() if next_opener else len(text)
        newline = text.find("\n", body, limit)  # within the limit, or a line of openers would be read once for each
        return MARK, limit if newline < 0 else newline
    end = closer.end()
    alone = text[opener.start() - 1] == "\n" and text[end : end + 1] == "\n"
    if tag == "!--":  # on a line of its own it takes the line with it, or it would part a paragraph
        return "", end + alone
    if tag == "math" and alone:
        return HOLE, end
    return _raw_text(tag, opener[0], text[body : closer.start()]), end


def _drop_raw(text: str) -> str:
    """Remove comments, refs, formulas and the like: "水<ref>注</ref>である。" -> "水(mark)である。"."""
    out, position, unclosed = [], 0, set()
    for opener in RAW.finditer(text):
        if opener.start() >= position:
            out.append(text[position : opener.start()])
            shown, position = _raw_element(text, opener, unclosed)
            out.append(shown)
    out.append(text[position:])
    return "".join(out)


# ---------------------------------------------------------------- 2. sections

# Sections of notes, sources, lists and pictures. Compound titles (脚注・出典, 注釈と参考文献) count part by part.
NO_PROSE_TITLES = """
    脚注 脚註 本文注 注 註 注釈 註釈 注記 註記 補注 補註 原注 訳注 出典 出展 典拠 典拠管理 引用 引用元 引用文献 情報源
    参考 参考文献 参考図書 参考資料 参考書 参考書籍 参考論文 参考記事 参考サイト 参考リンク 参照 参照文献
    文献 文献案内 主要文献 主要参考文献 一次資料 二次資料 一次文献 二次文献 推薦図書 読書案内 書誌情報
    関連文献 関連書籍 関連書 関連図書 関連資料 関連論文 関連項目 関連記事 関連サイト 関連リンク
    外部リンク 外部サイト 公式サイト 公式リンク リンク リンク集 ウェブサイト
    ギャラリー 画像 画像集 画像ギャラリー フォトギャラリー 写真 写真集
"""
NO_PROSE = set(NO_PROSE_TITLES.split())
NO_PROSE |= {"references", "seealso", "externallinks", "furtherreading", "furtherreadings", "notes", "sources"}
LITERATURE = re.compile("(?:.+語|欧文|和文|邦文|英文|.+関連)文献$")
TITLE_JOINT = re.compile(r"[・、,／/&＆と]|および|及び|ならびに")
TITLE_MARKUP = re.compile(rf"'{{2,}}|\[\[(?:[^\[\]|]*\|)?|\]\]|<[^<>]*>|\{{\{{[^{{}}]*\}}\}}|[{MARK}\s]")
HEADING = re.compile(r"\n(=[^\n]*)")
BEHIND_HEADING = re.compile(r"(?<==)\s*(?:\{\{[^{}\n]*\}\}\s*)+$")  # == 歴史 =={{Main|歴史}}


@functools.lru_cache(10_000)  # most titles are 歴史, 概要, 脚注 ...
def _is_prose_title(title: str) -> bool:
    """Tell sections of prose from those of notes and links: "歴史" -> True, "脚注・出典" and "日本語文献" -> False."""
    title = TITLE_MARKUP.sub("", title).lower()
    return title not in NO_PROSE and not all(
        part in NO_PROSE or LITERATURE.match(part) for part in TITLE_JOINT.split(title)
    )


def _sections(text: str) -> Iterator[str]:
    """Yield the text between headings, each with a line end before it, less the sections of notes and links.

    Matching brackets section by section also means that an unclosed one never passes a heading.
    """
    start, dropped_level = 0, 7  # 7: below the lowest heading, i.e. nothing is being dropped
    for heading in HEADING.finditer(text):
        line = heading[1].rstrip(f" \t{MARK}")
        if line.endswith("}}"):
            line = BEHIND_HEADING.sub("", line)
        level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
        if level == 0 or len(line) < 3:
            continue
        if dropped_level == 7:
            yield text[start : heading.start()]
        start = heading.end()
        if level <= dropped_level:
            dropped_level = 7 if _is_prose_title(line.strip("= \t")) else level
    if dropped_level == 7:
        yield text[start:]


# ---------------------------------------------------------------- 3. links, templates, tables

# Links that hold no other markup, nine in ten, at once: [[京都市|京都]] -> 京都. A colon may be a name space or a
# language, which is for _link() to say, as are # and _.
SIMPLE_LINK = re.compile(r"\[\[(?:[^\[\]{}|\n:]+\|)?([^\[\]{}|\n:_#]+)\]\]")
PARAMETER = re.compile(r"\{\{\{[^{}|\n]*+(?:\|([^{}\n]*+))?\}\}\}")  # {{{1|x}}} shows x
BRACKETS = re.compile(
    r"(\{\{|\}\}|\[\[|\]\]"
    r"|\n[ \t:*#;]*\{\||\n[ \t]*\|\}(?!\}(?!\}))"  # {| and |} begin a line; in "\n|}}" it is }} that closes
    r"|</?(?:table|TABLE)(?=[\s>])[^<>]*>"
    r"|\n(?=[ \t]*\n))"  # a blank line, which no link passes
)
CLOSERS = {"}}": "{{", "]]": "[[", "|}": "{|", "</": "<t"}
MAX_DEPTH = 40  # as in MediaWiki; also what keeps deep nestings linear

# Name spaces and languages whose links show nothing in the text; codes of sister sites, whose links do show.
# Languages are in small letters: [[de:Wasser]] is an entry of the margin, [[Re:ゼロから]] is a title.
SISTERS = "w|wp|m|b|c|d|n|q|s|v|wikt"
HIDDEN_LINK = re.compile(
    r"\s*(?:file|image|media|category|ファイル|画像|メディア|カテゴリ"
    rf"|(?-i:(?!(?:{SISTERS}):)[a-z]{{2,3}}(?:-[a-z-]+)?))\s*:",
    re.IGNORECASE,
)
# An image within a line, in place of a sign: no thumb, no place beside the text.
SMALL_IMAGE = re.compile(
    r"\s*(?:file|image|ファイル|画像)\s*:(?=[^\n]*\|\s*x?\d{1,2}(?:x\d+)?px)"
    r"(?![^\n]*\|\s*(?:thumb|frame|left|right|center|サムネイル|フレーム|左|右|中央))",
    re.IGNORECASE,
)
OTHER_WIKIPEDIA = re.compile(r":?([a-z]{2,3}(?:-[a-z-]+)?):[^|]*\|\1$")  # [[:en:Tea|en]]
SISTER_SITE = re.compile(rf":?(?:(?:{SISTERS}|[a-z]{{2,3}}(?:-[a-z-]+)?):)*(?=.)")


def _kind(token: str) -> str:
    """Name a bracket by two characters: "\\n:{|" -> "{|"."""
    return token.lower()[:2] if token[0] == "<" else token[-2:]


def _match_brackets(parts: list[str]) -> dict[int, int]:
    """Pair openers with closers; `parts` holds text at even places and brackets at odd ones.

    >>> _match_brackets(["", "{{", "lang|en|", "[[", "a", "}}", ""])  # [[ is never closed
    {1: 5}
    """
    pairs: dict[int, int] = {}
    stack: list[tuple[str, int]] = []
    waiting = {"{{": 0, "[[": 0, "{|": 0, "<t": 0}
    for i in range(1, len(parts), 2):
        kind = _kind(parts[i])
        if kind in waiting:
            stack.append((kind, i))
            waiting[kind] += 1
        elif kind == "\n":
            while stack and stack[-1][0] == "[[":
                waiting[stack.pop()[0]] -= 1
        else:
            opener = CLOSERS[kind]
            while waiting[opener]:  # some opener of this kind is there; those above it are unclosed
                top, start = stack.pop()
                waiting[top] -= 1
                if top == opener:
                    pairs[start] = i
                    break
    return pairs


class _Expander:
    """Expands the brackets of one section from the outside in, stepping over what is dropped."""

    def __init__(self, section: str) -> None:
        if "{{{" in section:
            section = PARAMETER.sub(r"\1", section)
        self.parts = BRACKETS.split("".join(SIMPLE_LINK.split(section)))
        self.pairs = _match_brackets(self.parts)

    def text(self) -> str:
        """Return the section with all brackets expanded."""
        return "".join(self._pieces(0, len(self.parts)))

    def _pieces(self, start: int, end: int, depth: int = 0) -> Iterator[str]:
        """Yield texts of parts[start:end] and what the brackets between them show, in turn; `start` is even."""
        while start < end:
            yield self.parts[start]
            start += 1
            if start < end:
                expanded, start = self._bracket(start, end, depth)
                yield expanded

    def _bracket(self, start: int, end: int, depth: int) -> tuple[str, int]:
        """Expand the bracket at `start`; return its text and the place of the text after it."""
        kind, close = _kind(self.parts[start]), self.pairs.get(start)
        if close is None:
            return self._lone_bracket(start, end, kind)
        if depth >= MAX_DEPTH:
            expanded = MARK
        elif kind == "{{":
            expanded = self._template(start + 1, close, depth + 1)
        elif kind == "[[":
            expanded = self._link(start + 1, close, depth + 1)
        else:
            expanded = DIVIDER
        return expanded, close + 1

    def _lone_bracket(self, start: int, end: int, kind: str) -> tuple[str, int]:
        """Drop a bracket without a partner, and the rest of the line after an unclosed {{.

        `{{lang|en|tea} であり、` with one brace too few loses no more than up to that brace.
        """
        if kind != "{{":
            return ("\n" if kind in ("\n", "{|", "|}") else ""), start + 1
        place = start + 1
        if "}" in self.parts[place].partition("\n")[0]:
            self.parts[place] = self.parts[place].partition("}")[2]
            return MARK, place
        while place < end and "\n" not in self.parts[place]:
            place = self.pairs.get(place, place) + 1
        if place % 2:  # the line ends at a bracket, or with the text: nothing of the piece before it is left
            place -= 1
            self.parts[place] = ""
        self.parts[place] = "".join(self.parts[place].partition("\n")[1:])
        return MARK, place

    def _arguments(self, start: int, end: int, depth: int) -> list[str]:
        """Return the arguments between two brackets, cut at the bars that are their own, expanded."""
        arguments = [[]]
        for number, piece in enumerate(self._pieces(start, end, depth)):
            first, *others = [piece] if number % 2 else piece.split("|")
            arguments[-1].append(first)
            arguments.extend([other] for other in others)
        return ["".join(argument).strip() for argument in arguments]

    def _link(self, start: int, end: int, depth: int) -> str:
        """Return what a link shows: [[京都市|京都]] -> 京都, [[ファイル:a.jpg|thumb|門]] -> a mark."""
        if HIDDEN_LINK.match(self.parts[start]):
            return GAP if SMALL_IMAGE.match(self.parts[start]) else MARK
        target, *labels = self._arguments(start, end, depth)
        if labels and labels[-1]:
            return MARK if OTHER_WIKIPEDIA.match(f"{target}|{labels[-1]}") else "|".join(labels)
        target = SISTER_SITE.sub("", target, count=1).removeprefix("#").replace("_", " ")
        return target.partition(" (")[0] if labels else target  # [[東京 (曖昧さ回避)|]] shows 東京

    def _template(self, start: int, end: int, depth: int) -> str:
        """Return the text that a template shows, or a mark: {{lang|en|tea}} -> tea, {{Sfn|佐藤|2018}} -> a mark."""
        name, colon, value = self.parts[start].partition("|")[0].partition(":")
        if colon and name.strip().lower() in templates.PARSER_FUNCTIONS:
            expanded = self._arguments(start, end, depth)[0].partition(":")[2].strip()
            return templates.PARSER_FUNCTIONS[name.strip().lower()](expanded) or MARK
        show = templates.rule((name + colon + value).strip().replace(" ", "_"))
        if isinstance(show, str):
            return show
        return show(templates.Arguments(self._arguments(start, end, depth)[1:])) or MARK


# ---------------------------------------------------------------- 4. inline markup

EXTERNAL_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:|news:)?//[^\s\[\]<>]*+([^\[\]\n]*+)\]")
BARE_URL = re.compile(r"(?:https?|ftp)://[!#-;=?-Z_a-z~%\\]+")  # URL signs but " < > [ ] ^ ` { | }
MAGIC_WORD = re.compile(
    r"__(?:NO|FORCE)?(?:TOC|EDITSECTION|INDEX|GALLERY|NEWSECTIONLINK|HIDDENCAT|STATICREDIRECT|DISAMBIG|CONTENTCONVERT|"
    r"TITLECONVERT|CC|TC|目次強制|目次非表示|目次|節編集非表示|ギャラリー非表示|インデックス|曖昧さ回避)__"
)
VARIANT = re.compile(r"-\{([^{}\n]*)\}-")
BLOCK_TAGS = "p div center blockquote ul ol dl table caption tr td th hr poem h[1-6]"
INLINE_TAGS = (
    "b i u s em strong strike del ins small big sup sub span font code tt kbd samp var cite q abbr bdi bdo dfn mark"
    " data time wbr nobr li dd dt ruby rb rt rp rtc section noinclude includeonly onlyinclude nowiki ref references"
    " math gallery pre source syntaxhighlight"
)
TAG_NAMES = rf"({BLOCK_TAGS.replace(' ', '|')}|br|{INLINE_TAGS.replace(' ', '|')})"
TAG = re.compile(rf"</?{TAG_NAMES}(?=[\s/>])[^<>]*>", re.IGNORECASE)
TAG_BREAKS = {"br": BREAK, "li": "\n*", "dd": "\n:", "dt": "\n;"}
IS_BLOCK = re.compile(BLOCK_TAGS.replace(" ", "|"), re.IGNORECASE)
# 10<sup>6</sup> is not 106, nor n<sup>3</sup> n3; but m2, km2, H2, kg and others are units and elements.
POWER = re.compile(
    r"(?:(?<=[\d)])|(?<![A-Za-z][A-Za-z])(?<=[a-fh-ln-rt-zA-GI-JL-MP-RT-Z]))<(?i:sup)(?:\s[^<>]*)?>(?=[-−+]?\d+</)"
)
MIXED_FRACTION = re.compile(r"(?<=\d)<sup>(\d+)</sup>[/⁄]<sub>", re.IGNORECASE)  # 5<sup>1</sup>/<sub>2</sub>
NOTE_SIGN = re.compile(
    r"(?<![A-Za-zΑ-ω])<sup(?:\s[^<>]*)?>(?:[*†‡※]+\d*|[\[(（]?注\s*\d*[])）]?)</sup\s*>", re.IGNORECASE
)
RUBY_TAG = re.compile(r"<(/?ruby|/?r[tpb]c?)(?=[\s/>])[^<>]*>", re.IGNORECASE)


def _variant(match: re.Match) -> str:
    """-{東京}- shows 東京; of -{zh-hans:里; zh-hant:裡}- we take the first; -{}- is an invisible wall."""
    first = match[1].partition(";")[0]
    return first.rpartition(":")[2].strip() if first.startswith("zh") else first


def _html_ruby(line: str) -> str:
    """<ruby>紫<rt>あじ</rt>陽花<rt>さい</rt></ruby> -> 紫陽花（あじさい）; templates.ruby() says why."""
    pieces = RUBY_TAG.split(line)
    out, base, reading, target = [pieces[0]], [], [], None
    for tag, text in zip(pieces[1::2], pieces[2::2], strict=True):
        tag = tag.lower()
        if tag == "/ruby":
            out.append(templates.ruby("".join(base), "".join(reading)))
            base, reading, target = [], [], out
        elif tag == "rp":
            target = None
        else:
            target = reading if tag in ("rt", "rtc") else base
        if target is not None:
            target.append(text)
    return "".join(out) + templates.ruby("".join(base), "".join(reading))


def _tag_text(match: re.Match) -> str:
    """Replace a tag: blocks part paragraphs, <li> begins an item, the others vanish."""
    name = match[1].lower()
    if name in TAG_BREAKS:
        return TAG_BREAKS[name] if match[0][1] != "/" else "\n"
    if name in ("blockquote", "poem"):
        return DIVIDER
    return "\n\n" if IS_BLOCK.fullmatch(name) else ""


def _drop_inline(text: str) -> str:
    """Remove quotes of bold type, URLs, magic words and tags: "'''水'''は[http://a.jp 本]<br>" -> "水は本(break)"."""
    if "//" in text:
        text = EXTERNAL_LINK.sub(lambda match: match[1].strip() or MARK, text)
        text = BARE_URL.sub(MARK, text)
    text = text.replace("'''''", "").replace("'''", "").replace("''", "")
    if "__" in text:
        text = MAGIC_WORD.sub("", text)
    if "-{" in text:
        text = VARIANT.sub(_variant, text)
    if "<" in text:
        lower = text.lower()
        if "<ruby" in lower:
            text = "\n".join(map(_html_ruby, text.split("\n")))
        if "<sup" in lower:
            text = NOTE_SIGN.sub(MARK, POWER.sub("^", MIXED_FRACTION.sub(r" \1/", text)))
        text = TAG.sub(_tag_text, text)
    return text


# ---------------------------------------------------------------- 5. lines and paragraphs

ITEM_SIGNS = "*#:; \u3000"
# Most marks can just go: those that do not stand between opening and closing punctuation. A line begins by opening.
BEFORE = re.escape('（(「『【〈《“"[、,，;；:：・/／。*#\n')
BEHIND = re.escape('、,，;；:：・/／)）」』】〉》”"]。．')
IDLE = re.compile(rf"{MARK}(?:(?<![{BEFORE}]{MARK})|(?![{BEHIND}]))")
BETWEEN_WORDS = re.compile(rf"{MARK}(?<=[A-Za-z0-9.,;:)]{MARK})(?=[A-Za-z0-9(])")
# Punctuation beside the others, in this order. A mark swallows ...
M = f" ?{MARK} ?"
MENDINGS = [
    # the label that announced it: （英: MARK、米: tea） -> （MARK、米: tea）;
    (re.compile(rf"(?<=[（(、,，;； ])[一-龠ァ-ヶーa-zA-Z・]{{1,12}} ?[:：]{M}(?=[、,，;；)）])"), MARK),
    # one of two separators;
    (re.compile(rf"(?<=[、,，;；・/／]){M}[、,，;；・/／]|(?<=。){M}。|[、,，・]{M}(?=。)"), MARK),
    (re.compile(rf"[、,，;；:：・/／]{M}(?=[)）」』])"), MARK),  # the separator left at a bracket's end,
    (re.compile(rf"(?<=[（(「『]){M}[、,，;；:：・/／]"), MARK),  # or at its beginning;
    (re.compile(rf" ?(?:（{M}）|\({M}\)|「{M}」|『{M}』|【{M}】|〈{M}〉|《{M}》|“{M}”|\"{M}\"|\[{M}\]) ?"), MARK),
    (re.compile(rf"(?:{M})+"), MARK),  # its neighbours;
]
MENDINGS += MENDINGS  # a second time, for a bracket within a bracket;
# what no line begins with.
MENDINGS += [(re.compile(rf"(\n[{ITEM_SIGNS}]*){MARK}[、。，．,;；:：・)）」』 ]*"), r"\1")]
SPACES = re.compile("  +")
RESIDUE = re.compile(
    r"(?<![\[\]{}])(?=[\[\]{}]*?(?:\[\[|\]\]|\{\{|\}\}))[\[\]{}]+"
    r"|(?i:</?(?:ref|br|small|span|div|nowiki)\b[ /]*)"
)
MAY_BE_RESIDUE = re.compile(r"\[\[|\]\]|\{\{|\}\}|<")  # far quicker to look for


def _mend(text: str) -> str:
    """Take the marks away, with the spaces and the punctuation that nothing needs any more.

    >>> _mend("\n水（英: \ue000、みず）は")
    '\n水（みず）は'
    """
    text = text.replace(MARK + " - ", " - ")  # 1901年(mark) - 1999年
    text = MARK.join(filter(None, (piece.strip(" ") for piece in text.split(MARK))))
    text = IDLE.sub("", BETWEEN_WORDS.sub(" ", text))
    if MARK in text:
        for pattern, replacement in MENDINGS:
            text = pattern.sub(replacement, text)
        text = BETWEEN_WORDS.sub(" ", text).replace(MARK, "")
    return text


# A gap where a sentence lacks a word: 人口は(gap)人, 位置は(gap)に位置し. Others are notes mostly.
GAP_IN_SENTENCE = re.compile(
    rf"(?<=[はがをにのとて約、。「\n]){GAP}"
    r"(?=[のはがをにともでへや](?![ぁ-ん])|に(?:よ[るれっ]|お[いけ]|つい)|[人年月日円歳個回件位点頭校両%％‰度]|k?m2?(?![A-Za-z]))"
)
# A formula on a line of its own is no part of a sentence, and in brackets no part that is missed.
FORMULA_LINE = re.compile(rf"\n[{ITEM_SIGNS}]*{HOLE}[{HOLE}{MARK}、。,. ]*(?=\n|\Z)")
FORMULA_IN_BRACKETS = re.compile(rf"{HOLE}(?<=[（(]{HOLE})(?=[）)])")
CLOSING = re.escape('」』）)】〉》”"’]')
STOP = re.compile(rf"[。．][{CLOSING}]*|(?=\n)")


def _drop_broken(text: str) -> str:
    """Drop every sentence with a hole: "水。任意の(hole)について。木。" -> "水。木。"."""
    text = FORMULA_IN_BRACKETS.sub(MARK, FORMULA_LINE.sub(DIVIDER, text))
    first, *others = text.split(HOLE)
    kept = [first]
    for after in others:
        before = kept.pop()
        stop = STOP.search(after)
        kept.append(before[: max(before.rfind(sign) for sign in "。．\n") + 1])
        kept.append(after[stop.end() :] if stop else "")
    return "".join(kept)


# What ends like this goes on behind a line break, a picture or a blank line, but not behind an item or a row.
OPEN_END = tuple("、，はがをにのとへも")
JOINT = re.compile(rf"{BREAK}(?<=[{''.join(OPEN_END)}]{BREAK})\n?(?![{ITEM_SIGNS}|!])")
# What announces a list or a quotation, which is no sentence without it.
UNFINISHED = (*OPEN_END, "上で", "かつ", "および", "たとえば", "例えば", "によれば")
LATE_STOP = re.compile(rf"\n(?<=[^\n]\n)(?={MARK}+ ?[。、])")  # ... である(line end)<ref/>。
# <br> parts a plain line as a blank line does, and an item into items: "*甲(break)乙" -> "*甲\\n*乙".
BROKEN_LINE = re.compile(rf"\n([{ITEM_SIGNS}]*+)([^\n{BREAK}]*+{BREAK}[^\n]*)")


def _finish(text: str) -> str:
    """Remove what is left of broken markup, broken sentences and all marks."""
    text = JOINT.sub("", text.replace("\n ", "\n:"))
    if "\n" + MARK in text:
        text = LATE_STOP.sub("", text)
    if BREAK in text:
        text = BROKEN_LINE.sub(lambda line: "\n" + line[1] + line[2].replace(BREAK, "\n" + (line[1] or "\n")), text)
    if MAY_BE_RESIDUE.search(text):
        text = RESIDUE.sub(MARK, text)
    if GAP in text:
        text = GAP_IN_SENTENCE.sub(HOLE, text).replace(GAP, MARK)
    if HOLE in text:
        text = _drop_broken(text)
    text = _mend(SPACES.sub(" ", text))
    if MAY_BE_RESIDUE.search(text):  # where a mark parted two brackets
        text = SPACES.sub(" ", RESIDUE.sub(" ", text))
    return text


# A list item, an indented or a preformatted line counts if it has a stop and a hiragana. Songs and films have stops in
# their names too: 「また、春に。」(2001年); so do lists of marks like ！, and what such a mark ends is a name mostly.
ITEM_STOP = re.compile(rf"[。．｡](?:[{CLOSING}]*+$|(?![{CLOSING}]| ?[（(]\d))|[.?？](?<=[かるたい].)$")
HIRAGANA = re.compile("[ぁ-ん]")
# Not a name that ends like a verb.
ITEM_SENTENCE = re.compile("(?!「.*」$|『.*』$)(?=.*[はがをにで])(?:[^ぁ-ん]*[ぁ-ん]){5}")
MIN_ITEM = 6  # characters; an item whose formula was dropped is down to "か?"
DASHES = ("- ", "– ", "— ")  # * - 甲は乙である。
POINTER = re.compile("(?<=。)[ \u3000]*(?:[→⇒]|- ).*")  # ... のこと。→茶
NO_PROSE_LINE = ("|", "!", "----")  # rows without their table, a horizontal rule
# A line without a stop is a heading or a name, unless it ends like a verb.
ANY_STOP = re.compile("[。．｡！？!?…]|[a-z]\\.")
VERB_END = re.compile(r".{11,}[うくぐすつぬぶむるいただ](?:（[^（）]*）)?[」』]*[:：]?$")
TAIL_END = re.compile("[うくぐすつぬぶむるいただんろもよねかさ](?:（[^（）]*）)?[」』）)]*[:：]?$")
# What begins like this lost its beginning to a list, a formula or a flag: は1990年, という。
FRAGMENT = re.compile(
    "※?[はがをにのもとで、](?![ぁ-ん])|である|など|という|とな(?:る|って|り[、ま])|が(?:ある|あった|いる)。|からなる|といった(?=[^、])"
    "|として、|にお(?:いて|ける)|によ(?:って|り、|る)|に対し|にあり、|に位置し|のよう[なに]|とある(?:が、|ので|。|よう|例)|と述べ|とされ"
    "|と呼ばれ"
)


def _is_torn(tail: str) -> bool:
    """Tell whether the last sentence of a paragraph is torn: "映画で有名" is, "茶は木である" is not."""
    return not (TAIL_END.search(tail) or ANY_STOP.search(tail) or tail[0] in "（(")


def _prose(text: str) -> str:
    """Return the whole sentences of a paragraph: "は緑。茶は木。たとえば、" -> "茶は木。"."""
    if FRAGMENT.match(text):
        text = text.partition("。")[2]
    if text.endswith(UNFINISHED):
        text = text[: text.rfind("。") + 1]
    elif "。" in text[:-1] and text[-1] != "。" and _is_torn(tail := sentences.split(text)[-1]):
        text = text.removesuffix(tail).rstrip()
    return text if text.endswith("。") or ANY_STOP.search(text) or VERB_END.match(text) else ""


def _item_prose(line: str) -> str:
    """Return the sentences of a list item: "* 海に面する。" and "; 語: 説明。" whole, none of "* 高村 光"."""
    item = line.lstrip(ITEM_SIGNS)
    item = item[2:] if item.startswith(DASHES) else item
    has_end = ITEM_STOP.search(item) or (VERB_END.match(item) and ITEM_SENTENCE.match(item))
    is_sentence = len(item) >= MIN_ITEM and has_end and HIRAGANA.search(item)
    return _prose(POINTER.sub("", item)) if is_sentence else ""


def _joined(lines: list[str]) -> str:
    """Join the lines of one paragraph; a line end shows as a space, which Japanese does not want."""
    out = ""
    for line in lines:
        out += " " + line if out and out[-1].isascii() and line[0].isascii() else line
    return out


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a section without markup: runs of plain lines, and items that are sentences."""
    plain: list[str] = []
    for line in map(str.rstrip, [*_finish(text).split("\n"), ""]):
        if line and line[0] not in ITEM_SIGNS and not line.startswith(NO_PROSE_LINE):
            plain.append(line)
            continue
        if not line and plain and plain[-1].endswith(OPEN_END):
            continue
        if plain:
            yield _prose(_joined(plain))
            plain = []
        if line and not line.startswith(NO_PROSE_LINE):
            yield _item_prose(line)


def clean(text: str) -> list[str]:
    """Return the prose of a page, a redirect's none, a string a paragraph: "[[水]]は液体。\\n* 表" -> ["水は液体。"]"""
    if is_redirect(text):
        return []
    text = UNWANTED.sub("", "\n" + text.replace("\r", "").replace("\u00a0", " ").replace("\t", " "))
    text = _drop_raw(ENTITY.sub(_entity, text))
    out = []
    for section in _sections(text):
        plain = _drop_inline(_Expander(section).text())
        out += [paragraph for paragraph in _paragraphs(plain) if HAS_WORD.search(paragraph)]
    return [paragraph if paragraph.isprintable() else paragraph.translate(SHOW) for paragraph in out]

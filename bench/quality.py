"""How clean an extracted text is: faults and kept text, counted page by page against the wikitext.

Shares nothing with bert_ja/wikitext.py on purpose: what is wrong there must not be wrong here in the same way.
"""

import html
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TAGS = (
    "abbr|b|bdi|bdo|big|blockquote|br|caption|ce|center|chem|cite|code|dd|del|dfn|div|dl|dt|em|font|gallery|h[1-6]|hiero"
    "|hr|i|imagemap|includeonly|ins|kbd|li|mapframe|mark|math|noinclude|nowiki|ol|onlyinclude|p|poem|pre|q|rb|ref"
    "|references|rp|rt|ruby|s|samp|score|section|small|source|span|strike|strong|sub|sup|syntaxhighlight|table|td"
    "|templatestyles|th|time|timeline|tr|tt|u|ul|var|wbr"
)
EMPTY = {  # where a template was dropped from inside: what stands before or after it may be left
    "（）": re.compile(r"[（(][\s、，,;；:：・/／]*[)）]"),
    "「」": re.compile(r"「[\s、，,;；:：・/／]*」"),
}
MARKUP = {
    "{{": re.compile(r"\{\{|\}\}"),
    "[[": re.compile(r"\[\[|\]\]"),
    "thumb|": re.compile(r"(?:\bthumb|サムネイル|\b\d+px)\|"),
    "formula_": re.compile(r"formula_\d"),
    "codice_": re.compile(r"codice_\d"),
    "tag": re.compile(rf"</?(?:{TAGS})(?:[\s/][^<>\n]*)?>|<!--|-->", re.IGNORECASE),
    "entity": re.compile(r"&(?:[A-Za-z]{2,8}\d{0,2}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});"),
    "''": re.compile(r"'{2,}"),
    "{|": re.compile(r"^\s*(?:\{\||\|[-}])", re.MULTILINE),
    "[http": re.compile(r"\[(?:https?:)?//"),
}
CLOSING = tuple("」』）)】］]〕〉》｝}")

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LITERAL = re.compile(
    r"<(nowiki|pre|code|syntaxhighlight|source)\b[^<>]*(?<!/)>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE
)
UNESCAPED = re.compile(r"[<{}\[\]']|&(?!#?\w+;)")  # markup wherever it is not written as an entity
OUTSIDE_PROSE = re.compile(
    r"<ref\b[^<>]*/>"
    r"|<(ref|gallery|timeline|imagemap|table|math|nowiki|pre|code|syntaxhighlight|source|score)\b[^<>]*>.*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
HOLE = "\0"  # stands for what was cut out, so that nothing grows together

# Where text stands: brackets of wikitext, list items, headings, sections that no one reads as prose
BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ \t:*#]*\{\||^[ \t]*\|\}(?!\})", re.MULTILINE)
OPENERS = {"}}": "{{", "]]": "[[", "|}": "{|"}
FILE = re.compile(r"\[\[\s*(?:ファイル|画像|file|image)\s*:", re.IGNORECASE)
NOT_PROSE_LINE = tuple("*#:;=|!")
HEADING = re.compile(r"^(={2,6})(.+?)\1[ \t]*$", re.MULTILINE)
NOTES = {"脚注", "脚註", "注釈", "註釈", "注", "註", "注記", "出典", "参考文献", "関連項目", "外部リンク"}

LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
NAMED = re.compile(r"\s*([\w-]+)\s*=(.*)", re.DOTALL)
SPACE = re.compile(r"\s+")


class Page(NamedTuple):
    number: int  # in the dump, from 1
    title: str
    wikitext: str


class Case(NamedTuple):
    """One fault in the text of a page; `line` counts the lines of that text from 1."""

    kind: str
    page: int
    title: str
    line: int
    context: str


# Faults


def quoted(wikitext: str) -> str:
    """The inside of nowiki, pre, code and the like, which a page shows as it is written."""
    return html.unescape("\n".join(match[2] for match in LITERAL.finditer(wikitext)))


def escaped(wikitext: str) -> str:
    """A page with its markup cut out, but for what is written as entities: 'a<br>&lt;br>' -> 'a\\0br><br>'."""
    return html.unescape(UNESCAPED.sub(HOLE, wikitext))


def prose(wikitext: str) -> str:
    """Wikitext without comments, and a hole for each ref, gallery, formula and the like."""
    return OUTSIDE_PROSE.sub(HOLE, COMMENT.sub("", wikitext))


def beyond(pattern: re.Pattern, text: str, shown: str) -> Iterator[re.Match]:
    """The matches in `text`, but for as many of each as `shown` has."""
    allowed = Counter(match[0].strip() for match in pattern.finditer(shown))
    for match in pattern.finditer(text):
        if allowed[match[0].strip()] > 0:
            allowed[match[0].strip()] -= 1
        else:
            yield match


def faults(text: str, page: Page) -> list[Case]:
    """Every empty bracket and piece of markup in a page's text that the page does not show as such."""
    as_it_is = quoted(page.wikitext)
    shown = dict.fromkeys(EMPTY, f"{as_it_is}\n{prose(page.wikitext)}")
    shown |= dict.fromkeys(MARKUP, f"{as_it_is}\n{escaped(page.wikitext)}")
    found = []
    for kind, pattern in (EMPTY | MARKUP).items():
        for match in beyond(pattern, text, shown[kind]):
            line = text.count("\n", 0, match.start()) + 1
            context = text[max(0, match.start() - 20) : match.end() + 20]
            found.append(Case(kind, page.number, page.title, line, context))
    return found


# Text inside templates


def spans(wikitext: str) -> list[tuple[int, int]]:
    """(start, end) of every {{ }}, [[ ]] and {| |}, inner before outer; a bracket without its other half is none."""
    opened: list[tuple[str, int]] = []
    closed = []
    for match in BRACKET.finditer(wikitext):
        bracket, end = match[0][-2:], match.end()
        if bracket not in OPENERS:
            opened.append((bracket, end - 2))
        elif any(kind == OPENERS[bracket] for kind, _ in opened):
            while opened[-1][0] != OPENERS[bracket]:
                opened.pop()
            closed.append((opened.pop()[1], end))
    return closed


def outermost(wikitext: str) -> list[tuple[int, int]]:
    """(start, end) of the templates, tables and captions that stand in no other one."""
    outer: list[tuple[int, int]] = []
    for start, end in sorted(spans(wikitext)):
        plain_link = wikitext.startswith("[[", start) and not FILE.match(wikitext, start)
        if not plain_link and (not outer or start >= outer[-1][1]):
            outer.append((start, end))
    return outer


def note_sections(wikitext: str) -> list[tuple[int, int]]:
    """(start, end) of the sections of notes, references and links, each with its subsections."""
    found: list[tuple[int, int]] = []
    level = 0  # of the section that is open, 0: none
    for match in HEADING.finditer(wikitext):
        if level and len(match[1]) <= level:
            found[-1] = (found[-1][0], match.start())
            level = 0
        if not level and set(re.split(r"[・／/と、]", match[2].strip())) <= NOTES:
            found.append((match.start(), len(wikitext)))
            level = len(match[1])
    return found


def argument(template: str) -> tuple[str, str] | None:
    """(kind, wikitext of its text) of {{lang}}, {{lang-xx}} and {{仮リンク}}, None for any other template.

    '{{lang|en|Mount [[X|Fuji]]}}' -> ('lang', 'Mount Fuji'), '{{仮リンク|甲|en|A|label=乙}}' -> ('仮リンク', '乙').
    """
    name, *rest = LINK.sub(r"\1", template[2:-2]).split("|")
    name = name.strip().lower()
    named = dict(match.groups() for part in rest if (match := NAMED.fullmatch(part)))
    places = [part for part in rest if not NAMED.fullmatch(part)]
    if name == "lang":
        return name, named.get("2", "".join(places[1:2]))
    if re.fullmatch(r"lang-[a-z-]+", name):
        return "lang-xx", named.get("1", "".join(places[:1]))
    if name == "仮リンク":
        return name, named.get("label", "").strip() or named.get("1", "".join(places[:1]))
    return None


def plain(wikitext: str) -> str | None:
    """Wikitext without emphasis and entities; None for nothing, and where it holds more markup than these."""
    text = html.unescape(re.sub(r"'{2,}", "", wikitext)).strip()
    return text if text and not re.search(r"[{}\[\]<>\0]", text) else None


def template_texts(wikitext: str) -> Iterator[tuple[str, str]]:
    """(kind, plain text) of the templates with text that stand in a page's prose: in no ref, table, list item, other
    template, caption, heading or section of notes."""
    text = prose(wikitext)
    notes = note_sections(text)
    for start, end in outermost(text):
        line = text.rfind("\n", 0, start) + 1
        section = bisect_right(notes, (start, len(text))) - 1
        if text[line:end].lstrip().startswith(NOT_PROSE_LINE) or (section >= 0 and start < notes[section][1]):
            continue
        found = argument(text[start:end]) if text.startswith("{{", start) else None
        if found and (shown := plain(found[1])):
            yield found[0], shown


# A whole text


def share(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def kept(pages: Iterable[Page], outputs: dict[int, str]) -> dict:
    """Of the texts inside templates, how many stand in the output of their page, white space aside."""
    there: Counter = Counter()
    kept: Counter = Counter()
    for page in pages:
        output = SPACE.sub("", outputs.get(page.number, ""))
        for kind, text in template_texts(page.wikitext):
            there[kind] += 1
            kept[kind] += SPACE.sub("", text) in output
    return {
        kind: {"in_prose": there[kind], "kept": kept[kind], "percent": share(kept[kind], there[kind])}
        for kind in ("lang", "lang-xx", "仮リンク")
    }


def count(pages: list[Page], outputs: dict[int, str]) -> tuple[dict, list[Case]]:
    """The figures of a tool's text {page number: its lines}, faults per million characters; and each fault."""
    lines = [line for page in pages for line in outputs.get(page.number, "").split("\n") if line.strip()]
    characters = sum(map(len, lines))
    cases = [case for page in pages for case in faults(outputs.get(page.number, ""), page)]
    counts = Counter(case.kind for case in cases)
    closing = sum(line.lstrip().startswith(CLOSING) for line in lines)
    figures = {
        "pages": sum(bool(outputs.get(page.number, "").strip()) for page in pages),
        "characters": characters,
        "lines": len(lines),
        "faults": {kind: counts[kind] for kind in EMPTY | MARKUP},
        "per_million_characters": {kind: round(1e6 * counts[kind] / max(1, characters), 2) for kind in EMPTY | MARKUP},
        "lines_that_start_with_a_closing_bracket": closing,
        "closing_bracket_percent": share(closing, len(lines)),
        "text_kept": kept(pages, outputs),
    }
    return figures, cases

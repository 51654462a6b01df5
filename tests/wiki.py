"""A small wiki of our own in each layout that dumps come in."""

import bz2
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
SHARED_DUMP = ROOT.parent / "shared" / "data" / "dump"

ARTICLES = {
    "竹とんぼ": "'''竹とんぼ'''は、竹を削って作る[[玩具]]である。軸を両手ではさみ、強く回して飛ばす。\n",
    "水時計": "'''水時計'''は水の流れで時を計る。古い都では、鐘の音が時を知らせた。\n\n夜も使えた。\n",
    "干潟": "'''干潟'''は潮が引くと現れる。{{Coord|35|N|139|E}}渡り鳥が休む場所でもある。\n",
    "和紙": "'''和紙'''は[[楮]]などから作る。<ref>紙の本、12頁。</ref>薄くて強い。\n",
    "石段": "== 由来 ==\n寺へ続く'''石段'''は百段ある。毎朝、僧が掃き清める。\n\n== 脚注 ==\n<references />\n",
    "踏切": "'''踏切'''では、まず止まる。左右を見て、音を聞く。それから渡る。\n",
}


def page_xml(
    number: int, title: str, text: str, namespace: int = 0, redirect: str | None = None, classic: bool = True
) -> str:
    """A <page> as exports write it; Content File Exports have no <redirect>."""
    element = f'<redirect title="{escape(redirect)}" />' if redirect and classic else ""
    body = (
        f'<text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>'
        if text
        else '<text bytes="0" />'
    )
    return (
        f"  <page>\n<title>{escape(title)}</title>\n<ns>{namespace}</ns>\n<id>{number}</id>\n{element}"
        f"<revision><id>{number + 900}</id><contributor><username>書き手</username><id>7</id></contributor>"
        f"<model>wikitext</model>{body}</revision></page>\n"
    )


def head(version: str = "0.11") -> str:
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" version="{version}" xml:lang="ja">\n' + (
        "<siteinfo><sitename>Wikipedia</sitename></siteinfo>\n"
    )


def wiki_pages(classic: bool = True) -> list[str]:
    """Six articles, two redirects (one told by its text alone), an empty page and two of other namespaces."""
    pages = [page_xml(10 * n, title, text) for n, (title, text) in enumerate(ARTICLES.items(), start=1)]
    return [
        page_xml(1, "Wikipedia:索引", "ここは記事ではない。", namespace=4),
        *pages[:3],
        page_xml(35, "水どけい", "#転送 [[水時計]]", redirect="水時計", classic=classic),
        page_xml(36, "白紙", ""),
        *pages[3:],
        page_xml(70, "Template:紙", "ひな型である。", namespace=10),
    ]


def plain(pages: list[str], version: str = "0.11") -> bytes:
    return (head(version) + "".join(pages) + "</mediawiki>\n").encode()


def multistream(pages: list[str]) -> bytes:
    """A stream for the head, one for each three pages, one for the end, as the real files have them."""
    groups = ["".join(pages[n : n + 3]) for n in range(0, len(pages), 3)]
    return b"".join(bz2.compress(part.encode()) for part in [head(), *groups, "</mediawiki>\n"])


def write_layouts(folder: Path) -> dict[str, list[Path]]:
    """The wiki as plain XML, classic, multistream with its index, and parts (named in the wrong order)."""
    content = wiki_pages(classic=False)
    written = {
        "plain.xml": plain(wiki_pages()),
        "jawiki-20261101-pages-articles.xml.bz2": bz2.compress(plain(wiki_pages())),
        "jawiki-20261101-pages-articles-multistream.xml.bz2": multistream(wiki_pages()),
        "jawiki-20261101-pages-articles-multistream-index.txt.bz2": bz2.compress("120:10:竹とんぼ\n".encode()),
        "jawiki-2026-11-01-p40p70.xml.bz2": bz2.compress(plain(content[6:])),
        "jawiki-2026-11-01-p1p36.xml.bz2": bz2.compress(plain(content[:6])),
        "SHA256SUMS": b"",
    }
    for name, data in written.items():
        (folder / name).write_bytes(data)
    paths = [folder / name for name in written]
    return {"plain": paths[:1], "classic": paths[1:2], "multistream": paths[2:4], "content": paths[4:]}

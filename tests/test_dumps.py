"""Dump layouts give the same pages, faults are told in one sentence, downloads are resumed and verified."""

import bz2
import gzip
import hashlib
import http.server
import json
import subprocess
import sys
import threading
import tracemalloc
import urllib.error
import urllib.request
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_ja import dumps, files
from bert_ja.cli import StageError

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


# A small wiki in each layout


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


@pytest.fixture
def layouts(tmp_path) -> dict[str, list[Path]]:
    return write_layouts(tmp_path)


# Pages


def test_a_page_has_its_id_namespace_title_revision_redirect_and_text(layouts):
    found = list(dumps.pages(layouts["plain"]))
    assert found[0] == dumps.Page(1, 4, "Wikipedia:索引", 901, False, "ここは記事ではない。")
    assert found[2] == dumps.Page(20, 0, "水時計", 920, False, ARTICLES["水時計"])
    assert found[4] == dumps.Page(35, 0, "水どけい", 935, True, "#転送 [[水時計]]")
    assert found[5] == dumps.Page(36, 0, "白紙", 936, False, "")
    assert [page.id for page in found] == [1, 10, 20, 30, 35, 36, 40, 50, 60, 70]


@pytest.mark.parametrize("layout", ["classic", "multistream", "content"])
def test_every_layout_gives_the_pages_of_the_plain_file(layouts, layout):
    expected = [page._replace(redirect=False) for page in dumps.pages(layouts["plain"])]
    assert [page._replace(redirect=False) for page in dumps.pages(layouts[layout])] == expected


@pytest.mark.parametrize("version", ["0.10", "0.11"])
def test_both_export_versions_are_read(tmp_path, version):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages(), version))
    assert len(list(dumps.pages([path]))) == 10


def test_the_last_of_several_revisions_counts_and_a_deleted_text_is_empty(tmp_path):
    revisions = "<revision><id>1</id><text>古い。</text></revision><revision><id>2</id><text>新しい。</text></revision>"
    deleted = '<revision><id>3</id><text bytes="9" deleted="deleted" /></revision>'
    (tmp_path / "wiki.xml").write_text(
        f"<mediawiki><page><title>甲</title><ns>0</ns><id>5</id>{revisions}</page>"
        f"<page><title>乙</title><ns>0</ns><id>6</id>{deleted}</page></mediawiki>",
        encoding="utf-8",
    )
    assert list(dumps.pages([tmp_path / "wiki.xml"])) == [
        dumps.Page(5, 0, "甲", 2, False, "新しい。"),
        dumps.Page(6, 0, "乙", 3, False, ""),
    ]


XML_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)


@settings(max_examples=30, deadline=None)
@given(title=XML_TEXT, text=XML_TEXT)
def test_titles_and_texts_come_back_as_they_were(tmp_path_factory, title, text):
    path = tmp_path_factory.getbasetemp() / "round_trip.xml"
    path.write_bytes(plain([page_xml(3, title, text)]))
    assert [(page.title, page.text) for page in dumps.pages([path])] == [(title, text)]


def test_memory_does_not_grow_with_the_dump(tmp_path):
    def peak(number: int) -> int:
        (tmp_path / "wiki.xml").write_bytes(plain([page_xml(n, "頁", "文である。" * 40) for n in range(1, number)]))
        tracemalloc.start()
        assert sum(1 for _ in dumps.pages([tmp_path / "wiki.xml"])) == number - 1
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(9000) < peak(3000) + 200_000  # bytes; the smaller file already fills all buffers


def test_progress_is_told_every_compressed_byte(layouts):
    read = []
    list(dumps.pages(layouts["content"], read.append))
    assert sum(read) == sum(path.stat().st_size for path in layouts["content"])


def test_dates_come_from_file_names():
    assert dumps.date_of("x/jawiki-20261101-pages-articles.xml.bz2") == "20261101"
    assert dumps.date_of("jawiki-2026-11-01-p1p36.xml.bz2") == "20261101"
    assert dumps.date_of("jawiki-mini-pages-articles.xml.bz2") is None


def test_facts_name_one_file_or_the_first_of_several(layouts):
    (one,) = layouts["classic"]
    assert dumps.facts([one], [files.describe(one)]) == {
        "date": "20261101",
        "file": one.name,
        "sha256": hashlib.sha256(one.read_bytes()).hexdigest(),
    }
    parts = dumps.dump_files(layouts["content"])
    sums = "".join(f"{files.sha256(part)}  {part.name}\n" for part in parts)
    assert dumps.facts(parts, [files.describe(part) for part in parts]) == {
        "date": "20261101",
        "file": "jawiki-2026-11-01-p1p36.xml.bz2 and 1 more",
        "sha256": hashlib.sha256(sums.encode()).hexdigest(),
    }


# Faults of files


def error_of(path: Path) -> str:
    with pytest.raises(StageError) as caught:
        list(dumps.pages([path]))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize("layout", ["plain", "classic", "multistream"])
def test_a_file_cut_anywhere_is_refused(layouts, layout):
    path = layouts[layout][0]
    data = path.read_bytes()
    for place in [5, *(len(data) * n // 20 for n in range(1, 20)), len(data) - (1 if layout != "plain" else 9)]:
        path.write_bytes(data[:place])
        assert "FILE is cut short " in error_of(path), place
        assert error_of(path).endswith("download it again and compare its checksum")


def test_a_multistream_file_cut_between_two_streams_is_refused(layouts):
    path = layouts["multistream"][0]
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"BZh9")])
    assert error_of(path).startswith("FILE is cut short after page 70 (no </mediawiki>)")


@pytest.mark.parametrize("layout", ["classic", "multistream"])
def test_a_flipped_byte_is_refused_or_changes_nothing(layouts, layout):
    path = layouts[layout][0]
    data, expected = path.read_bytes(), list(dumps.pages([path]))
    for place in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            assert list(dumps.pages([path])) == expected
        except StageError as error:
            assert str(error).count(". ") == 0


def test_damaged_bz2_is_named_with_the_last_whole_page(layouts):
    (path,) = layouts["classic"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert error_of(path) == (
        "FILE is damaged before its first page (bz2: Invalid data stream): download it again and compare its checksum"
    )


def test_damaged_xml_is_named_with_its_line(tmp_path):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages()).replace(b"<id>36</id>", b"<id>36</di>"))
    assert error_of(path).startswith("FILE is damaged after page 35 (XML mismatched tag: line ")


def test_a_page_without_a_number_is_damage(tmp_path):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages()).replace(b"<id>36</id>", b""))
    assert error_of(path).startswith("FILE is damaged after page 35 (a page without a number)")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "FILE is empty: get_jawiki.sh DATE downloads one"),
        (
            "ただの文章。\n".encode(),
            "FILE is not a MediaWiki dump (neither bz2 nor XML): get_jawiki.sh DATE downloads one",
        ),
        (gzip.compress(b"<mediawiki/>"), "FILE is not a MediaWiki dump (neither bz2 nor XML): "),
        (b"<html></html>", "FILE is not a MediaWiki dump (its first element is <html>): "),
        (b"<mediawiki2/>", "FILE is not a MediaWiki dump (its first element is <mediawiki2>): "),
        (bz2.compress("文。\n".encode()), "FILE is damaged before its first page (XML "),
        (bz2.compress(b""), "FILE is cut short before its first page (no </mediawiki>)"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path, data, message):
    path = tmp_path / "input"
    path.write_bytes(data)
    assert error_of(path).startswith(message)


def test_missing_files_folders_and_lists_alone_are_refused(layouts, tmp_path):
    assert error_of(tmp_path / "none.xml.bz2") == "FILE not found: get_jawiki.sh DATE downloads one"
    assert error_of(tmp_path) == "FILE is a folder, a file is needed: get_jawiki.sh DATE downloads one"
    assert error_of(layouts["multistream"][1]).endswith(
        "belongs to a dump but holds no pages: name the .xml.bz2 files beside it"
    )


def test_a_page_that_stands_twice_is_refused(layouts):
    with pytest.raises(StageError, match=r"^page 1 of .* was read before: name the files of one dump, each once$"):
        list(dumps.pages(layouts["classic"] + layouts["multistream"]))


# Downloads


class Wikimedia(http.server.ThreadingHTTPServer):
    """A server of dumps on loopback: 403 without a descriptive User-Agent, Range, and faults on demand."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.ranges = True
        self.log: list[tuple[str, str | None]] = []  # (path, Range)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add_classic(self, date: str, data: bytes, layout: str = "pages-articles-multistream", status: str = "done"):
        name = f"jawiki-{date}-{layout}.xml.bz2"
        self.contents[f"/jawiki/{date}/{name}"] = data
        entry = {"size": len(data), "sha1": hashlib.sha1(data).hexdigest(), "url": f"/jawiki/{date}/{name}"}
        path = f"/jawiki/{date}/dumpstatus.json"
        jobs = json.loads(self.contents.get(path, b'{"jobs": {}}'))["jobs"]
        jobs[f"{layout}dump"] = {"status": status, "files": {name: entry}}
        self.contents[path] = json.dumps({"jobs": jobs, "version": "0.8"}).encode()
        self.list_folder("/jawiki/", date)

    def add_content(self, day: str, parts: dict[str, bytes], success: bool = True):
        folder = f"/other/mediawiki_content_current/jawiki/{day}/xml/bzip2"
        for name, data in parts.items():
            self.contents[f"{folder}/{name}"] = data
        sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in parts.items())
        self.contents[f"{folder}/SHA256SUMS"] = sums.encode()
        if success:
            self.contents[f"{folder}/_SUCCESS"] = b""
        self.list_folder("/other/mediawiki_content_current/jawiki/", day)

    def list_folder(self, folder: str, name: str):
        self.contents[folder] = (
            self.contents.get(folder, b"<a href='../'>..</a>") + f'<a href="{name}/">{name}</a>'.encode()
        )


class Handler(http.server.BaseHTTPRequestHandler):
    server: Wikimedia

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body: bool = True):
        wanted = self.headers.get("Range")
        self.server.log.append((self.path, wanted))
        agent = self.headers.get("User-Agent", "")
        if not agent.startswith("bert-ja/"):
            return self.send_error(403, "Set a user agent")
        data = self.server.contents.get(self.path)
        if data is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start and start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        big = body and len(data) > 1000
        end = start + self.server.cuts.pop(0) if big and self.server.cuts else len(data)
        if body:
            self.wfile.write(data[start:end])

    def log_message(self, *args):
        pass


BIG = multistream(wiki_pages()) * 100  # bytes; what is in it does not matter to a download
NAME = "jawiki-20261101-pages-articles-multistream.xml.bz2"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(dumps, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Wikimedia() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server: Wikimedia, folder: Path, date: str = "20261101") -> list[Path]:
    day, remotes = dumps.resolve(date, server.url)
    return [dumps.download(remote, day, folder) for remote in remotes]


def download_error(server: Wikimedia, folder: Path, date: str = "20261101") -> str:
    with pytest.raises(StageError) as caught:
        fetch(server, folder, date)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(server.url, "MIRROR")


def test_the_server_of_these_tests_refuses_a_generic_user_agent(server):
    server.contents["/x"] = b"x"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(server.url + "/x")


def test_a_download_is_verified_and_recorded(server, tmp_path):
    server.add_classic("20261101", BIG)
    (path,) = fetch(server, tmp_path)
    assert (path, path.read_bytes()) == (tmp_path / NAME, BIG)
    record = files.read_record(path)
    sha1, sha256 = hashlib.sha1(BIG).hexdigest(), hashlib.sha256(BIG).hexdigest()
    assert record["dump"] == {"date": "20261101", "file": NAME, "sha256": sha256, "sha1": sha1}
    assert record["outputs"] == [files.describe(path)]
    assert dumps.facts([path], [files.describe(path)]) == record["dump"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, NAME + ".meta.json"]


def test_a_file_that_was_verified_is_not_downloaded_again(server, tmp_path):
    server.add_classic("20261101", BIG)
    fetch(server, tmp_path)
    server.log.clear()
    fetch(server, tmp_path)
    assert server.log == [("/jawiki/20261101/dumpstatus.json", None)]


def test_the_command_prints_the_paths_and_takes_a_mirror(server, tmp_path):
    server.add_classic("20261101", BIG)
    done = subprocess.run(
        [sys.executable, "-m", "bert_ja.dumps", "2026-11-01", "--output_dir", tmp_path, "--mirror", server.url + "/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / NAME}\n")


def test_latest_is_the_newest_complete_dump(server, tmp_path):
    server.add_classic("20261001", BIG + b"old")
    server.add_classic("20261101", BIG)
    server.add_classic("20261120", BIG + b"new", status="in-progress")
    assert [path.name for path in fetch(server, tmp_path, "latest")] == [NAME]


def test_the_single_stream_is_taken_while_the_multistream_is_not_done(server, tmp_path):
    server.add_classic("20261101", BIG, status="waiting")
    server.add_classic("20261101", BIG, layout="pages-articles")
    assert [path.name for path in fetch(server, tmp_path)] == ["jawiki-20261101-pages-articles.xml.bz2"]


@pytest.mark.parametrize("date", ["20261101", "latest"])
def test_content_file_exports_are_taken_where_there_is_no_classic_dump(server, tmp_path, date):
    parts = {f"jawiki-2026-11-01-p{n}p{n + 9}.xml.bz2": BIG + str(n).encode() for n in (100, 20, 1)}
    server.add_content("2026-11-01", parts)
    server.add_content("2026-11-15", parts, success=False)
    found = fetch(server, tmp_path, date)
    assert [path.name for path in found] == [f"jawiki-2026-11-01-p{n}p{n + 9}.xml.bz2" for n in (1, 20, 100)]
    assert all(path.read_bytes() == parts[path.name] for path in found)
    dump = files.read_record(found[0])["dump"]
    assert dump == {"date": "20261101", "file": found[0].name, "sha256": files.sha256(found[0])}


def test_a_cut_connection_is_resumed_where_it_broke(server, tmp_path):
    server.add_classic("20261101", BIG)
    server.cuts = [1000, 0, 2500]
    (path,) = fetch(server, tmp_path)
    assert path.read_bytes() == BIG
    ranges = [asked for name, asked in server.log if name.endswith(NAME)]
    assert ranges == [None, "bytes=1000-", "bytes=1000-", "bytes=3500-"]


def test_what_a_killed_run_left_is_completed(server, tmp_path):
    server.add_classic("20261101", BIG)
    files.partial_path(tmp_path / NAME).write_bytes(BIG[:1234])
    (path,) = fetch(server, tmp_path)
    assert path.read_bytes() == BIG
    assert server.log[-1][1] == "bytes=1234-"


@pytest.mark.parametrize("left", [BIG, BIG + b"more"])
def test_a_partial_file_that_is_complete_or_too_long_does_no_harm(server, tmp_path, left):
    server.add_classic("20261101", BIG)
    files.partial_path(tmp_path / NAME).write_bytes(left)
    assert fetch(server, tmp_path)[0].read_bytes() == BIG


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.add_classic("20261101", BIG)
    server.ranges, server.cuts = False, [1000]
    assert fetch(server, tmp_path)[0].read_bytes() == BIG


def test_wrong_bytes_are_not_kept(server, tmp_path):
    server.add_classic("20261101", BIG)
    server.contents[f"/jawiki/20261101/{NAME}"] = wrong = BIG[:-1] + b"!"
    assert download_error(server, tmp_path) == (
        f"MIRROR/jawiki/20261101/{NAME} has the sha1 {hashlib.sha1(wrong).hexdigest()}, its list says "
        f"{hashlib.sha1(BIG).hexdigest()}: nothing is kept, try again or use another --mirror"
    )
    assert list(tmp_path.iterdir()) == []
    server.contents[f"/jawiki/20261101/{NAME}"] = BIG + b"more"
    assert download_error(server, tmp_path).endswith(
        f"has {len(BIG) + 4:,} bytes, its list says {len(BIG):,}: nothing is kept, try again"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_first_half_of_a_killed_run_is_found_and_gone_after_one_more_run(server, tmp_path):
    server.add_classic("20261101", BIG)
    files.partial_path(tmp_path / NAME).write_bytes(b"x" * 1000)
    assert "nothing is kept" in download_error(server, tmp_path)
    assert fetch(server, tmp_path)[0].read_bytes() == BIG


def test_a_connection_that_always_breaks_is_an_error_and_what_came_is_kept(server, tmp_path):
    server.add_classic("20261101", BIG)
    server.cuts = [1000] + [0] * 99
    assert download_error(server, tmp_path) == (
        f"MIRROR/jawiki/20261101/{NAME} broke off after 1,000 bytes (the connection ended early): "
        "run the same command again to go on"
    )
    assert files.partial_path(tmp_path / NAME).read_bytes() == BIG[:1000]


def test_a_date_that_is_not_offered_is_answered_with_those_that_are(server, tmp_path):
    server.add_classic("20261001", BIG)
    server.add_content("2026-11-01", {})
    assert download_error(server, tmp_path, "20210620") == (
        "the jawiki dump of 20210620 is not at MIRROR, or not complete: choose one of 20261001, 20261101"
    )


def test_a_server_without_dumps_is_told(server, tmp_path):
    for date in ("latest", "20261101"):
        assert download_error(server, tmp_path, date) == "no complete dump of jawiki is at MIRROR: try another --mirror"


def test_a_file_that_is_listed_and_missing_is_told(server, tmp_path):
    server.add_classic("20261101", BIG)
    del server.contents[f"/jawiki/20261101/{NAME}"]
    assert download_error(server, tmp_path) == (
        f"MIRROR/jawiki/20261101/{NAME}: the server answers 404 Not Found: try later, or another --mirror"
    )


def test_a_status_that_is_no_json_is_told(server, tmp_path):
    server.contents["/jawiki/20261101/dumpstatus.json"] = b"<html>"
    assert download_error(server, tmp_path).endswith("dumpstatus.json is not a dump's status: try another --mirror")


def test_a_refused_user_agent_is_told_to_give_a_contact(server, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "user_agent", lambda: "Python-urllib/3.11")
    monkeypatch.delenv(dumps.CONTACT, raising=False)
    assert download_error(server, tmp_path) == (
        "MIRROR/jawiki/20261101/dumpstatus.json: the server refuses a download without a contact: "
        "pass --contact YOUR_MAIL_OR_SITE"
    )


def test_a_contact_stands_in_the_user_agent(monkeypatch):
    monkeypatch.setenv(dumps.CONTACT, "you@example.org")
    assert dumps.user_agent() == "bert-ja/0.1.0 (Japanese BERT training; contact: you@example.org)"


def test_a_refused_user_agent_with_a_contact_is_told(server, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "user_agent", lambda: "Python-urllib/3.11")
    monkeypatch.setenv(dumps.CONTACT, "you@example.org")
    assert download_error(server, tmp_path) == (
        "MIRROR/jawiki/20261101/dumpstatus.json: the server answers 403 Set a user agent: "
        "try later, or another --mirror"
    )


def test_a_second_run_of_the_same_download_is_refused(server, tmp_path):
    server.add_classic("20261101", BIG)
    with dumps._open_partial(tmp_path / NAME):
        assert "another run is downloading" in download_error(server, tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"date": "20261340"}, "20261340 is no date of a dump: write YYYYMMDD, or latest"),
        ({"date": "latest", "mirror": "ftp://x"}, "--mirror must be an address with http:// or https://, got ftp://x"),
        ({"date": "latest", "mirror": "http://127.0.0.1:9"}, "http://127.0.0.1:9/jawiki/ cannot be reached ("),
    ],
)
def test_wrong_dates_and_mirrors_are_refused(options, message, tmp_path):
    with pytest.raises(StageError) as caught:
        dumps.main(**options, output_dir=str(tmp_path))
    assert str(caught.value).startswith(message)

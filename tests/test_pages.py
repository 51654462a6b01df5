"""Every layout, block size and number of workers gives the same pages; faults are told in one sentence."""

import bz2
import contextlib
import gzip
import tracemalloc
from pathlib import Path

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from wiki import ARTICLES, head, multistream, page_xml, plain, wiki_pages

from bert_ja import dumps, files, pages
from bert_ja.cli import StageError


def read(paths, advance=lambda size: None, num_workers: int = 1) -> list[pages.Page]:
    """All pages of a dump's files."""
    found, seen = [], pages.Seen()
    for path in dumps.dump_files(paths):
        with contextlib.closing(pages.DumpFile(path, advance)) as dump:
            found += [page for part in pages.map_pages(list, dump, num_workers, seen) for page in part]
    return found


# Pages


def test_a_page_has_its_id_namespace_title_revision_redirect_and_text(layouts):
    found = list(read(layouts["plain"]))
    assert found[0] == pages.Page(1, 4, "Wikipedia:索引", 901, False, "ここは記事ではない。")
    assert found[2] == pages.Page(20, 0, "水時計", 920, False, ARTICLES["水時計"])
    assert found[4] == pages.Page(35, 0, "水どけい", 935, True, "#転送 [[水時計]]")
    assert found[5] == pages.Page(36, 0, "白紙", 936, False, "")
    assert [page.id for page in found] == [1, 10, 20, 30, 35, 36, 40, 50, 60, 70]


@pytest.mark.parametrize("layout", ["classic", "multistream", "content"])
def test_every_layout_gives_the_pages_of_the_plain_file(layouts, layout):
    expected = [page._replace(redirect=False) for page in read(layouts["plain"])]
    assert [page._replace(redirect=False) for page in read(layouts[layout])] == expected


@pytest.mark.parametrize("version", ["0.10", "0.11"])
def test_both_export_versions_are_read(tmp_path, version):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages(), version))
    assert len(list(read([path]))) == 10


def test_the_last_of_several_revisions_counts_and_a_deleted_text_is_empty(tmp_path):
    revisions = "<revision><id>1</id><text>古い。</text></revision><revision><id>2</id><text>新しい。</text></revision>"
    deleted = '<revision><id>3</id><text bytes="9" deleted="deleted" /></revision>'
    (tmp_path / "wiki.xml").write_text(
        f"<mediawiki><page><title>甲</title><ns>0</ns><id>5</id>{revisions}</page>"
        f"<page><title>乙</title><ns>0</ns><id>6</id>{deleted}</page></mediawiki>",
        encoding="utf-8",
    )
    assert list(read([tmp_path / "wiki.xml"])) == [
        pages.Page(5, 0, "甲", 2, False, "新しい。"),
        pages.Page(6, 0, "乙", 3, False, ""),
    ]


XML_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)


@examples(30)
@given(title=XML_TEXT, text=XML_TEXT)
def test_titles_and_texts_come_back_as_they_were(tmp_path_factory, title, text):
    path = tmp_path_factory.getbasetemp() / "round_trip.xml"
    path.write_bytes(plain([page_xml(3, title, text)]))
    assert [(page.title, page.text) for page in read([path])] == [(title, text)]


def ids(found) -> list[int]:
    return [page.id for page in found]


def test_memory_does_not_grow_with_the_dump(tmp_path):
    def peak(number: int) -> int:
        (tmp_path / "wiki.xml").write_bytes(plain([page_xml(n, "頁", "文である。" * 40) for n in range(1, number)]))
        tracemalloc.start()
        with contextlib.closing(pages.DumpFile(tmp_path / "wiki.xml")) as dump:
            assert sum(len(part) for part in pages.map_pages(ids, dump)) == number - 1
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(12_000) < peak(6_000) + 200_000  # bytes; the smaller file already fills all buffers


def test_progress_is_told_every_compressed_byte(layouts):
    told = []
    read(layouts["content"], told.append)
    assert sum(told) == sum(path.stat().st_size for path in layouts["content"][:2])


def test_what_was_read_is_described_like_the_file(layouts):
    (path,) = layouts["classic"]
    with contextlib.closing(pages.DumpFile(path)) as dump:
        assert sum(map(len, pages.map_pages(ids, dump))) == 10
        assert dump.describe() == files.describe(path)


# Blocks


def pieces(data: bytes, size: int) -> bytes:
    """bz2 streams that end in the middle of pages, as parallel compressors write them."""
    return b"".join(bz2.compress(data[n : n + size]) for n in range(0, len(data), size))


@examples(40)
@given(
    layout=st.sampled_from(["plain", "classic", "multistream", "pieces of 37", "pieces of 400"]),
    packed=st.integers(10, 3000),
    longest=st.integers(1, 3000),
    unpacked=st.integers(10, 3000),
)
def test_no_block_size_changes_the_pages(tmp_path_factory, layout, packed, longest, unpacked):
    xml = plain(wiki_pages())
    made = {"plain": xml, "classic": bz2.compress(xml), "multistream": multistream(wiki_pages())}
    path = tmp_path_factory.getbasetemp() / "blocks.xml"
    path.write_bytes(made[layout] if layout in made else pieces(xml, int(layout.split()[-1])))
    expected = read([path])
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("PACKED", packed), ("LONGEST_STREAM", longest), ("UNPACKED", unpacked)):
            patch.setattr(pages, name, size)
        assert read([path]) == expected
    assert len(expected) == 10


@pytest.mark.parametrize("layout", ["plain", "classic", "multistream"])
def test_no_number_of_workers_changes_the_pages(layouts, layout, monkeypatch):
    expected = read(layouts[layout][:1])
    for name in ("PACKED", "LONGEST_STREAM", "UNPACKED"):
        monkeypatch.setattr(pages, name, 300)
    assert [read(layouts[layout][:1], num_workers=count) for count in (1, 2, 10)] == [expected] * 3


def test_each_worker_unpacks_its_own_streams_and_a_long_one_is_unpacked_for_all(layouts, monkeypatch):
    monkeypatch.setattr(pages, "PACKED", 200)
    monkeypatch.setattr(pages, "LONGEST_STREAM", 1000)
    kinds = {}
    for layout in ("multistream", "classic", "plain"):
        with contextlib.closing(pages.DumpFile(layouts[layout][0])) as dump:
            kinds[layout] = [block.packed for block in pages.blocks(dump)]
    assert (set(kinds["multistream"]), set(kinds["classic"]), set(kinds["plain"])) == ({True}, {False}, {False})
    assert len(kinds["multistream"]) > 3


def test_real_pages_are_the_same_in_every_layout_and_block_size(monkeypatch):
    folder = shared("data", "dump")
    expected = read([folder / "jawiki-mini-pages-articles.xml.bz2"])
    monkeypatch.setattr(pages, "LONGEST_STREAM", 150_000)  # some are longer
    monkeypatch.setattr(pages, "UNPACKED", 777_777)
    multistream = read([folder / "jawiki-mini-pages-articles-multistream.xml.bz2"], num_workers=2)
    assert (len(expected), multistream == expected) == (322, True)
    parts = read(folder.glob("jawiki-2026*.xml.bz2"))
    assert [page._replace(redirect=False) for page in expected] == parts


# Faults of files


def error_of(path: Path) -> str:
    with pytest.raises(StageError) as caught:
        list(read([path]))
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
    data, expected = path.read_bytes(), list(read([path]))
    for place in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            assert list(read([path])) == expected
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


def test_damaged_xml_is_named_with_the_page_before_it(tmp_path):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages()).replace(b"<id>36</id>", b"<id>36</di>"))
    assert error_of(path).startswith("FILE is damaged after page 35 (XML: mismatched tag): download it again")


def test_a_page_without_a_number_is_damage(tmp_path):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages()).replace(b"<id>36</id>", b""))
    assert error_of(path).startswith("FILE is damaged after page 35 (a page without a number)")


def test_a_page_whose_number_is_too_large_is_damage(tmp_path):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain(wiki_pages()).replace(b"<id>36</id>", b"<id>99999999999999999999</id>"))
    assert error_of(path).startswith("FILE is damaged after page 35 (a page without a number)")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "FILE is empty: get_jawiki.sh DATE downloads one"),
        (
            "ただの文章。\n".encode(),
            "FILE is not a MediaWiki dump (neither bz2 nor XML): get_jawiki.sh DATE downloads one",
        ),
        (gzip.compress(b"<mediawiki/>", mtime=0), "FILE is not a MediaWiki dump (neither bz2 nor XML): "),
        (b"<html></html>", "FILE is not a MediaWiki dump (its first element is <html>): "),
        (b"<!-- a --><?x?>\n<html></html>", "FILE is not a MediaWiki dump (its first element is <html>): "),
        (b"<!a>" * 20_000, "FILE is cut short before its first page (no </mediawiki>)"),
        (b"<mediawiki2/>", "FILE is not a MediaWiki dump (its first element is <mediawiki2>): "),
        (bz2.compress("文。\n".encode()), "FILE is not a MediaWiki dump (no XML in it): "),
        (bz2.compress(b""), "FILE is cut short before its first page (no </mediawiki>)"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path, data, message):
    path = tmp_path / "input"
    path.write_bytes(data)
    assert error_of(path).startswith(message)


@pytest.mark.parametrize("between", ["<page>\n<title>&#24178;", "迷子の文", "</mediawiki>", "</mediawiki><mediawiki>"])
@pytest.mark.parametrize("block", [150, 1 << 20])
def test_what_stands_between_pages_is_damage(tmp_path, monkeypatch, between, block):
    monkeypatch.setattr(pages, "UNPACKED", block)
    monkeypatch.setattr(pages, "PACKED", block)
    path, found = tmp_path / "wiki.xml", wiki_pages()
    path.write_text(head() + "".join([*found[:3], between, *found[3:]]) + "</mediawiki>\n", encoding="utf-8")
    assert error_of(path).startswith("FILE is damaged after page ")


def test_a_page_without_an_end_is_damage_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "LONGEST_PAGE", 3 << 20)
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(bz2.compress(plain([page_xml(1, "頁", "文" * 2_000_000)])))
    assert error_of(path).startswith("FILE is damaged before its first page (no page ends within 3 MB)")


def test_damage_is_told_after_the_pages_before_it_whoever_finds_it(tmp_path, monkeypatch):
    """The reader runs ahead of the workers: what it finds must not hide their pages."""
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(pieces(plain(wiki_pages()), 400)[:-20])
    monkeypatch.setattr(pages, "PACKED", 50)
    for longest in (50, 5000):  # the reader unpacks every stream, and none
        monkeypatch.setattr(pages, "LONGEST_STREAM", longest)
        with contextlib.closing(pages.DumpFile(path)) as dump:
            found = pages.map_pages(ids, dump, num_workers=2)
            with pytest.raises(StageError, match=r"is cut short after page 60 \(its bz2 stream does not end\)"):
                for _ in found:
                    pass


def test_a_page_that_stands_twice_is_refused(layouts):
    with pytest.raises(StageError, match=r"^page 1 of .* was read before: name the files of one dump, each once$"):
        list(read(layouts["classic"] + layouts["multistream"]))

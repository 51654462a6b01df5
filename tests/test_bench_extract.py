"""What the benchmark of the extraction computes from; its Japanese was written for these tests."""

import bz2
import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest
from conftest import SAMPLE

from bench import bench_extract, quality, runs
from bench.bench_extract import Dump
from bert_ja.cli import StageError

HEAD = '<mediawiki xml:lang="ja">\n  <siteinfo></siteinfo>\n'
TAIL = "</mediawiki>\n"


def page(number: int, text: str = "本文。", ns: int = 0, more: str = "") -> str:
    return (
        f"  <page>\n    <title>題{number}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n{more}"
        f"    <revision>\n      <id>{number}00</id>\n      <text>{text}</text>\n    </revision>\n  </page>\n"
    )


# The file that both programs read


def test_repeated_pages_get_new_ids_and_change_in_nothing_else():
    pages = [page(7), page(9)]
    expected = [
        *(page(7).replace("<id>7</id>", "<id>1</id>"), page(9).replace("<id>9</id>", "<id>2</id>")),
        *(page(7).replace("<id>7</id>", "<id>3</id>"), page(9).replace("<id>9</id>", "<id>4</id>")),
    ]
    assert list(bench_extract.repeated(pages, 2)) == expected


def test_a_multistream_file_has_a_stream_each_for_head_hundred_pages_and_tail(tmp_path):
    dump = Dump(HEAD, [page(number) for number in range(1, 126)], TAIL)
    size = bench_extract.write_multistream(tmp_path / "m.bz2", dump, 2)
    data, streams = (tmp_path / "m.bz2").read_bytes(), []
    while data:
        decompressor = bz2.BZ2Decompressor()
        streams.append(decompressor.decompress(data).decode())
        data = decompressor.unused_data
    assert [stream.count("<page>") for stream in streams] == [0, 100, 100, 50, 0]
    assert "".join(streams) == HEAD + "".join(bench_extract.repeated(dump.pages, 2)) + TAIL
    assert size == len("".join(streams).encode())


def test_a_single_stream_file_has_the_same_xml_in_one_stream(tmp_path):
    dump = Dump(HEAD, [page(number) for number in range(1, 126)], TAIL)
    bench_extract.write_single_stream(tmp_path / "s.bz2", dump, 2)
    bench_extract.write_multistream(tmp_path / "m.bz2", dump, 2)
    decompressor = bz2.BZ2Decompressor()
    xml = decompressor.decompress((tmp_path / "s.bz2").read_bytes())
    assert (decompressor.eof, decompressor.unused_data) == (True, b"")
    assert xml == bz2.decompress((tmp_path / "m.bz2").read_bytes())


def test_a_dump_is_read_whole_whether_compressed_or_not(tmp_path):
    text = SAMPLE.read_text(encoding="utf-8")
    (tmp_path / "sample.xml.bz2").write_bytes(bz2.compress(text.encode()))
    dump = bench_extract.read_dump([SAMPLE])
    assert dump.head + "".join(dump.pages) + dump.tail == text
    assert len(dump.pages) == text.count("<page>") > 50
    assert bench_extract.read_dump([tmp_path / "sample.xml.bz2"]) == dump


def test_parts_of_a_dump_are_joined_under_the_first_head(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.xml").write_text(HEAD + page(number) + TAIL, encoding="utf-8")
    joined = bench_extract.read_dump([tmp_path / "1.xml", tmp_path / "2.xml"])
    assert joined == Dump(HEAD, [page(1), page(2)], TAIL)


def test_a_file_without_pages_is_told(tmp_path):
    (tmp_path / "no.xml").write_text("<feed></feed>")
    with pytest.raises(StageError, match=r"no\.xml has no <page>: name the files of a pages-articles dump"):
        bench_extract.read_dump([SAMPLE, tmp_path / "no.xml"])


def test_articles_are_the_pages_of_the_main_namespace_that_are_no_redirects():
    pages = [
        page(50, "本文。&lt;br&gt;"),
        page(51, "説明。", ns=4),
        page(52, "", more='    <redirect title="題50" />\n'),
        page(53, "#転送 [[題50]]"),
        page(54, "#REDIRECT [[題50]]"),
    ]
    assert bench_extract.articles(pages) == [quality.Page(1, "題50", "本文。<br>")]


# Faults

FAULTS = {
    "（）": ["山（）", "山( )", "山（、）", "山(; ,)"],
    "「」": ["「」は", "「、」は"],
    "{{": ["{{山", "山}}"],
    "[[": ["[[山", "山]]"],
    "thumb|": ["thumb|山", "サムネイル|山", "200px|山"],
    "formula_": ["formula_12は"],
    "codice_": ["codice_3は"],
    "tag": ["<br>", "<br/>", "</ref>", '<ref name="山">', "<!--", "-->", "<NOWIKI />"],
    "entity": ["&nbsp;", "&#91;", "&#x5B;", "&frac12;"],
    "''": ["''山", "'''山"],
    "{|": ["{| class=", " |-", "|}"],
    "[http": ["[http://example.org", "[//example.org"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FAULTS.items() for text in texts])
def test_every_fault_is_found_once_and_under_its_kind(kind, text):
    found = quality.faults(text, quality.Page(1, "題", "川。"))
    assert [case.kind for case in found] == [kind]


@pytest.mark.parametrize(
    "text", ["（山）", "「山」", "main(x)", "a < b > c", "AT&T;山", "it's", "山|川", "{山}", "[山]"]
)
def test_plain_text_has_no_fault(text):
    assert quality.faults(text, quality.Page(1, "題", "川。")) == []


def test_a_fault_is_named_by_page_line_and_context():
    text = "一行目。\n" + "前" * 30 + "（）" + "後" * 30
    found = quality.faults(text, quality.Page(3, "題", ""))
    assert found == [quality.Case("（）", 3, "題", 2, "前" * 20 + "（）" + "後" * 20)]


LITERAL = {
    "nowiki": ("[[山", "<nowiki>[[</nowiki>山"),
    "pre": ("{{山", "<pre>{{山</pre>"),
    "code": ("main()", "<code>main()</code>"),
    "a highlighted listing": ("<br> ''", "<syntaxhighlight lang=\"html\"><br> ''</syntaxhighlight>"),
    "a tag by entities": ("<br>で改行", "&lt;br&gt;で改行"),
    "a tag by its first entity": ("<br>で改行", "&lt;br>で改行"),
    "brackets by entities": ("[[と{{", "&#91;&#91;と&#123;&#123;"),
    "an entity by an entity": ("&nbsp;と書く", "&amp;nbsp;と書く"),
    "parentheses in prose": ("（）内は人口", "（）内は人口"),
}


@pytest.mark.parametrize(("text", "wikitext"), LITERAL.values(), ids=LITERAL)
def test_what_the_page_shows_as_it_is_written_is_no_fault(text, wikitext):
    assert quality.faults(text, quality.Page(1, "題", wikitext)) == []
    assert quality.faults(text, quality.Page(1, "題", "")) != []


@pytest.mark.parametrize(
    ("text", "wikitext"),
    [
        ("山<br>川", "山<br>川"),
        ("山&nbsp;川", "山&nbsp;川"),
        ("[[山]]", "[[山]]"),
        ("山（）", "山（{{lang|en|mountain}}）"),
        ("山（）", "山（<ref>川（）</ref>）"),
        ("山（）", "山<!-- （） -->（{{IPA|a}}）"),
    ],
)
def test_markup_of_the_page_itself_excuses_nothing(text, wikitext):
    assert quality.faults(text, quality.Page(1, "題", wikitext)) != []


def test_a_literal_excuses_as_many_as_the_page_shows():
    wikitext = "<nowiki>[[</nowiki>と<br>と&lt;br&gt;"
    found = quality.faults("[[と[[と<br>と<br>と<hr>", quality.Page(1, "題", wikitext))
    assert [(case.kind, case.context) for case in found] == [
        ("[[", "[[と[[と<br>と<br>と<hr>"),
        ("tag", "[[と[[と<br>と<br>と<hr>"),
        ("tag", "[[と[[と<br>と<br>と<hr>"),
    ]


# Text inside templates


def test_templates_are_told_from_each_other_and_their_text_from_their_other_arguments():
    wikitext = (
        "山は{{lang|en|Mount [[X|Kita]]}}、{{Lang|de|2=''Berg''}}、{{lang-fr|montagne &amp; rivière}}、"
        "{{仮リンク|北山|en|Kita}}、{{仮リンク|南山 (曖昧)|en|Minami|label=南山}}、{{仮リンク|東山|en|H|label=}}、"
        "{{lang|en|{{smallcaps|x}}}}、{{lang|en|}}、{{langue|en|no}}、{{IPA|jama}}である。"
    )
    assert list(quality.template_texts(wikitext)) == [
        ("lang", "Mount Kita"),
        ("lang", "Berg"),
        ("lang-xx", "montagne & rivière"),
        ("仮リンク", "北山"),
        ("仮リンク", "南山"),
        ("仮リンク", "東山"),
    ]


def test_only_templates_in_prose_count():
    wikitext = """{{Infobox 山
| 名称 = {{lang|en|infobox}}
}}
[[ファイル:a.jpg|thumb|{{lang|en|caption}}と[[川|{{lang|en|river}}]]]]
山は{{lang|en|one}}<ref>{{lang|en|ref}}</ref>で、[[川|{{lang|en|two}}]]<!-- {{lang|en|comment}} -->である。
* {{lang|en|item}}
:{{lang|en|indented}}
{| class="wikitable"
| {{lang|en|cell}}
|}
{{Quote|{{lang|en|quotation}}}}
== {{lang|en|heading}} ==
{{lang|en|three}}も山。
== 脚注・出典 ==
{{lang|en|note}}
=== 書籍 ===
{{lang|en|book}}
== 歴史 ==
{{lang|en|four}}も山。
<gallery>
a.jpg|{{lang|en|gallery}}
</gallery>
=== 関連項目 ===
{{lang|en|see also}}"""
    assert [text for _, text in quality.template_texts(wikitext)] == ["one", "two", "three", "four"]


def test_a_bracket_without_its_other_half_hides_nothing():
    for broken in ("{{", "[[", "}}", "]]", "\n{| class\n"):
        assert list(quality.template_texts(f"山{broken}は{{{{lang|en|one}}}}だ。")) == [("lang", "one")], broken


def test_spans_are_those_of_closed_brackets():
    assert quality.spans("{{a|[[b]]|{{c") == [(4, 9)]
    assert quality.spans("{{a|[[b}}") == [(0, 9)]
    assert quality.spans("{|\n|{{a}}\n|}") == [(4, 9), (0, 12)]


# A whole text


def test_the_figures_of_a_text():
    pages = [
        quality.Page(
            1, "山", "{{lang|en|Mount  Kita}}と{{lang|en|Minami}}、{{仮リンク|東山|en|E}}。<nowiki>''</nowiki>"
        ),
        quality.Page(2, "川", "{{lang|fr|rivière}}。"),
        quality.Page(3, "海", "海。"),
    ]
    outputs = {1: "Mount\nKita（）と東山。''\n」''と。\n\n", 2: "川[[。<br>", 9: "{{余計}}"}
    figures, cases = quality.count(pages, outputs)
    assert figures == {
        "pages": 2,
        "characters": 5 + 12 + 5 + 8,
        "lines": 4,
        "faults": dict.fromkeys(quality.EMPTY | quality.MARKUP, 0) | {"（）": 1, "[[": 1, "tag": 1, "''": 1},
        "per_million_characters": dict.fromkeys(quality.EMPTY | quality.MARKUP, 0.0)
        | {"（）": 33333.33, "[[": 33333.33, "tag": 33333.33, "''": 33333.33},
        "lines_that_start_with_a_closing_bracket": 1,
        "closing_bracket_percent": 25.0,
        "text_kept": {
            "lang": {"in_prose": 3, "kept": 1, "percent": 33.33},
            "lang-xx": {"in_prose": 0, "kept": 0, "percent": None},
            "仮リンク": {"in_prose": 1, "kept": 1, "percent": 100.0},
        },
    }
    assert [(case.kind, case.page, case.line) for case in cases] == [
        ("（）", 1, 2),
        ("''", 1, 3),
        ("[[", 2, 1),
        ("tag", 2, 1),
    ]


def test_no_text_at_all_has_figures_too():
    figures, cases = quality.count([quality.Page(1, "山", "{{lang|en|Kita}}")], {})
    assert (figures["pages"], figures["characters"], figures["closing_bracket_percent"], cases) == (0, 0, None, [])
    assert figures["text_kept"]["lang"] == {"in_prose": 1, "kept": 0, "percent": 0.0}


def test_our_text_is_cut_into_pages_by_its_index(tmp_path):
    (tmp_path / "text.txt").write_text("一。\n二。\n\n三\u2028。\n\n", encoding="utf-8")
    rows = [{"id": 5, "first_line": 0, "lines": 2}, {"id": 8, "first_line": 3, "lines": 1}]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bench_extract.our_texts(tmp_path) == {5: "一。\n二。", 8: "三\u2028。"}


def test_their_text_is_read_from_all_files_and_unescaped_once(tmp_path):
    for folder, number, text in (("AA", 5, "a &lt;br&gt; &amp;nbsp;"), ("AB", 6, "川。\n海。")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "wiki_00").write_text(json.dumps({"id": str(number), "text": text}) + "\n")
    assert bench_extract.their_texts(tmp_path) == {5: "a <br> &nbsp;", 6: "川。\n海。"}


# Runs

BURN = "import time\nwhile time.process_time() < {}: pass\n"


def test_cpu_time_counts_children_and_tells_the_parent_apart(tmp_path):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(0.5)!r}])"
    run = runs.measure([sys.executable, "-c", child], tmp_path / "out")
    assert list(run) == list(runs.MEASURES)
    assert run["cpu_seconds"] - run["parent_cpu_seconds"] >= 0.45
    assert run["parent_cpu_seconds"] < run["cpu_seconds"]
    assert run["seconds"] > 0


def test_a_run_starts_with_an_empty_folder_and_its_output_is_weighed(tmp_path):
    write = ["bash", "-c", 'mkdir "$0/a" && head -c 5000 /dev/zero > "$0/a/b"', str(tmp_path / "out")]
    assert [runs.measure(write, tmp_path / "out")["output_megabytes"] for _ in range(2)] == [0.005, 0.005]


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path):
    command = ["/bin/bash", "-c", "echo first >&2; echo no disk >&2; exit 3"]
    with pytest.raises(StageError, match=r"^bash -c .* ended with exit code 3 \(no disk\): run it by hand$"):
        runs.measure(command, tmp_path / "out")


def test_programs_take_turns_and_the_first_round_does_not_count(tmp_path, capsys):
    log = tmp_path / "log"
    commands = {name: ["bash", "-c", f'echo {name} >> "$0"', str(log)] for name in ("a", "b")}
    measured = runs.interleaved(commands, {name: tmp_path / name for name in commands}, 2)
    assert log.read_text().split() == ["a", "b"] * 3
    assert {name: len(each) for name, each in measured.items()} == {"a": 2, "b": 2}
    assert re.sub(r"[\d.]+ s", "_ s", capsys.readouterr().err).splitlines() == [
        *("warm-up: a, _ s", "warm-up: b, _ s"),
        *("round 1: a, _ s", "round 1: b, _ s", "round 2: a, _ s", "round 2: b, _ s"),
    ]


def test_a_command_is_recorded_without_the_folders_of_this_machine():
    command = ["/usr/bin/python3", "/home/a/extract.py", "--n", "2", "-o", "/tmp/x/out put"]
    assert runs.as_typed(command) == "python3 extract.py --n 2 -o 'out put'"


def test_the_machine_has_a_name_and_cores():
    on = runs.machine()
    assert set(on) == {"cpu", "flags", "cores", "load_before"}
    assert on["cpu"] and on["cores"] == len(os.sched_getaffinity(0)) and set(on["flags"]) <= set(runs.FLAGS)


def run(seconds: float, cpu: float, parent: float = 0.0) -> dict:
    return {"seconds": seconds, "cpu_seconds": cpu, "parent_cpu_seconds": parent, "output_megabytes": 4.0}


def test_medians_and_the_rate_that_follows():
    each = [run(10, 8, 1), run(30, 5, 2), run(20, 4, 9)]
    expected = {"seconds": 20, "cpu_seconds": 5, "parent_cpu_seconds": 2, "output_megabytes": 4.0}
    assert bench_extract.rated(each, 50.0) == expected | {"megabytes_per_cpu_second": 10.0}


def test_ratios_are_those_of_runs_in_the_same_round():
    measured = {
        "ours": {"each": [run(10, 5), run(12, 6), run(9, 4)]},
        "wikiextractor": {"each": [run(9, 10), run(9, 9), run(9, 10)]},
        "ours_2_workers": {"each": [run(5, 5), run(8, 6), run(5, 4)]},
        "ours_single_stream": {"each": [run(10, 5), run(10, 6), run(10, 4)]},
        "ours_single_stream_2_workers": {"each": [run(10, 5), run(8, 6), run(20, 4)]},
    }
    assert bench_extract.ratios(measured) == {
        "rate_of_ours_to_wikiextractor": {"median": 2.0, "least": 1.5, "most": 2.5, "each": [2.0, 1.5, 2.5]},
        "speedup_of_2_workers": {"median": 1.8, "least": 1.5, "most": 2.0, "each": [2.0, 1.5, 1.8]},
        "speedup_of_2_workers_single_stream": {"median": 1.0, "least": 0.5, "most": 1.25, "each": [1.0, 1.25, 0.5]},
    }


# What follows


def test_a_full_dump_takes_the_shared_cpu_time_or_that_of_the_parent():
    few = bench_extract.projection(run(6.0, 10.0, 1.0), 100.0)
    assert few == {
        "xml_megabytes": 16_500,
        "cpu_seconds_per_megabyte": 0.1,
        "parent_cpu_seconds_per_megabyte": 0.01,
        "assumes": "as many workers as cores, each core as fast as those here, and a disk that keeps up",
        "2_cores": {
            "minutes": 13.8,
            "arithmetic": "16,500 MB x max(0.10000 / 2, 0.01000) s/MB of CPU time = 825 s",
        },
        "16_cores": {
            "minutes": 2.8,
            "arithmetic": "16,500 MB x max(0.10000 / 16, 0.01000) s/MB of CPU time = 165 s",
        },
        "2_workers_as_measured": {
            "minutes": 16.5,
            "arithmetic": "16,500 MB x 0.06000 s/MB of wall time = 990 s",
        },
    }


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (1.5, {"at_least": 1.5}, (">= 1.5", True)),
        (1.49, {"at_least": 1.5}, (">= 1.5", False)),
        (0, {"at_most": 0}, ("<= 0", True)),
        (0.1, {"at_most": 0}, ("<= 0", False)),
        (None, {"at_least": 92}, (">= 92", None)),
    ],
)
def test_a_bound_is_met_or_not_or_there_was_nothing_to_count(value, bounds, expected):
    bound, met = expected
    assert runs.target("甲", value, **bounds) == {"figure": "甲", "value": value, "bound": bound, "met": met}


@pytest.fixture
def result() -> dict:
    """A result as bench() makes it, of figures that miss the two targets of speed and one of quality."""
    outputs = {1: "北（）と{{東山。"}
    pages = [quality.Page(1, "山", "{{lang|en|北}}、{{仮リンク|東山|en|E}}")]
    figures, _ = quality.count(pages, outputs)
    names = ("ours", "wikiextractor", "ours_2_workers", "ours_single_stream", "ours_single_stream_2_workers")
    measured = {n: {"command": n, "median": bench_extract.rated([run(4, 5)], 10), "each": [run(4, 5)]} for n in names}
    speed = bench_extract.ratios(measured)
    return {
        "date": "2026-11-01",
        "machine": {"cpu": "CPU", "flags": ["avx2"], "cores": 2, "load_before": 0.1},
        "versions": {"python": "3.11.7", "wikiextractor": "3.1.0"},
        "file": {"pages": 1, "times": 3, "xml_megabytes": 10.0, "rounds": 1},
        "runs": measured,
        "ratios": speed,
        "quality": {"articles": 1, "ours": figures, "wikiextractor": figures},
        "projection": bench_extract.projection(measured["ours_2_workers"]["median"], 10.0),
        "targets": bench_extract.targets(speed, figures),
    }


def test_the_table_says_which_targets_are_missed(result):
    lines = list(bench_extract.table(result))
    assert lines[:3] == [
        "CPU (avx2), 2 cores, load 0.1, 2026-11-01",
        "python 3.11.7, wikiextractor 3.1.0",
        "10.0 MB: 1 pages, 3 times; rounds: 1",
    ]
    assert lines[-8:] == [
        "MISSED: MB of XML per CPU second, ours / wikiextractor 1.0, target >= 1.5",
        "MISSED: wall time of 1 worker / 2 workers, multistream 1.0, target >= 1.8",
        "MISSED: empty （） per million characters 111111.11, target <= 3",
        "met: empty 「」 0, target <= 0",
        "MISSED: leftover markup 1, target <= 0",
        "met: % of the texts in {{lang}} kept 100.0, target >= 92",
        "met: % of the texts in {{仮リンク}} kept 100.0, target >= 80",
        "met: % of lines that start with a closing bracket 0.0, target <= 0.05",
    ]


def test_the_table_has_every_figure(result):
    text = "\n".join(bench_extract.table(result))
    assert "       2.00       5.00       4.00           0.00  ours_2_workers" in text
    assert "     111111.11     111111.11  （） per million characters" in text
    assert "             -             -  % of the 0 texts in {{lang-xx}} kept" in text
    assert (
        "       68.8 min, full dump, 2_cores: 16,500 MB x max(0.50000 / 2, 0.00000) s/MB of CPU time = 4,125 s" in text
    )


# The command


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"megabytes": 0}, "--megabytes must be 1 or more, got 0"),
        ({"pairs": 0}, "--pairs must be 1 or more, got 0"),
        ({"output_file": "."}, ". is a folder, the name of a file is needed"),
        ({"cases_file": "."}, ". is a folder, the name of a file is needed"),
    ],
)
def test_wrong_options_are_told_before_any_work(options, said):
    with pytest.raises(StageError) as error:
        bench_extract.main("no-such-file.xml", **options)
    assert str(error.value) == said


def environment(folder: Path, says: str) -> Path:
    """A folder that looks like an environment whose wikiextractor says its version."""
    program = folder / "bin/wikiextractor"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_an_environment_that_has_wikiextractor_is_used(tmp_path):
    program = environment(tmp_path, "wikiextractor 3.1.0")
    assert bench_extract.install_wikiextractor(tmp_path) == program


@pytest.mark.parametrize(("says", "found"), [("wikiextractor 3.0.6", "wikiextractor 3.0.6"), ("", "broken")])
def test_another_version_of_wikiextractor_is_refused(tmp_path, says, found):
    program = environment(tmp_path, says)
    with pytest.raises(StageError) as error:
        bench_extract.install_wikiextractor(tmp_path)
    assert str(error.value) == f"{program} is {found}, not version 3.1.0: name another --wikiextractor_venv"


@pytest.mark.full
def test_pip_that_cannot_install_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(StageError, match=r"cannot be installed into .* \(ERROR: .*\): name an environment that has it"):
        bench_extract.install_wikiextractor(tmp_path / "venv")
    assert not (tmp_path / "venv/bin/wikiextractor").exists()


def test_two_texts_of_ours_that_differ_are_an_error(tmp_path):
    for name, text in (("a", "山。\n"), ("b", "山。\n"), ("c", "川。\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(text)
    bench_extract.require_same_text([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(StageError, match="different texts with 1 and 2 workers"):
        bench_extract.require_same_text([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


def test_cases_are_written_with_their_program_and_context(tmp_path):
    case = quality.Case("（）", 1, "山", 2, "北（）")
    bench_extract.write_cases(str(tmp_path / "cases.jsonl"), {"ours": [], "wikiextractor": [case]})
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"tool": "wikiextractor", "kind": "（）", "page": 1, "title": "山", "line": 2, "context": "北（）"}]
    assert list(bench_extract.case_lines([case])) == ["left by ours: （） in line 2 of page 1, 山: 北（）"]

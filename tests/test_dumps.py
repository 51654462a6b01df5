"""Which files make a dump; downloads are resumed and verified."""

import contextlib
import email.utils
import hashlib
import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from wiki import ROOT, multistream, wiki_pages

from bert_ja import dumps, files
from bert_ja.cli import StageError

# Files of a dump


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


def test_parts_come_in_page_order_and_other_files_as_they_were_given(layouts):
    early, late = layouts["content"][1], layouts["content"][0]
    assert dumps.dump_files([layouts["content"][2], late, early]) == [early, late]
    assert dumps.dump_files([*layouts["classic"], early, "-"]) == [*layouts["classic"], early, Path("-")]


def test_missing_files_folders_and_lists_alone_are_refused(layouts, tmp_path):
    for path, message in {
        tmp_path / "none.xml.bz2": "FILE not found: get_jawiki.sh DATE downloads one",
        tmp_path: "FILE is a folder, a file is needed: get_jawiki.sh DATE downloads one",
        layouts["multistream"][1]: ("FILE belongs to a dump but holds no pages: name the .xml.bz2 files beside it"),
    }.items():
        with pytest.raises(StageError) as caught:
            dumps.dump_files([path])
        assert str(caught.value).replace(str(path), "FILE") == message


# Downloads


class Wikimedia(http.server.ThreadingHTTPServer):
    """A server of dumps on loopback: 403 without a descriptive User-Agent, Range, and faults on demand."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.ranges = True
        self.no_head = False
        self.odd: list[Callable] = []  # what answers next for a big file, called with (handler, data, start)
        self.busy: list[tuple[int, str | None]] = []  # (code, Retry-After) of the next answers
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
        if self.server.no_head:
            return self.send_error(405)
        self.do_GET(body=False)

    def do_GET(self, body: bool = True):
        wanted = self.headers.get("Range")
        self.server.log.append((self.path, wanted))
        agent = self.headers.get("User-Agent", "")
        if not agent.startswith("bert-ja/"):
            return self.send_error(403, "Set a user agent")
        if self.server.busy:
            code, retry_after = self.server.busy.pop(0)
            self.send_response(code)
            if retry_after is not None:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        data = self.server.contents.get(self.path)
        if data is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if body and len(data) > 1000 and self.server.odd:
            self.close_connection = True
            return self.server.odd.pop(0)(self, data, start)
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


def answer(handler, code: int, data: bytes, **headers) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


ODD_ANSWERS = {
    "a page of a portal": lambda h, data, start: answer(
        h, 200, b"<html>", Content_Type="text/html", Content_Length="6"
    ),
    "a page without a length": lambda h, data, start: answer(h, 200, b"<html>", Content_Type="text/html"),
    "another length": lambda h, data, start: answer(h, 200, b"x", Content_Length="1"),
    "no range": lambda h, data, start: answer(h, 206, data[:9], Content_Length="9"),
    "another range": lambda h, data, start: answer(h, 206, data[:9], Content_Length="9", Content_Range="bytes 0-8/9"),
    "no number": lambda h, data, start: answer(h, 206, b"", Content_Length="abc", Content_Range=f"bytes {start}-"),
    "nowhere": lambda h, data, start: answer(h, 302, b"", Location="http://[bad/"),
    "nothing": lambda h, data, start: None,
    "not satisfiable": lambda h, data, start: answer(h, 416, b"", Content_Length="0"),
}


@pytest.mark.parametrize("odd", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_an_odd_answer_costs_nothing_of_what_came_before(server, tmp_path, odd):
    server.add_classic("20261101", BIG)
    files.partial_path(tmp_path / NAME).write_bytes(BIG[:-1000])
    server.odd = [odd]
    (path,) = fetch(server, tmp_path)
    assert path.read_bytes() == BIG
    assert [wanted for asked, wanted in server.log if asked.endswith(NAME)] == [f"bytes={len(BIG) - 1000}-"] * 2


def test_a_slice_of_what_was_asked_for_and_an_end_without_a_length_are_not_the_end(server, tmp_path):
    def sliced(handler, data, start):
        answer(
            handler, 206, data[start : start + 500], Content_Length="500", Content_Range=f"bytes {start}-{start + 499}"
        )

    server.add_classic("20261101", BIG)
    server.odd = [lambda handler, data, start: answer(handler, 200, data[:2000]), sliced, sliced]
    (path,) = fetch(server, tmp_path)
    assert path.read_bytes() == BIG
    assert [wanted for asked, wanted in server.log if asked.endswith(NAME)] == [
        *(None, "bytes=2000-", "bytes=2500-", "bytes=3000-")
    ]


def test_more_than_the_list_says_is_not_taken(server, tmp_path):
    def endless(handler, data, start):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                handler.wfile.write(bytes(1 << 20))

    server.add_classic("20261101", BIG)
    server.odd = [endless]
    assert "its list says" in download_error(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_file_of_unknown_size_is_not_downloaded_again(server, tmp_path):
    def end_of_file(handler, data, start):
        answer(handler, 416, b"", Content_Length="0", Content_Range=f"bytes */{len(data)}")

    (name, data), _ = PARTS.items()
    server.add_content("2026-11-01", {name: data * 100})
    (remote,) = dumps.resolve("20261101", server.url)[1]
    files.partial_path(tmp_path / name).write_bytes(data * 100)
    server.odd = [end_of_file]
    server.log.clear()
    assert dumps.download(remote._replace(size=None), "20261101", tmp_path).read_bytes() == data * 100
    assert [wanted for _, wanted in server.log] == [f"bytes={len(data) * 100}-"]


def test_a_server_without_head_tells_no_size(server):
    server.add_content("2026-11-01", PARTS)
    server.no_head = True
    assert [remote.size for remote in dumps.resolve("20261101", server.url)[1]] == [None, None]


def test_a_file_shorter_than_its_list_ends_in_an_error(server, tmp_path):
    server.add_classic("20261101", BIG)
    server.contents[f"/jawiki/20261101/{NAME}"] = BIG[:-5]
    assert download_error(server, tmp_path).endswith(
        f"has {len(BIG) - 5:,} bytes, its list says {len(BIG):,}: nothing is kept, try again"
    )


def test_a_run_that_was_killed_before_its_record_is_not_downloaded_again(server, tmp_path, capsys):
    server.add_classic("20261101", BIG)
    (tmp_path / NAME).write_bytes(BIG)
    assert fetch(server, tmp_path) == [tmp_path / NAME]
    assert capsys.readouterr().err.endswith("is there already, and verified now\n")
    assert not any(path.endswith(NAME) for path, _ in server.log)
    assert files.require_record(tmp_path / NAME, "get_jawiki.sh")["dump"]["date"] == "20261101"
    files.record_path(tmp_path / NAME).unlink()
    (tmp_path / NAME).write_bytes(BIG[:-1] + b"x")
    assert fetch(server, tmp_path)[0].read_bytes() == BIG


PARTS = {f"jawiki-2026-11-01-{pages}.xml.bz2": pages.encode() * 9 for pages in ("p1p20", "p21p40")}
SUMS = "/other/mediawiki_content_current/jawiki/2026-11-01/xml/bzip2/SHA256SUMS"


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda sums: sums[:-9], "is damaged or cut short in line 2"),
        (lambda sums: sums[:-50], "is damaged or cut short in line 2"),
        (lambda sums: b"", "names no part of a dump"),
        (lambda sums: b"<html>\n" + sums, "is damaged or cut short in line 1"),
        (lambda sums: sums.replace(b"p1p20", b"p1p2x0"), "is damaged or cut short in line 1"),
        (lambda sums: sums.replace(b"  ", b" "), "is damaged or cut short in line 1"),
    ],
    ids=["cut", "cut in a checksum", "empty", "a page", "another name", "another form"],
)
def test_a_list_of_checksums_is_whole_or_refused(server, tmp_path, change, fault):
    server.add_content("2026-11-01", PARTS)
    server.contents[SUMS] = change(server.contents[SUMS])
    assert download_error(server, tmp_path).startswith(f"MIRROR{SUMS} {fault}")


def with_others(sums: bytes) -> bytes:
    """A comment, names with their folder, and files that are no parts."""
    return b"# sums\n" + sums.replace(b"jawiki", b"./jawiki") + sums.replace(b"p", b"x")


def of_another_system(sums: bytes) -> bytes:
    """Lines that end in a space and a carriage return, checksums in capitals."""
    rows = [line.split() for line in sums.decode().splitlines()]
    return "".join(f"{checksum.upper()}  {name} \r\n" for checksum, name in rows).encode()


FORMS = {
    "no end": lambda sums: sums[:-1],
    "a mark": lambda sums: b"\xef\xbb\xbf" + sums,
    "others": with_others,
    "another system": of_another_system,
}


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_a_list_of_checksums_in_another_form_is_read(server, tmp_path, change):
    server.add_content("2026-11-01", PARTS)
    server.contents[SUMS] = change(server.contents[SUMS])
    assert [path.read_bytes() for path in fetch(server, tmp_path)] == list(PARTS.values())


@pytest.mark.parametrize(
    "status",
    ['{"jobs": null}', "[]", "5", '{"jobs": {"a": null}}', '{"jobs": {"a": {"files": []}}}', "[" * 100_000, "{"]
    + [
        '{"jobs": {"a": {"status": "done", "files": {"NAME": ENTRY}}}}'.replace("NAME", NAME).replace("ENTRY", entry)
        for entry in (
            "null",
            "5",
            '{"size": null, "sha1": "x"}',
            '{"size": 5, "sha1": null}',
            '{"size": -1, "sha1": "x"}',
        )
    ],
    ids=range(12),
)
def test_a_status_of_another_shape_is_told(server, tmp_path, status, capsys):
    server.add_classic("20261101", BIG)
    server.contents["/jawiki/20261101/dumpstatus.json"] = status.encode()
    assert download_error(server, tmp_path) == (
        "MIRROR/jawiki/20261101/dumpstatus.json is not a dump's status: try another --mirror"
    )
    server.add_classic("20261001", BIG)
    assert dumps.resolve("latest", server.url)[0] == "20261001"
    assert "20261101 is passed over: " in capsys.readouterr().err


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


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The seconds that a download wants to wait, which it does not."""
    waited = []
    monkeypatch.setattr(dumps.time, "sleep", waited.append)
    return waited


def test_a_busy_server_is_asked_again_when_it_says_so(server, tmp_path, pauses, capsys):
    server.add_classic("20261101", BIG)
    server.busy = [(503, "7"), (429, "0"), (502, None), (503, "soon")]
    (path,) = fetch(server, tmp_path)
    assert path.read_bytes() == BIG
    assert pauses == [7, 0, 40, 80]
    assert f"{server.url}/jawiki/20261101/dumpstatus.json: the server is busy (503), asking again in 7 s" in (
        capsys.readouterr().err
    )


def test_a_date_to_come_back_is_kept(server, tmp_path, pauses, monkeypatch):
    server.add_classic("20261101", BIG)
    now = time.time()
    monkeypatch.setattr(dumps.time, "time", lambda: now)
    server.busy = [
        (503, email.utils.formatdate(now + 100, usegmt=True)),
        (503, "Mon, 06 Nov 2006 00:00:00 GMT"),
    ]
    fetch(server, tmp_path)
    assert (99 <= pauses[0] <= 100, pauses[1:]) == (True, [0])  # the date is one of whole seconds


def test_a_busy_server_ends_a_download_in_the_middle_for_a_while_only(server, tmp_path, pauses):
    server.add_classic("20261101", BIG)
    _, remotes = dumps.resolve("20261101", server.url)
    server.cuts, server.busy = [1000], [(503, "3")]
    assert dumps.download(remotes[0], "20261101", tmp_path).read_bytes() == BIG
    assert 3 in pauses


@pytest.mark.parametrize("asked", [["3"] * 5, ["3600"]])
def test_a_server_that_stays_busy_is_told(server, tmp_path, pauses, asked):
    server.busy = [(503, seconds) for seconds in asked]
    assert download_error(server, tmp_path) == (
        f"MIRROR/jawiki/20261101/dumpstatus.json: the server is busy (503): try again in {asked[0]} seconds"
    )


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


def test_latest_is_the_newest_of_both_kinds(server, tmp_path):
    server.add_classic("20261001", BIG)
    server.add_content("2026-11-01", {"jawiki-2026-11-01-p1p70.xml.bz2": BIG})
    server.add_content("2026-12-01", {"jawiki-2026-12-01-p1p70.xml.bz2": BIG}, success=False)
    day, remotes = dumps.resolve("latest", server.url)
    assert (day, [remote.name for remote in remotes]) == ("20261101", ["jawiki-2026-11-01-p1p70.xml.bz2"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"date": "20261340"}, "20261340 is no date of a dump: write YYYYMMDD, or latest"),
        ({"date": "latest", "mirror": "ftp://x"}, "--mirror must be an address with http:// or https://, got ftp://x"),
        *(
            (
                {"date": "latest", "mirror": it},
                f"--mirror must be an address with http:// or https://, got {it}",
            )
            for it in ("http://[::1", "http://a..b", "http://host/日本", "http://a b", "http://a:x", "http://", "x")
        ),
        ({"date": "latest", "mirror": "http://127.0.0.1:9"}, "http://127.0.0.1:9/jawiki/ cannot be reached ("),
    ],
)
def test_wrong_dates_and_mirrors_are_refused(options, message, tmp_path):
    with pytest.raises(StageError) as caught:
        dumps.main(**options, output_dir=str(tmp_path))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("contact", ["山田 <y@example.org>", "a\nb"])
def test_a_contact_that_no_header_can_hold_is_refused(monkeypatch, contact, tmp_path):
    monkeypatch.setenv(dumps.CONTACT, contact)
    with pytest.raises(StageError) as caught:
        dumps.main(date="latest", output_dir=str(tmp_path))
    assert str(caught.value) == f"--contact must be a mail or web address in plain letters, got {contact!r}"

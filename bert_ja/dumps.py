"""Files of MediaWiki dumps: which ones make a dump, in which order, and how they are downloaded and verified.

`python3 -m bert_ja.dumps DATE` downloads a dump and prints the paths of its files; get_jawiki.sh calls it.
"""

import contextlib
import email.utils
import fcntl
import hashlib
import http.client
import io
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from bert_ja import __version__, cli, files
from bert_ja.cli import StageError
from bert_ja.pages import GET_A_DUMP, STANDARD_INPUT

PAGE_RANGE = re.compile(r"-p(\d+)p(\d+)\.")
DUMP_DATE = re.compile(r"-(\d{4})-?(\d\d)-?(\d\d)-")
BESIDE_DUMPS = re.compile(
    r"_SUCCESS|SHA256SUMS|.*sha1sums.*|.*-multistream-index.*\.txt.*|dumpstatus\.json|.*\.meta\.json"
)


# Files of a dump


def dump_files(paths: Iterable[Path | str]) -> list[Path]:
    """The dump files among `paths` in page order: parts by the X of pXpY, others as given; indexes and lists left out.

    So `folder/*` of a download will do; "-" is standard input. Raises StageError for a file that is missing, empty, or
    none at all.
    """
    given = [Path(path) for path in paths]
    dumps = [path for path in given if not BESIDE_DUMPS.fullmatch(path.name)]
    for path in dumps:
        if path != STANDARD_INPUT:
            files.require_file(path, GET_A_DUMP)
    if given and not dumps:
        raise StageError(f"{given[0]} belongs to a dump but holds no pages: name the .xml.bz2 files beside it")
    ranges = [PAGE_RANGE.search(path.name) for path in dumps]
    if not all(ranges):
        return dumps
    return [path for _, path in sorted(zip([int(part[1]) for part in ranges], dumps, strict=True))]


def date_of(path: Path | str) -> str | None:
    """jawiki-20261101-pages-articles.xml.bz2, jawiki-2026-11-01-p1p99.xml.bz2 -> '20261101'; None without a date."""
    found = DUMP_DATE.search(Path(path).name)
    return "".join(found.groups()) if found else None


def facts(paths: list[Path], inputs: list[dict]) -> dict:
    """What later records say of a dump, {date, file, sha256}; `inputs` are its files as `files.describe` gives them.

    Of several parts `file` names the first, and sha256 is that of their SHA256SUMS lines. A download adds its sha1.
    """
    first = inputs[0]
    if len(inputs) == 1:
        found = {"date": date_of(first["name"]), "file": first["name"], "sha256": first["sha256"]}
        record = files.read_record(paths[0]) or {}
        return found | (record["dump"] if record.get("outputs") == inputs else {})
    sums = "".join(f"{part['sha256']}  {part['name']}\n" for part in inputs)
    named = f"{first['name']} and {len(inputs) - 1} more"
    return {"date": date_of(first["name"]), "file": named, "sha256": hashlib.sha256(sums.encode()).hexdigest()}


# Downloads

OFFICIAL = "https://dumps.wikimedia.org"
CONTACT = "BERT_JA_CONTACT"  # environment variable: who downloads, as Wikimedia's User-Agent policy asks
TIMEOUT = 60  # seconds without a byte
PAUSE = 1.0  # seconds after a connection that brought nothing; then 3, 7
FRUITLESS_CONNECTIONS = 4  # in a row, before a download gives up
CONNECTIONS = 100
BUSY = (429, 502, 503, 504)  # answers of a server that may serve us later, by its Retry-After or else in BUSY_PAUSE
BUSY_PAUSE = 10  # seconds; then 20, 40
LONGEST_PAUSE = 600  # seconds; who asks for more is answered by the user
BUSY_ANSWERS = 5  # to one request, before it fails
BROKEN = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)
DATE = re.compile(r"(20\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])")


class BadList(StageError):
    """A list of the server's that cannot be read as one, or only half of it."""


class Remote(NamedTuple):
    """A file to download and what the server's list says of it."""

    url: str
    size: int | None
    algorithm: str  # sha1 of classic dumps, sha256 of Content File Exports
    checksum: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def user_agent() -> str:
    """bert-ja/0.1.0 (Japanese BERT training; contact: you@example.org)."""
    return f"bert-ja/{__version__} (Japanese BERT training; contact: {os.environ.get(CONTACT) or 'not given'})"


def _retry_after(answer: urllib.error.HTTPError) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as a number or as a date; None without a readable one."""
    said = answer.headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def _request(url: str, start: int = 0, method: str = "GET") -> http.client.HTTPResponse:
    """The answer to one request; a busy server is asked again when it says so."""
    headers = {"User-Agent": user_agent()} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers, method=method)
    for attempt in range(BUSY_ANSWERS):
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except ValueError as error:  # an address that the server leads to, and that is none
            raise urllib.error.URLError(error) from None
        except urllib.error.HTTPError as error:
            asked = _retry_after(error)
            pause = BUSY_PAUSE * 2**attempt if asked is None else asked
            if error.code not in BUSY or attempt == BUSY_ANSWERS - 1 or pause > LONGEST_PAUSE:
                raise
            tqdm.write(f"{url}: the server is busy ({error.code}), asking again in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _unreachable(url: str, error: Exception) -> StageError:
    if isinstance(error, urllib.error.HTTPError) and error.code == 403 and not os.environ.get(CONTACT):
        return StageError(f"{url}: the server refuses a download without a contact: pass --contact YOUR_MAIL_OR_SITE")
    if isinstance(error, urllib.error.HTTPError) and (pause := _retry_after(error)):
        return StageError(f"{url}: the server is busy ({error.code}): try again in {pause:.0f} seconds")
    if isinstance(error, urllib.error.HTTPError):
        return StageError(f"{url}: the server answers {error.code} {error.reason}: try later, or another --mirror")
    reason = getattr(error, "reason", None) or error
    return StageError(f"{url} cannot be reached ({reason}): check the network, or try another --mirror")


def _fetch(url: str) -> bytes | None:
    """A small file, None where the server has none."""
    try:
        with _request(url) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise _unreachable(url, error) from None
    except BROKEN as error:
        raise _unreachable(url, error) from None


def _length(response: http.client.HTTPResponse) -> int | None:
    """Bytes that an answer announces, None where it does not."""
    said = response.headers.get("Content-Length", "")
    return int(said) if re.fullmatch("[0-9]+", said) else None


def _size(url: str) -> int | None:
    try:
        with _request(url, method="HEAD") as response:
            return _length(response)
    except urllib.error.HTTPError as error:
        if error.code in (http.HTTPStatus.METHOD_NOT_ALLOWED, http.HTTPStatus.NOT_IMPLEMENTED):
            return None
        raise _unreachable(url, error) from None
    except BROKEN as error:
        raise _unreachable(url, error) from None


def _dates(url: str) -> list[str]:
    """The dates that a folder of the server lists, oldest first, as they are written there."""
    listing = (_fetch(url) or b"").decode(errors="replace")
    return sorted(set(re.findall(rf'href="(?:[^"]*/)?({DATE.pattern.replace("(", "(?:")})/"', listing)))


def _listed(status: bytes, name: str) -> tuple[int, str] | None:
    """Size and sha1 of a file in a dumpstatus.json, None before its job is done. Raises one of UNREADABLE."""
    for job in json.loads(status).get("jobs", {}).values():
        entry = job.get("files", {}).get(name, {})
        if job.get("status") == "done" and {"size", "sha1"} <= entry.keys():
            if int(entry["size"]) < 1 or not re.fullmatch("[0-9a-f]{40}", entry["sha1"].lower()):
                raise ValueError
            return int(entry["size"]), entry["sha1"].lower()
    return None


UNREADABLE = (ValueError, AttributeError, TypeError, KeyError, RecursionError)  # JSON of another shape than expected


def _classic(mirror: str, date: str) -> list[Remote]:
    """The classic dump of a date, one file; empty where it is not offered or not done."""
    url = f"{mirror}/jawiki/{date}"
    status = _fetch(f"{url}/dumpstatus.json") or b"{}"
    for layout in ("pages-articles-multistream", "pages-articles"):
        name = f"jawiki-{date}-{layout}.xml.bz2"
        try:
            found = _listed(status, name)
        except UNREADABLE:
            raise BadList(f"{url}/dumpstatus.json is not a dump's status: try another --mirror") from None
        if found:
            return [Remote(f"{url}/{name}", found[0], "sha1", found[1])]
    return []


def _checksums(url: str, prefix: str, part: re.Pattern) -> dict[str, str]:
    """{name: sha256} of the parts in a list as sha256sum writes it.

    Raises BadList where a line is none, or names what begins like a part and is none, as a list does that is cut short.
    """
    sums = {}
    for number, line in enumerate((_fetch(url) or b"").decode("utf-8-sig", errors="replace").split("\n"), start=1):
        found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(\S+)\s*", line)
        is_part = found and part.fullmatch(found[2])
        if line.strip() and not line.startswith("#") and (not found or found[2].startswith(prefix) > bool(is_part)):
            raise BadList(f"{url} is damaged or cut short in line {number}: try again later, or another --mirror")
        sums |= {found[2]: found[1].lower()} if is_part else {}
    if not sums:
        raise BadList(f"{url} names no part of a dump: try again later, or another --mirror")
    return sums


def _content(mirror: str, date: str) -> list[Remote]:
    """The Content File Exports of a date, its parts in page order; empty where they are not offered or not done."""
    day = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    url = f"{mirror}/other/mediawiki_content_current/jawiki/{day}/xml/bzip2"
    if _fetch(f"{url}/_SUCCESS") is None:
        return []
    part = re.compile(rf"jawiki-{day}-p(\d+)p\d+\.xml\.bz2")
    sums = _checksums(f"{url}/SHA256SUMS", f"jawiki-{day}-p", part)
    ordered = sorted(sums, key=lambda name: int(part.fullmatch(name)[1]))
    return [Remote(f"{url}/{name}", _size(f"{url}/{name}"), "sha256", sums[name]) for name in ordered]


def _complete(mirror: str, offered: list[str]) -> tuple[str, list[Remote]] | None:
    """The newest date whose dump is complete; one whose lists are being written is passed over."""
    for day in reversed(offered):
        try:
            if remotes := _classic(mirror, day) or _content(mirror, day):
                return day, remotes
        except BadList as error:
            cli.say(f"{day} is passed over: {error}")
    return None


def resolve(date: str, mirror: str = OFFICIAL) -> tuple[str, list[Remote]]:
    """The files of a date or of `latest`, with the date as YYYYMMDD: the classic dump, else Content File Exports.

    Raises StageError that lists the dates on offer when it is not among them.
    """
    folders = ("jawiki", "other/mediawiki_content_current/jawiki")
    if date != "latest":
        day = date.replace("-", "")
        if remotes := _classic(mirror, day) or _content(mirror, day):
            return day, remotes
    offered = sorted({day.replace("-", "") for folder in folders for day in _dates(f"{mirror}/{folder}/")})
    if date != "latest" and offered:
        choices = ", ".join(offered)
        raise StageError(f"the jawiki dump of {date} is not at {mirror}, or not complete: choose one of {choices}")
    if found := _complete(mirror, offered):
        return found
    raise StageError(f"no complete dump of jawiki is at {mirror}: try another --mirror")


@contextlib.contextmanager
def _open_partial(path: Path) -> Iterator[io.BufferedRandom]:
    """The partial file of a download, as far as it came, locked against a second run."""
    partial = files.partial_path(path)
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(file.fileno()), os.stat(partial))
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise StageError(f"another run is downloading {path} now: wait for it, or end it first")
        yield file


def _goes_on(response: http.client.HTTPResponse, have: int, remote: Remote) -> bool:
    """Whether an answer to a request for what lies behind `have` bytes brings that, or else the whole file again."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    is_page = response.headers.get_content_type() == "text/html"  # of a proxy or a portal
    return not is_page and (remote.size is None or _length(response) in (None, remote.size))


def _receive(file: io.BufferedRandom, remote: Remote) -> bool:
    """Append what one connection brings; whether the file is complete as far as the server is concerned.

    What came before is kept unless the server has no ranges and sends the whole file.
    """
    have = file.seek(0, os.SEEK_END)
    with _request(remote.url, have) as response:
        if have and not _goes_on(response, have, remote):
            return False
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = file.seek(file.truncate(0))
        about = {"unit": "B", "unit_scale": True, "desc": remote.name, "delay": 1}
        with tqdm(total=remote.size, initial=have, **about) as progress:
            while (block := response.read1(files.BLOCK)) and (remote.size is None or file.tell() <= remote.size):
                file.write(block)
                progress.update(len(block))
        length = _length(response)
    if remote.size is not None:
        return file.tell() >= remote.size
    return length is None or file.tell() - have >= length


def _fill(file: io.BufferedRandom, remote: Remote) -> None:
    """Download the rest of a file, over as many connections as it takes."""
    fruitless, refused, reason = 0, 0, "the connection ended early"
    for _ in range(CONNECTIONS):
        have = file.seek(0, os.SEEK_END)
        if have == remote.size:
            return
        try:
            if _receive(file, remote):
                return
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
                raise _unreachable(remote.url, error) from None
            refused += 1
            if refused > 2 or error.headers.get("Content-Range") == f"bytes */{have}":
                return  # the server has no more than this: the list says whether that is all
            if refused == 2 or have > (remote.size or 0):
                file.seek(file.truncate(0))  # what we have is not a part of what the server has
        except BROKEN as error:
            reason = str(getattr(error, "reason", None) or error)
        fruitless = fruitless + 1 if file.seek(0, os.SEEK_END) <= have else 0
        if fruitless == FRUITLESS_CONNECTIONS:
            break
        time.sleep(PAUSE * (2**fruitless - 1))
    raise StageError(f"{remote.url} broke off after {have:,} bytes ({reason}): run the same command again to go on")


def _verify(file: io.BufferedRandom, remote: Remote) -> str:
    """The sha256 of a complete download. Raises StageError, and empties it, where it is not what the list says."""
    file.flush()
    os.fsync(file.fileno())
    size, listed, sha256 = file.seek(0, os.SEEK_END), hashlib.new(remote.algorithm), hashlib.sha256()
    file.seek(0)
    while block := file.read(files.BLOCK):
        listed.update(block)
        sha256.update(block)
    if remote.size not in (None, size):
        raise StageError(f"{remote.url} has {size:,} bytes, its list says {remote.size:,}: nothing is kept, try again")
    if listed.hexdigest() != remote.checksum:
        raise StageError(
            f"{remote.url} has the {remote.algorithm} {listed.hexdigest()}, its list says {remote.checksum}: "
            "nothing is kept, try again or use another --mirror"
        )
    return sha256.hexdigest()


def _is_there(path: Path, remote: Remote) -> bool:
    """Whether an earlier run downloaded and verified exactly this file."""
    if not path.is_file() or remote.size not in (None, path.stat().st_size):
        return False
    dump = (files.read_record(path) or {}).get("dump", {})
    return dump.get(remote.algorithm) == remote.checksum


def _verified_before(path: Path, remote: Remote) -> str | None:
    """The sha256 of a file whose run was killed before it wrote the record, None unless it is what the list says."""
    if files.record_path(path).exists() or not path.is_file() or remote.size not in (None, path.stat().st_size):
        return None
    try:
        with open(path, "rb") as file:
            return _verify(file, remote)
    except StageError:
        return None


def _write_record(path: Path, remote: Remote, date: str, sha256: str) -> None:
    record = {
        "stage": "get_jawiki.sh",
        "options": {},
        "seed": None,
        "versions": files.versions(),
        "inputs": [],
        "outputs": [{"name": path.name, "size": path.stat().st_size, "sha256": sha256}],
        "dump": {"date": date, "file": path.name, "sha256": sha256} | {remote.algorithm: remote.checksum},
        "run": files.run_facts(url=remote.url),
    }
    files.write_record(path, record)


def download(remote: Remote, date: str, folder: Path) -> Path:
    """Download a file, or the rest of it, verify it and put it into place with its record."""
    path = folder / remote.name
    if _is_there(path, remote):
        cli.say(f"{path} is there already, downloaded and verified")
        return path
    if sha256 := _verified_before(path, remote):
        cli.say(f"{path} is there already, and verified now")
        _write_record(path, remote, date, sha256)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with _open_partial(path) as file:
        _fill(file, remote)
        try:
            sha256 = _verify(file, remote)
        except StageError:
            files.partial_path(path).unlink()
            raise
        files.record_path(path).unlink(missing_ok=True)
        os.replace(files.partial_path(path), path)
    files.sync_folder(folder)
    _write_record(path, remote, date, sha256)
    return path


def missing_bytes(remote: Remote, folder: Path) -> int:
    """How many bytes of a file are still to be downloaded."""
    path = folder / remote.name
    there = [found.stat().st_size for found in (path, files.partial_path(path)) if found.is_file()]
    return max(0, (remote.size or 0) - max(there, default=0))


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        named = bool((parts.hostname or "").encode("idna")) and parts.port != 0  # both read, and refused, only here
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and named and re.fullmatch("[!-~]+", url) is not None


def main(date: str, output_dir: str = "data/dump", mirror: str = OFFICIAL) -> None:
    """Download and verify a dump of Japanese Wikipedia; print the paths of its files.

    A download that broke off goes on where it stopped; a file that is there and verified is not downloaded again.

    Args:
        date: Day of the dump, YYYYMMDD, or latest for the newest complete one.
        output_dir: Folder for the files, about 5 GB, and their records.
        mirror: Server to download from, with the folders of dumps.wikimedia.org; its lists of sizes and checksums
            are what the files are verified against.
    """
    contact = os.environ.get(CONTACT, "")
    cli.require(
        {
            f"--contact must be a mail or web address in plain letters, got {contact!r}": contact.isascii()
            and (contact + " ").isprintable(),
            f"{date} is no date of a dump: write YYYYMMDD, or latest": date == "latest"
            or DATE.fullmatch(date) is not None,
            f"--mirror must be an address with http:// or https://, got {mirror}": _is_address(mirror),
        }
    )
    folder = Path(output_dir)
    day, remotes = resolve(date, mirror.rstrip("/"))
    cli.say(f"jawiki of {day}: {', '.join(remote.name for remote in remotes)}")
    files.require_space(folder, sum(missing_bytes(remote, folder) for remote in remotes), "the download")
    for remote in remotes:
        print(download(remote, day, folder))


if __name__ == "__main__":
    cli.run(main, program="get_jawiki.sh")

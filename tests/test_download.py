import hashlib
import json
from http.server import SimpleHTTPRequestHandler
from unittest.mock import Mock

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from impasto.data import download as module
from impasto.data.download import download
from impasto.errors import UserError

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "RETRIES", Retry(2, backoff_factor=0, status_forcelist=(503,)))
    monkeypatch.setattr(module, "PIECE", 1000)


@pytest.fixture
def server(serve, tmp_path):
    """A server that answers as `answer` does: a function of the request's number, counted from 0, and its handler."""

    def server(answer=None):
        class Handler(Honest):
            asked = []

            def do_GET(self):
                Handler.asked.append(dict(self.headers))
                (answer or Honest.send)(self, len(Handler.asked) - 1)

        return f"{serve(tmp_path, Handler)}/a.zip", Handler.asked

    return server


class Honest(SimpleHTTPRequestHandler):
    """Answers ranges, as COCO's server does."""

    def send(self, number=0, *, content=CONTENT, tag='"1"', cut=None, ranges=True, **headers):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
        if self.headers.get("If-Range", tag) not in (tag, headers.get("Last_Modified")):
            start = 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        fields = {"Content-Length": len(content) - start, "ETag": tag}
        if start:
            fields["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for name, value in {**fields, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content[start:][: None if cut is None else cut])
        if cut is not None:
            self.close_connection = True


def fetch(folder, *urls, **options):
    download(urls, folder / "a.zip", SHA256, len(CONTENT), **{"insecure": True, **options})
    assert (folder / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["a.zip"]


def fails(folder, *urls, match, kept=None):
    with pytest.raises(UserError, match=match) as error:
        download(urls, folder / "a.zip", SHA256, len(CONTENT), insecure=True)
    assert "\n" not in str(error.value)
    assert not (folder / "a.zip").exists()
    if kept is not None:
        assert (folder / "a.zip.part").read_bytes() == CONTENT[:kept]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder


def leave(folder, count, url=None, version='"1"'):
    """What an interrupted process leaves."""
    (folder / "a.zip.part").write_bytes(CONTENT[:count])
    if url:
        (folder / "a.zip.part.json").write_text(json.dumps({"url": url, "version": version}))


def test_a_file_comes_whole(server, folder):
    url, asked = server()
    fetch(folder, url)
    assert len(asked) == 1 and "Range" not in asked[0]
    fetch(folder, url)
    assert len(asked) == 1  # it is there, and right


def test_an_interrupted_download_goes_on(server, folder):
    url, asked = server()
    leave(folder, 5000, url)
    fetch(folder, url)
    assert [(one["Range"], one["If-Range"]) for one in asked] == [("bytes=5000-", '"1"')]


def test_a_cut_connection_is_taken_up_again_as_long_as_it_gets_further(server, folder):
    url, asked = server(lambda handler, number: Honest.send(handler, cut=9000 if number < 8 else None))
    fetch(folder, url)
    assert [one.get("Range") for one in asked] == [None, *(f"bytes={9000 * n}-" for n in range(1, 9))]


def test_a_server_that_only_cuts_is_left_and_what_came_is_kept(server, folder):
    url, asked = server(lambda handler, number: Honest.send(handler, cut=0 if number else 5000))
    fails(folder, url, match=r"a.zip: (?!None).*IncompleteRead.*goes on where it was", kept=5000)
    assert len(asked) == 4


def test_a_changed_file_is_not_glued_to_the_old_one(server, folder):
    url, asked = server()
    leave(folder, 5000, url, version='"0"')
    (folder / "a.zip.part").write_bytes(b"x" * 5000)
    fetch(folder, url)
    assert asked[0]["If-Range"] == '"0"'


def test_a_weak_tag_is_no_version_but_the_date_is(server, folder):
    def answer(handler, number):
        Honest.send(handler, tag='W/"1"', Last_Modified="Tue, 10 Jul 2018 00:00:00 GMT", cut=0 if number else 5000)

    url, asked = server(answer)
    fails(folder, url, match="goes on", kept=5000)
    assert asked[1]["If-Range"] == "Tue, 10 Jul 2018 00:00:00 GMT"


def test_a_server_without_ranges_sends_it_anew(server, folder):
    url, _ = server(lambda handler, _: Honest.send(handler, ranges=False))
    leave(folder, 5000, url)
    fetch(folder, url)


def test_damage_is_noticed_removed_and_mended_by_a_mirror(server, folder, caplog):
    damaged, _ = server(lambda handler, _: Honest.send(handler, content=CONTENT[:-1] + b"!"))
    good, asked = server()
    fetch(folder, damaged, good)
    assert "arrived damaged" in caplog.text
    assert "Range" not in asked[0]
    (folder / "a.zip").unlink()
    fails(folder, damaged, match="arrived damaged")
    assert not list(folder.iterdir())


LIES = [
    ({"content": CONTENT[:-9]}, "it has 102391 bytes, not 102400"),
    ({"content": CONTENT + b"more"}, "it has 102404 bytes, not 102400"),
    ({"content": b"<html>not here</html>"}, "(it has 21 bytes|it answers 416)"),
    ({"Content_Length": None, "ranges": False}, "it does not say how long it is"),
]
LIES_OF_A_PART = [
    ({"Content_Range": "bytes 7-102399/102400"}, "it sends those from 7"),
    ({"Content_Range": "bytes 5000-102000/102400"}, "without saying which"),
    ({"Content_Range": None}, "without saying which"),
]


@pytest.mark.parametrize(
    ("there", "answer", "match"),
    [*((there, *lie) for there in (0, 5000) for lie in LIES), *((5000, *lie) for lie in LIES_OF_A_PART)],
)
def test_wrong_answers_cost_nothing_and_the_next_mirror_goes_on(server, folder, there, answer, match):
    liar, _ = server(lambda handler, _: Honest.send(handler, **answer))
    good, asked = server()
    leave(folder, there)
    fails(folder, liar, match=match, kept=there)
    fetch(folder, liar, good)
    assert asked[0].get("Range") == (f"bytes={there}-" if there else None)
    assert "If-Range" not in asked[0]  # another server's tags mean nothing


def test_a_length_that_lies_is_a_cut(server, folder):
    url, asked = server(lambda handler, number: Honest.send(handler, cut=len(CONTENT) - 3 if not number else None))
    fetch(folder, url)
    assert asked[1]["Range"] == f"bytes={len(CONTENT) - 3}-"


def test_a_part_longer_than_the_file_is_fetched_anew(server, folder):
    url, asked = server()
    (folder / "a.zip.part").write_bytes(CONTENT + b"more")
    fetch(folder, url)
    assert "Range" not in asked[0]


def test_a_whole_part_needs_no_server(folder):
    leave(folder, len(CONTENT))
    fetch(folder, "http://127.0.0.1:1/a.zip")


def test_another_file_in_its_place_is_an_error_and_stays(folder):
    (folder / "a.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match="is another file"):
        fetch(folder, "http://127.0.0.1:1/a.zip")
    assert (folder / "a.zip").read_bytes() == b"mine"


def test_a_server_that_is_busy_is_asked_again(server, folder):
    def answer(handler, number):
        if number:
            Honest.send(handler)
        else:
            handler.send_error(503)

    url, asked = server(answer)
    fetch(folder, url)
    assert len(asked) == 2


def test_no_server_has_us_wait_for_hours(server, folder, monkeypatch, caplog):
    caplog.set_level("INFO")
    slept = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", slept.append)
    monkeypatch.setattr(module, "RETRIES", module._Retry(2, backoff_factor=0, status_forcelist=(503,)))

    def answer(handler, number):
        if number == 2:
            Honest.send(handler)
            return
        handler.send_response(503)
        handler.send_header("Retry-After", ("3600", "7")[number])
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    url, asked = server(answer)
    fetch(folder, url)
    assert (len(asked), slept) == (3, [60, 7])
    assert "the server answers 503 and asks to wait: 60 s" in caplog.text


def test_what_is_no_address_and_no_certificate_is_one_line(server, folder, monkeypatch):
    wrong, _ = server(redirect("http://[bad"))
    good, asked = server()
    fetch(folder, wrong, good)
    assert len(asked) == 1
    (folder / "a.zip").unlink()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nosuch.pem")
    with pytest.raises(UserError, match="the download stopped .*/nosuch.pem"):
        fetch(folder, "https://127.0.0.1:1/a.zip", insecure=False)


def test_a_stalled_server_is_left_for_the_next(server, folder, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.5))
    monkeypatch.setattr(module, "RETRIES", Retry(0))
    monkeypatch.setattr(module, "PIECE", 1 << 20)  # which it never gets further by

    def answer(handler, _):
        Honest.send(handler, cut=5000)
        module.time.sleep(1)

    stalled, _ = server(answer)
    good, asked = server()
    fetch(folder, stalled, good)
    assert asked[0]["Range"] == "bytes=5000-"


def test_a_trickle_counts_as_stalled(server, folder, monkeypatch, caplog):
    monkeypatch.setattr(module, "SLOWEST", (1e12, 0.0))
    monkeypatch.setattr(module, "RETRIES", Retry(0))
    monkeypatch.setattr(module, "PIECE", 1 << 16)
    url, _ = server()
    fails(folder, url, match="sends less than 1e.12 bytes per second")


def test_no_server_is_one_line(folder):
    fails(folder, "http://127.0.0.1:1/a.zip", match="the download stopped .*refused")


def test_missing_is_one_line(server, folder):
    url, _ = server(lambda handler, _: handler.send_error(404))
    fails(folder, url, match="it answers 404")


def redirect(to):
    def answer(handler, _):
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


def test_redirects_are_followed_but_not_for_ever(server, folder):
    good, _ = server()
    moved, _ = server(redirect(good))
    fetch(folder, moved)
    (folder / "a.zip").unlink()
    circle, asked = server(redirect("/a.zip"))
    fails(folder, circle, match="redirects")
    assert len(asked) < 50


def test_http_is_refused(server, folder):
    url, asked = server()
    with pytest.raises(UserError, match="is not https"):
        fetch(folder, "https://127.0.0.1:1/a.zip", url, insecure=False)
    assert not asked


def test_a_redirect_from_https_to_http_is_refused(server, folder, monkeypatch):
    url, asked = server()

    def send(adapter, request, **_):  # what an https server answers
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.headers["Location"], response.raw = url, None
        response._content = b""
        return response

    socks = requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")
    monkeypatch.setattr(HTTPAdapter, "send", Mock(side_effect=socks))
    with pytest.raises(UserError, match="a SOCKS proxy takes pip install pysocks"):
        fetch(folder, "https://example.org/a.zip", insecure=False)
    monkeypatch.setattr(HTTPAdapter, "send", send)
    with pytest.raises(UserError, match="leads to an address that is not https"):
        fetch(folder, "https://example.org/a.zip", insecure=False)
    assert not asked

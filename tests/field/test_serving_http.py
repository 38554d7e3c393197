"""The server as clients and proxies meet it: curl, fetch, OkHttp, KServe's SDK, load balancers."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.settings import Settings
from tests.load import sample
from tests.serving import (
    END,
    MULTIPART,
    ROOT,
    Running,
    ServerProcess,
    encoded,
    noise,
    part,
    publish,
    ready,
    running,
    server_process,
    wait_for,
    wait_until_ready,
)
from workbench.errors import WorkbenchError

pytestmark = pytest.mark.integration

PHOTO = encoded(noise(1))
OTHER = encoded(noise(2), "PNG")
FILE = part('name="file"; filename="a.jpg"', PHOTO)
FARM = "https://farm.example"
KEY = "a key of the farm"
JSON = "application/json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("field") / "registry"
    publish(root)
    publish(root, version="1.1.0", seed=8, alias=None)
    return root


@pytest.fixture(scope="module")
def process(registry: Path) -> Iterator[ServerProcess]:
    """As it is without any setting."""
    with server_process(registry) as process:
        yield process


@pytest.fixture
def client(process: ServerProcess) -> httpx.Client:
    return process.client


@pytest.fixture(scope="module")
def farm(registry: Path) -> Iterator[Running]:
    """With a key, for pages of other origins, with narrow limits."""
    limits = {"max_body_bytes": 20_000, "max_buffered_bytes": 30_000, "max_batch_bytes": 60_000}
    origins = (FARM, "http://localhost:3000")
    with ready(Settings(registry=registry, api_key=KEY, cors_origins=origins, **limits)) as server:
        yield server


def said(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of a refusal; of an answer its class."""
    body = answer.json()
    if answer.is_success:
        return answer.status_code, "", body["class_name"]
    assert "\n" not in body["error"]["message"]
    return answer.status_code, body["error"]["code"], body["error"]["message"]


def sent(
    client: httpx.Client, content_type: str | None, body: bytes, path: str = "/predict"
) -> httpx.Response:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return client.post(path, content=body, headers=headers)


def form(client: httpx.Client, *parts: bytes, path: str = "/predict") -> httpx.Response:
    return sent(client, MULTIPART, b"".join(parts) + END, path)


def class_of(client: httpx.Client, photo: bytes) -> str:
    name: str = sent(client, "image/jpeg", photo).json()["class_name"]
    return name


# HEAD


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/readyz", "/model", "/metrics", "/docs", "/openapi.json",
     "/docs/assets/swagger-ui.css", "/v1/models", "/v1/models/leaf", "/v2", "/v2/health/live",
     "/v2/health/ready", "/v2/models/leaf", "/v2/models/leaf/ready", "/v2/models/leaf/versions/1.0.0/ready"],
)  # fmt: skip
def test_head_is_answered_as_get_without_a_body(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    own = {"date", "x-request-id"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in got.headers.items() if k not in own
    }


def test_head_leaves_no_body_on_the_wire(process: ServerProcess) -> None:
    with socket.create_connection((process.host, process.port), timeout=10) as wire:
        wire.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.sendall(b"HEAD /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    first, second, rest = answer.split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ") and second.startswith(b"HTTP/1.1 404 ") and rest == b""


def test_head_is_refused_where_get_is(client: httpx.Client, farm: Running) -> None:
    refused = client.head("/predict")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert client.post("/healthz").headers["allow"] == "GET, HEAD"
    assert farm.client.head("/model").status_code == 401


# What a form may look like


@pytest.mark.parametrize(
    "options",
    [
        "name=\"file\"; filename*=UTF-8''bl%C3%A4tt.jpg",
        "name=file; filename*=utf-8'en'leaf.jpg",
        "name=\"file\"; filename*=\"iso-8859-1''bl%E4tt.jpg\"",
        'name="file"; filename*0="a-long-"; filename*1="name.jpg"',
        "name=\"file\"; filename*0*=UTF-8''bl%C3%A4; filename*1*=tt.jpg",
        "name=\"file\"; filename=\"b.jpg\"; filename*=UTF-8''bl%C3%A4tt.jpg",
        "filename*=UTF-8''a.jpg; name=\"file\"",
        'name="file"; filename="Blätt ☘.jpg"',
        'name="file"; filename="a \\"quoted\\" leaf.jpg"',
        'name="file"; filename="a;b=c, d.jpg"',
        'name="file"; filename="=?utf-8?B?YmzDpHR0LmpwZw==?="',
        'name="file"; filename=""',
        "name=file; filename=leaf.jpg",
        'name="file[]"; filename="a.jpg"',
        'name="file"\r\nContent-Type: image/jpeg',
        'name="file"\r\nContent-Type: image/heic\r\nContent-Length: 5',
        'name="file"\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary',
        'name="file"',
    ],
)  # fmt: skip
def test_a_part_that_is_a_photo_is_one_however_its_file_is_named(client: httpx.Client, options: str) -> None:
    assert said(form(client, part(options, PHOTO)))[:2] == (200, "")


def test_photos_keep_their_order_however_they_are_named(client: httpx.Client) -> None:
    headers = ('filename="a"', "\r\nContent-Type: image/png", "filename*=x", "")
    photos = [encoded(noise(seed)) for seed in range(4)]
    parts = [part(f'name="files"; {each}', photo) for each, photo in zip(headers, photos, strict=True)]
    parts.insert(1, part('name="note"\r\nContent-Type: application/octet-stream', b"x"))
    entries = form(client, *parts, path="/predict/batch").json()["predictions"]
    assert [entry["class_name"] for entry in entries] == [class_of(client, photo) for photo in photos]
    for second in ("name=file", "name=file; filename=b"):
        assert said(form(client, part("name=file", PHOTO), part(second, PHOTO)))[1] == "too-many-files"


def test_file_names_come_back_as_they_were_written(client: httpx.Client) -> None:
    names = {
        "filename*=UTF-8''bl%C3%A4tt%20%E2%98%98.jpg": "blätt ☘.jpg",
        'filename="blätt ☘.jpg"': "blätt ☘.jpg",
        'filename="a \\"b\\".jpg"': 'a "b".jpg',
        "filename*=nonsense": "nonsense",
    }
    parts = [part(f'name="files"; {options}', PHOTO) for options in names]
    entries = form(client, *parts, path="/predict/batch").json()["predictions"]
    assert [entry["file_name"] for entry in entries] == list(names.values())


@pytest.mark.parametrize("field", ["files", "file", "files[]", "files[0]"])
def test_the_fields_of_a_list_may_be_spelt_as_clients_spell_them(client: httpx.Client, field: str) -> None:
    parts = [part(f'name="{field}"; filename="{name}"', PHOTO) for name in "ab"]
    entries = form(client, *parts, path="/predict/batch").json()["predictions"]
    assert [entry["class_name"] for entry in entries] == [class_of(client, PHOTO)] * 2


@pytest.mark.parametrize(
    ("parts", "code", "words"),
    [
        ([part('name="image"; filename="a.jpg"', PHOTO)], "missing-file",
         "the form has the file `image`, and no file in the field `file`: send the photo in that field"),
        ([part('name="upload"; filename="a.jpg"', PHOTO), part('name="note"', b"hello")], "missing-file",
         "the file `upload`, the text `note`, and no file"),
        ([part('name="note"', b"hello")], "missing-file", "the form has the text `note`, and no file"),
        ([part('name="file"', b"leaf.jpg")], "not-a-file", "the field `file` is text: send it as a file"),
        ([part('name="file"', base64.b64encode(PHOTO))], "not-a-file", "base64 in JSON goes to /v1/models/"),
        ([], "missing-file", "the form has no field at all"),
        ([FILE, part('name="other"; filename="b.jpg"', OTHER)], "too-many-files",
         "more than one file, `file` and `other`: send exactly one, or several to /predict/batch"),
    ],
)  # fmt: skip
def test_a_form_without_its_photo_is_told_what_came_and_what_to_do(
    client: httpx.Client, parts: list[bytes], code: str, words: str
) -> None:
    status, found, message = said(form(client, *parts))
    assert (status, found) == (422, code)
    assert words in message


@pytest.mark.parametrize(
    ("content_type", "body", "status", "words"),
    [
        ("multipart/form-data", FILE + END, 422, "names no boundary: leave that header to the client"),
        ("multipart/form-data; boundary=c", FILE + END, 422, "does not begin with `--c`, the boundary"),
        (MULTIPART, b"", 422, "the body is empty, and its Content-Type says that it is a form"),
        (MULTIPART, PHOTO, 422, "a bare photo, and its Content-Type says multipart/form-data: send"),
        (JSON, json.dumps({"image": base64.b64encode(PHOTO).decode()}).encode(), 415,
         "the body is application/json: send multipart/form-data"),
        (JSON, b"{}", 415, "base64 in JSON goes to /v1/models/NAME:predict"),
        ("application/x-www-form-urlencoded", b"file=leaf.jpg", 415, "the body is application/x-www-form"),
        ("text/plain;charset=UTF-8", b"[object FormData]", 415, "the body is text/plain: send multipart"),
        ("multipart/mixed; boundary=b", FILE + END, 415, "the body is multipart/mixed: send multipart"),
        (None, b"", 422, "the request has no body: send multipart/form-data with the photo in"),
        ("image/gif", encoded(noise(1), "GIF"), 415, "not a JPEG, PNG or WebP"),
    ],
)  # fmt: skip
def test_a_body_of_another_kind_is_told_what_came_and_what_to_do(
    client: httpx.Client, content_type: str | None, body: bytes, status: int, words: str
) -> None:
    found = said(sent(client, content_type, body))
    assert found[0] == status
    assert words in found[2]


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "image/jpg", "image/*", "IMAGE/PNG; charset=binary", "application/octet-stream",
     "binary/octet-stream", "application/x-www-form-urlencoded", None],
)  # fmt: skip
def test_a_bare_photo_is_taken_under_the_types_that_clients_give_it(
    client: httpx.Client, content_type: str | None
) -> None:
    assert said(sent(client, content_type, PHOTO))[:2] == (200, "")


# Parameters in the form


def test_form_fields_count_like_query_parameters(client: httpx.Client) -> None:
    fields = [part('name="top_k"', b"3"), part('name="threshold"', b"1"), part('name="note"', b"x")]
    for order in ([*fields, FILE], [FILE, *fields]):
        body = form(client, *order).json()
        assert (len(body["top"]), body["uncertain"]) == (3, True)
    (entry,) = form(client, *fields, FILE, path="/predict/batch").json()["predictions"]
    assert (len(entry["top"]), entry["uncertain"]) == (3, True)
    assert len(form(client, part('name="top_k"', b"3"), FILE, path="/predict?top_k=3").json()["top"]) == 3


@pytest.mark.parametrize(
    ("fields", "query", "words"),
    [
        ({"top_k": "3"}, "?top_k=2", "`top_k` is 2 in the query and 3 in the body: send it once"),
        ({"threshold": "0.5"}, "?threshold=0.25", "`threshold` is 0.25 in the query and 0.5 in the body"),
        ({"top_k": "many"}, "", "`top_k` must be a whole number from 1 to 100"),
        ({"top_k": ""}, "", "`top_k` must be a whole number"),
        ({"threshold": "9" * 5000}, "", "`threshold` must be a number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_form_field_is_refused_as_the_query_would_be(
    client: httpx.Client, path: str, fields: dict[str, str], query: str, words: str
) -> None:
    parts = [part(f'name="{name}"', value.encode()) for name, value in fields.items()]
    status, code, message = said(form(client, FILE, *parts, path=path + query))
    assert (status, code) == (422, "bad-parameter")
    assert words in message


# Clients themselves


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "ein Blätt.jpg"
    path.write_bytes(PHOTO)
    return path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("-F file=@{}", 200),
        ('-F file=@{};filename=a\\"b.jpg', 200),
        ("-F file=<{}", 200),
        ("-F file=@{} -F top_k=3", 200),
        ("-F image=@{}", 422),
        ("-F file=@{} -F file=@{}", 422),
        ("-F file=leaf.jpg", 422),
        ("--data-binary @{}", 200),
        ("-T {} -X POST", 200),
        ("-d file=leaf.jpg", 415),
        ("-X POST", 422),
    ],
)
def test_curl_gets_its_answer(process: ServerProcess, leaf: Path, words: str, status: int) -> None:
    arguments = [word.replace("{}", str(leaf)) for word in words.split()]
    command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments, f"http://127.0.0.1:{process.port}/predict"]
    body, _, code = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=True
    ).stdout.rpartition("\n")
    assert (int(code), "top" in json.loads(body)) == (status, "top_k" in words), body


NODE = """
const [url, path] = process.argv.slice(1);
const photo = new Blob([require('fs').readFileSync(path)], {type: 'image/jpeg'});
const form = (...of) => { const f = new FormData(); of.forEach((a) => f.append(...a)); return f; };
(async () => {
  const asked = [
    {body: form(['file', photo])}, {body: form(['file', photo, 'bl\\u00e4tt.jpg'], ['top_k', 2])},
    {body: photo}, {body: form(['image', photo])},
    {body: form(['file', photo]), headers: {'Content-Type': 'multipart/form-data'}},
    {body: form(['file', 'text'])},
    {body: JSON.stringify({file: 'x'}), headers: {'Content-Type': 'application/json'}},
  ];
  const statuses = [];
  for (const each of asked) statuses.push((await fetch(url, {method: 'POST', ...each})).status);
  console.log(JSON.stringify(statuses));
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_fetch_gets_its_answer(process: ServerProcess, leaf: Path) -> None:
    command = ["node", "-e", NODE, "--", f"http://127.0.0.1:{process.port}/predict", str(leaf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout) == [200, 200, 200, 422, 422, 422, 415]


# Pages of other origins


def preflight(client: httpx.Client, path: str, origin: str = FARM, **headers: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"} | headers
    return client.options(path, headers=asked)


def allows(answer: httpx.Response, origin: str | None) -> bool:
    """Whether a browser gives the answer to a page of `origin`, and a cache keeps it from others."""
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    return answer.headers.get("access-control-allow-origin") == origin


@pytest.mark.parametrize(
    "path", ["/predict", "/predict/batch", "/v1/models/leaf:predict", "/v2/models/leaf/infer"]
)
def test_a_preflight_needs_no_key(farm: Running, path: str) -> None:
    wanted = {"Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-requested-with"}
    answer = preflight(farm.client, path, **wanted)
    assert answer.status_code == 200 and allows(answer, FARM)
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-api-key" in answer.headers["access-control-allow-headers"]
    refused = preflight(farm.client, path, "https://elsewhere.example")
    assert refused.status_code == 400 and allows(refused, None)


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({"content": PHOTO, "headers": {"Content-Type": "image/jpeg"}}, 200),
        ({"content": PHOTO, "headers": {"X-API-Key": "wrong"}}, 401),
        ({"content": b"x" * 20_001}, 413),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"content": b"", "headers": {"Content-Type": MULTIPART}}, 422),
        ({"content": b"x" * 31_000, "path": "/predict/batch", "headers": {"Content-Type": MULTIPART}}, 429),
        ({"method": "GET", "path": "/nope"}, 404),
        ({"method": "GET"}, 405),
    ],
)
def test_answers_and_errors_are_for_the_origins_given(
    farm: Running, request_of: dict[str, Any], status: int
) -> None:
    asked = {"method": "POST", "path": "/predict"} | request_of
    url = asked.pop("path")
    for origin, seen in ((FARM, FARM), ("https://elsewhere.example", None), (None, None)):
        headers = {"X-API-Key": KEY} | asked.get("headers", {}) | ({"Origin": origin} if origin else {})
        answer = farm.client.request(url=url, **{**asked, "headers": headers})
        assert answer.status_code == status
        assert allows(answer, seen)
        if seen:
            assert "X-Model-Version" in answer.headers["access-control-expose-headers"]


def test_a_defect_and_a_server_without_a_model_are_readable_for_the_page_too(
    farm: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    headers = {"X-API-Key": KEY, "Origin": FARM, "Content-Type": "image/jpeg"}
    monkeypatch.setattr("serve.engine.predict_job.probabilities_of", broken)
    answer = farm.client.post("/predict", content=PHOTO, headers=headers)
    assert answer.status_code == 500 and allows(answer, FARM)
    with running(Settings(registry=tmp_path, cors_origins=("*",))) as empty:
        answer = empty.client.post("/predict", content=PHOTO, headers=headers)
        assert answer.status_code == 503 and allows(answer, "*")
        assert allows(preflight(empty.client, "/predict"), "*")


def test_without_origins_there_is_no_cors(client: httpx.Client) -> None:
    assert preflight(client, "/predict").status_code == 405
    answer = client.get("/readyz", headers={"Origin": FARM})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origins", "reason"),
    [
        ("https://a.example/", "write `https://a.example`"),
        ("HTTPS://A.example", "write `https://a.example`"),
        ("https://a.example:443", "write `https://a.example`"),
        ("https://a.example, http://b.example/app", "write `http://b.example`"),
        ("https://bl\u00e4tt.example", "write `https://xn--bltt-moa.example`"),
        ("a.example", "write it like https://leaves.example.org"),
        ("https://*.example", "write it like https://leaves.example.org"),
        ("http://a:99999", "write it like https://leaves.example.org"),
        ("*,https://a.example", "give it alone"),
    ],
)
def test_an_origin_that_no_browser_sends_is_one_clear_message(
    monkeypatch: pytest.MonkeyPatch, origins: str, reason: str
) -> None:
    monkeypatch.setenv("KRISHI_CORS_ORIGINS", origins)
    with pytest.raises(WorkbenchError) as refused:
        Settings.from_environment()
    assert refused.value.message.startswith(f"KRISHI_CORS_ORIGINS={origins!r}: ")
    assert reason in refused.value.message


def test_origins_of_apps_and_development_servers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = ("http://localhost:3000", "http://[::1]:8080", "capacitor://localhost", "null")
    monkeypatch.setenv("KRISHI_CORS_ORIGINS", " ,".join(origins))
    assert Settings.from_environment().cors_origins == origins


# Below a prefix


@contextmanager
def proxy(port: int, prefix: str, *, strips: bool) -> Iterator[str]:
    """A proxy that publishes a server below `prefix`; yields its address."""

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            path = (self.path.removeprefix(prefix) or "/") if strips else self.path
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream.request(self.command, path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            upstream.close()

        do_GET = do_POST = do_HEAD = forward  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def below(registry: Path) -> Iterator[Running]:
    with ready(Settings(registry=registry, root_path="/leaves", api_key=KEY)) as server:
        yield server


def links_of(page: httpx.Response) -> list[httpx.URL]:
    """What the page of the docs loads, as a browser resolves it."""
    found = [word.split('"')[1] for word in page.text.split() if word.startswith(("href=", "src="))]
    found.append(page.text.split("url: '")[1].split("'")[0])
    return [page.url.join(link) for link in found]


@pytest.mark.parametrize("strips", [True, False], ids=["stripped", "kept"])
def test_everything_works_below_a_prefix(below: Running, strips: bool) -> None:
    with (
        proxy(below.address[1], "/leaves", strips=strips) as url,
        httpx.Client(base_url=f"{url}/leaves/", headers={"X-API-Key": KEY}, timeout=20) as client,
    ):
        page = client.get("")
        assert (page.status_code, "fetch(`${location.pathname" in page.text) == (200, True)
        # What its script asks from `/leaves/`, and from `/leaves`.
        assert client.post("predict?top_k=3", files={"file": PHOTO}).status_code == 200
        assert httpx.get(f"{url}/leaves").text == page.text
        docs = client.get("docs")
        links = links_of(docs)
        assert len(links) == 4
        assert [client.get(link).status_code for link in links] == [200] * 4
        described = client.get("openapi.json").json()
        assert described["servers"] == [{"url": "/leaves"}]
        assert client.head("healthz").status_code == client.get("v2/models/leaf").status_code == 200
        # The key holds there too.
        assert httpx.post(f"{url}/leaves/predict", content=PHOTO).status_code == 401


def test_only_the_setting_says_what_the_prefix_is(below: Running, client: httpx.Client) -> None:
    answer = client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/evil"})
    assert "servers" not in answer.json()
    assert below.client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/evil"}).json()["servers"] == [
        {"url": "/leaves"}
    ]
    # Relative links work below a stripped prefix without any setting.
    with proxy(client.base_url.port or 0, "/any/where", strips=True) as url:
        docs = httpx.get(f"{url}/any/where/docs")
        assert [httpx.get(link).status_code for link in links_of(docs)] == [200] * 4


@pytest.mark.parametrize(
    ("given", "path"), [("/leaves/", "/leaves"), ("leaves", "/leaves"), ("/", ""), ("/a/b-1.x", "/a/b-1.x")]
)
def test_a_root_path_may_be_written_with_and_without_slashes(given: str, path: str) -> None:
    assert Settings(root_path=given).root_path == path


@pytest.mark.parametrize("given", ["/a b", "/../x", "https://x/leaves", "/v2/leaves", "/predict", "/a?b"])
def test_a_root_path_that_cannot_be_is_one_clear_message(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("KRISHI_ROOT_PATH", given)
    with pytest.raises(
        WorkbenchError, match=r"KRISHI_ROOT_PATH=.*(a root path is like|a path of the server)"
    ):
        Settings.from_environment()


# KServe's v1


def b64(photo: bytes = PHOTO) -> str:
    return base64.b64encode(photo).decode()


def wrapped(text: str) -> str:
    return "\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + "\n"


def predicted(client: httpx.Client, *instances: Any, name: str = "leaf", **body: Any) -> httpx.Response:
    # Without a Content-Type, as KServe's SDK sends it.
    return client.post(
        f"/v1/models/{name}:predict", content=json.dumps({"instances": instances} | body).encode()
    )


@pytest.mark.parametrize(
    "instance",
    [
        {"b64": b64()},
        {"image_bytes": {"b64": b64()}},
        {"key": "0", "image_bytes": {"b64": b64()}},
        {"data": b64()},
        b64(),
        {"b64": wrapped(b64())},
        {"b64": b64().rstrip("=")},
        {"b64": base64.urlsafe_b64encode(PHOTO).decode()},
        {"b64": f"data:image/jpeg;base64,{b64()}"},
    ],
)
def test_an_instance_is_a_photo_however_clients_wrap_it(client: httpx.Client, instance: Any) -> None:
    answer = predicted(client, instance, signature_name="serving_default")
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    alone = sent(client, "image/jpeg", PHOTO).json()
    expected = {key: alone[key] for key in ("class_id", "class_name", "confidence")}
    assert answer.json() == {"predictions": [expected]}
    assert answer.headers["x-model-version"] == "1.0.0"


def test_instances_are_answered_in_their_order(client: httpx.Client) -> None:
    photos = [encoded(noise(seed), ("JPEG", "PNG", "WEBP")[seed % 3]) for seed in range(8)]
    answer = predicted(client, *({"b64": b64(photo)} for photo in photos)).json()
    assert [one["class_name"] for one in answer["predictions"]] == [class_of(client, each) for each in photos]


def test_parameters_stand_in_the_query_or_in_the_body(client: httpx.Client) -> None:
    body = {"instances": [{"b64": b64()}]}
    in_query = client.post("/v1/models/leaf:predict?top_k=2&threshold=1", json=body).json()
    in_body = predicted(client, {"b64": b64()}, parameters={"top_k": 2, "threshold": 1}).json()
    assert in_query == in_body
    assert (len(in_body["predictions"][0]["top"]), in_body["predictions"][0]["uncertain"]) == (2, True)
    refused = client.post("/v1/models/leaf:predict?top_k=3", json=body | {"parameters": {"top_k": 2}})
    assert (refused.status_code, refused.json()["code"]) == (422, "bad-parameter")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"instances": []}, 422, "the body has 0 instances: send"),
        ({"instances": [{"b64": "AA=="}] * 33}, 422, "the body has 33 instances"),
        ({"inputs": [{"b64": "AA=="}]}, 422, "the body has the keys `inputs`: send {\"instances\""),
        ([], 422, "the body has no object with `instances`"),
        ({"instances": [{"b64": "not base64!"}]}, 422, "instances[0] is not base64"),
        ({"instances": [{"b64": "A"}]}, 422, "instances[0] is not base64"),
        ({"instances": [{"b64": "ä"}]}, 422, "instances[0] is not base64"),
        ({"instances": [{"b64": 7}]}, 422, "instances[0] does not hold one base64 text"),
        ({"instances": [{"b64": b64()}, {"a": "x", "b": "y"}]}, 422, "instances[1] does not hold one"),
        ({"instances": [None]}, 422, "instances[0] does not hold one"),
        ({"instances": [[0.5] * 3072]}, 422, "numbers go to /v2/models/NAME/infer"),
        ({"instances": [{"b64": b64()}, {"b64": b64(b"no photo")}]}, 415, "instances[1]: not a JPEG, PNG"),
        ({"instances": [{"b64": ""}]}, 422, "instances[0]: "),
        ({"instances": [{"b64": b64(PHOTO[:-400])}]}, 422, "instances[0]: "),
        (PHOTO, 422, "the body is a bare photo"),
        (b"{", 422, "the body is not JSON"),
        (b'{"instances":' + b"[" * 100_000, 422, "more values than photos need"),
        (b"", 422, "the body is not JSON"),
        (b" " * 20_000_001, 413, "larger than 20 MB"),
    ],
)  # fmt: skip
def test_a_body_that_holds_no_photos_is_told_so_as_kserve_tells_it(
    client: httpx.Client, body: Any, status: int, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v1/models/leaf:predict", content=content, headers={"Content-Type": JSON})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error", "code", "request_id"]
    assert words in answer.json()["error"]


def test_kserves_model_paths_name_the_model_served(client: httpx.Client) -> None:
    assert client.get("/v1/models").json() == {"models": ["leaf"]}
    assert client.get("/v1/models/leaf").json() == {"name": "leaf", "ready": True}
    for answer in (client.get("/v1/models/fern"), predicted(client, {"b64": b64()}, name="fern")):
        assert (answer.status_code, answer.json()["error"]) == (404, "this server serves leaf 1.0.0")
    assert client.post("/v1/models/leaf:explain", content=b"{}").status_code == 405


def test_before_there_is_a_model_kserves_paths_say_503(tmp_path: Path) -> None:
    with running(Settings(registry=tmp_path)) as server:
        for answer in (
            server.client.get("/v1/models"),
            server.client.get("/v1/models/leaf"),
            predicted(server.client, {"b64": b64()}),
        ):
            assert (answer.status_code, next(iter(answer.json()))) == (503, "error")
            assert "retry-after" in answer.headers


def test_instances_pass_the_key_the_limits_and_the_counters(farm: Running) -> None:
    key = {"X-API-Key": KEY}
    url = "/v1/models/leaf:predict"
    assert farm.client.post(url, content=b"{}").status_code == 401
    assert farm.client.get("/v1/models").status_code == 401
    before = farm.metrics()
    answer = farm.client.post(url, json={"instances": [{"b64": b64()}] * 2}, headers=key)
    assert answer.status_code == 200
    assert farm.client.post(url, content=b" " * 60_001, headers=key).status_code == 413
    after = farm.metrics()
    guessed = answer.json()["predictions"][0]["class_id"]
    for series, more in (
        ('requests_total{code="200"}', 1),
        ('requests_total{code="413"}', 1),
        (f'predictions_total{{class_id="{guessed}"}}', 2),
        ('request_stage_seconds_count{stage="infer"}', 2),
        ('request_stage_seconds_count{stage="total"}', 1),
        ('requests_rejected_total{reason="body-too-large"}', 1),
    ):
        assert sample(after, series) - sample(before, series) == more, series


def test_a_canary_answers_an_instance_and_a_shadow_sees_several(registry: Path) -> None:
    instance = {"b64": b64()}
    with ready(Settings(registry=registry, canary="1.1.0", weight=1, shadow="1.1.0", sample=1)) as server:
        wait_for(lambda: predicted(server.client, instance).headers["x-model-version"] == "1.1.0")
        wait_for(lambda: 'role="shadow"' in server.metrics())
        # One answer is of one version, and the shadow is compared with the primary alone.
        assert predicted(server.client, instance, instance).headers["x-model-version"] == "1.0.0"
        wait_for(lambda: "\nshadow_requests_total{" in server.metrics())


# Ending


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_twice_ends_it_without_a_traceback(registry: Path, workers: str) -> None:
    process = ServerProcess(registry, KRISHI_WORKERS=workers)
    wait_until_ready(process.client)  # by a connection that stays open
    with socket.create_connection((process.host, process.port), timeout=10) as upload:
        upload.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\nx"
        )
        time.sleep(0.2)
        process.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        code = process.end(signal.SIGINT)
    assert (code, "Traceback" in process.log, "Exception" in process.log) == (0, False, False), process.log
    assert time.monotonic() - began < 10  # not the 30 s that the upload might take


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it_without_a_traceback(registry: Path, number: int) -> None:
    environment = {
        **os.environ,
        "KRISHI_REGISTRY": str(registry),
        "KRISHI_PORT": "0",
        "KRISHI_DRAIN_DELAY": "0",
    }
    processes = [
        subprocess.Popen([sys.executable, "-m", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for delay_s, process in zip((0.0, 0.3, 0.6, 1.0), processes, strict=True):
        wait_for(partial(has_handlers, process.pid))
        time.sleep(delay_s)
        process.send_signal(number)
    for process in processes:
        _, log = process.communicate(timeout=30)
        assert (process.returncode, b"Traceback" in log) == (0, False), log


def has_handlers(pid: int) -> bool:
    """Whether the process handles SIGTERM, as Python alone does not."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


# Idle connections


def test_an_idle_connection_stays_open_for_longer_than_a_load_balancer_keeps_it(
    process: ServerProcess,
) -> None:
    connection = http.client.HTTPConnection(process.host, process.port, timeout=10)
    with closing(connection):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        wire = connection.sock
        time.sleep(6)  # uvicorn's own default is 5
        wire.setblocking(False)
        with pytest.raises(BlockingIOError):  # nothing has come, not even its end
            wire.recv(1)
        wire.settimeout(10)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        assert connection.sock is wire
    assert Settings().keep_alive_s > 60


def test_how_long_it_stays_open_is_a_setting_also_behind_a_body_that_came_late(registry: Path) -> None:
    late = b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with server_process(registry, KRISHI_KEEP_ALIVE="0.5") as process:
        for begin, rest in ((b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b""), (late, b"123456789")):
            with socket.create_connection((process.host, process.port), timeout=5) as wire:
                wire.sendall(begin)
                answer = wire.recv(65536)
                wire.sendall(rest)
                # Until it is closed, well before the 5 s of this socket.
                assert (answer + b"".join(iter(lambda: wire.recv(65536), b""))).endswith(b"}")

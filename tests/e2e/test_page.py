"""The page at `/` in a real browser: what a person sees for every answer the server can give."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.app import create_app
from serve.http import page
from serve.settings import Settings
from tests import serving
from tests.serving import Running, encoded, noise, publish, ready, running, wait_for
from workbench.photos.decode import readable_formats

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        CHROMIUM is None or CHROMEDRIVER is None, reason="needs chromium and chromedriver on the PATH"
    ),
]

TAB, ENTER, SPACE = "\ue004", "\ue007", "\ue00d"
ID = "id"  # selenium's By.ID

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass
class Meddler:
    """Stands before the server. answer: replaces its answer to /predict. delay_s: holds each back."""

    app: ASGIApp
    answer: Answer | None = None
    delay_s: float = 0.0
    seen: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/predict":
            self.seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
            await asyncio.sleep(self.delay_s)
            if self.answer is not None:
                while (await receive()).get("more_body"):
                    pass
                await self.answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def meddlers() -> Iterator[list[Meddler]]:
    """Every server of this module has one in front of it; the newest is the last."""
    made: list[Meddler] = []

    def create(settings: Settings) -> Any:
        app = create_app(settings)
        made.append(Meddler(app))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "create_app", create)
        yield made


@pytest.fixture(scope="module")
def server(meddlers: list[Meddler], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("page") / "registry"
    publish(root)
    with ready(Settings(registry=root)) as server:
        yield server


@pytest.fixture
def meddler(server: Running, meddlers: list[Meddler]) -> Iterator[Meddler]:
    meddler = meddlers[0]
    yield meddler
    meddler.answer, meddler.delay_s = None, 0.0
    meddler.seen.clear()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=800,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


class Person:
    """Does to the page what a person does, and reads what a person reads."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, **limits: float) -> "Person":
        """Open the page with an empty session. limits: data attributes of its body to replace."""
        self.driver.get(f"{self.url}/")
        self.driver.execute_script(
            "sessionStorage.clear(); Object.assign(document.body.dataset, arguments[0])",
            {name: str(value) for name, value in limits.items()},
        )
        return self

    def choose(self, path: Path) -> "Person":
        self.element("choose").send_keys(str(path))
        return self

    def press(self, name: str = "send") -> "Person":
        self.element(name).click()
        return self

    def element(self, name: str) -> Any:
        return self.driver.find_element(ID, name)

    def reads(self, name: str) -> str:
        """The text that can be seen in the element, on one line."""
        return " ".join(self.element(name).text.split())

    def hears(self) -> str:
        """What the polite live region says; it may be out of sight."""
        text: str = self.element("status").get_property("textContent")
        return text

    def waits_for(self, name: str) -> str:
        wait_for(lambda: self.reads(name) != "")
        return self.reads(name)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def types(self, *keys: str) -> "Person":
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()
        return self

    @property
    def focused(self) -> str:
        name: str = self.script("return document.activeElement.id")
        return name

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses this page asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def person(chromium: Any, server: Running, meddler: Meddler) -> Person:
    person = Person(chromium, server.url)
    person.console()
    person.requests()
    return person


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("photos") / "leaf.jpg"
    path.write_bytes(encoded(noise(1, 640, 480)))
    return path


def problem(
    status: int, code: str, request_id: str = "abc123", headers: dict[str, str] | None = None
) -> Answer:
    body = {"error": {"code": code, "message": "what the server says"}, "request_id": request_id}
    return JSONResponse(body, status, headers)


def prediction(**changes: Any) -> Answer:
    body = {
        "class_id": 2,
        "class_name": "Tomato___Early_Blight",
        "confidence": 0.87,
        "timestamp": "2026-01-02T03:04:05Z",
        "model_version": "1.0.0",
        "top": [
            {"class_id": 2, "class_name": "Tomato___Early_Blight", "confidence": 0.87},
            {"class_id": 0, "class_name": "Corn_Rust", "confidence": 0.098},
            {"class_id": 4, "class_name": "Wheat_Rust", "confidence": 0.0042},
        ],
    }
    return JSONResponse({name: value for name, value in {**body, **changes}.items() if value is not None})


# A diagnosis


def test_a_photo_gets_the_diagnosis_the_api_gives(person: Person, server: Running, photo: Path) -> None:
    expected = server.client.post(
        "/predict", params={"top_k": 3, "threshold": 0.5}, files={"file": ("leaf.jpg", photo.read_bytes())}
    ).json()
    person.open().choose(photo)
    assert person.reads("status") == "leaf.jpg is ready to check."
    assert person.element("preview").is_displayed()
    assert person.press().waits_for("name") == expected["class_name"].replace("_", " ")
    assert person.reads("percent") == f"{expected['confidence'] * 100:.0f} %"
    assert person.reads("version") == expected["model_version"]
    assert "answered in" in person.reads("took")
    rows = [f"{top['class_name'].replace('_', ' ')}" for top in expected.get("top", [])]
    shown = [row.text.split("\n")[0] for row in person.driver.find_elements("css selector", "#top li")]
    assert shown == rows
    assert person.element("tips").is_displayed() == (expected["confidence"] < 0.5)
    assert person.reads("name") in person.hears()
    assert person.console() == []
    asked = {url.removeprefix(server.url).split(":")[0] for url in person.requests()}
    assert asked - {"data", "blob"} == {"/", "/predict?top_k=3&threshold=0.5"}


def test_a_sure_answer_names_the_class_its_confidence_and_the_top_three(
    person: Person, meddler: Meddler, photo: Path
) -> None:
    meddler.answer = prediction()
    person.open().choose(photo).press()
    assert person.waits_for("name") == "Tomato Early Blight"
    assert person.reads("kind") == "Diagnosis"
    assert person.reads("percent") == "87 %"
    assert person.reads("top") == "Tomato Early Blight 87 % Corn Rust 10 % Wheat Rust < 1 %"
    assert person.hears() == "Diagnosis: Tomato Early Blight, 87 % confidence."
    share = "const e = document.getElementById('bar'); return e.offsetWidth / e.parentElement.offsetWidth"
    wait_for(lambda: abs(person.script(share) - 0.87) < 0.01)
    assert not person.element("tips").is_displayed()


@pytest.mark.parametrize(
    "changes",
    [
        {"uncertain": True, "reason": "low confidence"},
        {"uncertain": True, "reason": "unlike the training photos"},
        {"confidence": 0.31, "top": None},
    ],
)
def test_an_unclear_photo_is_said_plainly_with_how_to_take_a_better_one(
    person: Person, meddler: Meddler, photo: Path, changes: dict[str, Any]
) -> None:
    meddler.answer = prediction(**changes)
    person.open().choose(photo).press()
    assert person.waits_for("kind") == "Best guess"
    advice = "Not sure: take another photo, closer, in daylight."
    assert person.reads("tips").startswith(advice)
    assert ("is it a leaf?" in person.reads("tips")) == ("unlike" in changes.get("reason", ""))
    assert person.hears().startswith(advice)
    assert person.element("ranking").is_displayed() == ("top" not in changes)


def test_a_hostile_class_name_is_shown_as_text(person: Person, meddler: Meddler, photo: Path) -> None:
    hostile = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    item = {"class_id": 0, "class_name": hostile, "confidence": 0.9}
    meddler.answer = prediction(**item, top=[item], model_version=hostile)
    person.open().choose(photo).press()
    assert person.waits_for("name") == person.reads("top").removesuffix(" 90 %") == hostile
    assert person.reads("version") == hostile
    assert person.script("return window.hacked") is None
    assert person.script("return document.querySelectorAll('#result script, #result img').length") == 0
    assert person.console() == []


# Why


def test_why_lays_the_heat_map_over_the_photo_and_takes_it_away(person: Person, photo: Path) -> None:
    person.open().choose(photo).press().waits_for("name")
    assert not person.element("heat").is_displayed()
    person.press("why").waits_for("why-text")
    assert person.reads("why-text").endswith(f"spoke most for {person.reads('name')}.")
    assert person.element("heat").is_displayed()
    assert person.element("why").get_attribute("aria-pressed") == "true"
    wait_for(lambda: person.script("return document.getElementById('heat').naturalWidth") == 256)
    boxes = [person.element(name).rect for name in ("heat", "preview")]
    assert boxes[0] == boxes[1]
    person.press("why")
    assert not person.element("heat").is_displayed() and person.reads("why-text") == ""
    person.press("why").waits_for("why-text")
    person.choose(photo)
    assert not person.element("heat").is_displayed()
    assert person.console() == []


def test_a_heat_map_that_is_not_to_be_had_leaves_the_diagnosis(
    person: Person, meddler: Meddler, photo: Path
) -> None:
    person.open().choose(photo).press()
    name = person.waits_for("name")
    for answer in (problem(429, "overloaded"), prediction(), HTMLResponse("<p>a proxy's page</p>")):
        meddler.answer = answer
        person.press("why").waits_for("why-text")
        assert person.reads("why-text") == "The server could not show that now. Try again in a moment."
        assert person.reads("name") == name and not person.element("heat").is_displayed()


# Waiting


def test_a_slow_server_is_said_to_be_slow_and_its_answer_still_shown(
    person: Person, meddler: Meddler, photo: Path
) -> None:
    meddler.delay_s = 0.8
    person.open(slow=200).choose(photo).press()
    assert person.element("spin").is_displayed() and person.element("cancel").is_displayed()
    assert person.reads("send") == "Checking…"
    wait_for(lambda: "longer than usual" in person.reads("status"))
    assert person.waits_for("name")
    assert not person.element("spin").is_displayed() and not person.element("cancel").is_displayed()


def test_a_server_that_does_not_answer_is_given_up_on(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.delay_s = 1.5
    person.open(timeout=300).choose(photo).press()
    assert person.waits_for("error").startswith("The server did not answer in time")
    assert person.reads("send") == "Try again"
    meddler.delay_s = 0
    person.script("document.body.dataset.timeout = 30000")
    assert person.press().waits_for("name")
    assert person.reads("error") == ""


def test_a_check_can_be_cancelled_and_another_photo_ends_it(
    person: Person, meddler: Meddler, photo: Path
) -> None:
    meddler.delay_s = 1.5
    person.open().choose(photo).press().press("cancel")
    assert person.reads("status") == "Cancelled."
    assert person.focused == "send", "the cancel button is gone: focus must not be lost with it"
    person.press().choose(photo)
    assert person.reads("status") == "leaf.jpg is ready to check."
    assert person.reads("send") == "Check this photo"
    meddler.delay_s = 0
    assert person.press().waits_for("name")


def test_one_press_sends_one_photo(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.delay_s = 0.3
    person.open().choose(photo).press().press().press()
    person.waits_for("name")
    assert len(meddler.seen) == 1


# Errors


def test_nothing_chosen(person: Person) -> None:
    person.open().press()
    assert person.waits_for("error").startswith("Choose a photo first")
    assert not [url for url in person.requests() if "predict" in url]


def test_a_text_file_named_jpg(person: Person, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a photo")
    person.open().choose(tmp_path / "notes.jpg")
    wait_for(lambda: not person.element("preview").is_displayed())
    message = person.press().waits_for("error")
    assert message.startswith("This is not a photo the server can read Use a JPEG, PNG or WebP photo.")
    assert "Error 415 unsupported-image" in message


def test_a_photo_that_only_this_browser_reads_is_sent_as_a_jpeg(person: Person, tmp_path: Path) -> None:
    noise(3).save(tmp_path / "leaf.heic", "BMP")  # the server reads no BMP
    assert person.open().choose(tmp_path / "leaf.heic").press().waits_for("name")


@pytest.mark.skipif("HEIC" in readable_formats(), reason="pillow-heif is installed: the server reads HEIC")
def test_a_heic_photo_that_neither_browser_nor_server_reads(person: Person, tmp_path: Path) -> None:
    (tmp_path / "leaf.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    message = person.open().choose(tmp_path / "leaf.jpg").press().waits_for("error")
    assert message.startswith("This is a HEIC photo, which neither this browser nor the server can read")


@pytest.mark.parametrize(
    ("content", "title"),
    [
        (b"", "The file is empty"),
        (encoded(noise(2))[:400], "The photo is damaged"),
        (serving.png_claiming(30_000, 30_000), "The photo has too many pixels"),
    ],
)
def test_photos_the_server_refuses(person: Person, tmp_path: Path, content: bytes, title: str) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    assert person.open().choose(tmp_path / "photo.png").press().waits_for("error").startswith(title)


@pytest.mark.parametrize(
    ("status", "code", "title"),
    [
        (408, "body-timeout", "The photo took too long to arrive"),
        (413, "body-too-large", "The photo is too large"),
        (422, "missing-file", "The server could not use this photo"),
        (503, "draining", "The server is restarting"),
        (504, "deadline-passed", "The server did not get to your photo in time"),
        (418, "constructor", "The server gave an answer this page does not understand"),
    ],
)
def test_each_error_has_its_own_words(
    person: Person, meddler: Meddler, photo: Path, status: int, code: str, title: str
) -> None:
    meddler.answer = problem(status, code)
    message = person.open().choose(photo).press().waits_for("error")
    assert message.startswith(title)
    assert message.endswith(f"Error {status} {code} · request abc123")
    assert person.reads("send") == "Try again"


def test_a_failure_of_the_server_shows_the_request_id(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.answer = problem(500, "internal", "d34db33f")
    message = person.open().choose(photo).press().waits_for("error")
    assert message.startswith("Something went wrong on the server")
    assert "request d34db33f" in message


def test_a_busy_server_says_when_to_come_back(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.answer = problem(429, "overloaded", headers={"Retry-After": "1"})
    message = person.open().choose(photo).press().waits_for("error")
    assert message.startswith("The server is busy")
    assert "You can try again in 1 second." in message
    assert person.reads("send") == "Try again in 1 s"
    person.press()
    assert len(meddler.seen) == 1, "not before the time the server asked for"
    meddler.answer = prediction()
    wait_for(lambda: person.reads("send") == "Try again")
    assert person.press().waits_for("name") == "Tomato Early Blight"


def test_an_answer_that_is_no_json(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.answer = HTMLResponse("<h1>Bad gateway</h1>", 502)
    assert person.open().choose(photo).press().waits_for("error").startswith("The server is not ready")
    meddler.answer = HTMLResponse("<h1>Log in to the hotel</h1>")
    assert "does not understand" in person.open().choose(photo).press().waits_for("error")


def test_a_key_is_asked_for_used_and_kept_for_the_session(
    person: Person, meddler: Meddler, photo: Path
) -> None:
    async def locked(scope: Scope, receive: Receive, send: Send) -> None:
        right = meddler.seen[-1].get("x-api-key") == "s3cret"
        await (prediction() if right else problem(401, "unauthorized"))(scope, receive, send)

    meddler.answer = locked
    assert person.open().choose(photo).press().waits_for("error").startswith("This server needs a key")
    assert person.focused == "key"
    assert person.element("key").get_property("type") == "password"
    person.types("wrong", ENTER)
    wait_for(lambda: "did not accept this key" in person.reads("error"))
    person.types("unfit ключ", ENTER)
    wait_for(lambda: "cannot be a key" in person.reads("error"))
    person.script("document.getElementById('key').value = ''")
    person.types("s3cret", ENTER)
    assert person.waits_for("name") == "Tomato Early Blight"
    assert not person.element("key-form").is_displayed()
    person.driver.refresh()
    assert person.choose(photo).press().waits_for("name") == "Tomato Early Blight"
    assert [seen.get("x-api-key") for seen in meddler.seen] == [None, "wrong", "s3cret", "s3cret"]


def test_a_server_without_a_model_and_a_server_that_is_gone(
    meddlers: list[Meddler], person: Person, photo: Path, tmp_path: Path
) -> None:
    with running(Settings(registry=tmp_path)) as empty:
        visitor = Person(person.driver, empty.url).open().choose(photo)
        assert visitor.press().waits_for("error").startswith("The server is not ready")
    # Its Retry-After may still run.
    visitor.choose(photo)
    assert visitor.press().waits_for("error").startswith("No connection to the server")


# Photos before they are sent

# Stands in for the network, and writes down what would have been sent.
STUB = """
window.fetch = async (address, options) => {
  const file = options.body.get('file'), bitmap = await createImageBitmap(file);
  window.sent = [bitmap.width, bitmap.height, file.size, file.type];
  return new Response('{}', {status: 500});
};
"""


def sent(person: Person, path: Path) -> list[Any]:
    """Width and height as seen, bytes and type of what the page sends for this file."""
    person.open().script(STUB)
    person.choose(path).press().waits_for("error")
    answer: list[Any] = person.script("return window.sent")
    return answer


def test_a_photo_above_the_limit_is_made_smaller_and_stays_upright(person: Person, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright
    grain = Image.effect_noise((4400, 3000), 90)
    (tmp_path / "large.jpg").write_bytes(encoded(grain, quality=98, exif=exif.tobytes()))
    assert (tmp_path / "large.jpg").stat().st_size > 9e6
    width, height, size, kind = sent(person, tmp_path / "large.jpg")
    assert (width, height) == (round(3000 * 4096 / 4400), 4096)
    assert size <= 9e6
    assert kind == "image/jpeg"


def test_any_other_photo_is_sent_as_it_is(person: Person, photo: Path) -> None:
    assert sent(person, photo) == [640, 480, photo.stat().st_size, "image/jpeg"]


def test_a_photo_only_the_browser_can_read_is_sent_as_jpeg(person: Person, tmp_path: Path) -> None:
    noise(3).save(tmp_path / "leaf.bmp")
    assert sent(person, tmp_path / "leaf.bmp")[:2] == [64, 48]
    assert sent(person, tmp_path / "leaf.bmp")[3] == "image/jpeg"


def test_a_large_file_that_is_no_photo_costs_no_upload(
    person: Person, meddler: Meddler, tmp_path: Path
) -> None:
    with (tmp_path / "film.mp4").open("wb") as file:
        file.truncate(60_000_000)
    person.open().choose(tmp_path / "film.mp4").press()
    assert person.waits_for("error").startswith("The photo is too large")
    assert meddler.seen == []


def test_a_photo_can_be_dropped(person: Person, meddler: Meddler) -> None:
    meddler.answer = prediction()
    person.open().script(
        "const files = new DataTransfer();"
        "for (const name of ['a.jpg', 'b.jpg']) files.items.add(new File(['x'], name, {type: 'image/jpeg'}));"
        "document.body.dispatchEvent("
        "  new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}))"
    )
    assert person.reads("status") == "Only the first of 2 files is used: a.jpg."
    assert person.press().waits_for("name")


# For everyone


def test_the_keyboard_is_enough(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.answer = prediction()
    person.open()
    reached = []
    for _ in range(2):
        person.types(TAB)
        reached.append(person.focused)
        ring = "const e = document.activeElement; return getComputedStyle(e.labels?.[0] ?? e).outlineStyle"
        assert person.script(ring) == "solid", "where the focus is must be seen"
    assert reached == ["choose", "send"], "a camera button is for devices with a touch screen"
    person.choose(photo)
    person.script("document.getElementById('send').focus()")
    assert person.types(SPACE).waits_for("name")
    meddler.delay_s = 1
    person.types(ENTER, TAB)
    assert person.focused == "cancel"
    person.types(ENTER)
    assert person.reads("status") == "Cancelled."
    assert person.focused == "send"


def test_a_screen_reader_finds_its_way(person: Person, meddler: Meddler, photo: Path) -> None:
    meddler.answer = prediction()
    person.open().choose(photo).press().waits_for("name")
    faults = person.script("""
        const all = (query) => [...document.querySelectorAll(query)];
        const one = (query) => all(query).length === 1 ? [] : [query];
        return [
          ...['h1', 'main', 'header', 'footer', '[role=status]', '[role=alert]'].flatMap(one),
          ...all('input').filter((input) => !input.labels.length).map((input) => input.id),
          ...all('button').filter((button) => !button.textContent.trim()).map((button) => button.id),
          ...all('img').filter((img) => !img.alt).map((img) => img.id),
          ...all('svg').filter((svg) => !svg.closest('[aria-hidden=true]')).map(() => 'svg'),
          ...all('[id]').filter((a) => all(`#${a.id}`).length > 1).map((a) => a.id),
          ...(document.documentElement.lang === 'en' ? [] : ['lang']),
        ];
    """)
    assert faults == []


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
  const v = c[i] / 255;
  return sum + weight * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
}, 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    if (colour[3] === 255) return colour;
  }
};
const seen = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()
  && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
return seen.map((e) => {
  const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(behind(e))].sort();
  return [(b + 0.05) / (a + 0.05), e.id || e.tagName];
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_what_is_behind_it(
    person: Person, meddler: Meddler, photo: Path, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    person.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    backgrounds = "return getComputedStyle(document.body).backgroundColor"
    meddler.answer = prediction(uncertain=True)
    pairs = person.open().script(CONTRAST)
    assert (sum(json.loads(f"[{person.script(backgrounds)[4:-1]}]")) < 200) == (scheme == "dark")
    person.choose(photo).press().waits_for("name")
    pairs += person.script(CONTRAST)
    meddler.answer = problem(401, "unauthorized")
    person.press().waits_for("error")
    pairs += person.script(CONTRAST)
    person.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(pairs) > 30
    assert [pair for pair in pairs if pair[0] < 4.5] == []


@pytest.mark.parametrize(("width", "zoom"), [(320, 1), (390, 1), (640, 2)])
def test_it_fits_a_small_phone_and_zoom(
    person: Person, meddler: Meddler, photo: Path, width: int, zoom: int
) -> None:
    long = "Word_" * 8 + "Unbreakable" * 12
    meddler.answer = prediction(class_name=long, uncertain=True, model_version="1.0.0-" + "x" * 60)
    phone = {"width": width // zoom, "height": 600, "deviceScaleFactor": zoom, "mobile": True}
    person.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    person.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        person.open().choose(photo).press().waits_for("name")
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert person.script(overflow) == 0
        assert person.element("take").find_element("xpath", "following-sibling::label").is_displayed()
        low = person.script(
            "return [...document.querySelectorAll('button, .button')].filter((e) => e.checkVisibility())"
            ".map((e) => e.getBoundingClientRect().height).filter((height) => height < 44)"
        )
        assert low == [], "a finger needs 44 px"
    finally:
        person.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        person.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_moves_under_the_finger(person: Person, meddler: Meddler, photo: Path) -> None:
    """The buttons are where they were, whatever is shown."""
    places = "return document.getElementById('send').getBoundingClientRect().top + scrollY"
    before = person.open().script(places)
    assert person.choose(photo).script(places) == before
    meddler.delay_s = 0.3
    assert person.press().script(places) == before
    person.waits_for("name")
    assert person.script(places) == before
    meddler.answer = problem(503, "not-ready")
    person.press().waits_for("error")
    assert person.script(places) == before


# What the browser is told


def test_only_the_pages_own_script_and_style_run(person: Person, server: Running) -> None:
    broken = person.open().driver.execute_async_script("""
        const done = arguments[0], broken = [];
        document.addEventListener('securitypolicyviolation', (e) => broken.push(e.effectiveDirective));
        const style = document.createElement('style');
        style.textContent = 'h1 { display: none }';
        document.head.append(style);
        try { document.body.innerHTML += '<p>'; } catch { broken.push('trusted'); }
        document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}));
        fetch('http://127.0.0.1:9/').catch(() => setTimeout(() => done(broken), 100));
    """)
    assert {"style-src-elem", "img-src", "connect-src", "trusted"} <= set(broken)
    assert person.element("send").is_displayed()
    assert person.driver.find_element("tag name", "h1").is_displayed()


def test_the_page_is_small_and_a_browser_that_has_it_is_told_so(server: Running) -> None:
    response = server.client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert len(response.content) < 24_000
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in response.text
    tag = response.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = server.client.get("/", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert server.client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    assert server.client.head("/").status_code == 200


def test_a_page_whose_script_would_be_blocked_is_an_error() -> None:
    with pytest.raises(ValueError, match="no <script>"):
        page.content_security_policy("<style></style><script src='elsewhere.js'></script>")

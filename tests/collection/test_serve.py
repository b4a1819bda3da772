"""The page and the API of an index, on a real server; the page in a real browser."""

import asyncio
import base64
import io
import socket
import threading
import time

import numpy as np
import pytest
import requests
import uvicorn
from PIL import Image

from gcl.collection import serve
from gcl.collection.index import index
from gcl.collection.serve import LOOPBACK, Service, application
from gcl.collection.store import open_table, upsert
from gcl.common.errors import UserError
from support.arrays import unit_rows
from support.browser import BROWSER, opened
from support.collection import collect, photo

pytestmark = pytest.mark.parametrize(
    "model", ["clip"], indirect=True
)  # the other kind of fusion: test_index, test_search


class Server:
    """A service on a free port of this machine, in a thread."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.service = Service(folder, None, "cpu")
        app = application(self.service, [f"{name}:{self.port}" for name in LOOPBACK])
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(30)

    def search(self, files=None, **fields):
        return requests.post(f"{self.url}/api/search", data=fields, files=files, timeout=60)


@pytest.fixture
def server(made):
    with Server(made[1]) as running:
        yield running


def names(reply):
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["hits"]]


def test_the_api_finds_what_the_command_finds(server, made):
    about = requests.get(f"{server.url}/api/about", timeout=60).json()
    assert about == {"items": 12, "modalities": {"image": 4, "text": 4, "image_text": 4}, "calibrated": True}
    assert len(names(server.search(text="number 4", k=5))) == 5
    picture = {"image": (made[0] / "0.png").read_bytes()}
    assert names(server.search(files=picture, modality="image", k=1)) == ["0.png"]
    both = {"text": "number 8, word word word", "modality": "image_text", "k": 1}
    assert names(server.search(files={"image": (made[0] / "8.png").read_bytes()}, **both)) == ["8.png"]
    hits = server.search(text="number 4").json()["hits"]
    like = server.search(like=hits[0]["row"], k=1).json()["hits"][0]
    assert like["id"] == hits[0]["id"]
    assert names(server.search(text="number 4", min_score=1e6)) == []
    assert server.search(text="number 4", modality=["text", "image"]).json()["hits"][0]["modality"] != "image_text"


def test_pictures_are_given_small_and_large(server):
    rows = {hit["id"]: hit["row"] for hit in server.search(text="x").json()["hits"]}
    for kind in ("thumbnail", "picture"):
        reply = requests.get(f"{server.url}/api/{kind}/{rows['0.png']}", timeout=60)
        assert reply.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(reply.content)).size == (60, 50)
        assert requests.get(f"{server.url}/api/{kind}/{rows['4.txt']}", timeout=60).status_code == 400
        assert "no item 99" in requests.get(f"{server.url}/api/{kind}/99", timeout=60).json()["error"]


def bomb(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("fields", "files", "message"),
    [
        ({}, None, "the query is empty"),
        ({"text": "  "}, None, "the query is empty"),
        ({"text": "x", "k": 0}, None, "k is 0, expected 1 to 500"),
        ({"text": "x", "modality": "sound"}, None, "modality is 'sound', expected one of"),
        ({"text": "x" * 10_001}, None, "10001 characters, more than 10000"),
        ({"like": 12}, None, "there is no item 12"),
        ({}, {"image": b"no picture"}, "can't decode image that was given"),
        ({}, {"image": bomb(8000, 7000)}, "8000x7000 pixels, more than 50,000,000"),
    ],
)
def test_what_can_not_be_searched_is_said(server, fields, files, message):
    reply = server.search(files=files, **fields)
    assert reply.status_code == 400
    assert message in reply.json()["error"]


def test_limits_and_other_hosts(server, monkeypatch):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        reply = requests.get(f"{server.url}/api/about", headers=headers, timeout=60)
        assert (reply.status_code, "refused" in reply.json()["error"]) == (403, True)
    assert requests.get(f"{server.url}/api/about", headers={"Origin": server.url}, timeout=60).status_code == 200
    monkeypatch.setattr(serve, "MAX_UPLOAD", 1000)
    assert server.search(files={"image": b"x" * 200_000}).status_code == 413
    assert "more than 1,000 bytes" in server.search(files={"image": b"x" * 2000}).json()["error"]
    page = requests.get(server.url, timeout=60)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert requests.get(f"{server.url}/openapi.json", timeout=60).json()["paths"].keys() >= {
        "/api/search",
        "/api/about",
    }


@pytest.mark.parametrize("port", ["taken", 99_999])
def test_a_port_that_can_not_be_had_is_said(server, made, port):
    wanted = server.port if port == "taken" else port
    with pytest.raises(UserError, match=f"can't listen on 127.0.0.1, port {wanted}"):
        serve.serve(made[1], "127.0.0.1", wanted, None, "cpu")


def test_an_index_that_is_brought_up_to_date_is_read_anew(server, made, model):
    things, folder = made
    (things / "new.txt").write_text("entirely new")
    index(things, model, folder, "cpu")
    assert requests.get(f"{server.url}/api/about", timeout=60).json()["items"] == 13
    assert "new.txt" in names(server.search(text="entirely new"))


DROP = """(data => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
})"""
SAID = "document.getElementById('said').textContent"
FIRST = "document.querySelector('#hits li .name')?.textContent"


def drop(data):
    return f"{DROP}('{base64.b64encode(data).decode()}')"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_the_page_in_a_browser(server, made, tmp_path):
    asyncio.run(use_page(server, made[0], tmp_path))


async def use_page(server, things, tmp_path):
    async with opened(server.url, tmp_path / "profile") as page:
        await page.until(f"{SAID}.includes('4 images, 4 texts')")
        await page.run("document.activeElement.blur()")
        await page.press("/", *"number 4", "Enter")  # by keyboard alone
        await page.until(f"{SAID}.includes('12 matches')")
        assert await page.run("document.getElementById('text').value") == "number 4"
        pictures = "[...document.querySelectorAll('#hits img')]"
        await page.until(f"{pictures}.length === 8 && {pictures}.every(i => i.complete && i.naturalWidth === 60)")

        await page.run(
            "document.querySelector('[value=text]').click(); document.querySelector('[value=image_text]').click()"
        )
        await page.until(f"{SAID}.includes('4 matches')")
        await page.run("document.getElementById('text').value = ''")
        await page.run(drop((things / "6.png").read_bytes()))
        await page.until(f"{FIRST} === '6.png'")
        await page.run("document.querySelector('[value=image]').click()")
        await page.until(f"{SAID}.includes('Choose images')")
        await page.run("document.querySelector('[value=image_text]').click()")
        await page.run("document.getElementById('text').value = 'number 8, word word word'")
        await page.run(drop((things / "8.png").read_bytes()))  # both together
        await page.until(f"{FIRST} === '8.png'")
        other = await page.run("document.querySelectorAll('#hits li .name')[1].textContent")
        await page.run("document.querySelectorAll('#hits li button')[1].click()")  # more like this
        await page.until(f"{FIRST} === '{other}'")

        await page.run("const s = document.getElementById('score'); s.value = 8; s.dispatchEvent(new Event('input'))")
        await page.until(f"{SAID} === 'No match.' || {SAID}.includes('1 match')")
        await page.run(drop(b"no picture"))
        await page.until(f"{SAID}.includes('decode')")
        assert await page.run("document.getElementById('said').classList.contains('bad')")
        await page.run("document.getElementById('drop').click()")
        await page.call("Page.navigate", url=f"{server.url}/docs")
        await page.until("document.body?.innerText.includes('POST /api/search')")
        assert [e for e in page.errors if "400" not in e] == []  # nothing else failed, nothing was fetched elsewhere


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_the_page_of_an_empty_and_of_a_large_index(model, tmp_path, rng):
    asyncio.run(use_empty_and_large(model, tmp_path, rng))


async def use_empty_and_large(model, tmp_path, rng):
    (tmp_path / "none").mkdir()
    index(tmp_path / "none", model, tmp_path / "empty", "cpu")
    with Server(tmp_path / "empty") as server:
        async with opened(server.url, tmp_path / "profile") as page:
            await page.until(f"{SAID}.includes('The index is empty')")
            await page.run("document.getElementById('text').focus()")
            await page.press("x", "Enter")
            await page.until(f"{SAID} === 'No match.'")
    collect(tmp_path / "things", 3)
    index(tmp_path / "things", model, tmp_path / "index", "cpu")
    table, n = open_table(tmp_path / "index"), 10_000
    columns = {name: [f"{name} {k}" for k in range(n)] for name in ("id", "path", "text", "content", "stamp")}
    small = np.frombuffer(photo(0, "JPEG"), np.uint8).tobytes()
    width = table.schema.field("vector").type.list_size
    upsert(table, columns | {"modality": ["image_text"] * n, "thumbnail": [small] * n}, unit_rows(rng, n, width))
    with Server(tmp_path / "index") as server:
        async with opened(server.url, tmp_path / "profile2") as page:
            await page.until(f"{SAID}.includes('10001 images with texts')")
            await page.run("document.getElementById('text').focus()")
            await page.press("x", "Enter")
            await page.until("document.querySelectorAll('#hits li').length === 48")
            await page.run("document.getElementById('more').click()")
            await page.until("document.querySelectorAll('#hits li').length === 96")

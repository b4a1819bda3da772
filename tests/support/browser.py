"""A headless Chromium, driven by its own protocol over a local socket."""

import asyncio
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time

import aiohttp

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-sync".split()


class Page:
    """A page: `await page.run(script)` returns what a script's last expression or promise gives."""

    def __init__(self, socket):
        self.socket, self.numbers, self.errors = socket, itertools.count(1), []

    async def call(self, method, **parameters):
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = json.loads((await self.socket.receive(timeout=60)).data)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(answer["params"])[:500])
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def run(self, script):
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, condition):
        """Wait until a script's value is true."""
        for _ in range(200):
            if value := await self.run(condition):
                return value
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {condition}; page says {await self.run('document.body.innerText')!r}")

    async def press(self, *keys):
        for key in keys:
            code = {"Enter": 13, "Tab": 9}.get(key)
            text = {"text": "\r" if key == "Enter" else key} if key != "Tab" else {}
            more = {"windowsVirtualKeyCode": code} if code else {}
            await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **more)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **more)


@contextlib.asynccontextmanager
async def opened(url, profile):
    """Open a page in a browser of its own."""
    command = [BROWSER, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = debugging_port(process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                (tab,) = (tab for tab in await reply.json() if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.navigate", url=url)
                await page.until("document.readyState === 'complete'")
                yield page
    finally:
        process.terminate()
        process.wait(30)


def debugging_port(process):
    """Return the port that the browser says it listens on."""
    deadline = time.monotonic() + 60
    for line in process.stderr:
        if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
            return int(found[1])
        assert time.monotonic() < deadline
    raise AssertionError("the browser ended")

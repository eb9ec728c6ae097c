"""Headless Chromium, driven over a pipe with its debugging protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

EXECUTABLE = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('chrome')


class Chromium:
    """A browser with one page.

    Attributes
    ----------
    problems : list of str
        What the console said, and exceptions nobody caught.
    requests : list of str
        Every address that was asked for.
    """

    def __init__(self, profile: Path, width: int = 1300, height: int = 900) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._last = 0
        # Chromium reads commands from descriptor 3 and answers on 4.
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        options = [
            '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
            '--disable-background-networking', '--disable-component-update', '--disable-sync',
            '--hide-scrollbars', '--remote-debugging-pipe', f'--user-data-dir={profile}',
            # WebGL without a graphics card.
            '--enable-unsafe-swiftshader', f'--window-size={width},{height}',
        ]  # fmt: skip
        shell = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            ['bash', '-c', shell, EXECUTABLE, *options],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = b''
        self._session: str | None = None
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        attached = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.send(f'{domain}.enable')

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._last += 1
        message: dict[str, Any] = {'id': self._last, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._commands, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._last:
                assert 'error' not in answer, answer['error']
                return answer['result']

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._buffer:
            chunk = os.read(self._answers, 1 << 20)
            assert chunk, 'the browser closed its pipe'
            self._buffer += chunk
        first, self._buffer = self._buffer.split(b'\0', 1)
        message = json.loads(first)
        self._note(message.get('method', ''), message.get('params', {}))
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == 'Runtime.exceptionThrown':
            details = event['exceptionDetails']
            said = details.get('exception', {}).get('description', details['text'])
            self.problems.append(said)
        elif method == 'Runtime.consoleAPICalled':
            self.problems.append(str(event['args']))
        elif method == 'Log.entryAdded':
            self.problems.append(event['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(event['request']['url'])
        elif method == 'Page.loadEventFired':
            self._loaded = True

    def open(self, page: Path | str) -> None:
        """Open a local page, or one by its address, and wait until it is loaded."""
        self._loaded = False
        address = page if isinstance(page, str) else page.absolute().as_uri()
        self.send('Page.navigate', url=address)
        while not self._loaded:
            self._receive()

    def follow(self, expression: str) -> None:
        """Evaluate JavaScript that leads to another page, and wait until that is loaded."""
        self._loaded = False
        self.run(expression)
        while not self._loaded:
            self._receive()

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript, waiting for promises."""
        found = self.send(
            'Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True
        )
        assert 'exceptionDetails' not in found, found['exceptionDetails']
        return found['result'].get('value')

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true, thirty seconds at most."""
        poll = (
            f'new Promise(done => {{ const end = performance.now() + 30000; const look = () => '
            f'({condition}) || performance.now() > end ? done(Boolean({condition})) '
            f': setTimeout(look, 20); look(); }})'
        )
        assert self.run(poll), f'never came true: {condition}'

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {'text': key} if len(key) == 1 else {}
        self.send('Input.dispatchKeyEvent', type='keyDown', key=key, **text)
        self.send('Input.dispatchKeyEvent', type='keyUp', key=key)

    def resize(self, width: int, height: int, scale: float = 1, mobile: bool = False) -> None:
        """Show the page as on a screen of another size."""
        self.send(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=scale, mobile=mobile,
        )  # fmt: skip

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        data = self.send('Page.captureScreenshot', captureBeyondViewport=whole)['data']
        path.write_bytes(b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self.send('Browser.close')
        os.close(self._commands)
        os.close(self._answers)
        self._process.wait(timeout=60)

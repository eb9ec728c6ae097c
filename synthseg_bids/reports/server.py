"""A web server for the viewer: this machine alone, one output dataset alone, reading alone.

Its address holds a token that nobody can guess, so that neither other users of the machine nor
other pages in the browser can ask it for anything. Names of hosts other than this one are
refused, since a page from elsewhere may let its own name point here (DNS rebinding).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote

from synthseg_bids.bids.names import participant_folders
from synthseg_bids.external.niivue import niivue_module

from .page import resource
from .tree import inside
from .viewer import find_label_map, find_scan, viewer_page

_LOOPBACK = '127.0.0.1'
_HOST = re.compile(r'(127\.0\.0\.1|localhost|\[::1\])(:\d+)?')
_TEXT, _HTML, _SCRIPT = (f'text/{kind}; charset=utf-8' for kind in ('plain', 'html', 'javascript'))
#: What a browser does with the files of a dataset; it saves all others.
_TYPES = {'.html': _HTML, '.png': 'image/png'} | dict.fromkeys(
    ('.tsv', '.json', '.md', '.bib', '.txt', '.toml', '.log', '.stats'), _TEXT
)
_NOTHING = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action "
_VIEWER_POLICY = (
    f"{_NOTHING}'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:"
)
#: Should a page of the dataset be forged, it cannot ask for other files, nor send them anywhere.
_REPORT_POLICY = (
    f"{_NOTHING}'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    'sandbox allow-scripts allow-popups'
)
#: Shows the links from the reports to the viewer; see report.css.
_PLAIN_ROOT, _SERVED_ROOT = b'<html lang="en">', b'<html lang="en" data-viewer>'


@dataclass(frozen=True)
class _Reply:
    """What is answered: bytes or the content of a file."""

    content: bytes | Path
    type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)

    def open(self) -> BinaryIO:
        """Open what is to be sent."""
        return (
            BytesIO(self.content) if isinstance(self.content, bytes) else open(self.content, 'rb')
        )


def _refusal(status: HTTPStatus, text: str) -> _Reply:
    return _Reply(f'{text}\n'.encode(), status=status)


_ABSENT = _refusal(HTTPStatus.NOT_FOUND, 'There is no such file in this dataset.')


class ViewerServer(ThreadingHTTPServer):
    """Serves the viewer and one output dataset on the loopback interface.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    bids_dir : Path, optional
        Where the raw dataset is, if it is not where the output dataset says.
    port : int
        0 for one that is free.

    Attributes
    ----------
    address : str
        With the token.

    Raises
    ------
    OSError
        If the port is taken.
    """

    daemon_threads = True

    def __init__(self, out_dir: Path, bids_dir: Path | None = None, port: int = 0) -> None:
        self.out_dir = out_dir
        self.bids_dir = bids_dir
        self.token = secrets.token_urlsafe(24)
        super().__init__((_LOOPBACK, port), _Handler)
        self.address = f'http://{_LOOPBACK}:{self.server_port}/{self.token}/'

    def server_bind(self) -> None:
        """Bind the socket without asking the network for the name of this machine."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that hang up; report what else goes wrong."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def answer(self, target: str, host: list[str]) -> _Reply:
        """Choose the answer to a request.

        Parameters
        ----------
        target : str
            Path and query as they were sent.
        host : list of str
            Every ``Host`` that was sent.
        """
        if len(host) != 1 or not _HOST.fullmatch(host[0]):
            return _refusal(HTTPStatus.FORBIDDEN, 'This server is for this machine alone.')
        path, _, query = target.partition('?')
        start, _, place = path.removeprefix('/').partition('/')
        # Compared in a time that does not depend on how much of it is right.
        if not secrets.compare_digest(start.encode('latin-1', 'replace'), self.token.encode()):
            return _refusal(
                HTTPStatus.FORBIDDEN, 'Use the address that "synthseg view" has printed.'
            )
        if place in ('', 'view'):
            moved = {'Location': f'/{self.token}/view/'}
            return _Reply(b'', status=HTTPStatus.FOUND, headers=moved)
        area, _, rest = place.partition('/')
        name = unquote(rest, errors='surrogateescape')
        answers = {'view': self._viewer, 'tree': self._file, 'scan': self._scan}
        return answers[area](name, query) if area in answers else _ABSENT

    def _viewer(self, name: str, query: str) -> _Reply:
        """Answer with the page of the viewer, or with what that needs."""
        if name == 'niivue.js':
            # It is large and never changes; the others do, or may.
            kept = {'Cache-Control': 'private, max-age=86400'}
            return _Reply(niivue_module(), _SCRIPT, headers=kept)
        if name == 'viewer.js':
            return _Reply(resource(name).encode(), _SCRIPT)
        if name == 'viewer.css':
            style = resource('report.css') + resource(name)
            return _Reply(style.encode(), 'text/css; charset=utf-8')
        asked = parse_qs(query, keep_blank_values=True)
        people = participant_folders(self.out_dir)
        stem = asked.get('image', [''])[0]
        participant = stem.partition('/')[0] or asked.get('participant', people)[0]
        absent = 'image' in asked and find_label_map(self.out_dir, stem) is None
        if name or absent or participant not in people:
            return _ABSENT
        page = viewer_page(self.out_dir, participant, stem, self.bids_dir)
        return _Reply(page.encode(), _HTML, headers={'Content-Security-Policy': _VIEWER_POLICY})

    def _file(self, name: str, _query: str) -> _Reply:
        """Answer with a file of the dataset."""
        path = inside(self.out_dir, name)
        if path is None:
            return _ABSENT
        kind = _TYPES.get(Path(name).suffix, 'application/octet-stream')
        headers = {'Content-Security-Policy': _REPORT_POLICY}
        if kind == _HTML:
            page = path.read_bytes().replace(_PLAIN_ROOT, _SERVED_ROOT, 1)
            return _Reply(page, kind, headers=headers)
        return _Reply(path, kind, headers=headers)

    def _scan(self, stem: str, _query: str) -> _Reply:
        """Answer with the image of which there is a label map."""
        found = find_label_map(self.out_dir, stem)
        path = found and find_scan(self.out_dir, found.image.source, self.bids_dir)
        return _Reply(path, 'application/octet-stream') if path else _ABSENT


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; other methods are refused by the base class."""

    server: ViewerServer
    server_version, sys_version = 'synthseg', ''
    #: Seconds that a silent connection is kept.
    timeout = 60

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def _send(self, body: bool) -> None:
        try:
            reply = self.server.answer(self.path, self.headers.get_all('Host', []))
            stream = reply.open()
        except OSError:
            reply, stream = _ABSENT, _ABSENT.open()
        with stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            self._send_head(reply.status, reply.type, size, reply.headers)
            if body:
                shutil.copyfileobj(stream, self.wfile)

    def _send_head(
        self, status: int, kind: str, size: int, headers: dict[str, str] | None = None
    ) -> None:
        fixed = {
            'Content-Type': kind,
            'Content-Length': str(size),
            'Cache-Control': 'no-store',
            'Cross-Origin-Resource-Policy': 'same-origin',
            'Referrer-Policy': 'no-referrer',
            'X-Content-Type-Options': 'nosniff',
        }
        self.send_response(status)
        for name, value in (fixed | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Refuse a request that is malformed or of another method."""
        text = f'{HTTPStatus(code).phrase}\n'.encode()
        self._send_head(code, _TEXT, len(text))
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Write nothing: the address is a secret."""

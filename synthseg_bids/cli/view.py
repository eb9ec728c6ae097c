"""``synthseg view``: look at scans and their segmentations in a browser.

Serves the output of synthseg-bids to this machine alone, at an address with a secret in it, until
Ctrl-C. Needs NiiVue: pip install ipyniivue.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'view', help='look at segmentations in a browser', description=__doc__
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='data set written by synthseg-bids')
    parser.add_argument(
        '--bids-dir',
        type=Path,
        metavar='DIR',
        help='data set of the scans, where it is no longer in the place that OUT names',
    )
    parser.add_argument(
        '--port', type=int, default=0, metavar='N', help='port to listen on (default: a free one)'
    )
    parser.add_argument(
        '--no-browser', action='store_true', help='only print the address, open no browser'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand until it is interrupted."""
    from ..external.niivue import niivue_module
    from ..reports.server import ViewerServer

    _check(args)
    niivue_module()  # before anything is served
    try:
        server = ViewerServer(args.out, args.bids_dir, args.port)
    except OSError as error:
        raise ValueError(f'--port {args.port}: {error.strerror}; give another one') from error
    port, host = server.server_port, os.uname().nodename
    print(f'{args.out}: {server.address}')
    print(f'From another machine: ssh -NL {port}:localhost:{port} {host}; Ctrl-C ends it')
    sys.stdout.flush()
    browser = nullcontext() if args.no_browser else opened(server.address)
    with server, suppress(KeyboardInterrupt), browser:
        server.serve_forever()
    return 0


def _check(args: argparse.Namespace) -> None:
    """Check the arguments before anything is served."""
    from ..bids.metadata import is_ours, read_description

    for folder in (args.out, args.bids_dir):
        if folder is not None and not folder.is_dir():
            raise ValueError(f'{folder}: no such folder; check the path')
    if not is_ours(read_description(args.out) or {}):
        raise ValueError(f'{args.out}: not written by synthseg-bids; give its output folder')
    if not 0 <= args.port < 65536:
        raise ValueError(f'--port {args.port}: give a number from 1 to 65535')


@contextmanager
def opened(address: str) -> Iterator[None]:
    """Open an address in the user's browser.

    The browser is given a file that leads there: other users see what programs are started with.

    Parameters
    ----------
    address : str
    """
    with tempfile.TemporaryDirectory(prefix='synthseg-view-') as folder:
        page = Path(folder) / 'open.html'
        page.write_text(f'<meta http-equiv="refresh" content="0; url={address}"/>\n')
        webbrowser.open(page.as_uri())
        yield

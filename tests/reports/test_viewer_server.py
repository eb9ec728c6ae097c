"""The server of the viewer: real requests, most of them for what it must not give."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest
from viewed_tree import STEM, served, write_viewed_tree

from synthseg_bids.bids.save import output_files
from synthseg_bids.errors import UsageError
from synthseg_bids.external import niivue
from synthseg_bids.files import read_description, write_json
from synthseg_bids.reports.server import ViewerServer
from synthseg_bids.reports.viewer import (
    find_label_map,
    find_scan,
    list_label_maps,
    viewer_page,
)

SECRET = b'nobody is to read this'


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a secret beside it, links to that, and a link within."""
    root = tmp_path_factory.mktemp('viewed')
    out = write_viewed_tree(root)
    for folder in (root, root / 'beside', root / 'raw'):
        folder.mkdir(exist_ok=True)
        (folder / 'secret.txt').write_bytes(SECRET)
    (root / 'synthseg-bids-secret').mkdir()
    (root / 'synthseg-bids-secret' / 'secret.txt').write_bytes(SECRET)
    (out / 'file-link.txt').symlink_to(root / 'secret.txt')
    (out / 'folder-link').symlink_to(root / 'beside')
    (out / 'within.tsv').symlink_to('group_morph.tsv')
    (out / 'circle').symlink_to('circle')
    (out / '.hidden').mkdir()
    (out / '.hidden' / 'secret.txt').write_bytes(SECRET)
    (out / '.secret').write_bytes(SECRET)
    os.mkfifo(out / 'pipe')
    return out


@pytest.fixture(scope='module')
def server(out: Path) -> Iterator[ViewerServer]:
    with served(out) as server:
        yield server


def ask(
    server: ViewerServer, target: str, method: str = 'GET', hosts: tuple[str, ...] | None = None
) -> tuple[HTTPResponse, bytes]:
    """Send a target as it is; no client may put it in order first."""
    connection = HTTPConnection('127.0.0.1', server.server_port, timeout=20)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for host in (f'127.0.0.1:{server.server_port}',) if hosts is None else hosts:
        connection.putheader('Host', host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def get(server: ViewerServer, place: str, **kwargs) -> tuple[HTTPResponse, bytes]:
    return ask(server, f'/{server.token}/{place}', **kwargs)


def test_files_of_the_tree(server, out):
    for name, kind in {
        'group_morph.tsv': 'text/plain; charset=utf-8',
        'within.tsv': 'text/plain; charset=utf-8',
        f'{STEM}_dseg.nii.gz': 'application/octet-stream',
        f'{STEM.replace("/anat", "/figures")}_scan.png': 'image/png',
    }.items():
        answer, content = get(server, f'tree/{name}')
        assert (answer.status, answer.getheader('Content-Type')) == (200, kind)
        assert content == (out / name).read_bytes()
        head, nothing = get(server, f'tree/{name}', method='HEAD')
        assert (head.status, nothing) == (200, b'')
        assert head.getheader('Content-Length') == str(len(content))


@pytest.mark.parametrize(
    'name',
    [
        '../secret.txt', '..%2fsecret.txt', '%2e%2e/secret.txt', '%2E%2E%2Fsecret.txt',
        '%252e%252e/secret.txt', '..%252fsecret.txt', '..%c0%afsecret.txt', '..%5csecret.txt',
        'sub-01/../../secret.txt', 'sub-01/anat/%2e%2e/../../secret.txt', './../secret.txt',
        '../synthseg-bids-secret/secret.txt', '../synthseg-bids/group_morph.tsv', '..', '.', '',
        '//etc/passwd', '/etc/passwd', '%2fetc%2fpasswd', 'file:///etc/passwd', 'C:/secret.txt',
        'file-link.txt', 'folder-link/secret.txt', 'folder-link/../secret.txt', 'circle',
        '.secret', '.hidden/secret.txt', '.hidden', '.bidsignore', 'sub-01/./anat', 'sub-01',
        'sub-01/', 'sub-01//anat', 'pipe', 'pipe%00', 'group_morph.tsv%00.png', '%00', '%ff%fe',
        'group_morph.tsv/', 'nothing.txt', 'a' * 5000, '~/secret.txt', '$HOME/secret.txt',
    ],
)  # fmt: skip
def test_no_path_leaves_the_tree(server, name):
    for area in ('tree', 'scan', 'view', 'nothing'):
        if area == 'view' and not name.strip('/'):
            continue  # the page itself
        answer, content = get(server, f'{area}/{name}')
        assert answer.status == 404, (area, name)
        assert SECRET not in content
        assert b'root:' not in content


@pytest.mark.parametrize('stem', ['..', '../raw', '.', '/etc', 'sub-09/anat/x', 'sub-01%00', '*'])
def test_no_participant_leaves_the_tree(server, stem):
    for query in (f'image={stem}', f'participant={stem}', f'image={quote(stem)}/anat/x'):
        assert get(server, f'view/?{query}')[0].status == 404


def test_the_token_is_needed(server):
    token = server.token
    wrong = [
        '', token[:-1], f'{token}x', token.upper(), token.lower(), token[::-1], f'x/{token}',
        f'%{ord(token[0]):02x}{token[1:]}', '%FF', 'view', f'?{token}', f'.{token}',
    ]  # fmt: skip
    for start in wrong:
        answer, content = ask(server, f'/{start}/tree/group_morph.tsv')
        assert answer.status == 403, start
        assert token.encode() not in content
    assert ask(server, '*')[0].status == 403
    assert ask(server, f'http://127.0.0.1/{token}/tree/group_morph.tsv')[0].status == 403
    assert len(token) >= 32


def test_each_server_has_its_own_token_and_port(server, out):
    with served(out) as other:
        assert other.token != server.token
        assert other.server_port != server.server_port
        assert get(other, 'tree/README.md')[0].status == 200


@pytest.mark.parametrize(
    'hosts',
    [
        (), ('',), ('evil.example',), ('evil.example:80',), ('127.0.0.1.evil.example',),
        ('localhost.evil.example',), ('evil.example#localhost',), ('localhost@evil.example',),
        ('127.0.0.1:x',), ('0.0.0.0',), ('127.0.0.1', 'evil.example'), ('localhost', 'localhost'),
    ],
)  # fmt: skip
def test_other_names_of_this_machine_are_refused(server, hosts):
    answer, content = get(server, 'tree/group_morph.tsv', hosts=hosts)
    assert answer.status == 403
    assert b'sub-01' not in content


def test_a_tunnel_may_end_at_another_port(server):
    for host in ('localhost', 'localhost:8080', '127.0.0.1:1', '[::1]:8080'):
        assert get(server, 'tree/group_morph.tsv', hosts=(host,))[0].status == 200


@pytest.mark.parametrize(
    'method', ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'CONNECT', 'PROPFIND', 'get']
)
def test_nothing_but_reading(server, out, method):
    before = (out / 'group_morph.tsv').read_bytes()
    answer, content = get(server, 'tree/group_morph.tsv', method=method)
    assert answer.status == 501
    assert b'sub-01' not in content
    assert (out / 'group_morph.tsv').read_bytes() == before


def test_what_is_no_request_is_refused(server):
    for start in (
        b'nonsense\r\n\r\n',
        b'GET\r\n\r\n',
        b'GET / HTTP/9.9\r\n\r\n',
        b'\0' * 99 + b'\n',
    ):
        with socket.create_connection(('127.0.0.1', server.server_port), 20) as raw:
            raw.sendall(start)
            raw.shutdown(socket.SHUT_WR)
            received = b''.join(iter(lambda: raw.recv(4096), b''))
        assert b' 200 ' not in received
        assert b'sub-01' not in received
    assert get(server, 'tree/README.md')[0].status == 200


def test_it_listens_to_this_machine_alone(server):
    assert server.server_address[0] == '127.0.0.1'
    name = socket.gethostname()
    found = {info[4][0] for info in socket.getaddrinfo(name, None, socket.AF_INET)}
    for address in {address for address in found if not address.startswith('127.')}:
        with pytest.raises(OSError, match=r'refused|unreachable'):
            socket.create_connection((address, server.server_port), 5)


def test_headers_keep_the_address_and_the_pages_apart(server):
    for place in ('view/', 'tree/group.html', 'tree/README.md', f'scan/{STEM}', 'tree/nothing'):
        answer, _ = get(server, place)
        assert answer.getheader('Referrer-Policy') == 'no-referrer'
        assert answer.getheader('X-Content-Type-Options') == 'nosniff'
        assert answer.getheader('Cross-Origin-Resource-Policy') == 'same-origin'
        assert answer.getheader('Access-Control-Allow-Origin') is None
        assert 'Python' not in answer.getheader('Server')
    policy = get(server, 'tree/group.html')[0].getheader('Content-Security-Policy')
    assert 'sandbox allow-scripts' in policy
    assert 'allow-same-origin' not in policy
    policy = get(server, 'view/')[0].getheader('Content-Security-Policy')
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy


def test_the_start_leads_to_the_first_participant(server):
    for place in ('', 'view'):
        answer, _ = get(server, place)
        assert answer.status == 302
        assert answer.getheader('Location') == f'/{server.token}/view/'
    page = get(server, 'view/')[1].decode()
    assert '<option selected>sub-01</option>' in page
    assert f'../scan/{STEM}' in page


def test_nothing_is_written_that_has_the_token(server, capfd):
    get(server, 'view/')
    ask(server, '/wrong')
    assert capfd.readouterr() == ('', '')


# -- scans -------------------------------------------------------------------------------------


def test_scans_are_read_where_the_tree_says(server, out):
    scan = out.parent / 'raw/sub-01/anat/sub-01_T1w.nii.gz'
    assert get(server, f'scan/{STEM}')[1] == scan.read_bytes()
    missing = 'sub-02/anat/sub-02_seg-synthseg_desc-T2w'
    assert get(server, f'scan/{missing}')[0].status == 404
    page = get(server, f'view/?image={missing}')[1].decode()
    assert '--bids-dir' in page
    assert '../scan/' not in page


def test_scans_of_a_dataset_that_has_moved(out, tmp_path):
    moved = tmp_path / 'elsewhere'
    folder = moved / 'sub-02/anat'
    folder.mkdir(parents=True)
    (folder / 'sub-02_T2w.nii.gz').write_bytes(b'moved')
    with served(out, moved) as server:
        place = 'scan/sub-02/anat/sub-02_seg-synthseg_desc-T2w'
        assert get(server, place)[1] == b'moved'
        assert get(server, f'scan/{STEM}')[0].status == 404


@pytest.mark.parametrize(
    'source',
    [
        'bids:raw:../secret.txt', 'bids:raw:%2e%2e/secret.txt', 'bids:raw:/etc/passwd',
        'bids:raw:secret.txt', 'bids:raw:sub-01/anat/../../../sub-x_T1w.nii', 'raw:sub-x_T1w.nii',
        'bids:raw:../sub-x_T1w.nii', 'bids:raw:%2E%2E%2Fsub-x_T1w.nii', 'sub-x_T1w.nii', '', ':',
        'bids:raw:sub-x_acq-out_T1w.nii', 'bids:raw:sub-x/sub-x_T1w.nii', 'bids:raw:',
        'bids:root:etc/passwd', 'bids:web:sub-x_T1w.nii', 'bids:odd:sub-x_T1w.nii',
        'bids:raw:.sub-x_T1w.nii',
        'bids:raw:sub-x_T1w.json', 'bids:raw:.git/sub-x_T1w.nii', 'bids:raw:sub-x_T1w.nii%00.nii',
    ],
)  # fmt: skip
def test_no_source_leaves_its_dataset(tmp_path, source):
    out, raw = tmp_path / 'out', tmp_path / 'raw'
    for folder in (out, raw / '.git', tmp_path / 'outside'):
        folder.mkdir(parents=True)
    for place in (
        tmp_path / 'secret.txt', tmp_path / 'sub-x_T1w.nii', raw / 'secret.txt',
        raw / 'sub-x_T1w.json', raw / '.git/sub-x_T1w.nii', tmp_path / 'outside/sub-x_T1w.nii',
        raw / '.sub-x_T1w.nii',
    ):  # fmt: skip
        place.write_bytes(SECRET)
    (raw / 'sub-x_acq-out_T1w.nii').symlink_to(tmp_path / 'sub-x_T1w.nii')
    (raw / 'sub-x').symlink_to(tmp_path / 'outside')
    links = {'raw': '../raw', 'root': '/', 'web': 'https://example.org/x', 'odd': ['x']}
    write_json(out / 'dataset_description.json', {'DatasetLinks': links, 'SourceDatasets': 3})
    assert find_scan(out, source) is None


def test_sources_may_be_links_within_their_dataset(tmp_path):
    """As in datasets of DataLad."""
    out, raw = tmp_path / 'out', tmp_path / 'raw'
    out.mkdir()
    (raw / '.git/annex').mkdir(parents=True)
    (raw / '.git/annex/key').write_bytes(b'scan')
    (raw / 'sub-x_T1w.nii.gz').symlink_to('.git/annex/key')
    for content in (
        {'DatasetLinks': {'raw': '../raw'}},
        {'DatasetLinks': {'raw': raw.as_uri()}},
        {'SourceDatasets': [{'URL': '../raw'}]},
    ):
        write_json(out / 'dataset_description.json', content)
        found = find_scan(out, 'bids:raw:sub-x_T1w.nii.gz')
        assert found is not None
        assert found.read_bytes() == b'scan'


def test_sidecars_that_say_odd_things(out, tmp_path):
    """Nothing but a label map of ours whose sidecar names the scan it is named after."""
    copy = write_viewed_tree(tmp_path)
    path = copy / f'{STEM}_dseg.json'
    with served(copy) as server:
        for sources in (
            'bids:raw:x',
            [],
            {},
            3,
            [None],
            ['bids:raw:sub-02/anat/sub-02_T1w.nii.gz'],
        ):
            write_json(path, {**read_description(path), 'Sources': sources})
            assert get(server, f'scan/{STEM}')[0].status == 404
            assert get(server, 'view/?participant=sub-01')[0].status == 200


def test_the_map_on_the_own_grid_comes_first(tmp_path):
    out = write_viewed_tree(tmp_path, ['01'])
    own, other = output_files(STEM, ['dseg']), output_files(STEM, ['dseg1mm'])
    for name, copy in zip(own, other, strict=True):
        (out / copy).write_bytes((out / name).read_bytes())
    assert [
        found.path for found in list_label_maps(out, 'sub-01') if found.image.stem == STEM
    ] == [own[0]]
    (out / own[0]).unlink()
    assert find_label_map(out, STEM).path == other[0]
    (out / other[1]).unlink()
    assert find_label_map(out, STEM) is None


def test_what_the_sidecar_says_is_shown(tmp_path):
    out = write_viewed_tree(tmp_path, ['01'])
    page = viewer_page(out, 'sub-01', STEM)
    assert 'cal_max' not in page
    assert 'White matter lesions' not in page
    path = out / f'{STEM}_dseg.json'
    write_json(path, {**read_description(path), 'CT': True, 'LesionLabel': True})
    page = viewer_page(out, 'sub-01', STEM)
    assert '"cal_max":80' in page
    assert 'White matter lesions' in page
    assert '"index":77' in page


# -- NiiVue ------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec('ipyniivue') is None, reason='ipyniivue is not installed')
def test_niivue_is_the_one_that_is_installed(server):
    answer, content = get(server, 'view/niivue.js')
    assert answer.getheader('Content-Type') == 'text/javascript; charset=utf-8'
    assert b'Niivue' in content[-2000:]
    assert content == niivue.niivue_module()


def test_without_niivue_the_message_is_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(niivue, 'find_spec', lambda name: None)
    niivue.niivue_module.cache_clear()
    with pytest.raises(UsageError, match=r'^NiiVue is not installed; pip install .*$'):
        niivue.niivue_module()

"""The viewer as it is seen: NiiVue in headless Chromium, whose pictures are looked into."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chromium import EXECUTABLE, Chromium
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from PIL import Image
from random_parcels import with_parcels
from report_tree import small_head
from viewed_tree import STEM, served, write_viewed_tree

from synthseg_bids.bids.save import output_files
from synthseg_bids.files import read_description, write_json
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.parcels import CORTEX, parcel_labels
from synthseg_bids.reports.server import ViewerServer
from synthseg_bids.reports.structures import sided_name
from synthseg_bids.reports.subject import write_subject_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(EXECUTABLE is None, reason='Chromium is not installed'),
    pytest.mark.skipif(find_spec('ipyniivue') is None, reason='ipyniivue is not installed'),
]

READY = 'document.getElementById("state").hidden'
#: Two frames later what was asked for is drawn.
DRAWN = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))'
#: What is told of background: a space that keeps the line as high as others.
NOTHING = '\u200b'
EVIL = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\'"&'


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_viewed_tree(tmp_path_factory.mktemp('viewed'))


@pytest.fixture(scope='module')
def server(out: Path) -> Iterator[ViewerServer]:
    with served(out) as server:
        yield server


@pytest.fixture
def page(browser: Chromium, server: ViewerServer) -> Iterator[Chromium]:
    """A browser in whose pages nothing must go wrong and which asks nobody but the server."""
    browser.problems.clear()
    browser.requests.clear()
    browser.resize(1300, 900)
    yield browser
    # The driver's remark on the speed of reading pixels.
    assert [text for text in browser.problems if 'GL Driver Message' not in text] == []
    ours = (server.address, 'data:', 'blob:', 'file:', 'about:')
    assert [address for address in browser.requests if not address.startswith(ours)] == []


def show(page: Chromium, server: ViewerServer, query: str = f'image={STEM}') -> Chromium:
    page.open(f'{server.address}view/?{query}')
    page.wait_for(READY)
    page.run('sessionStorage.clear()')
    return page


def picture(page: Chromium, tmp_path: Path) -> np.ndarray:
    """Return what is drawn, (rows, columns, 3)."""
    page.run(DRAWN)
    box = page.run('(() => { const b = canvas.getBoundingClientRect();'
                   'return [b.left, b.top, b.right, b.bottom].map(Math.round); })()')  # fmt: skip
    page.screenshot(tmp_path / 'page.png')
    whole = Image.open(BytesIO((tmp_path / 'page.png').read_bytes())).convert('RGB')
    return np.asarray(whole.crop(tuple(box))).astype(int)


def shares(pixels: np.ndarray) -> dict[int, int]:
    """Count the pixels in the colour of each label."""
    return {
        label.index: int((abs(pixels - label.rgb).max(-1) < 12).sum())
        for label in segmentation_labels()
        if label.index
    }


def slide(page: Chromium, value: int) -> None:
    page.run(f'opacity.value = {value}; opacity.dispatchEvent(new Event("input"))')


def test_scan_and_labels_in_the_colours_of_the_table(page, server, tmp_path):
    show(page, server)
    slide(page, 100)
    assert sum(count > 200 for count in shares(picture(page, tmp_path)).values()) >= 6
    slide(page, 0)
    bare = picture(page, tmp_path)
    colourful = np.ptp(bare, axis=-1) > 40
    # But for the lines of the cross.
    assert colourful.mean() < 0.02
    assert (bare.max(-1) > 60).mean() > 0.1
    slide(page, 50)
    half = picture(page, tmp_path)
    assert (np.ptp(half, axis=-1) > 40).mean() > 0.1


def test_one_structure_and_the_scan_alone(page, server, tmp_path):
    show(page, server)
    slide(page, 100)
    everything = shares(picture(page, tmp_path))
    shown = max(everything, key=lambda index: everything[index])
    button = f'document.querySelector(`[data-labels~="{shown}"]`)'
    page.run(f'{button}.click()')
    alone = shares(picture(page, tmp_path))
    others = [label.index for label in segmentation_labels() if label.index in everything]
    twins = {label.index for label in segmentation_labels() if label.mirror == shown} | {shown}
    assert alone[shown] == pytest.approx(everything[shown], rel=0.2)
    assert all(alone[index] < 30 for index in others if index not in twins and not grey(index))
    page.press('f')
    assert shares(picture(page, tmp_path))[shown] < 30
    page.press('f')
    page.run(f'{button}.click()')
    assert page.run(f'{button}.ariaPressed') == 'false'
    again = shares(picture(page, tmp_path))
    assert again == pytest.approx(everything, abs=20)


def grey(index: int) -> bool:
    """Tell whether the scan may have the colour of a label."""
    (label,) = [label for label in segmentation_labels() if label.index == index]
    return max(label.rgb) - min(label.rgb) < 40


def point_at(page: Chromium) -> list[tuple[int, int, str, str]]:
    """Point all over the pictures; return where, and the name and the place that are told."""
    return page.run(
        '(() => { const found = [], box = canvas.getBoundingClientRect();'
        'for (let x = 5; x < box.width; x += 17) for (let y = 5; y < box.height; y += 17) {'
        '  const at = {clientX: box.left + x, clientY: box.top + y};'
        '  canvas.dispatchEvent(new PointerEvent("pointermove", at));'
        '  found.push([at.clientX, at.clientY, document.querySelector("output").textContent,'
        '    place.textContent]); }'
        'return found; })()'
    )


def test_pointing_names_what_is_there_also_in_oblique_scans(browser, page, tmp_path):
    """The name and the place that are told are those of the label map, read by NiBabel."""
    out = write_viewed_tree(tmp_path, ['01'])
    scan, labels, affine = small_head()
    turn = from_matvec(euler2mat(0.3, 0.2, -0.25), [4, -7, 9])
    for path, data in (
        (out / f'{STEM}_dseg.nii.gz', labels),
        (tmp_path / 'raw/sub-01/anat/sub-01_T1w.nii.gz', scan),
    ):
        nib.save(nib.Nifti1Image(data[:, ::-1].transpose(1, 0, 2), turn @ affine), path)
    image = nib.load(out / f'{STEM}_dseg.nii.gz')
    stored = np.asarray(image.dataobj)
    names = {label.index: sided_name(label) for label in segmentation_labels()} | {0: NOTHING}
    with served(out) as server:
        show(page, server)
        # The cross starts between two voxels; where there is a label it is amid some.
        x, y = next((x, y) for x, y, name, _ in point_at(page) if name != NOTHING)
        for kind in ('mousePressed', 'mouseReleased'):
            page.send('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)
        found = point_at(page)
        page.requests.clear()
    # Places are told to the millimetre: left out are those with a border within it.
    around = np.array([*product((-0.5, 0.5), repeat=3)])
    checked = set()
    for _, _, name, place in found:
        mm = np.array([int(number) for number in re.findall(r'-?\d+', place)])
        voxels = np.rint(apply_affine(np.linalg.inv(image.affine), mm + around)).astype(int)
        if (voxels < 0).any() or (voxels >= stored.shape).any():
            continue
        labels = {int(stored[tuple(voxel)]) for voxel in voxels}
        if len(labels) == 1:
            assert name == names[labels.pop()]
            checked.add(name)
    assert len(checked) >= 8


def test_parcels(browser, page, tmp_path, rng):
    out = write_viewed_tree(tmp_path, ['01'], parcels=True)
    _, labels, affine = small_head()
    # What is seen first is not the cortex.
    labels[labels == 8] = CORTEX[0]
    data = {'dseg': labels, 'parcels': with_parcels(labels, rng)}
    for kind, voxels in data.items():
        nib.save(nib.Nifti1Image(voxels, affine), out / output_files(STEM, [kind])[0])
    with served(out) as server:
        show(page, server)
        assert 'left cerebral cortex' in {name for _, _, name, _ in point_at(page)}
        page.press('p')
        page.wait_for('document.getElementById("parcels").ariaPressed == "true"')
        picture(page, tmp_path)
        names = {name for _, _, name, _ in point_at(page)}
        assert 'left cerebral cortex' not in names
        assert names & {sided_name(label) for label in parcel_labels() if label.side == 'left'}
        shown = '[...document.querySelectorAll(".legend")].map(e => !e.hidden).join()'
        assert page.run(shown) == 'false,true'
        page.press('p')
        assert page.run(shown) == 'true,false'
        assert 'left cerebral cortex' in {name for _, _, name, _ in point_at(page)}
        page.requests.clear()


def test_from_a_report_to_the_viewer_and_back(page, server, out):
    page.open(f'{server.address}tree/sub-01.html')
    link = 'document.querySelector(".to-viewer")'
    assert page.run(f'getComputedStyle({link}).display') == 'inline'
    page.run('document.querySelector(".viewer button[data-mode=fill]").click()')
    assert page.run('document.querySelector("[data-mode=fill]").ariaPressed') == 'true'
    page.follow(f'{link}.click()')
    page.wait_for(READY)
    assert page.run('document.querySelector("[aria-current]").textContent').startswith('T1w')
    page.follow('document.querySelector("header a").click()')
    assert page.run('location.hash') == '#sub-01_T1w'
    page.open(out / 'sub-01.html')
    assert page.run(f'getComputedStyle({link}).display') == 'none'


def test_participants_are_changed(page, server):
    show(page, server, 'participant=sub-01')
    page.follow('document.querySelector("a[aria-label^=Next]").click()')
    page.wait_for(READY)
    assert page.run('location.search') == '?participant=sub-02'
    page.follow(
        'const choice = document.querySelector("select"); choice.value = "sub-01";'
        'choice.dispatchEvent(new Event("change"))'
    )
    page.wait_for(READY)
    assert page.run('location.search') == '?participant=sub-01'


def test_labels_alone_where_the_scan_is_missing(page, server, tmp_path):
    show(page, server, 'image=sub-02/anat/sub-02_seg-synthseg_desc-T2w')
    assert '--bids-dir' in page.run('document.querySelector(".note").textContent')
    slide(page, 100)
    assert sum(count > 20 for count in shares(picture(page, tmp_path)).values()) >= 4


@pytest.mark.parametrize('width', [390, 820, 1300])
def test_the_page_is_never_wider_than_the_screen(page, server, width):
    page.resize(width, 800, 2, mobile=width < 500)
    show(page, server)
    assert page.run('document.documentElement.scrollWidth') <= width
    assert page.run('canvas.getBoundingClientRect().height') > 300
    named = '[...document.querySelectorAll("button, select, input, a")].every(e => ' \
            'e.labels?.length || e.ariaLabel || e.textContent.trim())'  # fmt: skip
    assert page.run(named)


def test_a_forged_report_reads_nothing_and_sends_nothing(browser, server, out, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(out, copy)
    (copy / 'group.html').write_text(
        '<!DOCTYPE html><html lang="en"><script>window.got = []; (async () => {'
        'for (const place of ["group_morph.tsv", "../view/", "http://127.0.0.1:9/x"]) {'
        '  try { got.push(await (await fetch(place)).text()); } catch { got.push("refused"); } }'
        'try { got.push(String(localStorage)); } catch { got.push("refused"); } })()</script>'
    )
    with served(copy) as server:
        browser.open(f'{server.address}tree/group.html')
        browser.wait_for('window.got.length == 4')
        assert browser.run('window.got') == ['refused'] * 4


def test_hostile_text_does_nothing(page, out, tmp_path):
    copy = tmp_path / 'copy' / 'synthseg-bids'
    shutil.copytree(out, copy)
    (copy / 'sub-"><b>').mkdir()
    path = copy / f'{STEM}_dseg.json'
    write_json(
        path, {**read_description(path), 'Sources': [f'bids:{EVIL}:sub-01/anat/sub-01_T1w.nii.gz']}
    )
    (copy / f'{STEM}_qc.tsv').write_text(f'measure\tvalue\nverdict\t{EVIL}\n')
    write_subject_report(copy, '01')
    with served(copy) as server:
        show(page, server)
        assert page.run('window.hacked') is None
        assert page.run('document.body.innerText.includes("window.hacked=1")')
        page.requests.clear()

from __future__ import annotations

import os
import re
import shutil
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nipype.interfaces.base import isdefined
from page_tags import Tags
from report_tree import CRASH, small_head, write_tree

from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.status import STATUS_COLUMNS
from synthseg_bids.files import read_table, write_json, write_table, write_text
from synthseg_bids.interfaces import PlotSegmentation
from synthseg_bids.labels import LESION, LESION_NAME, segmentation_labels
from synthseg_bids.measure.overlap import TOTAL_NAME
from synthseg_bids.parcels import parcel_labels
from synthseg_bids.reports.group import write_group_report
from synthseg_bids.reports.mosaic import draw_mosaic, label_palette
from synthseg_bids.reports.page import markdown
from synthseg_bids.reports.png import write_grey, write_indexed
from synthseg_bids.reports.subject import write_subject_report

EVIL = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\'"&'


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp('reports'), sessions=('1', '2'))


@pytest.fixture
def evil_tree(tree: Path, tmp_path: Path) -> Path:
    """Text of every kind that others write, hostile."""
    out = tmp_path / 'evil'
    shutil.copytree(tree, out)
    write_json(out / 'dataset_description.json', {'Name': EVIL, 'GeneratedBy': [{'Name': EVIL}]})
    rows = read_table(out / 'group_status.tsv')
    for row in rows:
        row['reason'] = EVIL
    source = 'bids:raw:sub-01/anat/sub-01_%22%3Cb%3E%27_T1w.nii.gz'
    rows.append({**rows[0], 'source': source, 'status': 'skipped'})
    write_table(out / 'group_status.tsv', STATUS_COLUMNS, rows)
    write_text(out / CRASH, f'</pre>{EVIL}')
    write_text(out / 'logs' / 'CITATION.md', f'# {EVIL}\n\n{EVIL} http://x.y/"onclick="z\n')
    write_text(out / 'logs' / 'run-1' / 'config.toml', EVIL)
    for path in out.glob('sub-01/ses-1/anat/*_dseg.json'):
        sources = {'Sources': ['bids:raw:x'], 'Device': EVIL, 'ModelName': EVIL}
        write_json(path, sources)
    table = next(out.glob('sub-01/ses-1/anat/*T1w_dice.tsv'))
    table.write_text(table.read_text().replace('manual', EVIL))
    table = next(out.glob('sub-01/ses-1/anat/*T1w_qc.tsv'))
    rows = read_table(table)
    for row in rows:
        row['reason'] = EVIL
    write_table(table, list(rows[0]), rows)
    return out


# -- pictures ----------------------------------------------------------------------------------


def test_written_pictures_are_read_back(tmp_path, rng):
    grey = rng.integers(0, 256, (13, 9), dtype=np.uint8)
    grey[4:8] = 7
    write_grey(tmp_path / 'grey.png', grey)
    np.testing.assert_array_equal(np.rint(imread(tmp_path / 'grey.png') * 255), grey)
    colors = ['#000000', '#12ab9f', '#ff0001']
    write_indexed(tmp_path / 'index.png', grey % 3, colors)
    read = np.rint(imread(tmp_path / 'index.png') * 255).astype(int)
    np.testing.assert_array_equal(read[..., 3], np.where(grey % 3 == 0, 0, 255))
    np.testing.assert_array_equal(read[grey % 3 == 1][0], [0x12, 0xAB, 0x9F, 255])


def test_every_label_has_its_own_colour_close_to_the_table():
    palette = label_palette()
    every = (*segmentation_labels(lesions=True), *parcel_labels())
    assert len({*palette.values()}) == len(palette) == len(every)
    for label in every:
        assert abs(int(palette[label.index][1:], 16) - int(label.color[1:], 16)) < 4


def test_left_is_on_the_left_whatever_the_array_runs_along():
    scan, labels, affine = small_head()
    scan[:10] += 300  # the patient's left, as x runs to the right
    upright = draw_mosaic(scan, labels, affine)
    half = upright[0].shape[1] // 12
    axial = upright[0][-60:, :]
    assert axial[:, half - 40 : half - 20].mean() > 2 * axial[:, half + 20 : half + 40].mean()
    # Flipped and turned in the file, the same head gives the same picture.
    turned = np.diag([1.0, 1, 1, 1])[[0, 2, 1, 3]]
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = scan.shape[0] - 1
    other = draw_mosaic(
        scan[::-1].transpose(0, 2, 1), labels[::-1].transpose(0, 2, 1), affine @ flip @ turned
    )
    for one, two in zip(upright, other, strict=True):
        np.testing.assert_array_equal(one, two)


def test_slices_are_drawn_in_millimetres():
    scan, labels, affine = small_head()
    rows = draw_mosaic(scan, labels, affine)[0].shape[0]
    # 28 slices of 4 mm in sagittal and coronal tiles, 40 voxels of 2 mm in axial ones
    assert rows == 112 + 6 + 112 + 6 + 80


@pytest.mark.parametrize('content', ['no labels', 'one voxel', 'constant'])
def test_pictures_of_failures(content):
    scan, labels, affine = small_head()
    if content == 'constant':
        scan[:] = 5
    else:
        labels[:] = 0
        labels[20, 20, 15] = 10 if content == 'one voxel' else 0
    grey, overlay = draw_mosaic(scan, labels, affine)
    assert grey.shape == overlay.shape
    assert overlay.any() == (content != 'no labels')


def test_interface_draws_two_pictures_of_one_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan, labels, affine = small_head()
    nib.save(nib.Nifti1Image(scan, affine), 'scan.nii')
    nib.save(nib.Nifti1Image(labels, affine), 'labels.nii')
    outputs = PlotSegmentation(in_file='scan.nii', in_labels='labels.nii').run().outputs
    drawn, overlay = imread(outputs.out_scan), imread(outputs.out_overlay)
    assert drawn.shape == overlay.shape[:2]
    assert outputs.notes == []
    assert (overlay[..., 3] > 0).mean() > 0.1


def test_a_figure_that_fails_is_noted_and_costs_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan, _, affine = small_head()
    nib.save(nib.Nifti1Image(scan, affine), 'scan.nii')
    (tmp_path / 'labels.nii').write_bytes(b'not an image')
    outputs = PlotSegmentation(in_file='scan.nii', in_labels='labels.nii').run().outputs
    assert len(outputs.notes) == 1
    assert 'labels.nii' in outputs.notes[0]
    assert not isdefined(outputs.out_scan)
    assert not isdefined(outputs.out_overlay)


# -- reports -----------------------------------------------------------------------------------


def test_subject_report_tells_everything(tree):
    path = write_subject_report(tree, '01')
    assert path == tree / 'sub-01.html'
    page = Tags(path.read_text(encoding='utf-8'))
    assert {'overview', 'agreement', 'errors', 'methods', 'provenance'} <= {*page.ids}
    assert 'sub-01_ses-2_T2w' in page.ids
    assert page.tags.count('figure') == 4
    for said in (
        'Dice overlap with the reference manual',
        'Contrasts of one session',
        'Visits',
        'OSError: CRC check failed',
        'probably damaged or truncated',
        'device = "cpu"',
        'Scans were segmented with',
        'Volumes of all images',
        'Expected Dice of 8 groups of structures',
    ):
        assert said in page.text, said
    verdict = read_table(tree / 'sub-01/ses-1/anat/sub-01_ses-1_seg-synthseg_desc-T1w_qc.tsv')[-1]
    assert verdict['value'] in page.text


def test_group_report_tells_everything(tree):
    path = write_group_report(tree)
    text = path.read_text(encoding='utf-8')
    assert '"group":"Dice with manual","name":"Thalamus"' in text
    page = Tags(text)
    assert {'images', 'distributions', 'reliability', 'errors', 'methods'} <= {*page.ids}
    assert 'sub-02.html#sub-02_ses-1_T1w' in page.addresses
    assert 'OSError: CRC check failed' in page.text
    assert '12 done · 1 skipped · 1 failed' in page.text


def test_images_that_several_methods_segmented_count_once(tmp_path):
    out = write_tree(tmp_path, ['01'], ['1', '2'], label_maps=False)
    before = write_subject_report(out, '01').read_text(), write_group_report(out).read_text()
    for path in [*out.glob('sub-*/**/*_seg-synthseg_*')]:
        shutil.copy(path, path.with_name(path.name.replace('synthseg_', 'synthsegsession_')))
    write_group_tables(out)
    after = write_subject_report(out, '01').read_text(), write_group_report(out).read_text()
    tile = re.compile('<div class="tile">.*?</span></div>', re.S)
    # How many images there are, and how many passed quality control.
    for one, both in zip(before, after, strict=True):
        assert tile.findall(one)[:3] == tile.findall(both)[:3]
        assert one.count('sub-01_ses-1_T1w') < both.count('sub-01_ses-1_T1w')
    for page in before[0], after[0]:
        assert 'Test heads · 6 images in 2 sessions' in Tags(page).text
    for page in before[1], after[1]:
        assert '4 done · 1 skipped · 1 failed' in Tags(page).text


def test_reports_with_parcels(tmp_path):
    out = write_tree(tmp_path, ['01', '02'], parcels=True)
    text = write_subject_report(out, '01').read_text(encoding='utf-8')
    page = Tags(text)
    for said in ('Parcels of the cortex', 'Isthmus of the cingulate', 'Banks of the superior'):
        assert said in page.text, said
    # A layer for each of two pictures, with its own legend.
    assert page.tags.count('figure') == 2
    assert text.count('alt="Parcels of the cortex in the same slices"') == 2
    assert text.count('aria-label="Show one parcel" hidden') == 2
    assert '"left isthmus of the cingulate"' in text
    group = write_group_report(out).read_text(encoding='utf-8')
    assert '"group":"Volumes of parcels","unit":"ml","name":"Insula"' in group
    assert '"group":"Dice with manual","name":"Insula"' in group
    assert 'parcels of the cortex' in Tags(group).text
    rows = read_table(out / 'group_morph.tsv')
    assert len([name for name in rows[0] if name.startswith('ctx-')]) == 3 * 68
    assert list(rows[0]).index('ctx-lh-bankssts') < list(rows[0]).index(TOTAL_NAME)
    known = {row['name'] for row in read_table(out / 'group_reliability.tsv')}
    assert 'ctx-rh-insula' in known


def test_lesions_of_one_contrast_are_shown_and_are_white_matter_between_contrasts(tmp_path):
    tree = write_tree(tmp_path, ['01'], lesions=['T2w'])
    text = write_subject_report(tree, '01').read_text(encoding='utf-8')
    colour = int(label_palette()[LESION][1:], 16)
    # A button in the legend of the image that shows them, and a name for those who point at them.
    assert text.count(f'data-colors="{colour}"') == 1
    assert f'"{colour}":"white matter lesions"' in text
    # A row in its table of volumes, and in that of all images.
    assert text.count('White matter lesions</th>') == 2
    assert 'Cerebral white matter, lesions included' in Tags(text).text
    assert '"name":"White matter lesions"' in write_group_report(tree).read_text(encoding='utf-8')
    table = tree / 'sub-01/anat/sub-01_seg-synthseg_agreement.tsv'
    rows = {row['name']: row for row in read_table(table)}
    assert LESION_NAME not in rows
    assert rows['Left-Cerebral-White-Matter']['volume_difference'] == '0'


def test_links_of_the_group_report_lead_somewhere(tree):
    group = Tags(write_group_report(tree).read_text(encoding='utf-8'))
    places = set()
    for name in ('01', '02', '03'):
        report = Tags(write_subject_report(tree, name).read_text(encoding='utf-8'))
        places |= {f'sub-{name}.html#{place}' for place in report.ids}
    links = {a for a in group.addresses if a.startswith('sub-')}
    # What was not segmented has no section of its own.
    assert links - places == {
        'sub-01.html#sub-01_FLAIR',
        'sub-01.html#sub-01_bold',
    }
    assert len(links & places) == 12


@pytest.mark.parametrize('report', ['subject', 'group'])
def test_reports_need_nothing_from_outside(tree, report):
    path = write_subject_report(tree, '02') if report == 'subject' else write_group_report(tree)
    page = Tags(path.read_text(encoding='utf-8'))
    # The viewer is linked to where it serves the report, see test_viewer_browser.py.
    allowed = ('data:', '#', 'sub-', 'group.html', '../view/?image=sub-')
    assert [a for a in page.addresses if not a.startswith(allowed)] == []
    assert "default-src 'none'" in unescape(path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('report', ['subject', 'group'])
def test_text_of_others_stays_text(tree, evil_tree, report):
    def write(out):
        return write_subject_report(out, '01') if report == 'subject' else write_group_report(out)

    page = Tags(write(evil_tree).read_text(encoding='utf-8'))
    clean = Tags(write(tree).read_text(encoding='utf-8'))
    assert page.tags.count('script') == clean.tags.count('script')
    assert page.tags.count('img') == clean.tags.count('img')
    assert page.text.count('window.hacked=1') > 5
    assert {'b', 'a'} <= {*page.tags}


def test_notes_are_short(tree, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(tree, out)
    reasons = 'no brain; no signal; no header; no hope'
    rows = read_table(out / 'group_qc.tsv')
    changed = {row['source'] for row in rows[:2]}
    for row in rows[:2]:
        row |= {'verdict': 'fail', 'reasons': reasons}
    write_table(out / 'group_qc.tsv', list(rows[0]), rows)
    status = read_table(out / 'group_status.tsv')
    for row in status:
        if row['source'] == rows[0]['source']:
            row['reason'] = f'fail: {reasons}; no reference in fs'
    assert changed <= {row['source'] for row in status}
    write_table(out / 'group_status.tsv', STATUS_COLUMNS, status)
    for path in (write_group_report(out), write_subject_report(out, '01')):
        text = Tags(path.read_text('utf-8')).text
        assert text.count('fail: no brain; no signal; 2 more') == 2
        assert text.count('2 more; no reference in fs') == 1
        assert 'no hope' not in text


def test_many_sessions_have_a_report_each(tree, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(tree, out)
    write_subject_report(out, '01', most_sessions=1)
    write_group_report(out)
    pages = {path.name: Tags(path.read_text('utf-8')) for path in out.glob('*.html')}
    of_participant = {name for name in pages if name.startswith('sub-01')}
    assert of_participant == {'sub-01.html', 'sub-01_ses-1.html', 'sub-01_ses-2.html'}
    for session in ('1', '2'):
        page = pages[f'sub-01_ses-{session}.html']
        assert page.tags.count('figure') == 2
        assert f'sub-01_ses-{session}_T1w' in page.ids
        assert f'sub-01_ses-{3 - int(session)}_T1w' not in page.ids
        assert {'sub-01.html', 'group.html'} <= {*page.addresses}
    whole = pages['sub-01.html']
    assert whole.tags.count('figure') == 0
    assert {'overview', 'agreement', 'errors'} <= {*whole.ids}
    # Both link to where the images are; those without a session stay with the participant.
    for page in (whole, pages['group.html']):
        links = [link for link in page.addresses if link.startswith('sub-01_ses-1.html#')]
        assert {*links} == {f'sub-01_ses-1.html#sub-01_ses-1_{c}' for c in ('T1w', 'T2w')}
    assert 'sub-01.html#sub-01_FLAIR' in pages['group.html'].addresses
    # With fewer of them, what earlier reports have left goes.
    write_subject_report(out, '01', most_sessions=2)
    assert {path.name for path in out.glob('sub-01*.html')} == {'sub-01.html'}
    assert 'sub-01_ses-2_T2w' in Tags((out / 'sub-01.html').read_text('utf-8')).ids


def test_reports_of_an_earlier_run(tree, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(tree, out)
    write_text(out / 'logs/run-2/config.toml', 'device = "cuda"\n')
    write_text(out / 'logs/run-1/sub-01/crash-mended.txt', 'ValueError: mended since\n')
    write_text(out / 'logs/run-1/sub-02/crash-other.txt', 'ValueError: of another one\n')
    last = Tags(write_subject_report(out, '01').read_text('utf-8')).text
    assert 'device = "cuda"' in last
    assert 'mended since' not in last
    first = Tags(write_subject_report(out, '01', run_uuid='run-1').read_text('utf-8')).text
    assert 'device = "cpu"' in first
    assert 'mended since' in first
    assert '2 crashes in the run run-1' in first
    assert 'of another one' not in first
    assert 'of another one' in Tags(write_group_report(out, 'run-1').read_text('utf-8')).text


def test_an_empty_dataset_has_reports(tmp_path):
    write_json(tmp_path / 'dataset_description.json', {'Name': 'Nothing yet'})
    assert 'Nothing yet' in write_group_report(tmp_path).read_text(encoding='utf-8')
    assert 'sub-9' in write_subject_report(tmp_path, 'sub-9').read_text(encoding='utf-8')


def test_reports_name_no_crash_outside_the_dataset(tree, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(tree, out)
    secret = tmp_path / 'secret.txt'
    secret.write_text('secret words')
    rows = read_table(out / 'group_status.tsv')
    for row in rows:
        row['crash_file'] = os.path.relpath(secret, out)
    write_table(out / 'group_status.tsv', STATUS_COLUMNS, rows)
    assert 'secret words' not in write_subject_report(out, '01').read_text(encoding='utf-8')


def test_many_participants_stay_small(tmp_path):
    out = write_tree(tmp_path, [f'{i:03d}' for i in range(60)], label_maps=False)
    page = write_group_report(out).read_text(encoding='utf-8')
    # Next to the frame, less than a kilobyte per image.
    frame = write_group_report(write_tree(tmp_path / 'few', ['1'], label_maps=False))
    assert len(page) - frame.stat().st_size < 1000 * 120
    assert len(re.findall('<tr ', page)) == 122


# -- building blocks ---------------------------------------------------------------------------


def test_markdown():
    text = '# One\n\n- a\n- *b* **c** `d*e*`\n\nSee https://a.org/x_(y), *z*. 3 * 4 * 5'
    assert markdown(text) == (
        '<h3>One</h3><ul><li>a</li><li><em>b</em> <strong>c</strong> <code>d*e*</code></li></ul>'
        '<p>See <a href="https://a.org/x_" rel="noreferrer">https://a.org/x_</a>(y), <em>z</em>. '
        '3 * 4 * 5</p>'
    )

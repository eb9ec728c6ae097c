"""The paper's experiments with tiny networks: from scans and label maps to tables and page."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from app import program_here, write_description
from paper.__main__ import main
from paper.document import page
from paper.options import REPOSITORY
from paper.slices import cut, median_scans
from paper.statements import judge
from paper.steps import Step, StepError, contents_sha256
from paper.tables import table2_rows

from synthseg_bids.files import read_table
from synthseg_bids.labels import PAPER_STRUCTURES
from synthseg_bids.measure.overlap import MEAN_NAME


def head(seed):
    """A head of boxes with every structure of the paper, at 2 mm, left on the left."""
    labels = np.zeros((48, 48, 48), np.int16)
    labels[4:44, 4:44, 4:44] = 24
    for side, half in ((0, slice(8, 24)), (1, slice(24, 40))):
        for number, sides in enumerate(PAPER_STRUCTURES.values()):
            low = 7 + (number // 4) * 11 + seed % 2
            high = 7 + (number % 4) * 8
            labels[half, low : low + 11, high : high + 8] = sides[min(side, len(sides) - 1)]
    return labels


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two participants with references, one of them with a T2w scan, and a label map."""
    root = tmp_path_factory.mktemp('paper')
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2, 2, 1])
    for name in ('bids', 'references', 'samseg'):
        write_description(root / name, name)
    for subject, suffixes, by in (('01', ('T1w', 'T2w'), 'aseg'), ('02', ('T1w',), 'samseg')):
        labels = head(int(subject))
        for suffix in suffixes:
            grey = rng.permutation(np.linspace(20, 200, 256))[labels] + rng.normal(
                0, 5, labels.shape
            )
            for name, volume in (
                (f'bids/sub-{subject}/anat/sub-{subject}_{suffix}', grey.astype('f4')),
                (f'samseg/sub-{subject}/anat/sub-{subject}_seg-samseg_desc-{suffix}_dseg', labels),
                (f'references/sub-{subject}/anat/sub-{subject}_desc-{by}_dseg', labels),
            ):
                path = root / f'{name}.nii.gz'
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(volume, affine), path)
    (root / 'maps').mkdir()
    nib.save(nib.Nifti1Image(head(0), np.diag([1.0, 1, 1, 1])), root / 'maps' / 'one.nii.gz')
    return root


def options(data, docs, *more):
    paths = {'bids': 'bids', 'references': 'references', 'label-maps': 'maps', 'work': 'run'}
    named = [part for key, name in paths.items() for part in (f'--{key}', str(data / name))]
    named += ['--size', 'smoke', '--threads', '1', '--device', 'cpu', '--train-on', '01']
    named += ['--held-out', '--systems', 'synthseg', 'rule', 'supervised', 'samseg']
    return [*more, *named, '--samseg-tree', str(data / 'samseg'), '--docs', str(docs)]


@pytest.mark.slow
def test_from_data_to_page(data, tmp_path, monkeypatch):
    monkeypatch.setattr('paper.steps.call', program_here)
    assert main(options(data, tmp_path)) == 0
    tables = tmp_path / 'paper'
    networks = read_table(tables / 'networks.tsv')
    assert [row['system'] for row in networks] == ['synthseg', 'rule', 'supervised']
    assert len({row['steps'] for row in networks}) == 1
    assert [row['trained_on'] for row in networks] == ['n/a', '01', '01']
    rows = read_table(tables / 'table2.tsv')
    counts = {(row['system'], row['contrast'], row['seen']): row['scans'] for row in rows}
    assert counts['synthseg', 'all', 'no'] == '3'
    assert counts['supervised', 'T1w', 'trained on'] == counts['rule', 'T2w', 'trained on'] == '1'
    assert counts['supervised', 'T1w', 'no'] == counts['samseg', 'T2w', 'no'] == '1'
    assert counts['samseg', 'T1w', 'own reference'] == '1'
    assert {row['mean'] for row in rows if row['system'] == 'samseg'} == {'1'}
    text = (tmp_path / 'paper.rst').read_text()
    assert '"SAMSEG", "yes", "T2w", "1", "1.000"' in text
    models = list((data / 'run').glob('networks/*/model.safetensors'))
    times = [path.stat().st_mtime_ns for path in models]
    assert len(times) == 3

    # What was done is not done again; figures and page need nothing but their tables.
    assert main(options(data, tmp_path, 'run')) == 0
    assert [path.stat().st_mtime_ns for path in models] == times
    shutil.rmtree(data / 'run')
    pictures = sorted(tables.glob('*.png'))
    drawn = ['figure2', 'figure3', 'figure4_T1w', 'figure4_T2w', 'figure5']
    assert [path.stem for path in pictures] == drawn
    for path in pictures[2:]:
        path.unlink()
    (tmp_path / 'paper.rst').unlink()
    assert main(options(data, tmp_path, 'figures')) == main(options(data, tmp_path, 'page')) == 0
    assert sorted(tables.glob('*.png')) == pictures
    assert (tmp_path / 'paper.rst').read_text() == text


def test_the_page_holds_the_numbers_of_its_tables():
    document = REPOSITORY / 'docs' / 'paper.rst'
    if not document.exists():
        pytest.skip('make paper has not been run')
    assert document.read_text(encoding='utf-8') == page(document.parent / 'paper')


def step(folder, text, **settings):
    """A step that appends to a file each time it is run."""

    def write(where):
        with open(where / 'out.txt', 'a') as stream:
            stream.write(text)

    return Step(folder, settings.pop('commands', ()), ('out.txt',), prepare=write, **settings)


def test_steps_are_repeated_when_their_settings_or_origins_change(tmp_path):
    command = ('synthseg', '--version')
    first = step(tmp_path / 'a', 'a', commands=(command,))
    second = step(tmp_path / 'b', 'b', after=(first,))
    for one in (first, second, first, second):
        one.run()
    assert (tmp_path / 'a/out.txt').read_text() + (tmp_path / 'b/out.txt').read_text() == 'ab'
    changed = step(tmp_path / 'a', 'c', commands=(command, command))
    changed.run()
    step(tmp_path / 'b', 'd', after=(changed,)).run()
    assert (tmp_path / 'a/out.txt').read_text() + (tmp_path / 'b/out.txt').read_text() == 'cd'
    (tmp_path / 'a/out.txt').unlink()
    changed.run()
    assert (tmp_path / 'a/out.txt').read_text() == 'c'


def test_steps_are_repeated_when_what_they_read_changes(tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/scan').write_text('1')
    commands = (('synthseg', '--version'),)
    for text, content in (('a', '1'), ('b', '1'), ('c', '2')):
        (tmp_path / 'data/scan').write_text(content)
        contents_sha256.cache_clear()
        one = step(tmp_path / 'out', text, commands=commands, inputs=(tmp_path / 'data',))
        one.run()
    assert (tmp_path / 'out/out.txt').read_text() == 'c'


def test_a_step_that_fails_is_run_again(tmp_path):
    failing = step(tmp_path, 'x', commands=(('synthseg', 'evaluate'),))
    for times in (1, 2):
        with pytest.raises(StepError, match='exit code 2 from: synthseg evaluate'):
            failing.run()
        # its folder is kept, so that a training goes on where it was
        assert (tmp_path / 'out.txt').read_text() == 'x' * times


def rows(system, values, contrast='T1w', seen='no', seconds=2.0):
    return [
        {'system': system, 'number': 0, 'scan': f'{contrast}-{i}', 'contrast': contrast,
         'seen': seen, 'structure': MEAN_NAME, 'dice': value, 'seconds': seconds}
        for i, value in enumerate(values)
    ]  # fmt: skip


def test_statements_are_judged_by_paired_differences():
    scans = rows('synthseg', [0.8, 0.7, 0.75]) + rows('synthseg', [0.6], 'T2w')
    scans += rows('samseg', [0.7, 0.65], seconds=300.0) + rows('rule', [0.9, 0.8, 0.8])
    scans += rows('samseg', [1.0], 'T2w', 'own reference')
    scans += rows('supervised', [0.85, 0.6, 0.75]) + rows('supervised', [0.3], 'T2w')
    scans += rows('shipped', [0.6, 0.6])
    samseg, shipped, rule, rule_t1w, own, other, contrasts, width, time = judge(scans)
    assert (samseg['verdict'], samseg['scans']) == ('holds', 2)
    assert samseg['here'] == pytest.approx(0.075)
    assert (shipped['verdict'], shipped['paper']) == ('does not hold', 0.02)
    assert (samseg['paper'], rule['paper']) == (0.02, 0.03)
    assert rule['verdict'] == rule_t1w['verdict'] == 'does not hold'
    assert (own['verdict'], own['scans']) == ('not measured', 0)
    assert (other['verdict'], other['paper']) == ('undecided', 0.27)
    assert (contrasts['verdict'], contrasts['here']) == ('undecided', pytest.approx(0.3))
    assert width['here'] == pytest.approx(0.15)
    # One T2w scan is too few.
    assert width['verdict'] == 'undecided'
    assert (time['here'], time['verdict']) == (150, 'holds')


def test_a_system_that_is_missing_says_why():
    table = table2_rows(rows('synthseg', [0.5, 0.7]), {'synthseg': 'none', 'samseg': 'not there'})
    assert table[-1] == {'system': 'samseg', 'any_contrast': 'yes', 'note': 'not there'}
    assert [row['contrast'] for row in table[:-1]] == ['T1w']
    assert table[0]['mean'] == pytest.approx(0.6)
    assert table[0]['sd'] == pytest.approx(0.02**0.5)


def test_the_median_scan_is_one_that_may_be_shown():
    scans = rows('synthseg', [0.1, 0.2, 0.3, 0.4]) + rows('synthseg', [0.5], 'T2w')
    assert median_scans(scans, {'T1w-0', 'T1w-1', 'T1w-3'}) == {'T1w': 'T1w-1'}


def test_slices_show_left_on_the_left(data):
    from synthseg_bids.training.real_scans import find_pairs

    pair = find_pairs(data / 'bids', {'reference': data / 'references'})[0]
    panels = cut(pair, {'samseg': pair.reference, 'absent': None})
    assert [*panels] == ['Scan', 'Reference', 'samseg']
    reference = panels['Reference']
    np.testing.assert_array_equal(reference, panels['samseg'])
    middle = reference.shape[1] // 2
    assert reference[:, :middle].max() < 41
    assert reference[:, middle + 1 :].max() > 41

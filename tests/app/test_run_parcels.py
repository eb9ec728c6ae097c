"""The BIDS App with parcels of the cortex, from the command line to its output tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app import Run, options, run_here, write_description, write_image
from parcel_models import save_cortex_model, save_tiny_parcels

from synthseg_bids.app.main import main
from synthseg_bids.bids.save import output_files
from synthseg_bids.files import read_table
from synthseg_bids.measure.parcel_overlap import MEAN_OF_PARCELS
from synthseg_bids.models.card import read_card
from synthseg_bids.parcels import CORTEX, aparcaseg_labels, parcel_labels

pytestmark = pytest.mark.slow

IMAGE = 'sub-01/anat/sub-01_T1w.nii.gz'
STEM = 'sub-01/anat/sub-01_seg-synthseg_desc-T1w'


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes everything for cortex."""
    return save_cortex_model(tmp_path_factory.mktemp('model') / 'cortex.safetensors')


@pytest.fixture(scope='module')
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {'SYNTHSEG_BIDS_MODELS': str(save_tiny_parcels(tmp_path_factory.mktemp('parcels')))}


@pytest.fixture(scope='module')
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'raw'
    write_description(root, 'Toy')
    write_image(root / IMAGE, (16, 17, 18), spacing=(8.0, 8.0, 8.0))
    return root


@pytest.fixture(scope='module')
def reference(raw: Path) -> Path:
    root = raw.parent / 'references'
    write_description(root, 'References')
    labels = np.full((16, 17, 18), 1001, np.int16)
    labels[8:], labels[:, 9:], labels[8:, 9:] = 1035, 2, 41
    path = root / 'sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz'
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(labels, nib.load(raw / IMAGE).affine), path)
    return root


@pytest.fixture(scope='module')
def run(raw: Path, reference: Path, model: Path, environment: dict[str, str]) -> Run:
    more = ('--level', 'full', '--posteriors', 'none', '--aseg-stats', '--fast')
    out = raw.parent / 'out' / 'synthseg-bids'
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return run_here(raw, out, model, *more, '-d', f'fs={reference}')


def data_of(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_label_maps(run):
    assert run.code == 0
    for labels, parcels in (('dseg', 'parcels'), ('dseg1mm', 'parcels1mm')):
        names = [output_files(STEM, [kind])[0] for kind in (labels, parcels)]
        plain, found = (data_of(run.out / name) for name in names)
        cortex = plain == CORTEX[0]
        assert cortex.any()
        assert {*np.unique(found[cortex])} <= {x.index for x in parcel_labels() if x.target == 3}
        np.testing.assert_array_equal(found[~cortex], plain[~cortex])
    rows = read_table(run.out / 'seg-aparcaseg_dseg.tsv')
    assert [int(row['index']) for row in rows] == [x.index for x in aparcaseg_labels(True)]


def test_tables(run):
    volumes = {row['name']: row for row in read_table(run.out / f'{STEM}_morph.tsv')}
    group = read_table(run.out / 'group_morph.tsv')[0]
    for label in parcel_labels():
        assert group[label.name] == volumes[label.name]['volume_mm3']
    dice = {row['name']: row['dice'] for row in read_table(run.out / f'{STEM}_dice.tsv')}
    assert len(dice) == 32 + 68 + 2
    assert 0 <= float(dice[MEAN_OF_PARCELS]) <= 1
    assert MEAN_OF_PARCELS in read_table(run.out / 'group_dice.tsv')[0]
    quality = {row['measure']: row['value'] for row in read_table(run.out / f'{STEM}_qc.tsv')}
    # The other hemisphere is missing altogether.
    assert int(quality['n_missing_parcels']) >= 34
    assert '/aparc.stats' not in run.stderr
    text = (run.out / f'{STEM}_aparc.stats').read_text()
    assert text.count('ctx-lh-') == text.count('ctx-rh-') == 34


def test_report_and_methods_tell_of_parcels(run):
    assert 'Show one parcel' in (run.out / 'sub-01.html').read_text(encoding='utf-8')
    assert '[@desikan2006]' in (run.out / 'logs/CITATION.md').read_text()
    assert 'Desikan' in (run.out / 'logs/CITATION.bib').read_text()


def test_tree_is_valid_bids(run, validator):
    answer = subprocess.run([validator, str(run.out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_resume(run, raw, model, environment, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def plan(*more):
        main(options(raw, run.out, model, '--fast', '--dry-run', *more))
        return capsys.readouterr().out

    assert '0 to segment, 1 skipped' in plan('--parc')
    assert '0 to segment, 1 skipped' in plan()
    card = next(Path(environment['SYNTHSEG_BIDS_MODELS']).glob('*.json'))
    sidecar = (run.out / f'{STEM}_dseg.json').read_text()
    assert read_card(card.with_suffix('.safetensors')).sha256 in sidecar
    monkeypatch.delenv('SYNTHSEG_BIDS_MODELS')
    assert 'model of parcels changed' in plan('--parc')
    assert '0 to segment, 1 skipped' in plan()
    (run.out / output_files(STEM, ['parcels'])[0]).rename(raw.parent / 'parcels.nii.gz')
    monkeypatch.setenv('SYNTHSEG_BIDS_MODELS', environment['SYNTHSEG_BIDS_MODELS'])
    assert 'seg-aparcaseg_desc-T1w_dseg.nii.gz' in plan('--parc')
    (raw.parent / 'parcels.nii.gz').rename(run.out / output_files(STEM, ['parcels'])[0])


def test_other_methods_have_none(raw, tmp_path, capsys):
    assert (
        main([str(raw), str(tmp_path / 'out'), 'participant', '--method', 'samseg', '--parc']) == 2
    )
    assert '--parc (or --level full): not with --method samseg' in capsys.readouterr().err

"""Damaged intermediate results of any kind are made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from app import contents, options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import make_dataset

from synthseg_bids.app.main import main
from synthseg_bids.workflows.intermediate import drop_damaged


@pytest.fixture(scope='module')
def done(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp('done')
    (folder / 'linear.toml').write_text('plugin = "Linear"\n')
    make_dataset(folder)
    run(folder, tiny_model)
    return folder


def run(folder: Path, model: Path) -> int:
    plugin = ['--use-plugin', folder / 'linear.toml']
    return main(options(folder / 'raw', folder / 'out', model, *plugin))


def image_folder(folder: Path) -> Path:
    return next(path.parents[1] for path in sorted(folder.glob('work/*/sub-*/*/segment/dseg.*')))


@pytest.mark.parametrize('name', ['segment/dseg.nii.gz', 'measure/morph.tsv', 'assess/qc.tsv',
                                  'segment/result_segment.pklz', 'plot/dseg.png'])  # fmt: skip
def test_a_truncated_intermediate_file_is_made_again(done, tiny_model, caplog, name):
    before = contents(done / 'out')
    path = image_folder(done) / name
    path.write_bytes(path.read_bytes()[:-15])
    shutil.rmtree(done / 'out')
    assert run(done, tiny_model) == 0
    assert f'{path}: ' in caplog.text
    assert 'it is made again' in caplog.text
    assert contents(done / 'out') == before
    caplog.clear()
    shutil.rmtree(done / 'out')
    assert run(done, tiny_model) == 0
    assert 'made again' not in caplog.text


@pytest.mark.parametrize('name', ['segment/dseg.nii.gz', 'measure/morph.tsv'])
def test_any_length_and_any_byte_is_noticed(done, tmp_path, name):
    folder = Path(shutil.copytree(image_folder(done), tmp_path / 'image'))
    kept = Path(shutil.copytree(folder, tmp_path / 'kept'))
    content = (folder / name).read_bytes()
    assert drop_damaged(folder) == []

    @given(st.integers(0, len(content) - 1), st.integers(0, 255))
    @settings(max_examples=20, deadline=None,
              suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
    def harm(place, change):
        damaged = content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]
        (folder / name).write_bytes(damaged if change else content[:place])
        assert drop_damaged(folder) == [name.partition('/')[0]]
        shutil.copytree(kept, folder, dirs_exist_ok=True)

    harm()
    assert drop_damaged(tmp_path / 'nowhere') == []

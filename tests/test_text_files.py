"""Text files as people save them."""

from __future__ import annotations

import codecs
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthseg_bids.app.config import ConfigError, read_config, read_plugin
from synthseg_bids.bids.agreement import read_source
from synthseg_bids.bids.errors import QueryError
from synthseg_bids.bids.filters import read_filters
from synthseg_bids.bids.ignore import is_litter, read_bidsignore
from synthseg_bids.bids.metadata import read_description
from synthseg_bids.files import EncodingError, read_table, read_text, write_table
from synthseg_bids.files import read_description as read_sidecar
from synthseg_bids.synth.prepared_files import read_facts

#: What editors write: plain, Notepad's and PowerShell's.
ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16')
LATIN_1 = 'sub-Zoë/\n'.encode('latin-1')


@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\r\ufeff')),
    encoding=st.sampled_from(ENCODINGS),
    end=st.sampled_from(['\n', '\r\n', '\r']),
)
def test_text_is_read_whatever_it_was_saved_as(tmp_path_factory, text, encoding, end):
    path = tmp_path_factory.mktemp('text') / 'file.txt'
    path.write_bytes(text.replace('\n', end).encode(encoding))
    assert read_text(path) == text


@settings(deadline=None)
@given(content=st.binary(max_size=60))
def test_what_is_no_text_is_refused_or_read_but_never_dropped(tmp_path_factory, content):
    path = tmp_path_factory.mktemp('text') / 'file.txt'
    path.write_bytes(content)
    try:
        text = read_text(path)
    except EncodingError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert bool(text) == bool(content.removeprefix(codecs.BOM_UTF8)) or len(content) == 2


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_the_first_rule_counts(tmp_path, encoding):
    (tmp_path / '.bidsignore').write_bytes('sub-pilot/\r\n*_T2w.nii\r\n'.encode(encoding))
    ignored = read_bidsignore(tmp_path)
    assert ignored('sub-pilot/anat/sub-pilot_T1w.nii')
    assert ignored('sub-1/anat/sub-1_T2w.nii')
    assert not ignored('sub-1/anat/sub-1_T1w.nii')


def test_rules_that_cannot_be_read_are_an_error(tmp_path):
    (tmp_path / '.bidsignore').write_bytes(b'# rules\n' + LATIN_1)
    with pytest.raises(QueryError, match=r'\.bidsignore: line 2 is neither UTF-8 nor UTF-16'):
        read_bidsignore(tmp_path)
    filters = tmp_path / 'filters.json'
    filters.write_bytes('{"t1w": {"acquisition": "Zoë"}}'.encode('latin-1'))
    with pytest.raises(QueryError, match=r'filters\.json'):
        read_filters(filters, ['T1w'])
    config = tmp_path / 'config.toml'
    config.write_bytes(b'# ' + LATIN_1)
    with pytest.raises(ConfigError, match=r'config\.toml'):
        read_config(config)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_settings_and_descriptions_are_read(tmp_path, encoding):
    filters = tmp_path / 'filters.json'
    filters.write_bytes(json.dumps({'t1w': {'session': 'a'}}).encode(encoding))
    assert read_filters(filters, ['T1w']) == {'T1w': {'ses': 'a'}}
    plugin = tmp_path / 'plugin.toml'
    plugin.write_bytes('plugin = "Linear"\r\n'.encode(encoding))
    assert read_plugin(plugin)[0] == 'Linear'
    (tmp_path / 'dataset_description.json').write_bytes('{"Name": "Zoë"}'.encode(encoding))
    assert read_description(tmp_path) == {'Name': 'Zoë'}


def test_a_description_that_cannot_be_read_is_named(tmp_path, caplog):
    (tmp_path / 'dataset_description.json').write_bytes(b'{"Name": "' + LATIN_1 + b'"}')
    assert read_description(tmp_path) == {}
    assert 'dataset_description.json' in caplog.text


@settings(deadline=None)
@given(
    content=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
    encoding=st.sampled_from(ENCODINGS),
)
def test_sidecars_are_read_whatever_they_were_saved_as(tmp_path_factory, content, encoding):
    path = tmp_path_factory.mktemp('text') / 'sidecar.json'
    path.write_bytes(json.dumps(content, ensure_ascii=True, indent=1).encode(encoding))
    assert read_sidecar(path) == content


@pytest.mark.parametrize('content', [b'{"Sources": ["' + LATIN_1 + b'"]}', b'{', b'', b'[1]'])
def test_a_sidecar_that_cannot_be_used_is_named(tmp_path, caplog, content):
    path = tmp_path / 'sub-1_dseg.json'
    assert read_source(path) is None
    assert not caplog.text  # it is absent
    path.write_bytes(content)
    assert read_source(path) is None
    assert 'sub-1_dseg.json: cannot be read' in caplog.text


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_tables_that_people_edited_are_read(tmp_path, encoding):
    path = tmp_path / 'participants.tsv'
    path.write_bytes('name\tage\r\nZoë\tinfant\r\n'.encode(encoding))
    assert read_table(path) == [{'name': 'Zoë', 'age': 'infant'}]
    assert read_facts(path) == {'Zoë': {'name': 'Zoë', 'age': 'infant'}}


@pytest.mark.parametrize(
    ('name', 'litter'),
    [('._sub-1_T1w.nii', True), ('.DS_Store', True), ('Thumbs.db', True), ('sub-1.nii~', True),
     ('#sub-1.nii#', True), ('sub-1_T1w.nii.gz', False), ('.sub-1_T1w.nii', False)],
)  # fmt: skip
def test_what_systems_leave_behind(name, litter):
    assert is_litter(name) == litter


def test_the_ending_decides_what_separates_cells(tmp_path):
    rows = [{'name': 'a, b', 'volume': 1.5}, {'name': 'c', 'volume': np.nan}]
    write_table(tmp_path / 'x.csv', ['name', 'volume'], rows)
    assert (tmp_path / 'x.csv').read_text() == 'name,volume\n"a, b",1.5\nc,n/a\n'
    write_table(tmp_path / 'x.tsv', ['name', 'volume'], rows)
    assert read_table(tmp_path / 'x.tsv')[1] == {'name': 'c', 'volume': 'n/a'}

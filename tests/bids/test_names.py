from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from synthseg_bids.bids.names import (
    SOURCE_ENTITIES,
    bids_uri,
    derivative_stem,
    parse_name,
)

LABEL = st.text('ab1', min_size=1, max_size=3)
ENTITIES = st.fixed_dictionaries(
    {'sub': LABEL}, optional=dict.fromkeys(SOURCE_ENTITIES[1:], LABEL)
)
SUFFIX = st.sampled_from(['T1w', 'T2w', 'inplaneT1', 'UNIT1'])


@settings(deadline=None)
@given(st.lists(st.tuples(ENTITIES, SUFFIX), min_size=2, max_size=8))
def test_two_images_never_share_an_output(images):
    names = {derivative_stem(e, s) for e, s in images}
    distinct = {(tuple(sorted(e.items())), s) for e, s in images}
    assert len(names) == len(distinct)


@settings(deadline=None)
@given(ENTITIES, SUFFIX)
def test_derivative_names_keep_the_entities_of_their_source(entities, suffix):
    stem = derivative_stem(entities, suffix)
    assert parse_name(f'{stem}_dseg.nii.gz') == (
        {**entities, 'seg': 'synthseg', 'desc': suffix},
        'dseg',
        '.nii.gz',
    )
    kept = [part.partition('-')[0] for part in stem.split('_')]
    order = [*SOURCE_ENTITIES, 'seg', 'desc']
    assert kept == sorted(kept, key=order.index)


def test_entities_that_a_label_map_may_not_carry_go_to_desc():
    assert derivative_stem({'sub': '1', 'inv': '2', 'run': '3'}, 'MP2RAGE') == (
        'sub-1_run-3_seg-synthseg_desc-MP2RAGEinv2'
    )


def test_names_that_are_not_bids():
    for name in ('scan.nii', 'T1w.nii.gz', 'ses-1_T1w.nii', 'sub-1_sub-2_T1w.nii', 'sub-1_.nii'):
        assert parse_name(name) is None


def test_uri():
    assert bids_uri('raw', 'sub-1/anat/a b.nii') == 'bids:raw:sub-1/anat/a%20b.nii'


def test_uris_of_names_that_are_not_utf8():
    assert bids_uri('raw', os.fsdecode(b'sub-1/\xe9.nii')) == 'bids:raw:sub-1/%E9.nii'

"""The methods text of a run."""

from __future__ import annotations

import re

from synthseg_bids.bids.citation import write_citation


def test_methods_text_counts_images(tmp_path):
    stems = [
        'sub-1/ses-a/anat/sub-1_ses-a_seg-synthseg_desc-T1w',
        'sub-1/ses-b/anat/sub-1_ses-b_seg-synthseg_desc-T1w',
        'sub-2/ses-a/anat/sub-2_ses-a_seg-synthseg_desc-FLAIR',
    ]
    path = write_citation(tmp_path, stems, model='m', checksum='abc', spacing_mm=2, flip=False)
    text = ' '.join(path.read_text().split())
    assert '3 images of 2 participants in 3 sessions were segmented' in text
    assert 'There were 1 FLAIR, 2 T1w.' in text
    assert 'resampled linearly to 2 mm' in text
    assert 'probabilities of 32 structures' in text
    assert not any(word in text for word in ('mirrored', 'cropped', 'refined'))
    keys = set(re.findall(r'@(\w+)[;\]]', text))
    assert keys == set(re.findall(r'^@\w+\{(\w+),', path.with_suffix('.bib').read_text(), re.M))
    text = write_citation(
        tmp_path, stems[:1], model='m', checksum='a', spacing_mm=None, references=['fs']
    ).read_text()
    assert '1 image of 1 participant in 1 session was' in text
    assert 'those of fs by Dice' in text


def test_methods_text_tells_what_was_segmented_together(tmp_path):
    stems = ['sub-1/ses-a/anat/sub-1_ses-a_seg-synthseg_desc-T1w']
    card = {'model': 'm', 'checksum': 'a'}
    alone = ' '.join(write_citation(tmp_path, stems, **card).read_text().split())
    assert 'none were averaged or registered' in alone
    assert 'together' not in alone
    path = write_citation(tmp_path, stems, **card, sessions=True, visits=True)
    text = ' '.join(path.read_text().split())
    assert 'segmented by itself first.' in text
    assert 'images of each session were then segmented together' in text
    assert 'visits of each participant were then segmented together' in text
    keys = set(re.findall(r'@(\w+)[;\]]', text))
    assert keys == set(re.findall(r'^@\w+\{(\w+),', path.with_suffix('.bib').read_text(), re.M))


def test_methods_text_names_first_pass_and_refinement(tmp_path):
    stems = ['sub-1/anat/sub-1_seg-synthseg_desc-T1w']
    card = {'model': 'm', 'checksum': 'a', 'crop_mm': (160, 192, 160), 'intensity_weight': 0.75}
    path = write_citation(tmp_path, stems, lesions=True, **card)
    text = ' '.join(path.read_text().split())
    assert 'probabilities of 33 structures' in text
    assert 'first pass of the network found the brain' in text
    assert 'refined by the intensities of the image [@vanleemput1999; @samseg2016]' in text
    entries = path.with_suffix('.bib').read_text()
    assert '{vanleemput1999,' in entries
    assert '{samseg2016,' in entries
    text = write_citation(tmp_path, stems, **card, autocrop=False).read_text()
    assert 'cropped' not in text

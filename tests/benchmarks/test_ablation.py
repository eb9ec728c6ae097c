"""The ablation trains networks that differ in one thing, and measures them on the same scans."""

from __future__ import annotations

import ablation
import pytest
from ablation import BASE, CONDITIONS, VARIANTS
from heads import write_heads
from labelled_scans import write_dataset

from synthseg_bids.files import read_table


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_variants_are_trained_measured_and_kept(tmp_path, capsys):
    heads = tmp_path / 'heads'
    heads.mkdir()
    raw, references = write_dataset(tmp_path)
    places = [
        '--label-maps',
        write_heads(heads, scale=2),
        '--held-out',
        'map-2',
        '--docs',
        tmp_path,
    ]
    small = ['--steps', 2, '--features', 2, '--bids', raw]
    commands = [
        ['--variants', 'random', '--references', references],
        ['--variants', 'preset', '--references', tmp_path / 'absent'],
    ]
    for command in commands:
        assert ablation.main([str(word) for word in (*command, *small, *places)]) == 0
    rows = {row['variant']: row for row in read_table(tmp_path / 'ablation.tsv')}
    # In the order of the page, whatever was run first.
    assert list(rows) == ['preset', 'random']
    for row in rows.values():
        assert row['steps'] == '2'
        assert all(0 <= float(row[condition]) <= 1 for condition in CONDITIONS)
    assert 0 <= float(rows['random']['T1w']) <= 1
    assert rows['preset']['T1w'] == 'n/a'
    page = (tmp_path / 'ablation.rst').read_text()
    assert '"Random contrasts alone", "0.' in page
    assert page.count('"n/a", "n/a"') == 1
    assert 'Not measured yet: The same, another seed; ' in page
    capsys.readouterr()


def test_variants_differ_in_one_thing():
    assert {name for name, v in VARIANTS.items() if v.change(BASE) == BASE} == {'preset', 'seed'}
    for name, variant in VARIANTS.items():
        config = variant.change(BASE)
        changed = {field for field in vars(BASE) if getattr(config, field) != getattr(BASE, field)}
        # Cuts came with textures.
        assert changed == {'texture', 'artefacts'} if name == 'texture' else len(changed) <= 1

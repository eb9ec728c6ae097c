"""The code of docs/statistics.rst, run on made-up sites whose truth is known."""

from __future__ import annotations

import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_group_statistics import LABELS, add_volumes

from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.metadata import describe_dataset
from synthseg_bids.files import write_json, write_text

pytest.importorskip('neuroHarmonize', reason='ComBat: pip install the extra "test"')

PAGE = Path(__file__).parents[2] / 'docs' / 'statistics.rst'
CORTEX, HIPPOCAMPI = 3, (17, 53)
#: Yearly loss of every volume, size of what a site adds, loss of the hippocampi of patients.
LOSS, SHIFT, PATIENTS_LOSS = 0.004, 0.08, 0.3
PER_SITE = 40


def code() -> str:
    blocks = re.findall(r'\.\. code-block:: python\n\n((?:    .*\n|\n)+)', PAGE.read_text())
    return '\n'.join(textwrap.dedent(block) for block in blocks)


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the page on three sites; return its variables."""
    folder = tmp_path_factory.mktemp('page')
    raw, out = folder / 'raw', folder / 'out'
    write_json(raw / 'dataset_description.json', {'Name': 'Sites', 'BIDSVersion': '1.10.0'})
    describe_dataset(out, raw, {})
    rng = np.random.default_rng(0)
    typical = dict(zip((x.index for x in LABELS), rng.uniform(1e3, 2e5, len(LABELS)), strict=True))
    lines, cortex = ['participant_id\tage\tsex\tsite\tgroup'], []
    for i in range(3 * PER_SITE):
        site, patient = i % 3, i % 10 == 0
        age, size, noise = rng.uniform(20, 80), rng.normal(1, 0.08), rng.normal(0, 0.03, 32)
        factors = size * (1 - LOSS * (age - 50)) * (1 + noise)
        cortex.append(typical[CORTEX] * factors[[*typical].index(CORTEX)])
        factors *= 1 + SHIFT * (site - 1)
        volumes = {k: v * f for (k, v), f in zip(typical.items(), factors, strict=True)}
        for label in HIPPOCAMPI:
            volumes[label] *= 1 - PATIENTS_LOSS * patient
        add_volumes(out, f'sub-{i:03d}', 'T1w', volumes)
        group = 'patient' if patient else 'control'
        lines.append(f'sub-{i:03d}\t{age:.2f}\t{"MF"[i % 2]}\t{"abc"[site]}\t{group}')
    write_text(raw / 'participants.tsv', '\n'.join(lines) + '\n')
    write_group_tables(out, charts=True)
    variables: dict[str, Any] = {'true_cortex': np.array(cortex)}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # neuroHarmonize computes with numpy.matrix.
        warnings.simplefilter('ignore', PendingDeprecationWarning)
        patch.chdir(folder)
        exec(code(), variables)
    return variables


def site_means(values: pd.DataFrame, page: dict[str, Any]) -> np.ndarray:
    """Return the mean of each structure at each site, relative to that of all sites."""
    young = 1 - LOSS * (page['images']['age'] - 50)
    ageless = values.div(young, axis=0)[page['controls']]
    means = ageless.groupby(page['images']['site']).mean()
    return (means / means.mean()).to_numpy()


def test_sites_become_alike(page):
    before = site_means(page['images'][page['volumes']], page)
    after = site_means(page['harmonized'], page)
    assert abs(before - 1).max(axis=0).min() > 0.8 * SHIFT
    assert abs(after - 1).max() < 0.25 * SHIFT
    assert len(page['volumes']) == len(LABELS) + 1


def test_age_is_kept(page):
    """As it would be if all had been scanned at one site."""
    cortices = page['harmonized']['Left-Cerebral-Cortex'], page['true_cortex']
    slope, expected = (np.polyfit(page['images']['age'], x / x.mean(), 1)[0] for x in cortices)
    assert expected == pytest.approx(-LOSS, rel=0.3)
    assert slope == pytest.approx(expected, rel=0.05)


def test_centiles_of_controls_and_patients(page):
    centiles, controls = page['centiles']['hippocampus'], page['controls']
    assert centiles[controls].mean() == pytest.approx(50, abs=4)
    # As many as they should be of a uniform distribution, within three standard errors.
    for level in (10, 25, 50, 75, 90):
        error = 100 * (level / 100 * (1 - level / 100) / controls.sum()) ** 0.5
        below = 100 * (centiles[controls] < level).mean()
        assert below == pytest.approx(level, abs=3 * error)
    assert (centiles[~controls] < 5).all()
    assert (~controls).sum() == 3 * PER_SITE / 10


def test_brain_charts_have_controls_of_each_site(page):
    assert set(page['enough'].index.get_level_values('study')) == {'Sites_a', 'Sites_b', 'Sites_c'}
    assert page['enough'].all()
    assert page['charts']['AgeTransformed'].notna().all()

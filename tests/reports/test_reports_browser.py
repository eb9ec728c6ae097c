from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import EXECUTABLE, Chromium
from report_tree import write_tree
from test_reports import evil_tree, tree  # noqa: F401

from synthseg_bids.reports.group import write_group_report
from synthseg_bids.reports.subject import write_subject_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(EXECUTABLE is None, reason='Chromium is not installed'),
]

CANVAS = 'document.querySelector(".pane canvas")'
#: Pixels that are drawn on; read from a copy, which spares a warning about reading the original.
INK = f"""(() => {{
  const source = {CANVAS};
  const copy = new OffscreenCanvas(source.width, source.height);
  const context = copy.getContext('2d', {{ willReadFrequently: true }});
  context.drawImage(source, 0, 0);
  const data = context.getImageData(0, 0, copy.width, copy.height).data;
  let count = 0;
  for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
  return count;
}})()"""


@pytest.fixture
def page(browser: Chromium) -> Iterator[Chromium]:
    """A browser in whose pages nothing must go wrong and from which nothing must leave."""
    browser.problems.clear()
    browser.requests.clear()
    browser.resize(1300, 900)
    yield browser
    assert browser.problems == []
    assert [r for r in browser.requests if not r.startswith(('file:', 'data:'))] == []


def opened(page: Chromium, out: Path) -> Chromium:
    page.open(write_subject_report(out, '01'))
    page.wait_for(CANVAS)
    return page


def test_contours_fill_and_flicker(page, tree):  # noqa: F811
    opened(page, tree)
    contours = page.run(INK)
    page.press('2')
    assert page.run(INK) > contours > 0
    page.press('f')
    assert page.run(f'{CANVAS}.hidden')
    page.press('f')
    assert not page.run(f'{CANVAS}.hidden')
    assert page.run('document.querySelector("[data-mode=fill]").ariaPressed') == 'true'
    page.press('4')
    assert page.run('document.querySelectorAll(".pane").length') == 5
    page.press('1')
    assert page.run(INK) == contours
    page.run('document.querySelector(".legend button").click()')
    assert 0 < page.run(INK) < contours / 5


def test_pointing_names_a_structure(page, tree):  # noqa: F811
    opened(page, tree)
    page.run('document.documentElement.style.scrollBehavior = "auto"')
    page.run('document.querySelector("figure").scrollIntoView()')
    found = page.run(
        'const box = document.querySelector(".pane").getBoundingClientRect();'
        'const names = new Set(); const v = viewers[0];'
        'for (let x = 0; x < box.width; x += 9) for (let y = 0; y < box.height; y += 9) {'
        '  v.name({clientX: box.left + x, clientY: box.top + y});'
        '  names.add(v.readout.textContent); } [...names]'
    )
    assert 'left thalamus' in found
    assert 'right hippocampus' in found


def test_from_structures_to_parcels_and_back(page, tmp_path):
    opened(page, write_tree(tmp_path, ['01'], parcels=True))
    structures = page.run(INK)
    legends = '[...document.querySelectorAll("figure .legend")].map(e => !e.hidden).join()'
    shown = page.run(legends)
    assert shown == 'true,false,true,false'
    page.press('p')
    page.wait_for(CANVAS)
    assert page.run(INK) > structures  # the cortex is divided
    assert page.run(legends) == 'false,true,true,false'
    page.run('document.querySelector(".legend:not([hidden]) button").click()')
    assert 0 < page.run(INK) < structures / 3
    page.press('p')
    page.wait_for(CANVAS)
    assert page.run(INK) == structures
    assert page.run(legends) == shown


def test_keys_leave_typing_alone(page, tree):  # noqa: F811
    page.open(write_group_report(tree))
    page.press('/')
    page.press('t')
    assert page.run('document.querySelector("input[type=search]").value') == 't'
    assert page.run('document.documentElement.dataset.theme') is None
    page.run('document.activeElement.blur()')
    page.press('t')
    assert page.run('document.documentElement.dataset.theme') == 'dark'
    page.press('t')
    page.press('?')
    assert page.run('document.getElementById("help").open')


def test_the_group_table_is_sorted_and_filtered(page, tree):  # noqa: F811
    page.open(write_group_report(tree))
    shown = '[...document.querySelectorAll("#images tbody tr:not([hidden])")]'
    assert page.run(f'{shown}.length') == 14
    page.run(
        'const choice = document.querySelector("select[name=contrast]"); choice.value = "T2w";'
        'choice.dispatchEvent(new Event("input"))'
    )
    assert page.run(f'{shown}.length') == 6
    assert page.run('document.querySelector("#images output").textContent') == '6 of 14'
    page.run('document.querySelectorAll("#images th button")[4].click()')
    volumes = [float(v) for v in page.run(f'{shown}.map(row => row.cells[4].textContent)')]
    assert volumes == sorted(volumes)
    page.run('document.querySelectorAll("#images th button")[4].click()')
    volumes = [float(v) for v in page.run(f'{shown}.map(row => row.cells[4].textContent)')]
    assert volumes == sorted(volumes, reverse=True)


def test_group_charts(page, tree):  # noqa: F811
    page.open(write_group_report(tree))
    page.wait_for('document.querySelector("#chart circle")')
    assert page.run('document.querySelectorAll("#chart circle").length') == 12
    page.run('document.querySelectorAll("#small-multiples button")[1].click()')
    title = page.run('document.getElementById("chart-title").textContent')
    assert title == 'Volumes: Cerebral white matter (ml)'
    page.run('document.getElementById("relative").click()')
    shares = page.run('[...document.querySelectorAll("#chart circle")].map(c => c.dataset.value)')
    assert all(10 < float(share) < 60 for share in shares)
    page.run(
        'document.querySelector("#chart circle").dispatchEvent('
        'new PointerEvent("pointerover", {bubbles: true}))'
    )
    assert 'sub-0' in page.run('document.querySelector(".tip").textContent')


@pytest.mark.parametrize('width', [390, 820, 1300])
@pytest.mark.parametrize(
    'report', [write_group_report, lambda out: write_subject_report(out, '1')]
)
def test_pages_are_never_wider_than_the_screen(page, tree, width, report):  # noqa: F811
    page.resize(width, 800, 2, mobile=width < 500)
    page.open(report(tree))
    assert page.run('document.documentElement.scrollWidth') <= width


def test_hostile_text_does_nothing(page, evil_tree):  # noqa: F811
    for path in (write_subject_report(evil_tree, '01'), write_group_report(evil_tree)):
        page.open(path)
        assert page.run('window.hacked') is None
        assert page.run('document.body.innerText.includes("window.hacked=1")')


def test_elements_are_named_once_and_pictures_described(page, tree):  # noqa: F811
    for path in (write_subject_report(tree, '01'), write_group_report(tree)):
        page.open(path)
        ids = page.run('[...document.querySelectorAll("[id]")].map(e => e.id)')
        assert len({*ids}) == len(ids)
        assert page.run('[...document.images].every(i => i.alt)')
        broken = '[...document.querySelectorAll("a[href^=\'#\']")].filter(a => !document' \
                 '.getElementById(a.hash.slice(1))).length'  # fmt: skip
        assert page.run(broken) == 0
        named = '[...document.querySelectorAll("button, select, input")].every(e => e.labels' \
                '?.length || e.ariaLabel || e.textContent.trim())'  # fmt: skip
        assert page.run(named)


def test_hundreds_of_participants_are_searched(page, tmp_path):
    out = write_tree(tmp_path, [f'{i:03d}' for i in range(200)], label_maps=False)
    path = write_group_report(out)
    assert path.stat().st_size < 0.5e6
    page.open(path)
    page.wait_for('document.querySelectorAll("#chart circle").length == 400')
    assert page.run('document.querySelectorAll("#images tbody tr:not([hidden])").length') == 100
    page.run(
        'const s = document.querySelector("input[type=search]");'
        's.value = "sub-042"; s.dispatchEvent(new Event("input"))'
    )
    assert page.run('document.querySelector("#images output").textContent') == '2 of 402'

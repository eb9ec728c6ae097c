"""The benchmarks of scale and throughput measure what they say and write their page."""

from __future__ import annotations

import sys

import long_run
import pytest
import scale
import throughput
from app import write_image
from processes import watch
from scale_page import NOT_MEASURED, write_page

from synthseg_bids.files import read_table, write_table

ORPHAN = """
import os, sys, time
os.fork() or os.fork() or os.execv(sys.executable, [sys.executable, '-c', '''
import time
while time.process_time() < 0.5: pass
'''])
files = [open(os.devnull) for _ in range(40)]
memory = bytearray(200_000_000)
time.sleep(1)
print('done')
"""


def test_descendants_are_measured_to_their_end():
    used = watch([sys.executable, '-c', ORPHAN], {})
    assert (used.code, used.stdout, used.stderr) == (0, 'done\ndone\n', '')
    assert used.cpu_seconds > 0.5
    assert used.open_files > 40
    # 200 million bytes are 191 MiB.
    assert 191 < used.peak_mb < 400


@pytest.mark.slow
def test_large_dataset_is_planned_and_finished(tmp_path, capsys):
    docs = ['--docs', str(tmp_path / 'docs'), '--work', str(tmp_path)]
    scale.main(['--sizes', '4', '--whole', '1', '--rest', '1', '--scan', '/none', *docs])
    rows = {row['what']: row for row in read_table(tmp_path / 'docs/scale.tsv')}
    assert {what: row['segmented'] for what, row in rows.items()} == {
        'plan': '0', 'rest': '1', 'group': '0', 'again': '0'
    }  # fmt: skip
    # A label map, two tables, their sidecars and two pictures for each.
    assert int(rows['rest']['output_files']) > 4 * 8
    assert float(rows['plan']['peak_mb']) < float(rows['rest']['peak_mb'])
    page = (tmp_path / 'docs/scale.rst').read_text()
    assert 'Large datasets that are nearly done' in page
    assert 'Runs\n----' not in page
    assert 'On paper' not in page
    capsys.readouterr()


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::ResourceWarning')
def test_throughput_beside_a_stand_in(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    write_image(tmp_path / 'scan.nii.gz')
    throughput.main([
        '--workers', '2', '--scans', '3', '--scan', str(tmp_path / 'scan.nii.gz'),
        '--model', str(tiny_model), '--work', str(tmp_path), '--docs', str(tmp_path / 'docs'),
    ])  # fmt: skip
    gpu, cpu = read_table(tmp_path / 'docs/throughput.tsv')
    assert (gpu['device'], gpu['scans_per_minute']) == ('GPU', NOT_MEASURED)
    assert (cpu['device'], cpu['workers'], cpu['scan']) == ('CPU', '2', '9x10x11')
    speed, seconds = float(cpu['scans_per_minute']), float(cpu['seconds'])
    assert speed == pytest.approx(60 * 2 / seconds, rel=0.05)
    assert NOT_MEASURED in (tmp_path / 'docs/scale.rst').read_text()


@pytest.mark.slow
def test_a_long_run_is_shown_in_tenths(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr('long_run.INTERVAL_S', 0.2)
    write_image(tmp_path / 'scan.nii.gz')
    long_run.main([
        '--scans', '2', '--scan', str(tmp_path / 'scan.nii.gz'), '--model', str(tiny_model),
        '--work', str(tmp_path), '--docs', str(tmp_path / 'docs'),
    ])  # fmt: skip
    rows = read_table(tmp_path / 'docs/long_run.tsv')
    assert [row['tenth'] for row in rows] == [str(n) for n in range(1, 11)]
    assert {row['temporary_files_left'] for row in rows} == {'0'}
    assert float(rows[5]['memory_mb']) > 50
    page = (tmp_path / 'docs/scale.rst').read_text()
    assert 'A long run\n----------' in page
    assert f'"10", "{rows[-1]["memory_mb"]}", "{rows[-1]["open_files"]}"' in page


def test_page_says_what_is_computed(tmp_path):
    """Numbers that are easy to follow: 0.25 CPU seconds, 100 files, 1 kB of memory a scan."""

    def row(what, scans, **cells):
        cells = {'load': 0, 'cpu': 'X', 'nprocs': 2, 'segmented': scans, **cells}
        return {'what': what, 'scans': scans, 'output_files': 100 * scans, 'output_mb': scans,
                'work_files': 20 * scans, 'work_mb': scans, 'peak_mb': 300 + scans / 1000,
                'cpu_seconds': 10 + scans / 4, 'seconds': 5, 'open_files': 9, **cells}  # fmt: skip

    rows = [row('run', n) for n in (10, 100, 1000)]
    rows += [row('group', n) for n in (1000, 10_000)]
    rows += [row('rest', 10_000), row('shipped', 1), row('shipped', 3)]
    write_table(tmp_path / 'scale.tsv', scale.COLUMNS, rows)
    write_page(tmp_path)
    page = ' '.join((tmp_path / 'scale.rst').read_text().split())
    assert 'From 100 to 1,000 scans, one more scan takes 0.250 CPU seconds' in page
    assert 'as wanted: below 0.5' in page
    assert 'The main process had 310 MB at most with 10,000 scans' in page
    # 10 + 10,000 / 4 seconds
    assert 'not measured: a whole run of 10,000 scans takes 0.70 CPU hours' in page
    assert 'no more than 310 MB (as wanted: below 1,000)' in page
    # 100,000 / 4 seconds, and 10 seconds for each of 500 jobs
    assert '"CPU hours on CPUs alone", "8", "0.2 CPU seconds"' in page
    assert f'"GPU hours", "{NOT_MEASURED}"' in page
    assert '"Output files and folders", "10,000,000", "100"' in page
    assert '"Memory for them", "0.4 GB", "1 kB"' in page

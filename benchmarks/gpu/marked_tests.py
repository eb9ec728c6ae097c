"""Run the tests that want a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .part import Run

TESTS = Path(__file__).resolve().parents[2] / 'tests'


def run_tests(run: Run) -> None:
    """Run the tests with the marker gpu; note how many passed, failed and were skipped."""

    class Outcomes:
        """Counts the outcomes of tests."""

        def __init__(self) -> None:
            self.counts: Counter[str] = Counter()

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == 'call' or (report.when == 'setup' and not report.passed):
                self.counts[report.outcome] += 1
                run.note(**self.counts)

    marked = [path for path in sorted(TESTS.rglob('test_*.py')) if 'mark.gpu' in path.read_text()]
    # Other versions of PyTorch and NumPy may have other warnings.
    options = ['-q', '-m', 'gpu', '-W', 'default', '-o', 'addopts=', '-p', 'no:cacheprovider']
    outcomes = Outcomes()
    code = pytest.main([*options, *map(str, marked)], [outcomes])
    if code:
        raise SystemExit(f'{outcomes.counts["failed"]} tests failed')
    if run.device.type == 'cuda' and not outcomes.counts['passed']:
        raise SystemExit('no test was run')

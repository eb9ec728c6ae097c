"""What a measure of quality control is, and how its value is judged by its limits."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

PASS, REVIEW, FAIL = 'pass', 'review', 'fail'
VERDICT = 'verdict'


@dataclass(frozen=True)
class Measure:
    """One row of a table of quality control.

    Attributes
    ----------
    name : str
    description : str
    units : str
        Empty for counts, ratios and words.
    review, fail : (2,) tuple of float
        Lowest and highest value that does not ask for a look, or that does not fail.
    low, high : str
        What a value below or above these limits means, in plain language; ``{value}`` stands for
        it, ``{limit}`` for the limit that it passes, ``{detail}`` for which structures.
    note : str
        More to say in the explanation.
    compared : bool
        Whether a value far from those of other images tells something.
    """

    name: str
    description: str
    units: str = ''
    review: tuple[float, float] = (-inf, inf)
    fail: tuple[float, float] = (-inf, inf)
    low: str = ''
    high: str = ''
    note: str = ''
    compared: bool = True

    @property
    def limits(self) -> str:
        """Describe the limits in words; empty if there are none.

        Examples
        --------
        >>> Measure('x', '', 'mm', review=(1, 5), fail=(0.5, float('inf'))).limits
        'review below 1 or above 5 mm, fail below 0.5 mm'
        """
        parts = []
        for flag, (low, high) in ((REVIEW, self.review), (FAIL, self.fail)):
            bounds = [f'below {low:g}'] if low > -inf else []
            bounds += [f'above {high:g}'] if high < inf else []
            if bounds:
                parts.append(f'{flag} {" or ".join(bounds)} {self.units}'.rstrip())
        return ', '.join(parts)

    @property
    def explanation(self) -> str:
        """Description, note and limits in one text."""
        limits = f'{self.limits[0].upper()}{self.limits[1:]}.' if self.limits else ''
        return ' '.join(part for part in (self.description, self.note, limits) if part)

    def judge(self, value: float, detail: str = '') -> tuple[str, str]:
        """Compare a value with the limits.

        Parameters
        ----------
        value : float
        detail : str
            Stands for ``{detail}`` in the reason.

        Returns
        -------
        flag, reason : str
            The reason is empty if the flag is ``pass``.

        Examples
        --------
        >>> Measure('x', '', 'mm', fail=(1, 9), low='{value} mm are too few').judge(0.25)
        ('fail', '0.25 mm are too few')
        """
        for flag, (low, high) in ((FAIL, self.fail), (REVIEW, self.review)):
            if value < low:
                return flag, self.low.format(value=f'{value:.3g}', limit=f'{low:g}', detail=detail)
            if value > high:
                text = self.high.format(value=f'{value:.3g}', limit=f'{high:g}', detail=detail)
                return flag, text
        return PASS, ''

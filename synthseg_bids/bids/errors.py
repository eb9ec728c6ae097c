"""Why a dataset, or what was asked of it, cannot be used; messages are one line."""

from __future__ import annotations

from synthseg_bids.errors import UsageError


class QueryError(UsageError):
    """What was asked for is not in the dataset."""


class NotBidsError(ValueError):
    """The folder is not a BIDS dataset."""

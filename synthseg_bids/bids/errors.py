"""Errors about a dataset or a query; their messages are one line."""

from __future__ import annotations

from synthseg_bids.errors import UsageError


class QueryError(UsageError):
    """The dataset does not contain what the query asks for."""


class NotBidsError(ValueError):
    """The folder is not a BIDS dataset."""

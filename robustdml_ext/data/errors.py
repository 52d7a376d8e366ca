"""What the data package raises."""

from __future__ import annotations


class DataError(Exception):
    """A data set is missing or broken; the message says what, where to get it and where to put it."""


class BrokenImageError(DataError):
    """One image file, or recording, is missing or cannot be decoded; the message names its path."""

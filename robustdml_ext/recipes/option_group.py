"""What every group of options is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def option(default: Any, description: str, *, neutral: bool = False, fraction: bool = False, **constraints: Any) -> Any:
    """Return a field with its help text.

    Args:
        default: the schema's own, which methods and data sets may replace.
        description: the text that ``--help`` prints.
        neutral: the option may differ when a run is resumed.
        fraction: the option may be written as a fraction, ``8/255``.
        constraints: pydantic's, such as ``gt=0``.
    """
    marks: dict[str, Any] = {"neutral": neutral, "fraction": fraction}
    return Field(default, description=description, json_schema_extra=marks, **constraints)


def read_fraction(value: Any) -> Any:
    """Return the number that a text ``8/255`` stands for, in lists of them too; anything else as it is."""
    if isinstance(value, list | tuple):
        return [read_fraction(part) for part in value]
    if isinstance(value, str) and value.count("/") == 1:
        over, under = value.split("/")
        try:
            return float(over) / float(under)
        except (ValueError, ZeroDivisionError):
            return value  # which is no number, and will be said to be none
    return value


def write_fraction(value: float) -> str:
    """Return ``8/255`` where that is the number and the shortest way to write it; otherwise its digits."""
    digits, pixels = repr(value), f"{round(value * 255, 1):g}/255"
    return pixels if len(pixels) < len(digits) and read_fraction(pixels) == value else digits


class OptionGroup(BaseModel):
    """Base of the groups: read-only once made; unknown fields, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

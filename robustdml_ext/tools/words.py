"""What words of a command line stand for: names and sets of them, numbers and fractions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

from robustdml_ext.training import RunRefusedError


def chosen_names(
    words: Sequence[str], option: str, sets: Mapping[str, Sequence[str]], known: Collection[str]
) -> tuple[str, ...]:
    """The names meant by a list of names and names of sets.

    Args:
        words: as they were given.
        option: what a message calls them.
        sets: names of several at once.
        known: all names.

    Raises:
        RunRefusedError: a word that is neither.
    """
    chosen: list[str] = []
    for word in words:
        if word not in sets and word not in known:
            raise RunRefusedError(f"{option} must be of {', '.join([*sets, *known])}; got {word!r}")
        chosen += sets.get(word, (word,))
    return tuple(dict.fromkeys(chosen))


def number_of(word: str) -> float:
    """The number that a word stands for, 0.03 or 8/255; 0 where it is none, which no option takes that is so read."""
    try:
        return float(Fraction(word))
    except (ValueError, ZeroDivisionError, OverflowError):
        return 0.0

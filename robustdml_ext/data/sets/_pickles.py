"""Reads pickles of dicts, lists, text, bytes and byte arrays, and of nothing that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustdml_ext.data.errors import DataError


def read_pickle(file: Path) -> Any:
    """What the pickle in `file` holds; bytes that Python 2 wrote as its text become text.

    NumPy arrays of unsigned bytes are rebuilt by code of this file, which no pickle can lead elsewhere. Raises:
    DataError, naming the file, where the pickle is damaged or asks for anything else.
    """
    try:
        with open(file, "rb") as handle:
            return _resolve(_Unpickler(handle, encoding="latin1").load())
    except Exception as error:  # damaged pickles end in any kind of error
        raise DataError(
            f"{file} is not the pickle it should be ({error or type(error).__name__}); get it again"
        ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _MakeArray()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _MakeType()
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _MakeBytes()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which this data set does not need")


class _MakeBytes:
    """Without attributes that a pickle could set, as are the others."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it holds bytes encoded as {encoding!r}")
        return text.encode("latin1")


class _MakeType:
    """Stands for numpy.ndarray, which is only named, and for numpy.dtype, which is called with a type's name."""

    __slots__ = ()

    def __call__(self, name: str, *_: Any) -> _ByteType:
        if name not in ("u1", "|u1", "uint8"):
            raise pickle.UnpicklingError(f"it holds an array of type {name!r}, expected unsigned bytes")
        return _ByteType()


class _ByteType:
    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        """Byte order and fields say nothing about single bytes."""


class _MakeArray:
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _Array:
    __slots__ = ("values",)

    def __setstate__(self, state: tuple[int, tuple[int, ...], Any, bool, bytes | str]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _ByteType):
            raise pickle.UnpicklingError("it holds an array of no known type")
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.values: npt.NDArray[np.uint8] = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _resolve(value: Any) -> Any:
    """With arrays in place of what stood for them, in the values of a dict, and its keys as text."""
    if isinstance(value, dict):
        return {k.decode("latin1") if isinstance(k, bytes) else k: _resolve(v) for k, v in value.items()}
    return value.values if isinstance(value, _Array) else value

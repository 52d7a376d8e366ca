"""Random calls of every operator, to be run on libraries built with sanitizers: `.ci/sanitize` does.

Half of the calls are valid ones of the public functions, forward and backward. The others go to the operators
themselves, with one or two arguments of a valid call spoiled (shapes, dtypes, values, options), which must be refused
or computed: the sanitizers end the process at the first access to memory that is not the call's own, and at undefined
arithmetic. Call number i depends on the seed and on i alone, so `--first i --calls 1` repeats it.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from sanitize_calls import CALLS, DTYPES, Source
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robustdml_ext import _load

INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 7, 2**20, 2**31, 2**63 - 1)
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300)
TEXTS = ("", "l2", "linf", "sum", "mean", "cosine", "euclidean", "arcface", "npair", "triplet_all", "nonsense")


class Recorder(TorchDispatchMode):
    """Keeps every call of an operator of ours, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == _load.NAMESPACE:
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def spoiled_tensor(s: Source, tensor: Tensor) -> object:
    """The tensor with another shape, dtype, layout or other values."""
    tensor = tensor.detach().clone()
    kind = s.random.randrange(8)
    if kind == 0:
        return tensor.to(s.random.choice([*DTYPES, torch.int64, torch.int32, torch.bool]))
    if kind == 1 and tensor.dim() and tensor.numel():
        return tensor.narrow(s.random.randrange(tensor.dim()), 0, 0)
    if kind == 2 and tensor.dim() and tensor.numel():
        axis = s.random.randrange(tensor.dim())
        return tensor.narrow(axis, 0, tensor.shape[axis] - 1)
    if kind == 3 and tensor.dim() and tensor.numel():
        axis = s.random.randrange(tensor.dim())
        return torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
    if kind == 4:
        return s.random.choice(
            [tensor.reshape(-1), tensor[None], tensor.reshape(-1)[:1].reshape(()) if tensor.numel() else tensor]
        )
    if kind == 5:
        return s.random.choice(
            [None, tensor.transpose(0, -1) if tensor.dim() else tensor, s.values((3, 5), torch.float32)]
        )
    if tensor.numel():
        flat = tensor.reshape(-1)
        number = s.random.choice(NUMBERS if tensor.is_floating_point() else INTEGERS)
        flat[s.random.randrange(len(flat))] = torch.tensor(number).to(tensor.dtype)
        return flat.view(tensor.shape)
    return tensor


def spoiled(s: Source, value: object) -> object:
    if isinstance(value, Tensor):
        return spoiled_tensor(s, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return s.random.choice([value + 1, value - 1, *INTEGERS])
    if isinstance(value, float):
        return s.random.choice(NUMBERS)
    if isinstance(value, str):
        return s.random.choice(TEXTS)
    if isinstance(value, list):
        changed = list(value)
        if changed and s.flag():
            changed[s.random.randrange(len(changed))] = spoiled(s, changed[0])
        elif changed and s.flag():
            changed.pop()
        else:
            changed.append(changed[0] if changed else 1)
        return changed
    return s.random.choice([None, torch.zeros(2, dtype=torch.int64), torch.zeros(3, 2)])


def valid_call(s: Source, name: str) -> str:
    try:
        results = CALLS[name](s)
    except ValueError:
        return "refused"  # by a check that a person reads, such as a segment of a single value
    if s.tame and any(result.is_floating_point() and result.isnan().any() for result in results):
        raise AssertionError(f"{name}: NaN from numbers of ordinary size")
    return "computed"


def spoiled_call(s: Source, name: str) -> str:
    recorder = Recorder()
    with recorder:
        valid_call(s, name)
    if not recorder.calls:
        return "refused"
    operator, arguments = s.random.choice(recorder.calls)
    changed = [a.detach().clone() if isinstance(a, Tensor) else a for a in arguments]
    for _ in range(s.random.choice([1, 1, 2])):
        place = s.random.randrange(len(changed))
        changed[place] = spoiled(s, changed[place])
    try:
        with torch.no_grad():
            operator(*changed)
    except MemoryError:
        raise
    except Exception:
        return "refused"
    return "computed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--only", choices=sorted(CALLS), help="one operator's calls alone")
    options = parser.parse_args()
    status = _load.status()["cpu"]
    if not status["live"]:
        sys.exit(f"no CPU kernels to test: {status['reason']}")
    print(f"{options.calls} calls of {status['path']}, seed {options.seed}", flush=True)

    # Where a sanitizer ends the process, the file says in which call.
    place = Path(tempfile.gettempdir()) / f"robustdml-sanitize-{os.getpid()}"
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    with place.open("w") as last:
        for number in range(options.first, options.first + options.calls):
            s = Source(options.seed * 1_000_003 + number)
            torch.set_num_threads(s.random.choice([1, 1, 2, 3]))
            torch.manual_seed(s.seed)
            name = options.only or s.random.choice(list(CALLS))
            form = "valid" if s.flag() else "spoiled"
            last.seek(0)
            last.write(f"call {number} ({name}, {form}), seed {options.seed}".ljust(80) + "\n")
            last.flush()
            try:
                outcome = (valid_call if form == "valid" else spoiled_call)(s, name)
            except Exception as error:
                sys.exit(f"call {number} ({name}, {form}), seed {options.seed}: {type(error).__name__}: {error}")
            counts[name, form, outcome] += 1
            if (number + 1) % 10_000 == 0:
                print(f"{number + 1 - options.first} calls", flush=True)
    place.unlink()
    for name in sorted({name for name, _, _ in counts}):
        row = [f"{f} {o} {counts[name, f, o]}" for f in ("valid", "spoiled") for o in ("computed", "refused")]
        print(f"{name:<18}", ", ".join(row))
    print(f"{sum(counts.values())} calls, no report")


if __name__ == "__main__":
    main()

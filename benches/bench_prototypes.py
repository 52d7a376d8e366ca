"""L_class + L_pair of a batch on `similarity`, against the network on concatenated pairs: time and memory of a step.

    pytest benches/bench_prototypes.py      times, side by side
    python benches/bench_prototypes.py      times and peak memory, every variant in a process of its own

B = 120 embeddings of length 512 against C prototypes, 512 hidden units, forward and backward, dropout on. The
concatenating form is what the paper's published code does: [B·C, 1024] pairs through the network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.methods import PrototypicalLoss
from robustdml_ext.methods.prototypes import pair_loss
from robustdml_ext.models import PrototypicalHeads

BATCH, DIM, HIDDEN, OF_CLASS = 120, 512, 512, 5
CLASSES = (100, 1000, 5994)


def concatenated(network: nn.Sequential, embeddings: Tensor, others: Tensor) -> Tensor:
    """S over all pairs, each of them built."""
    b, c = len(embeddings), len(others)
    pairs = torch.cat([others[None].expand(b, c, -1), embeddings[:, None].expand(b, c, -1)], dim=2)
    return nn.Sequential.forward(network, pairs).squeeze(2)


def step_of(variant: str, classes: int, device: str = "cpu") -> Callable[[], None]:
    """One step's loss and gradients, towards embeddings and the similarity network."""
    torch.manual_seed(0)
    heads = PrototypicalHeads(classes, DIM, HIDDEN).to(device).train()
    loss = PrototypicalLoss(heads, auxiliary_weight=0.0)
    embeddings = torch.randn(BATCH, DIM, device=device, requires_grad=True)
    labels = torch.arange(BATCH, device=device) // OF_CLASS
    inputs = [embeddings, *heads.similarity.parameters()]

    def ours() -> Tensor:
        return loss(embeddings, labels)  # type: ignore[no-any-return]

    def plain() -> Tensor:
        logits = concatenated(heads.similarity, embeddings, heads.prototypes)
        trials = concatenated(heads.similarity, embeddings, embeddings)
        return F.cross_entropy(logits, labels) + pair_loss(trials, labels)

    function = {"ours": ours, "concatenated": plain}[variant]

    def step() -> None:
        torch.autograd.grad(function(), inputs)

    return step


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("variant", ["ours", "concatenated"])
def test_step(variant: str, classes: int, measure: Callable[..., None], device: str) -> None:
    rounds = 15 if variant == "ours" or classes < 1000 or device == "cuda" else 2
    group = f"L_class + L_pair, forward + backward, B={BATCH} C={classes} d={DIM} hidden={HIDDEN}"
    measure(group, variant, step_of(variant, classes, device), rounds=rounds)


def peak_bytes() -> int:
    """The most that this process has held so far."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def alone(variant: str, classes: int, rounds: int) -> None:
    """Prints the best time of a step and what it added to the peak, of this process."""
    small = step_of(variant, BATCH // OF_CLASS)
    small()  # what libraries set up at the first pass is none of the step's
    step = step_of(variant, classes)
    before, seconds = peak_bytes(), []
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": min(seconds), "peak_bytes": peak_bytes() - before}))


def main() -> None:
    """Prints the table."""
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, B={BATCH} d={DIM} hidden={HIDDEN}")
    for classes in CLASSES:
        found = {}
        for variant in ("ours", "concatenated"):
            rounds = 5 if variant == "ours" or classes <= 1000 else 2
            program = f"import bench_prototypes as b; b.alone({variant!r}, {classes}, {rounds})"
            command = [sys.executable, "-c", program]
            said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=sys.path[0])
            found[variant] = json.loads(said.stdout.splitlines()[-1])
        ours, other = found["ours"], found["concatenated"]
        print(
            f"C = {classes:5}: {ours['seconds'] * 1e3:8.1f} ms, {ours['peak_bytes'] / 2**20:8.1f} MiB; concatenated "
            f"{other['seconds'] * 1e3:9.1f} ms, {other['peak_bytes'] / 2**20:9.1f} MiB "
            f"({other['seconds'] / ours['seconds']:.1f} times as long, "
            f"{other['peak_bytes'] / max(ours['peak_bytes'], 1):.0f} times as much)"
        )


if __name__ == "__main__":
    main()

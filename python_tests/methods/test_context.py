"""Two processes, each with half of the batch, compute what one process with all of it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from robustdml_ext.attacks import PGD
from robustdml_ext.losses import ArcFaceLoss, ContrastiveLoss, MultiSimilarityLoss
from robustdml_ext.methods import (
    Adversarial,
    AdvPropD,
    Batch,
    Context,
    EnergyConfused,
    HardNegatives,
    MDProp,
    Method,
    Standard,
)
from robustdml_ext.models import build_embedder


def methods() -> list[Method]:
    """One of each; the attack with a random start, and once by the batch's own statistics."""
    made: list[Method] = []
    for name in ("standard", "adversarial", "mdprop", "by batch"):
        torch.manual_seed(0)
        embedder = build_embedder(
            "small", channels=1, embedding_dim=8, widths=(4, 6), norm_noise=0.2,
            distributions=1 if name in ("standard", "adversarial") else 3,
        ).double()  # fmt: skip
        attack = PGD(0.1, 2, random_start=0.02, norm_mode="train" if name == "by batch" else "eval")
        if name == "standard":
            made.append(Standard(embedder, ArcFaceLoss(4, 8).double()))
        elif name == "adversarial":
            made.append(Adversarial(embedder, MultiSimilarityLoss(), (3,), attack))
        else:
            made.append(MDProp(embedder, MultiSimilarityLoss(), (1, 5), attack))
    return made + [looking_behind(form) for form in ("contrastive", "triplet", "lifted", "npair")]


def looking_behind(form: str) -> Method:
    """Energy confusion of drawn pairs of classes around hard negatives of drawn observed ones."""
    torch.manual_seed(0)
    joined = form in ("triplet", "npair")
    embedder = build_embedder(
        "small", channels=1, embedding_dim=8, widths=(4, 6), distributions=2 if joined else 1, unit_length=not joined
    ).double()
    gradients = {"lifted": "literal", "npair": "through"}.get(form, "players")
    synthetic = HardNegatives(
        ContrastiveLoss(), embedder.feature_dim, form, negatives=3, margin=2.0, gradients=gradients
    )
    loss = EnergyConfused(synthetic, 0.5, pairs=4).double()
    return AdvPropD(embedder, loss, PGD(0.1, 1), joint_loss=form == "npair") if joined else Standard(embedder, loss)


def run(context: Context, group: Any = None) -> list[dict[str, Tensor]]:
    """Two steps of every method, with the gradients that the training loop would use."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 12, 1, 8, 8, dtype=torch.float64, generator=generator)
    labels = torch.arange(12) % 4
    results = []
    for method in methods():
        method.embedder.synchronize(group)
        method.train()
        draws = torch.Generator().manual_seed(3)
        for step in range(2):
            batch = Batch(context.slice(images[step]), context.slice(labels))
            output = method.training_step(batch, draws, context)
            method.zero_grad()
            output.loss.backward()
        whole = {id(p) for p in method.loss.parameters()}
        state = {"loss": output.loss.detach(), **dict(method.named_buffers())}
        for name, parameter in method.named_parameters():
            if context.world_size > 1:
                dist.all_reduce(parameter.grad)
                if id(parameter) in whole:
                    parameter.grad /= context.world_size
            state[name] = parameter.grad
        results.append({name: value.clone() for name, value in state.items()})
    return results


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(run(Context(2, rank), dist.group.WORLD), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    expected = run(Context())
    for rank in range(2):
        actual = torch.load(tmp_path / f"{rank}.pt")
        for own, one in zip(actual, expected, strict=True):
            assert own.keys() == one.keys()
            for name, value in one.items():
                torch.testing.assert_close(own[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_alone() -> None:
    rows = torch.randn(4, 2)
    assert Context().gather(rows) is rows and torch.equal(Context().slice(rows), rows)


def test_slices_cover_the_batch_and_errors_are_said() -> None:
    rows = torch.arange(6)
    assert torch.equal(torch.cat([Context(3, rank).slice(rows) for rank in range(3)]), rows)
    with pytest.raises(ValueError, match="multiple of 4"):
        Context(4, 0).slice(rows)
    with pytest.raises(ValueError, match="rank"):
        Context(2, 2)

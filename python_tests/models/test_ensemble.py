"""Ensembles: the mean of unit embeddings, or all of them, with a gradient through every member."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustdml_ext.models.ensemble import Ensemble


def members(*widths: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Flatten(), nn.Linear(12, width)).double() for width in widths]


def images() -> Tensor:
    return torch.rand(5, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_average_is_the_normalized_mean_of_unit_embeddings() -> None:
    parts = members(4, 4, 4)
    with torch.no_grad():
        parts[0][1].weight.mul_(100)  # no member outweighs the others
    found = Ensemble(parts)(images())
    for row in range(5):
        mean = sum(part(images())[row] / part(images())[row].norm() for part in parts) / 3
        torch.testing.assert_close(found[row], mean / mean.norm())


def test_concatenation_has_the_mean_of_the_cosines() -> None:
    parts = members(4, 6)
    found = Ensemble(parts, "concatenate")(images())
    assert found.shape == (5, 10)
    units = [torch.nn.functional.normalize(part(images()), dim=1) for part in parts]
    torch.testing.assert_close(found @ found.T, sum(unit @ unit.T for unit in units) / 2)


def test_gradients_reach_images_and_members() -> None:
    for inference in ("average", "concatenate"):
        ensemble = Ensemble(members(4, 4), inference)
        assert torch.autograd.gradcheck(ensemble, (images().requires_grad_(),))
        embeddings = ensemble(images())
        (embeddings * torch.linspace(0, 1, embeddings.shape[1])).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in ensemble.parameters())
        assert len(ensemble.state_dict()) == 4


def test_half_precision_members() -> None:
    parts = [part.bfloat16() for part in members(4, 4)]
    assert Ensemble(parts)(images().bfloat16()).dtype == torch.float32


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="members: expected at least one"):
        Ensemble([])
    with pytest.raises(ValueError, match="inference: expected one of average, concatenate, vote; got 'majority'"):
        Ensemble(members(4), "majority")
    with pytest.raises(ValueError, match=r"members: expected one embedding size to average, got \[4, 6\]"):
        Ensemble(members(4, 6))(images())
    with pytest.raises(TypeError):
        Ensemble([lambda x: x])


def test_an_ensemble_says_which_route_it_is_itself() -> None:
    class Rounded(Ensemble):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).round(decimals=1)

    assert Ensemble(members(4)).own_route == "average"
    assert Ensemble(members(4), "concatenate").own_route == "sum"
    assert Ensemble(members(4), "vote").own_route == "sum"
    assert Rounded(members(4)).own_route is None
    assert Rounded(members(4), "vote").own_route is None


def test_an_ensemble_that_votes_embeds_side_by_side_and_says_whose_columns_are_whose() -> None:
    parts = members(4, 6)
    ensemble = Ensemble(parts, "vote")
    assert ensemble.voters is None  # nothing tells before the first pass
    assert torch.equal(ensemble(images()), Ensemble(parts, "concatenate")(images()))
    assert ensemble.voters == (4, 6)
    first, second = ensemble(images()).split(ensemble.voters, dim=1)
    for found, part in zip((first, second), parts, strict=True):
        torch.testing.assert_close(found, torch.nn.functional.normalize(part(images()), dim=1) / 2**0.5)
    for inference in ("average", "concatenate"):
        other = Ensemble(members(4, 4), inference)
        other(images())
        assert other.voters is None


def test_voters_are_known_before_a_pass_where_members_say_their_sizes() -> None:
    parts = members(4, 6)
    parts[0].embedding_dim = 4
    assert Ensemble(parts, "vote").voters is None
    parts[1].embedding_dim = 6
    assert Ensemble(parts, "vote").voters == (4, 6)
    assert Ensemble(parts, "concatenate").voters is None

"""Routes into models that look robust, also where these are parts of a model, and gradients that are missing."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from victims import assert_inside, away, embed, pictures, trained

from robustdml_ext.attacks import (
    PGD,
    AdaptivePGD,
    AwayFromClean,
    OutOfTopK,
    ThroughRoutes,
    gradient_flows,
    routes,
)
from robustdml_ext.models.ensemble import Ensemble


class Rounded(nn.Module):
    """Pixels in 17 levels, then a network; its surrogate leaves the rounding out."""

    def __init__(self, offers: bool = True) -> None:
        super().__init__()
        self.network = trained()
        if offers:
            self.surrogates = lambda: {"straight through": self.network}

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 16).round() / 16)


class Detached(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return trained()(images.detach())


class Misleading(nn.Module):
    """Two members, behind an average whose gradient leads the attacker astray."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([trained(0), trained(1)])

    def forward(self, images: Tensor) -> Tensor:
        outputs = [member(images) for member in self.members]
        straight = torch.stack(outputs).mean(0)
        # The value of the average, with a gradient that points back.
        return F.normalize(2 * straight.detach() - straight, dim=1)


def test_which_routes_a_model_has() -> None:
    plain = nn.Flatten()
    assert routes(plain) == {"whole": plain}
    ensemble, images = Misleading(), pictures()[0]
    found = routes(ensemble)
    assert list(found) == ["whole", "average", "member 0", "member 1", "sum"]
    assert found["whole"] is ensemble and found["member 1"] is ensemble.members[1]
    torch.testing.assert_close(found["average"](images), Ensemble(ensemble.members)(images))
    torch.testing.assert_close(found["sum"](images), torch.cat([member(images) for member in ensemble.members], 1))
    rounded = Rounded()
    assert routes(rounded) == {"straight through": rounded.network}


def test_bad_routes_are_named() -> None:
    model = nn.Flatten()
    model.members = [lambda images: images]
    with pytest.raises(TypeError, match="members of Flatten"):
        routes(model)
    model.members = []
    with pytest.raises(ValueError, match="Flatten has no members"):
        routes(model)
    other = nn.Flatten()
    other.surrogates = dict
    with pytest.raises(ValueError, match="surrogates"):
        routes(other)


def test_quantized_pixels_look_robust_until_attacked_through_the_surrogate() -> None:
    (images, labels), model = pictures(), Rounded()
    gallery, own = embed(model, images), torch.arange(len(images))

    def recall(adversarial: Tensor) -> float:
        similarity = (embed(model, adversarial) @ gallery.T).fill_diagonal_(-torch.inf)
        return float((labels[similarity.argmax(1)] == labels).float().mean())

    objective = OutOfTopK(labels, gallery, labels, own)
    attack = AdaptivePGD(0.12, 15, random_start=0.01)
    with pytest.warns(RuntimeWarning, match="Rounded passes a gradient of zero"):
        easy = attack.perturb(model, images, objective, generator=torch.Generator().manual_seed(0))
    adaptive = ThroughRoutes(attack).perturb(
        model, images, lambda route: objective, objective, generator=torch.Generator().manual_seed(0)
    )
    assert_inside(adaptive, images, 0.12, "linf")
    assert recall(images) > 0.9 and recall(easy) > 0.8 and recall(adaptive) < 0.4


def test_ensemble_with_a_misleading_gradient_is_broken_through_its_members() -> None:
    model, images = Misleading(), pictures()[0]
    attack = PGD(0.1, 8, 0.02, random_start=0.01)
    judge = away(model)
    easy = attack.perturb(model, images, judge, generator=torch.Generator().manual_seed(0))
    adaptive = ThroughRoutes(attack).perturb(model, images, away, judge, generator=torch.Generator().manual_seed(0))
    values = judge(embed(model, easy)), judge(embed(model, adaptive))
    assert values[1].mean() > 5 * values[0].mean() and (values[1] >= values[0]).all()
    only = ThroughRoutes(attack).perturb(
        model, images, away, judge, skip=["average", "member 0", "member 1", "sum"],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert judge(embed(model, only)).mean() <= values[0].mean() + 1e-6


def test_missing_gradients_do_not_pass_silently() -> None:
    images = pictures()[0]
    objective = away(trained())
    assert gradient_flows(trained(), images) and gradient_flows(trained(), images, "train")
    assert not gradient_flows(Rounded(), images) and not gradient_flows(Detached(), images)
    for attack in (PGD(0.1, 2, random_start=0.01), AdaptivePGD(0.1, 2)):
        with pytest.raises(TypeError, match=r"Detached carry no gradient .*routes"):
            attack.perturb(Detached(), images, objective)
        with pytest.warns(RuntimeWarning, match="Rounded passes a gradient of zero"):
            attack.perturb(Rounded(), images, objective)
    # An objective that is at its end has no gradient either, and that is nothing to warn of.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(0.1, 2).perturb(trained(), images, lambda embeddings: 0 * embeddings[:, 0])
        PGD(0.1, 2).perturb(trained(), images, AwayFromClean(embed(trained(), images), "l2"))


class Wide(nn.Module):
    """Members of sizes that they do not declare."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.members = nn.ModuleList([nn.Sequential(nn.Flatten(), nn.Linear(64, width)) for width in widths]).double()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([member(images) for member in self.members], 1)


def test_an_ensemble_is_not_attacked_twice_by_what_it_is() -> None:
    members = [trained(0), trained(1)]
    assert list(routes(Ensemble(members))) == ["whole", "member 0", "member 1", "sum"]
    assert list(routes(Ensemble(members, "concatenate"))) == ["whole", "average", "member 0", "member 1"]


def test_members_of_different_sizes_are_not_averaged() -> None:
    images = pictures()[0].double()
    model = Wide(3, 5)
    assert list(routes(model, images)) == ["whole", "member 0", "member 1", "sum"]
    assert "average" in routes(Wide(4, 4), images)
    # Without images nobody knows, and the route still works.
    unknown = routes(model)["average"](images)
    units = [F.normalize(member(images), dim=1) for member in model.members]
    torch.testing.assert_close(unknown @ unknown.T, sum(unit @ unit.T for unit in units) / 2)
    for member, width in zip(model.members, (3, 5), strict=True):
        member.embedding_dim = width
    assert "average" not in routes(model)
    judge = AwayFromClean(model(images).detach())
    found = ThroughRoutes(PGD(0.1, 2, random_start=0.01)).perturb(
        Wide(3, 5), images, lambda route: AwayFromClean(embed(route, images)), judge,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert_inside(found, images, 0.1, "linf")


def test_routes_keep_the_precision_and_no_member_outweighs_the_others() -> None:
    images, model = pictures()[0].double(), Wide(4, 4)
    before = {name: route(images) for name, route in routes(model).items()}
    with torch.no_grad():
        model.members[0][1].weight.mul_(100)
        model.members[0][1].bias.mul_(100)
    for name in ("average", "sum"):
        found = routes(model)[name](images)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, before[name], rtol=1e-9, atol=1e-12)


class Residual(nn.Module):
    """The same ensemble at two places, and a layer that takes embeddings of one size."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Identity(), inner)
        self.again = inner
        self.behind = nn.Linear(width, 4).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.behind(self.first(images) + self.again(images))


def test_an_ensemble_inside_a_model_is_found() -> None:
    images = pictures()[0]
    inner = Misleading()
    model = nn.Sequential(nn.Identity(), inner)
    before = [id(module) for module in model.modules()], list(model.state_dict())
    found = routes(model)
    assert list(found) == ["whole", "average", "member 0", "member 1", "sum"] and found["whole"] is model
    for name, route in routes(inner).items():
        torch.testing.assert_close(found[name](images), route(images))
    assert ([id(module) for module in model.modules()], list(model.state_dict())) == before
    assert {id(p) for p in found["sum"].parameters()} == {id(p) for p in model.parameters()}
    attack, judge = PGD(0.1, 8, 0.02, random_start=0.01), away(model)
    options = {"generator": torch.Generator().manual_seed(0)}
    easy = judge(embed(model, attack.perturb(model, images, judge, **options)))
    adaptive = judge(embed(model, ThroughRoutes(attack).perturb(model, images, away, judge, **options)))
    assert adaptive.mean() > 5 * easy.mean()
    assert ([id(module) for module in model.modules()], list(model.state_dict())) == before


def test_surrogates_inside_a_model_are_used() -> None:
    images, rounded = pictures()[0], Rounded()
    model = nn.Sequential(nn.Identity(), rounded)
    found = routes(model)
    assert list(found) == ["whole", "straight through"] and not gradient_flows(model, images)
    assert gradient_flows(found["straight through"], images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = ThroughRoutes(PGD(0.1, 6, random_start=0.01)).perturb(model, images, away, away(model))
    assert away(model)(embed(model, moved)).mean() > 0.1
    several = routes(Ensemble([Rounded(), Rounded()]))
    assert [name for name in several if "straight" in name] == ["straight through", "straight through of members.1"]
    assert all(gradient_flows(several[name], images) for name in several if "straight" in name)


def test_a_route_ends_where_the_rest_does_not_take_it() -> None:
    images = pictures()[0].double()
    inner = Wide(3, 3)
    found = routes(Residual(inner, 6))
    torch.testing.assert_close(found["member 1"](images), inner.members[1](images))
    torch.testing.assert_close(found["member 1"](images[:5]), inner.members[1](images[:5]))
    fits = Residual(inner, 6)
    expected = fits.behind(2 * torch.cat([F.normalize(member(images), dim=1) for member in inner.members], 1))
    torch.testing.assert_close(routes(fits)["sum"](images), expected)

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)]).double()

        def forward(self, maps: Tensor, scale: float = 1.0) -> Tensor:
            return scale * (self.members[0](maps) + self.members[1](maps))

    # Members that give maps deep within a network do not break an attack.
    deep = nn.Sequential(Maps(), nn.Flatten(), nn.Linear(72, 4).double())
    torch.testing.assert_close(routes(deep)["sum"](images), deep(images))
    for name, route in routes(deep, images).items():
        assert gradient_flows(route, images), name
    with pytest.raises(RuntimeError, match=r"shape|size"):
        routes(deep)["sum"](images[..., :4])

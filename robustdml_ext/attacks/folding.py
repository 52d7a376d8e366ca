"""An equal network that is faster to attack: norm layers folded into convolutions of constant weights.

An attack passes through the same network many times, in eval mode, for the gradient at the images alone. There a norm
layer is a constant scale and shift, which the convolution before it can take over; and a convolution whose input map
is smaller than its kernel is a matrix product, as most of its taps would lie on padding. Both are exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from robustdml_ext.attacks.folded_convolution import FoldedConvolution
from robustdml_ext.attacks.victim import embed, same_draws

# Whose forward methods are known to be functions of their input alone, and are traced through. All else runs as it is.
_TRUSTED = ("torch", "torchvision", "timm", "robustdml_ext")
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Folding takes about as long as this many passes save.
FEWEST_PASSES = 5
# What rounding may change, of the largest number in the embeddings.
_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}


@contextmanager
def faster(model: nn.Module, images: Tensor, passes: int, distribution: int = 0) -> Iterator[nn.Module]:
    """A module that gives what `model` gives, up to rounding, in less time where networks in it can be folded.

    For the inside of `under_attack` in eval mode. What is folded: networks of PyTorch's, torchvision's, timm's and our
    own modules, wherever they are in the model. Weights are read anew each time; only the plan is kept, as long as its
    network lives. Nothing is folded under autocast, where a module has hooks, or for fewer than `FEWEST_PASSES` passes;
    and where a trial on two images gives other embeddings, the model itself is used. The trial is of the `distribution`
    given, and draws nothing from PyTorch's generators that stays drawn. What was put in place inside the model is taken
    out again at the end.
    """
    with ExitStack() as kept:
        victim = model
        if _worth_it(model, images, passes):
            with ExitStack() as attempt:
                try:
                    with same_draws(images.device):
                        found = _put_in_place(model, images[:2].detach(), distribution, attempt)
                except Exception:  # a trial runs anybody's Python; the model itself is right always
                    found = None
                if found is not None:
                    victim = found
                    kept.push(attempt.pop_all())
        yield victim


def _worth_it(model: nn.Module, images: Tensor, passes: int) -> bool:
    return (
        passes >= FEWEST_PASSES
        and images.dtype in _ROUNDING
        and images.dim() == 4
        and len(images) > 0
        and not torch.is_autocast_enabled(images.device.type)
        and not any(getattr(module, name) for module in model.modules() for name in _HOOKS)
    )


def only_distribution(segments: Sequence[int] | None, distribution: int) -> int:
    """The distribution that an attack passes images through with folded layers; with several at a time, none is."""
    return distribution if segments is None else max(range(len(segments)), key=lambda k: segments[k], default=0)


def _put_in_place(model: nn.Module, images: Tensor, distribution: int, stack: ExitStack) -> nn.Module | None:
    """Puts folded networks in the places of what they equal, until `stack` is closed; the module to call, or None."""
    places = list(_places(model))
    if not places:
        return None
    with torch.no_grad(), same_draws(images.device):
        expected = embed(model, images, None, distribution)
    victim = model
    for owner, name, network, plan in places:
        stack.enter_context(plan.constants_of(network))
        if owner is None:
            victim = plan
        elif name is None:
            stack.enter_context(owner.backbone_run_by(plan))
        else:
            stack.callback(owner._modules.__setitem__, name, network)
            owner._modules[name] = plan
    with torch.no_grad():
        found = embed(victim, images, None, distribution)
    allowed = _ROUNDING[images.dtype] * expected.abs().max()
    return victim if bool((found - expected).abs().max() <= allowed) else None


def _places(model: nn.Module) -> Iterator[tuple[Any, str | None, nn.Module, Folded]]:
    """(owner, name, network, plan): a network that is its owner's child of that name, or its backbone, or the model."""
    seen: set[nn.Module] = set()
    waiting: list[tuple[Any, str | None, nn.Module]] = [(None, None, model)]
    while waiting:
        owner, name, module = waiting.pop()
        if hasattr(type(module), "backbone_run_by"):
            backbone = module.backbone
            assert isinstance(backbone, nn.Module)
            if module not in seen and (plan := _plan_of(backbone)) is not None:
                seen.add(module)
                yield module, None, backbone, plan
        elif (plan := _plan_of(module)) is not None:
            yield owner, name, module, plan
        elif not type(module).__module__.startswith("torch.nn.parallel"):
            waiting += [(module, key, child) for key, child in module.named_children()]


# With each plan, the modules that it was made of.
_PLANS: WeakKeyDictionary[nn.Module, tuple[list[nn.Module], Folded | None]] = WeakKeyDictionary()


def _plan_of(network: object) -> Folded | None:
    """The network's plan, made at its first use and where its modules were exchanged; None where there is none."""
    if not isinstance(network, nn.Module) or not _trusted(network):
        return None
    modules = list(network.modules())[1:]
    known, plan = _PLANS.get(network, ([], None))
    if len(known) == len(modules) > 0 and all(a is b for a, b in zip(known, modules, strict=True)):
        return plan
    try:
        plan = Folded(network)
    except Exception:  # tracing runs the network's own Python, which can fail in any way
        plan = None
    _PLANS[network] = (modules, plan)
    return plan


class Folded(nn.Module):
    """A network's graph, with each convolution and the norm layer behind it as one. Runs inside `constants_of`.

    Args:
        network: images `[B, C, H, W]` → features, in eval mode.

    Raises:
        ValueError: there is no norm layer, or fewer than half of them can be folded.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        graph = _Tracer().trace(network)
        if any(node.op == "get_attr" for node in graph.nodes):
            raise ValueError("network: its graph holds tensors of its own")
        norms = sum(_scales(module) for module in network.modules())
        modules: dict[str, nn.Module] = dict(network.named_modules())
        self._convolutions: list[FoldedConvolution] = []
        calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
        for node in list(graph.nodes):
            pair = _pair(node, modules)
            if pair is None or any(calls.count(str(x.target)) > 1 for x in (pair, node)):
                continue
            merged = FoldedConvolution(modules[str(pair.target)], modules[str(node.target)])
            modules[str(pair.target)] = merged
            self._convolutions.append(merged)
            node.replace_all_uses_with(pair)
            graph.erase_node(node)
        if 2 * len(self._convolutions) < norms or not norms:
            raise ValueError("network: too few of its norm layers follow a convolution")
        del modules[""]
        graph.lint()
        self._run = fx.GraphModule(modules, graph)
        self._original: list[nn.Module] = []

    @contextmanager
    def constants_of(self, network: nn.Module) -> Iterator[None]:
        """Folds the weights that the network has now, and lets go of them at the end."""
        # In a list, which does not make it a child.
        self._original.append(network)
        try:
            yield
        finally:
            self._original.pop()
            if not self._original:
                for convolution in self._convolutions:
                    convolution.forget()

    def forward(self, images: Tensor) -> Tensor:
        """What the network gives."""
        contexts = [convolution.context for convolution in self._convolutions if convolution.context is not None]
        distribution = 0
        if contexts:
            present = [k for k, size in enumerate(contexts[0].sizes(len(images))) if size]
            if len(present) != 1:
                return self._original[-1](images)  # type: ignore[no-any-return]
            distribution = present[0]
        for convolution in self._convolutions:
            convolution.distribution = distribution
        if images.is_cpu:
            # Twice as fast there for networks of small kernels, and never slower; elsewhere it depends.
            images = images.contiguous(memory_format=torch.channels_last)
        return self._run(images)  # type: ignore[no-any-return]


class _Tracer(fx.Tracer):
    """Traces into trusted modules that hold norm layers; all others run as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _scales(m) or not _trusted(m) or not any(_scales(x) for x in m.modules())


def _trusted(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] in _TRUSTED and "forward" not in vars(module)


def _scales(module: nn.Module) -> bool:
    """Whether the module is a norm layer that eval mode makes a constant scale and shift."""
    # Ours is known by the plain layer that it stands for: attacks import no models.
    kind = getattr(module, "plain_type", type(module))
    return kind in _NORMS and getattr(module, "running_mean", None) is not None


def _pair(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The convolution that the norm layer `node` can be folded into; None where it is none, or has none."""
    if node.op != "call_module" or not _scales(modules[str(node.target)]) or len(node.args) != 1 or node.kwargs:
        return None
    before: Sequence[Any] = node.args
    source = before[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    convolution = modules[str(source.target)]
    foldable = type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros"
    exact = foldable and convolution.weight.dtype in _ROUNDING and "forward" not in vars(convolution)
    return source if exact else None

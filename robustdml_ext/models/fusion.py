"""Runs a network with its norm → (add →) ReLU chains fused, through torch.fx; its modules and keys stay."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from robustdml_ext.models.norm import DistributionNorm

_RELU_FUNCTIONS = (F.relu, torch.relu, torch.relu_)
# Tracing records `a += b` as an addition, too.
_ADD_FUNCTIONS = (operator.add, torch.add)


class _Tracer(fx.Tracer):
    """Traces into what holds norm layers, and nothing else, so that all other modules run as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DistributionNorm) or not any(isinstance(x, DistributionNorm) for x in m.modules())


def fused_forward(network: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A function that computes `network(x)` with fused norm layers; None where nothing can be fused.

    The function calls the network's own layers, so parameters, buffers, devices and training flags are
    shared. Forward hooks on modules that hold norm layers do not run in it.
    """
    training = {module: module.training for module in network.modules()}
    graphs = []
    try:
        for mode in (True, False):
            network.train(mode)
            graphs.append(_Tracer().trace(network))
    except Exception:  # tracing runs the network's own Python, which can fail in any way; unfused is right always
        return None
    finally:
        for module, flag in training.items():
            module.training = flag
    if str(graphs[0]) != str(graphs[1]):
        return None  # it does different things in training and in inference, outside of its modules
    if any(node.op == "get_attr" for node in graphs[0].nodes):
        return None  # parameters that a graph holds directly would not follow the network to another device
    graph = graphs[0]
    if not _fuse(network, graph):
        return None
    graph.lint()
    forward: Callable[[Tensor], Tensor] = fx.GraphModule(network, graph).forward
    return forward


def _is_norm(network: nn.Module, node: object) -> bool:
    """Whether the node is a norm layer, with nothing after the norm inside of it, and has a single user."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return False
    layer = network.get_submodule(str(node.target))
    norm = isinstance(layer, DistributionNorm) and layer.only_norm
    return norm and len(node.args) == 1 and not node.kwargs and len(node.users) == 1


def _is_relu(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))) is nn.ReLU
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    return node.op == "call_method" and node.target in ("relu", "relu_")


def _is_sum(node: fx.Node) -> bool:
    """Whether the node adds two values, unscaled."""
    return (
        node.op == "call_function"
        and node.target in _ADD_FUNCTIONS
        and len(node.args) == 2
        and all(isinstance(argument, fx.Node) for argument in node.args)
        and not node.kwargs
    )


def _only_user(node: fx.Node) -> fx.Node:
    return next(iter(node.users))


def _fuse(network: nn.Module, graph: fx.Graph) -> int:
    """Rewrites norm → ReLU, norm → add, and norm → add → ReLU in `graph`; returns how many."""
    count = 0
    for norm in list(graph.nodes):
        if not _is_norm(network, norm):
            continue
        last, residual, erased = norm, None, [norm]
        if _is_sum(_only_user(last)):
            last = _only_user(last)
            first, second = last.args
            if first is second:
                continue
            residual = second if first is norm else first
            # Of two norms that meet in a sum (a downsampling shortcut), the one computed last takes the other
            # in.
            if _is_norm(network, residual) and residual > norm:
                continue
            erased.append(last)
        relu = len(last.users) == 1 and _is_relu(network, _only_user(last))
        if relu:
            last = _only_user(last)
            erased.append(last)
        if last is norm:
            continue
        with graph.inserting_before(last):
            arguments = norm.args if residual is None else (*norm.args, residual)
            fused = graph.call_module(str(norm.target), arguments, {"relu": relu})
        last.replace_all_uses_with(fused)
        for node in reversed(erased):
            graph.erase_node(node)
        count += 1
    return count

"""The metric loss itself as what an attacker climbs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.attacks.objectives import Objective


class MetricLossAscent(Objective):
    """The metric loss that the model was trained by, to be made large: untargeted metric-loss ascent.

    A value per sample where the loss has one, by what the loss is:
        - over pairs or triplets with a reference set (`forward(…, reference, reference_labels, self_offset)`, as all
          pair losses here), with a bank: the loss of sample i alone as the anchor, compared with the bank; without its
          own row;
        - with parameters of its own (class proxies or centers): the loss of sample i alone; no bank is needed;
        - any other one, and pair losses without a bank: one joint loss of the batch (with the bank's rows, where there
          is one, as further items), which is every sample's value (`shared`). Their sum's gradient is B times that of
          the joint loss, which no attack here can tell from that of the loss; keeping the best is then for the batch
          as a whole.

    No gradient flows to the bank or the loss's parameters.

    Args:
        loss: `loss(embeddings [B, D], labels [B])` → scalar.
        labels: classes of the attacked images, int64 `[B]`.
        bank: clean embeddings that anchors are compared with, `[M, D]`.
        bank_labels: int64 `[M]`; given where the bank is.
        own: row of each attacked image itself in the bank, int64 `[B]`, which is left out; −1 where it is not there.
        shared: None: as above; True: the joint loss in any case, one call of the loss instead of B. (A mean over
            anchors has the gradient of the values per sample, up to a factor; only keeping the best is coarser.)

    Attributes:
        shared: whether all samples have the joint loss for a value.

    Raises:
        ValueError: of bank and labels only one is given, shapes do not fit, `own` without a bank, or `shared=False` of
            a loss that has no value per sample.
    """

    maximize = True

    def __init__(
        self,
        loss: Callable[..., Tensor],
        labels: Tensor,
        bank: Tensor | None = None,
        bank_labels: Tensor | None = None,
        own: Tensor | None = None,
        shared: bool | None = None,
    ) -> None:
        if (bank is None) != (bank_labels is None):
            raise ValueError("bank_labels: expected together with bank, got only one of them")
        if bank is None and own is not None:
            raise ValueError("own: expected with a bank, whose rows it names")
        for name, value, size in (("bank_labels", bank_labels, bank), ("own", own, labels)):
            if value is not None and size is not None and value.shape != (len(size),):
                raise ValueError(f"{name}: expected [{len(size)}], got {list(value.shape)}")
        self.labels, self.own = labels, own
        self._bank = None if bank is None else bank.detach()
        self._bank_labels = bank_labels
        self._loss = loss
        call = loss.forward if isinstance(loss, nn.Module) else loss
        self._takes_reference = self._bank is not None and "reference" in inspect.signature(call).parameters
        proxies = isinstance(loss, nn.Module) and any(True for _ in loss.parameters())
        divisible = self._takes_reference or proxies
        if shared is False and not divisible:
            raise ValueError(f"shared: {type(loss).__name__} has no value per sample here, expected None or True")
        self.shared = not divisible if shared is None else shared
        # Rows as Python numbers, which the loss wants; looked up once.
        self._rows = None if own is None or not self._takes_reference else own.tolist()

    def __call__(self, embeddings: Tensor) -> Tensor:
        if self.shared:
            return self._joint(embeddings).expand(len(embeddings))
        values = []
        for i in range(len(embeddings)):
            row = slice(i, i + 1)
            options: dict[str, Any] = {}
            if self._takes_reference:
                options = {"reference": self._bank, "reference_labels": self._bank_labels}
                if self._rows is not None and self._rows[i] >= 0:
                    options["self_offset"] = self._rows[i]
            values.append(self._call(embeddings[row], self.labels[row], **options))
        return torch.stack(values) if values else embeddings.sum(1)

    def _joint(self, embeddings: Tensor) -> Tensor:
        if self._bank is None or self._bank_labels is None:
            return self._call(embeddings, self.labels)
        bank, bank_labels = self._bank, self._bank_labels
        if self.own is not None:
            kept = torch.ones(len(bank), dtype=torch.bool, device=bank.device)
            kept[self.own[self.own >= 0]] = False
            bank, bank_labels = bank[kept], bank_labels[kept]
        if self._takes_reference:
            return self._call(embeddings, self.labels, reference=bank, reference_labels=bank_labels)
        together = torch.cat([embeddings, bank.to(embeddings.dtype)])
        return self._call(together, torch.cat([self.labels, bank_labels]))

    def _call(self, *arguments: Tensor, **options: Any) -> Tensor:
        if not isinstance(self._loss, nn.Module):
            return self._loss(*arguments, **options)
        frozen = {name: parameter.detach() for name, parameter in self._loss.named_parameters()}
        if not frozen:
            return self._loss(*arguments, **options)  # type: ignore[no-any-return]
        value: Tensor = torch.func.functional_call(self._loss, frozen, arguments, options)
        return value

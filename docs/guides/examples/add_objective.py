"""An objective of one's own: what an attacker of embeddings wants, for any attack algorithm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.attacks import Objective


class TowardsPoint(Objective):
    """1 − cos to one fixed embedding: every image is to be taken for the same person, product or place.

    Args:
        point: the embedding aimed at, `[D]`; no gradient flows to it.
    """

    maximize = False  # the attack makes the values small

    def __init__(self, point: Tensor) -> None:
        self.point = point.detach()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Values `[B]` of embeddings `[B, D]`, each of its own row alone."""
        return 1 - F.cosine_similarity(embeddings, self.point.to(embeddings.dtype)[None], dim=1)


if __name__ == "__main__":
    from robustdml_ext.attacks import PGD, AdaptivePGD, SquareAttack
    from robustdml_ext.models import build_embedder

    torch.manual_seed(0)
    model = build_embedder("small", channels=1, embedding_dim=16).eval()
    images = torch.rand(8, 1, 8, 8)
    objective = TowardsPoint(model(images[:1])[0])
    print("clean", objective(model(images)).mean().item())
    for attack in (PGD(0.1, steps=10), AdaptivePGD(0.1, steps=10), SquareAttack(0.1, 50)):
        attacked = attack.perturb(model, images, objective, generator=torch.Generator().manual_seed(0))
        print(type(attack).__name__, objective(model(attacked)).mean().item())

"""What an attacker of a classifier climbs: cross-entropy, and the margin by which a wrong class leads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.attacks.objectives import Objective


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the best wrong class leads, max_{j ≠ y} z_j − z_y, `[B]`: above 0 the image is misclassified.

    Args:
        logits: `[B, |Y|]`.
        labels: int64 `[B]`.
    """
    own = labels[:, None]
    return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own).squeeze(1)


class ClassObjective(Objective):
    """Base: an attack that makes a classifier miss the true class; logits `[B, |Y|]` stand for embeddings.

    Of iterates that are kept, the one with the largest margin is (`margins`), whatever is climbed: it says whether the
    image is misclassified. With several heads side by side, `[B, H·|Y|]`, values are sums, and the smallest margin
    counts: all heads are to be misled.

    Args:
        labels: true classes, int64 `[B]`.
        heads: H, how many heads' logits there are.

    Raises:
        ValueError: fewer heads than 1.
    """

    maximize = True

    def __init__(self, labels: Tensor, heads: int = 1) -> None:
        if heads < 1:
            raise ValueError(f"heads: expected at least 1, got {heads}")
        self.labels, self.heads = labels, heads

    def of_head(self, logits: Tensor) -> Tensor:
        """Values `[B]` of one head's logits `[B, |Y|]`."""
        raise NotImplementedError

    def _apart(self, logits: Tensor) -> tuple[Tensor, ...]:
        return logits.chunk(self.heads, dim=1)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Values `[B]` of logits `[B, H·|Y|]`."""
        return torch.stack([self.of_head(part) for part in self._apart(embeddings)]).sum(0)

    def better_by(self, embeddings: Tensor, values: Tensor) -> Tensor:
        """The smallest margin over heads, `[B]`."""
        return torch.stack([margins(part, self.labels) for part in self._apart(embeddings)]).amin(0)


class CrossEntropyAscent(ClassObjective):
    """−log softmax(z)_y, to be made large (Goodfellow et al. 2015, Madry et al. 2018)."""

    def of_head(self, logits: Tensor) -> Tensor:
        """Cross-entropies `[B]`."""
        return F.cross_entropy(logits, self.labels, reduction="none")


class ProbabilityAscent(ClassObjective):
    """−log softmax(softmax(z))_y: cross-entropy of an attacker who takes the model's probabilities for its logits.

    So the published code of "Learning Semantic Similarities for Prototypical Classifiers" attacks: its models answer
    with probabilities, and the attack applies another softmax. Where the model is sure, the gradient vanishes, and an
    image seems robust that is not. For the comparison with published figures alone.
    """

    def of_head(self, logits: Tensor) -> Tensor:
        """Cross-entropies of probabilities, `[B]`."""
        return F.cross_entropy(logits.softmax(1), self.labels, reduction="none")


class MarginAscent(ClassObjective):
    """max_{j ≠ y} z_j − z_y, to be made large (Carlini & Wagner 2017): its gradient does not vanish with confidence."""

    def of_head(self, logits: Tensor) -> Tensor:
        """Margins `[B]`."""
        return margins(logits, self.labels)


CLASS_OBJECTIVES: dict[str, type[ClassObjective]] = {
    "cross-entropy": CrossEntropyAscent,
    "margin": MarginAscent,
    "probabilities": ProbabilityAscent,
}

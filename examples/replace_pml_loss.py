"""Replace pytorch-metric-learning's loss in your training loop by this package's.

The loop below is an ordinary one of that library: its sampler, its miner, its loss. Run a second time with this
package's loss in the place of loss and miner, it computes the same values in less time, and learns the same.

    python examples/replace_pml_loss.py                  on scikit-learn's digits, nothing to download
    python examples/replace_pml_loss.py --root FOLDER    on your images: a folder a class, half of the classes trains
    python examples/replace_pml_loss.py --loss triplet   another loss

Times are of value and gradient of one batch of random embeddings, the fastest of some repeats, both losses in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from pytorch_metric_learning import distances, samplers
from pytorch_metric_learning import losses as theirs
from pytorch_metric_learning import miners as their_miners
from torch import Tensor, nn

from robustdml_ext import data
from robustdml_ext import losses as ours
from robustdml_ext.evaluation import embed, evaluate
from robustdml_ext.models import SmallNet

Loss = Callable[[Tensor, Tensor], Tensor]


class Mined:
    """A loss of pytorch-metric-learning with its miner, if any."""

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        self.loss, self.miner = loss, miner

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels, None if self.miner is None else self.miner(embeddings, labels))


# For each name theirs and ours. What a miner selects there is part of the loss here. Squared distances of triplets
# because that is what this package's triplet loss, as the papers', compares.
squared = distances.LpDistance(power=2)
PAIRS: dict[str, tuple[Loss, Loss]] = {
    "multisimilarity": (
        Mined(theirs.MultiSimilarityLoss(alpha=2, beta=40, base=0.5), their_miners.MultiSimilarityMiner(epsilon=0.1)),
        ours.MultiSimilarityLoss(alpha=2, beta=40, base=0.5, epsilon=0.1),
    ),
    "contrastive": (Mined(theirs.ContrastiveLoss()), ours.ContrastiveLoss()),
    "triplet": (Mined(theirs.TripletMarginLoss(margin=0.1, distance=squared)), ours.TripletLoss(margin=0.1)),
}


def train(network: nn.Module, loss: Loss, images: data.LabeledImages, options: argparse.Namespace) -> None:
    """The same loop for both losses."""
    sampler = samplers.MPerClassSampler(images.labels, m=16, batch_size=80, length_before_new_iter=len(images))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(options.epochs):
        for indices in torch.tensor(list(sampler)).split(80):
            pixels, labels = images.batch(indices.tolist())
            value = loss(network(pixels), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def compare(loss: Loss, other: Loss, options: argparse.Namespace) -> dict[str, float]:
    """Value, the largest difference of gradients, and time of both on one batch of random embeddings."""
    embeddings = torch.randn(options.batch_size, options.dimensions, requires_grad=True)
    labels = torch.arange(options.batch_size) // 4
    values, gradients, seconds = [], [], ([], [])
    for step in (loss, other):
        values.append(step(embeddings, labels))
        gradients.append(torch.autograd.grad(values[-1], embeddings)[0])
    for _ in range(options.repeats):
        for step, times in zip((loss, other), seconds, strict=True):
            began = time.perf_counter()
            torch.autograd.grad(step(embeddings, labels), embeddings)
            times.append(time.perf_counter() - began)
    # The fastest of them: what slows a step down is other work on the machine.
    fastest = [1000 * min(times) for times in seconds]
    difference = (gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()
    return {
        "theirs": values[0].item(),
        "ours": values[1].item(),
        "difference": difference.item(),
        "their ms": fastest[0],
        "our ms": fastest[1],
        "ratio": fastest[0] / fastest[1],
    }


def main(arguments: Sequence[str] | None = None) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a folder with a folder of images for each class; without it, digits")
    parser.add_argument("--image-size", type=int, help="side in pixels that images are resized to")
    parser.add_argument("--loss", choices=PAIRS, default="multisimilarity", help="what both networks are trained by")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=512, help="B of the comparison")
    parser.add_argument("--dimensions", type=int, default=128, help="D of the comparison")
    parser.add_argument("--repeats", type=int, default=7, help="how often each loss is timed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    compared = {name: compare(*pair, options) for name, pair in PAIRS.items()}
    print(f"One batch, B = {options.batch_size}, D = {options.dimensions}, value and gradient")
    print(f"{'':18}{'PML value':>12}{'our value':>12}{'gradients differ':>19}{'PML':>12}{'ours':>12}{'ratio':>9}")
    for name, row in compared.items():
        print(
            f"{name:18}{row['theirs']:12.6f}{row['ours']:12.6f}{row['difference']:19.1e}"
            f"{row['their ms']:9.2f} ms{row['our ms']:9.2f} ms{row['ratio']:8.1f}x"
        )

    splits = data.load("digits" if options.root is None else "folder", options.root, image_size=options.image_size)
    recalls = {}
    print(f"\nTrained by {options.loss}, {options.epochs} epochs, the same loop and seed; Recall@1 of unseen classes")
    for title, loss in zip(("pytorch-metric-learning", "robustdml_ext"), PAIRS[options.loss], strict=True):
        torch.manual_seed(options.seed)
        network = SmallNet(splits.channels, num_classes=64)
        began = time.perf_counter()
        train(network, loss, splits.train, options)
        seconds = time.perf_counter() - began
        recalls[title] = evaluate(*embed(network, splits.test), recall_at=(1,), metrics="recall")["recall@1"]
        print(f"{title:28}{100 * recalls[title]:6.1f} %   training {seconds:.1f} s")
    return compared, recalls


if __name__ == "__main__":
    main()

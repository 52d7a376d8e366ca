"""Judge embedding models of your own: clean, under attack, one score by which they rank, and warnings.

Two copies of a small network are trained here in plain PyTorch, one on clean images and one on images attacked by a
single gradient step. Then both are judged on classes that neither has seen.

    python examples/judge_your_model.py                  on scikit-learn's digits, nothing to download
    python examples/judge_your_model.py --root FOLDER    on your images: a folder a class, half of the classes trains

To judge another model, replace `MyNetwork`. All that it needs is to map images [B, C, H, W], pixels in [0, 1], to
vectors [B, D]; a normalization belongs inside of it, which `models.PlainEmbedder` does for a network that has none:

    PlainEmbedder(timm.create_model("resnet50", pretrained=True, num_classes=0), IMAGENET_MEAN, IMAGENET_STD)

and of a torchvision network the classifier is taken off first: `network.fc = nn.Identity()`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext import data
from robustdml_ext.evaluation import RobustnessReport, judge_robustness, rank_models


class MyNetwork(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self, channels: int, dimensions: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
        )
        self.linear = nn.Linear(64, dimensions)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.convolutions(images).mean((2, 3)))


def train(model: nn.Module, images: data.LabeledImages, options: argparse.Namespace, epsilon: float) -> None:
    """Trains model and a classifier on top of it; where ε > 0, on images that a gradient step has moved by ε."""
    classifier = nn.Linear(64, len(images.class_names))
    optimizer = torch.optim.Adam([*model.parameters(), *classifier.parameters()], lr=2e-3)
    for _ in range(options.epochs):
        for indices in torch.randperm(len(images)).split(128):
            pixels, labels = images.batch(indices.tolist())
            if epsilon > 0:
                pixels.requires_grad_()
                (slope,) = torch.autograd.grad(F.cross_entropy(classifier(model(pixels)), labels), pixels)
                pixels = (pixels + epsilon * slope.sign()).clamp(0, 1).detach()
            loss = F.cross_entropy(classifier(model(pixels)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def show(reports: dict[str, RobustnessReport]) -> None:
    """A row an attack and ε, a column a model; then the scores and what the checks found."""
    names = list(reports)
    print("Recall@1, %".ljust(28) + "".join(name.rjust(24) for name in names))
    for rows in zip(*(report.rows() for report in reports.values()), strict=True):
        attack, epsilon = rows[0]["attack"], rows[0]["epsilon"]
        label = attack if epsilon is None else f"{attack}, epsilon {epsilon:.3g}"
        print(label.ljust(28) + "".join(f"{100 * row['recall@1']:.1f}".rjust(24) for row in rows))
    for metric in ("nmi", "pi_ratio"):
        figures = (report.rows()[0][metric] for report in reports.values())
        print(f"{metric}, clean".ljust(28) + "".join(f"{figure:.3f}".rjust(24) for figure in figures))
    for place, (name, score) in enumerate(rank_models(reports), 1):
        print(f"{place}. {name}: robustness score {score:.3f}")
    for name, report in reports.items():
        print(f"warnings for {name}: {'; '.join(report.warnings) or 'none'}")


def main(arguments: Sequence[str] | None = None) -> dict[str, RobustnessReport]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a folder with a folder of images for each class; without it, digits")
    parser.add_argument("--image-size", type=int, help="side in pixels that images are resized to")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--epsilons", type=float, nargs="+", default=[0.05, 0.1], help="radii of attacks, in pixels of [0, 1]"
    )
    parser.add_argument("--attacks", nargs="+", default=["stax", "mtax", "out"], help="names of evaluation.ATTACKS")
    parser.add_argument(
        "--test-images", type=int, default=1000, help="how many images are judged, of all classes alike"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    name = "digits" if options.root is None else "folder"
    splits = data.load(name, options.root, image_size=options.image_size)
    judged = splits.test.select(data.choose_evenly(splits.test.labels, options.test_images, options.seed))
    reports = {}
    for title, epsilon in (("trained clean", 0.0), ("trained under attack", max(options.epsilons))):
        torch.manual_seed(options.seed)
        model = MyNetwork(splits.channels)
        train(model, splits.train, options, epsilon)
        reports[title] = judge_robustness(
            model, judged, epsilons=options.epsilons, attacks=options.attacks, seed=options.seed
        )
    show(reports)
    return reports


if __name__ == "__main__":
    main()

"""Add MDProp to a timm backbone, in a training loop of your own, and get timm's own network back.

The backbone's batch norm layers are replaced by layers that keep three distributions apart: clean images, images
attacked towards one target, and towards five. After training the clean distribution's norm is what is used, so the
network that is left is timm's again, and its state dict loads strictly in `timm.create_model`.

    python examples/mdprop_on_timm.py                                  on scikit-learn's digits, nothing to download
    python examples/mdprop_on_timm.py --arch mobilenetv3_small_050     another architecture with batch norm
    python examples/mdprop_on_timm.py --root FOLDER --pretrained       on your images: a folder a class, half trains

Architectures without batch norm (ConvNeXt, most transformers) are refused, as there is nothing in them to keep the
distributions apart by.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import nn

from robustdml_ext import data
from robustdml_ext.attacks import PGD
from robustdml_ext.evaluation import judge_threats, standard_threat
from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.methods import Batch, Context, MDProp, Method, Standard
from robustdml_ext.models import Embedder


def embedder_of(network: nn.Module, distributions: int, dimensions: int) -> Embedder:
    """timm's network, its classifier taken off, with norms for several distributions and a head."""
    classifier = network.pretrained_cfg["classifier"]
    feature_dim = network.get_submodule(classifier).in_features
    network.set_submodule(classifier, nn.Identity())
    return Embedder(
        network,
        feature_dim,
        dimensions,
        distributions=distributions,
        mean=network.pretrained_cfg["mean"],
        std=network.pretrained_cfg["std"],
        classifier=classifier,
    )


def train(method: Method, images: data.LabeledImages, options: argparse.Namespace) -> None:
    """An ordinary loop: the method makes the adversarial images and the loss of a batch, all else is PyTorch's."""
    sampler = data.PKSampler(images.labels, options.batch_size, options.batch_size // 5, options.seed, options.steps)
    optimizer = torch.optim.AdamW(method.parameter_groups(lr=1e-3, weight_decay=1e-4))
    generator = torch.Generator().manual_seed(options.seed)
    method.train()
    for indices in sampler.epoch(0):
        output = method.training_step(Batch(*images.batch(indices)), generator, Context())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()


def judge(embedder: Embedder, images: data.LabeledImages, options: argparse.Namespace) -> dict[str, float]:
    """Recall@1 clean, with all images moved towards one of another class, and with queries fleeing their class."""
    threats = [standard_threat(name, options.epsilon, steps=10) for name in ("stax", "out")]
    entries = judge_threats(embedder, images, threats, recall_at=(1,), clustering=False, seed=options.seed)
    return {entry["attack"]: entry["metrics"]["recall@1"] for entry in entries}


def export(embedder: Embedder, options: argparse.Namespace, pixels: torch.Tensor) -> nn.Module:
    """timm's own model with the trained weights, checked to give the same embeddings."""
    plain = timm.create_model(options.arch, num_classes=embedder.embedding_dim)
    plain.load_state_dict(embedder.export().state_dict(), strict=True)
    plain.eval()
    embedder.eval()
    with torch.no_grad():
        # Normalization and unit length are the embedder's, and come around the exported network.
        found = F.normalize(plain((pixels - embedder.mean) / embedder.std))
        torch.testing.assert_close(found, embedder(pixels), rtol=1e-3, atol=1e-4)
    return plain


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a folder with a folder of images for each class; without it, digits")
    parser.add_argument("--arch", default="resnet18", help="a timm architecture with batch norm")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights, downloaded where need be")
    parser.add_argument("--image-size", type=int, help="side in pixels that images are resized to; of digits 16")
    parser.add_argument("--steps", type=int, default=80, help="training steps of each method")
    parser.add_argument("--batch-size", type=int, default=40, help="of five classes")
    parser.add_argument("--dimensions", type=int, default=64, help="of embeddings")
    parser.add_argument("--epsilon", type=float, default=0.05, help="radius of all attacks, in pixels of [0, 1]")
    parser.add_argument("--test-images", type=int, default=250, help="how many images are judged, of all classes alike")
    parser.add_argument("--save", help="a file for the exported state dict")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    name, size = ("digits", 16) if options.root is None else ("folder", None)
    splits = data.load(name, options.root, image_size=options.image_size or size, channels=3)
    judged = splits.test.select(data.choose_evenly(splits.test.labels, options.test_images, options.seed))
    recalls: dict[str, dict[str, float]] = {}
    for title, targets in (("standard", []), ("MDProp", [1, 5])):
        torch.manual_seed(options.seed)
        network = timm.create_model(options.arch, pretrained=options.pretrained)
        embedder = embedder_of(network, 1 + len(targets), options.dimensions)
        if not recalls:
            recalls["before training"] = judge(embedder, judged, options)
        attack = PGD(epsilon=options.epsilon, steps=1)
        loss = MultiSimilarityLoss()
        method = MDProp(embedder, loss, targets, attack) if targets else Standard(embedder, loss)
        train(method, splits.train, options)
        recalls[title] = judge(embedder, judged, options)

    print(f"Recall@1 of unseen classes, %, {options.arch}, attacks of epsilon {options.epsilon}")
    print(f"{'':18}{'clean':>8}{'stax':>8}{'out':>8}")
    for title, row in recalls.items():
        print(f"{title:18}" + "".join(f"{100 * value:8.1f}" for value in row.values()))
    plain = export(embedder, options, splits.test.batch(range(8))[0])
    print(
        f"exported: timm.create_model({options.arch!r}, num_classes={options.dimensions}), "
        f"{len(plain.state_dict())} tensors loaded strictly, the same embeddings"
    )
    if options.save:
        torch.save(plain.state_dict(), options.save)
    return recalls


if __name__ == "__main__":
    main()

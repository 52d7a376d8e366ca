"""Everything that has a name on the command line, with a line each, at no cost of PyTorch.

The names are those of the schema and of the data sets. A test holds the lines here to the tables that build them.
"""

from __future__ import annotations

from collections.abc import Callable

from robustdml_ext.data.names import NAMES
from robustdml_ext.recipes import METHODS, packaged_recipes, read_recipe_file

PAPERS = {
    "mdprop": "MDProp (Singh et al.)",
    "eat": "Ensemble adversarial training (Ke)",
    "ecaml": "Energy confused adversarial metric learning (Chen and Deng)",
    "daml": "Deep adversarial metric learning (Duan et al.)",
    "prototypes": "Prototypical classifiers with a learned similarity (ICLR 2021 submission)",
}

LOSSES = {
    "multisimilarity": "Multi-similarity: pairs mined against the hardest of the other kind, by log-sum-exp.",
    "arcface": "ArcFace: softmax over class centers, with an additive angular margin.",
    "contrastive": "Contrastive: positive pairs within one margin, negative pairs beyond another.",
    "triplet": "Triplet: positives closer than negatives by a margin, over all triplets of a batch or mined ones.",
    "lifted": "Lifted structure: each positive pair against all negatives of both its images.",
    "npair": "N-pair: softmax over inner products, one positive against all other classes' ones.",
    "binomial": "Binomial deviance: a smooth hinge on the similarity of every pair.",
    "angular": "Angular: the angle at the negative of a triplet, bounded from above.",
    "proxyanchor": "Proxy-Anchor: every class proxy an anchor for the whole batch.",
    "normalizedsoftmax": "Normalized softmax: classification by cosine to class proxies, with a temperature.",
    "prototypical": "Of prototypes alone: classes and pairs by a learned similarity, and a dense output layer.",
}

BACKBONES = {
    "small": "a few convolutions with batch norm, for digits and tests; any number of channels",
    "lenet": "LeNet, of MNIST's prototypes; any number of channels",
    "bn_inception": "BN-Inception (Inception with batch norm), with published ImageNet weights",
    "xvector": "x-vectors, a time-delay network for sound",
    "wide_resnetDEPTH_WIDTH": "wide ResNets for small images, as wide_resnet34_10; any number of channels",
}
TORCHVISION = (
    "any classification network of torchvision by its name there: resnet18, resnet50, resnet152, mobilenet_v2, "
    "googlenet, inception_v3, densenet121, efficientnet_b0, convnext_tiny, …; methods with norms of their own for each "
    "kind of image need batch norm"
)

ATTACKS = {
    "stax": "every image towards one image of another class (MDProp)",
    "mtax": "every image towards several images of other classes (MDProp)",
    "away": "every image away from its clean embedding (EAT, equation 10)",
    "both": "every image flees its class, in turns, in a gallery that flees as well",
    "loss": "each query climbs the multi-similarity loss against the clean gallery",
    "out": "each query pushes the right items out of its nearest k",
    "candidate-raise": "each query draws a chosen item of another class to the front",
    "candidate-lower": "each query pushes its nearest right item to the back",
    "gallery-raise": "one gallery item of another class moves to the query's front",
    "gallery-lower": "the query's nearest right item moves away from the query",
    "square": "as out, by random search in squares: scores alone, no gradient",
    "transfer": "as out, with the gradients of a surrogate model",
}

CLASS_ATTACKS = {
    "fgsm": "one step of length ε up the cross-entropy",
    "pgd": "steps up the cross-entropy, from anywhere in the ball",
    "pgd-probabilities": "as pgd, taking probabilities for logits as the published code of the prototypes paper does: "
    "weaker",
    "fgsm-probabilities": "as fgsm, taking probabilities for logits, likewise",
    "apgd": "Auto-PGD up the cross-entropy",
    "apgd-margin": "Auto-PGD up the margin of the best wrong class",
    "square-margin": "random search in squares for a larger margin: no gradient",
}


def _recipes() -> dict[str, str]:
    return {name: read_recipe_file(name).title for name in packaged_recipes()}


KINDS: dict[str, tuple[str, Callable[[], dict[str, str]]]] = {
    "methods": ("Methods (`METHOD --help` describes one's options)", lambda: METHODS),
    "losses": ("Losses (--loss)", lambda: LOSSES),
    "backbones": ("Backbones (--arch)", lambda: BACKBONES | {"torchvision": TORCHVISION}),
    "datasets": ("Data sets (--dataset)", lambda: NAMES),
    "attacks": ("Attacks on embeddings (--eval-attacks; `evaluate --attacks`)", lambda: ATTACKS),
    "class-attacks": ("Attacks on classifiers, of prototypes (likewise)", lambda: CLASS_ATTACKS),
    "recipes": ("Recipes (`show NAME` prints one, `METHOD --recipe NAME` runs it, `table` all of a table)", _recipes),
}
"""For each kind its heading and what gives its entries: name → line."""

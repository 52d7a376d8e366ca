"""Backbones, the embedding head, and batch norm for several distributions."""

from robustdml_ext.models.build import IMAGENET_MEAN, IMAGENET_STD, build_embedder
from robustdml_ext.models.convert import convert_norms, to_plain
from robustdml_ext.models.embedder import Embedder
from robustdml_ext.models.embedder_ensemble import EmbedderEnsemble
from robustdml_ext.models.ensemble import Ensemble
from robustdml_ext.models.fusion import fused_forward
from robustdml_ext.models.lenet import LeNet
from robustdml_ext.models.norm import DistributionNorm, NormContext
from robustdml_ext.models.norm_act import DistributionNormAct
from robustdml_ext.models.plain import PlainEmbedder, plain_embedder
from robustdml_ext.models.prototypical import Head, PrototypicalClassifier, PrototypicalHeads, class_means
from robustdml_ext.models.similarity import SimilarityNetwork
from robustdml_ext.models.small import SmallNet
from robustdml_ext.models.wide_resnet import WideResNet
from robustdml_ext.models.xvector import XVector

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "DistributionNorm",
    "DistributionNormAct",
    "Embedder",
    "EmbedderEnsemble",
    "Ensemble",
    "Head",
    "LeNet",
    "NormContext",
    "PlainEmbedder",
    "PrototypicalClassifier",
    "PrototypicalHeads",
    "SimilarityNetwork",
    "SmallNet",
    "WideResNet",
    "XVector",
    "build_embedder",
    "class_means",
    "convert_norms",
    "fused_forward",
    "plain_embedder",
    "to_plain",
]

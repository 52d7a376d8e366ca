"""Training methods, one paper a file."""

from robustdml_ext.methods.adversarial import Adversarial
from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.daml import HardNegatives
from robustdml_ext.methods.defenses import IAT, TRADES, MixUp, UntargetedAdversarial
from robustdml_ext.methods.eat import EAT, NaiveEnsemble, split_into_parts
from robustdml_ext.methods.ecaml import EnergyConfused
from robustdml_ext.methods.embedded import Embedded
from robustdml_ext.methods.feature_loss import FeatureLoss, Progress
from robustdml_ext.methods.mdprop import AdvPropD, MDProp
from robustdml_ext.methods.prototypes import Prototypes, PrototypicalLoss
from robustdml_ext.methods.s2sd import SelfDistillation
from robustdml_ext.methods.standard import Standard

__all__ = [
    "EAT",
    "IAT",
    "TRADES",
    "AdvPropD",
    "Adversarial",
    "Batch",
    "Context",
    "Embedded",
    "EnergyConfused",
    "FeatureLoss",
    "HardNegatives",
    "MDProp",
    "Method",
    "MixUp",
    "NaiveEnsemble",
    "Progress",
    "Prototypes",
    "PrototypicalLoss",
    "SelfDistillation",
    "Standard",
    "StepOutput",
    "UntargetedAdversarial",
    "split_into_parts",
]

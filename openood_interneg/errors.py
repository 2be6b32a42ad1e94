"""The errors that are for people: bad input, missing data, missing weights.

The command line prints their message and nothing else; anything not in this list is a bug and
shows its traceback.
"""

from __future__ import annotations

from openood_interneg.detectors.base import DetectorError
from openood_interneg.evaluation.datasets import BenchmarkError
from openood_interneg.evaluation.images import ImageError
from openood_interneg.evaluation.store import StoreError
from openood_interneg.negatives.corpus import CorpusError
from openood_interneg.negatives.inversion import InversionError
from openood_interneg.negatives.proxies import ProxyError
from openood_interneg.plugin.baselines import BaselineError
from openood_interneg.plugin.loaders import LoaderError
from openood_interneg.plugin.network import NetworkError
from openood_interneg.plugin.openood import MissingPackage, OpenOODError
from openood_interneg.settings import SettingsError
from openood_interneg.vlm.backbones import FeatureError, WeightsError
from openood_interneg.vlm.checkpoints import CheckpointError
from openood_interneg.vlm.classnames import ClassNameError
from openood_interneg.vlm.patches import PatchError
from openood_interneg.vlm.prompts import PromptError
from openood_interneg.vlm.pseudo_prompts import TextTowerError
from openood_interneg.vlm.views import ViewError

EXPECTED = (
    BaselineError,
    LoaderError,
    MissingPackage,
    NetworkError,
    OpenOODError,
    BenchmarkError,
    CheckpointError,
    ClassNameError,
    CorpusError,
    DetectorError,
    FeatureError,
    ImageError,
    PatchError,
    ViewError,
    InversionError,
    PromptError,
    ProxyError,
    SettingsError,
    StoreError,
    TextTowerError,
    WeightsError,
)

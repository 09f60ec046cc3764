"""Networks with mixtures inside, their dense control, and what they cost."""

from hmoe.models.cost import Cost, cost
from hmoe.models.dense import Dense
from hmoe.models.describe import description
from hmoe.models.mixture import Blend, Mixture
from hmoe.models.mlp import ResidualMlp
from hmoe.models.multi_task import MultiTask
from hmoe.models.recommender import Recommender
from hmoe.models.transformer import Transformer
from hmoe.models.vit import Vit

__all__ = [
    "Blend",
    "Cost",
    "Dense",
    "Mixture",
    "MultiTask",
    "Recommender",
    "ResidualMlp",
    "Transformer",
    "Vit",
    "cost",
    "description",
]

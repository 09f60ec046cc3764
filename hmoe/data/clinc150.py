"""CLINC150: what a user wants of an assistant, 150 intents in 10 domains, as rows of word weights.

Larson et al. (2019), "An evaluation dataset for intent classification and out-of-scope prediction",
CC BY 3.0: 22,500 sentences, 2.5 MB, the published splits of 100, 20 and 30 sentences an intent for
training, validation and test. The first is

    what expression would i use to say i love you if i were an italian    translate, of travel

A row holds for each of the words that occur most often in the training sentences how often the
sentence has it, times how rare it is (tf-idf), scaled to a length of 1: nearly all are 0. Labels
are domain (10) and intent (150). The sentences that are of no intent (out of scope) are left out.

A linear support vector machine on all words and pairs of words is right in 91.1 % of the test, in
90.9 % on the 2,048 commonest words alone.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_at_least
from hmoe.data.known_sets import KNOWN_SETS
from hmoe.data.loader import SPLITS, Batch, Split
from hmoe.data.rows import RowData

SENTENCES, DOMAINS = "data_full.json", "domains.json"


class Clinc150(RowData):
    """Sentences: x float32 (B, max_features), y int64 (B,), the number of the intent by name.

    Args:
        root: the folder of the set; where `hmoe fetch` puts it is the default.
        batch_size: sentences a batch.
        seed: seed of the training stream.
        max_features: words that count, the commonest of the training sentences; if there are fewer,
            the last columns are 0.

    Raises:
        ConfigError: batch_size or max_features below 1, or a batch above the training sentences.
        DataError (from setup): a file is missing, or is not the one that was published.
    """

    task = "classification"
    out_dim = 150
    domain_labels = ("domain", "intent")

    def __init__(self, *, root: str, batch_size: int, seed: int, max_features: int) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        check_at_least("max_features", max_features, 1)
        self.in_dim = max_features
        self._root = Path(root).expanduser()
        self._names: tuple[tuple[str, ...], ...] = ()

    @property
    def domain_names(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """As of every set."""
        self.setup()
        return self._names

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """Domain and intent; the intent is the class."""
        return dict(zip(self.domain_labels, self.domain_names, strict=True))

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """Domain and intent of every sentence."""
        return dict(zip(self.domain_labels, batch["domain"].unbind(-1), strict=True))

    def _load(self) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
        # Imported here because it takes a second that no other set has to pay.
        from sklearn.feature_extraction.text import TfidfVectorizer

        known = KNOWN_SETS["clinc150"]
        said = json.loads(known.read(self._root, SENTENCES))
        intents_of = json.loads(known.read(self._root, DOMAINS))
        domain_of = {intent: domain for domain, of in intents_of.items() for intent in of}
        domains, intents = sorted(intents_of), sorted(domain_of)
        parent = np.array([domains.index(domain_of[intent]) for intent in intents])
        words = TfidfVectorizer(max_features=self.in_dim, dtype=np.float32)
        words.fit([sentence for sentence, _ in said["train"]])
        splits: dict[Split, tuple[np.ndarray, np.ndarray]] = {}
        for split in SPLITS:
            weights = words.transform([sentence for sentence, _ in said[split]])
            x = np.zeros((len(said[split]), self.in_dim), dtype=np.float32)
            x[:, : weights.shape[1]] = weights.toarray()
            y = np.array([intents.index(intent) for _, intent in said[split]], dtype=np.int64)
            splits[split] = x, y
            self._domains[split] = torch.from_numpy(np.stack([parent[y], y], -1))
        self._names = tuple(domains), tuple(intents)
        return splits

    def _digested(self, values: np.ndarray) -> bytes:
        # Logarithms and roots differ between machines in the last bits.
        return super()._digested(np.round(values, 4) + 0 if values.ndim == 2 else values)

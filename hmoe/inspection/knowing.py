"""Knowing: what the choice of experts tells of a token's labels, and what its input alone would.

Letters: T tokens, D width, R rows, E experts, C values of a label, L levels, S sampled tokens, Z
clusters.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hmoe.inspection.observe import Seen
from hmoe.metrics import (
    Knowledge,
    ami,
    entropy,
    level_counts,
    level_information,
    nmi,
    pair_counts,
    permutation_null,
)

_PERMUTATIONS = 100
_MOST_CLUSTERS = 1024  # k-means beyond would take longer than all the rest
_SEED = 0


def knowledge(
    seen: Seen, labels: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]
) -> tuple[Knowledge, ...]:
    """What a layer knows of every label.

    Args:
        labels: label -> its value for every token, int64 (T,).
        names: label -> names of its values.
    """
    clusters = clusterings(seen)
    return tuple(
        _of_label(label, value_T, names[label], seen, clusters) for label, value_T in labels.items()
    )


def clusterings(seen: Seen) -> dict[int, np.ndarray]:
    """k-means of a layer's inputs, for every number of nodes that a cut has: Z -> cluster_S.

    The control of a gate: what would be known by sorting the inputs by likeness, with nothing
    learnt. Cuts of too many nodes, or of more than there are tokens, are left out.
    """
    # Imported here because it takes a second that no other command has to pay.
    from sklearn.cluster import MiniBatchKMeans

    sizes = {len(seen.tree.cut(level)) for level in range(seen.tree.num_levels)}
    input_SD = seen.input_SD.numpy()
    most = min(_MOST_CLUSTERS, len(input_SD))
    return {
        size: MiniBatchKMeans(
            n_clusters=size, random_state=_SEED, n_init=1, batch_size=4096
        ).fit_predict(input_SD)
        for size in sorted(sizes)
        if size <= most
    }


def _of_label(
    label: str,
    value_T: Tensor,
    names: Sequence[str],
    seen: Seen,
    clusters: Mapping[int, np.ndarray],
) -> Knowledge:
    tree = seen.tree
    present, value_T = value_T.unique(return_inverse=True)  # those that were met
    counts_CE = pair_counts(value_T[seen.token_R], seen.expert_R, len(present), tree.num_experts)
    generator = torch.Generator().manual_seed(_SEED)
    null_L, p_L = permutation_null(
        value_T, seen.token_R, seen.expert_R, tree, _PERMUTATIONS, generator
    )
    cuts = [level_counts(counts_CE, tree, level) for level in range(tree.num_levels)]
    sample_value_S = value_T[seen.sample_S]
    cluster_ami_L = [
        ami(pair_counts(sample_value_S, torch.from_numpy(clusters[size]), len(present), size))
        if size in clusters
        else np.nan
        for size in (cut.shape[1] for cut in cuts)
    ]
    return Knowledge(
        label=label,
        values=tuple(names[value] for value in present.tolist()),
        counts_CE=counts_CE.numpy(),
        entropy=entropy(counts_CE.sum(1)).item(),
        information_L=level_information(counts_CE, tree).numpy(),
        null_L=null_L.numpy(),
        p_L=p_L.numpy(),
        nmi_L=np.array([nmi(cut) for cut in cuts]),
        ami_L=np.array([ami(cut) for cut in cuts]),
        clusters_ami_L=np.array(cluster_ami_L, dtype=float),
    )

"""Knowing: what the choice of experts tells of a token's labels, and what its input alone would.

Letters: T tokens, D width, R rows, E experts, C values of a label, L levels, S sampled tokens, Z
clusters, Q permutations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hmoe.inspection.observe import Seen
from hmoe.metrics import (
    Knowledge,
    ami,
    corrected_p,
    entropy,
    level_counts,
    level_information,
    nmi,
    pair_counts,
    permutation_null,
)

_PERMUTATIONS = 99, 999  # at least, at most
_COUNTED = 2**26  # rows, or cells, of all permutations of a label, so that they take seconds
_MOST_CLUSTERS = 1024  # k-means beyond would take longer than all the rest
_SEED = 0


def knowledge(
    layers: Mapping[str, Seen],
    labels: Mapping[str, Tensor],
    names: Mapping[str, Sequence[str]],
    *,
    tokens_per_row: int,
    group_W: Tensor | None = None,
    show: Callable[[], None] = lambda: None,
) -> dict[str, tuple[Knowledge, ...]]:
    """What each layer knows of every label.

    Significance is that of all layers, labels and levels together (`corrected_p`): of a run in
    which nobody knows anything, one of twenty is said to know something.

    Args:
        layers: place in the model -> what the layer did.
        labels: label -> its value for every token, int64 (T,).
        names: label -> names of its values.
        tokens_per_row: of the data; rows are what is permuted.
        group_W: what rows hang together by; see `permutation_null`.
        show: called after every layer.
    """
    present = {label: value_T.unique(return_inverse=True) for label, value_T in labels.items()}
    cells = [
        len(c) * seen.tree.num_experts for c, _ in present.values() for seen in layers.values()
    ]
    rows = [max(seen.num_tokens, len(seen.token_R)) for seen in layers.values()]
    least, most = _PERMUTATIONS
    permutations = min(most, max(least, _COUNTED // max(*cells, *rows, 1)))
    found: dict[str, list[Knowledge]] = {}
    nulls = []
    for place, seen in layers.items():
        clusters, found[place] = clusterings(seen), []
        for label, (value_C, value_T) in present.items():
            null_QL = permutation_null(
                value_T,
                seen.token_R,
                seen.expert_R,
                seen.tree,
                tokens_per_row=tokens_per_row,
                permutations=permutations,
                generator=torch.Generator().manual_seed(_SEED),
                group_W=group_W,
            )
            values = tuple(names[label][value] for value in value_C.tolist())
            found[place].append(_of_label(label, value_T, values, seen, clusters, null_QL))
            nulls.append(null_QL)
        show()
    p = iter(corrected_p(nulls)) if nulls else iter(())
    return {
        place: tuple(replace(each, p_L=next(p).numpy()) for each in known)
        for place, known in found.items()
    }


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
    values: tuple[str, ...],
    seen: Seen,
    clusters: Mapping[int, np.ndarray],
    null_QL: Tensor,
) -> Knowledge:
    """All but the significance, for which the other labels and layers are needed."""
    tree = seen.tree
    counts_CE = pair_counts(value_T[seen.token_R], seen.expert_R, len(values), tree.num_experts)
    cuts = [level_counts(counts_CE, tree, level) for level in range(tree.num_levels)]
    sample_value_S = value_T[seen.sample_S]
    cluster_ami_L = [
        ami(pair_counts(sample_value_S, torch.from_numpy(clusters[size]), len(values), size))
        if size in clusters
        else np.nan
        for size in (cut.shape[1] for cut in cuts)
    ]
    return Knowledge(
        label=label,
        values=values,
        counts_CE=counts_CE.numpy(),
        entropy=entropy(counts_CE.sum(1)).item(),
        information_L=level_information(counts_CE, tree).numpy(),
        null_L=null_QL[1:].mean(0).numpy(),
        p_L=np.full(tree.num_levels, np.nan),
        nmi_L=np.array([nmi(cut) for cut in cuts]),
        ami_L=np.array([ami(cut) for cut in cuts]),
        clusters_ami_L=np.array(cluster_ami_L, dtype=float),
    )

"""Ranking: how well predictions order answers, or what each user rated, and how far off they are.

Letters: R ratings, U users.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def area_under_roc(score_R: Floats, yes_R: NDArray[np.bool_]) -> float:
    """How likely a row of yes has a higher score than one of no; equal scores count half.

    It goes by ranks alone (Mann & Whitney 1947): (R,), (R,) -> 0 to 1, or NaN where a score is.
    Both answers must be there.
    """
    from scipy.stats import rankdata

    num_yes = int(yes_R.sum())
    above = rankdata(score_R)[yes_R].sum() - num_yes * (num_yes + 1) / 2
    return float(above / (num_yes * (len(yes_R) - num_yes)))


def ndcg_of_users(
    predicted_R: Floats, relevance_R: Floats, user_R: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], Floats]:
    """Normalised discounted cumulative gain of every user's first k (Järvelin & Kekäläinen 2002).

    Gains are the relevance itself, a place p from 1 is discounted by log2(p + 1). Items with the
    same prediction share their places: each has the mean of their gains (McSherry & Najork 2008),
    so that one prediction for all has what a random order has on average.

    Args:
        predicted_R: what orders the items.
        relevance_R: their gains, 0 or more.
        user_R: whose they are.
        k: the places that count.

    Returns:
        The users, ascending, (U,), and the value of each, from 0 to 1: 0 for one without any gain.
    """
    user_U, number_R = np.unique(user_R, return_inverse=True)
    gain_R = _gained(predicted_R, relevance_R, number_R, k)
    best_R = _gained(relevance_R, relevance_R, number_R, k)
    num_users = len(user_U)
    gained_U = np.bincount(number_R, gain_R, num_users)
    best_U = np.bincount(number_R, best_R, num_users)
    return user_U, np.divide(gained_U, best_U, out=np.zeros(num_users), where=best_U > 0)


def _gained(value_R: Floats, relevance_R: Floats, number_R: NDArray[np.int64], k: int) -> Floats:
    """What every rating adds to its user's sum, where those of highest value come first."""
    order_R = np.lexsort((-value_R, number_R))
    user, value, gain = number_R[order_R], value_R[order_R], relevance_R[order_R]
    place_R = np.arange(len(user)) - np.searchsorted(user, user)
    tie_R = np.cumsum(np.r_[True, (np.diff(user) != 0) | (np.diff(value) != 0)]) - 1
    mean_R = (np.bincount(tie_R, gain) / np.bincount(tie_R))[tie_R]
    found = np.empty(len(user))
    found[order_R] = np.where(place_R < k, mean_R / np.log2(place_R + 2), 0.0)
    return found


def rating_scores(
    predicted_R: Floats,
    rating_R: Floats,
    user_R: NDArray[np.int64],
    cold_R: NDArray[np.bool_],
    *,
    k: int,
) -> dict[str, float]:
    """Root mean square error over ratings and NDCG at k over users: of all, of warm and cold users.

    Args:
        predicted_R, rating_R: in the same unit.
        user_R: whose they are.
        cold_R: whether nothing of the user was there to learn from.
        k: places of a user that count.

    Returns:
        rmse and ndcg, and both with /warm and /cold; what has no rating is left out.
    """
    square_R = (predicted_R - rating_R) ** 2
    user_U, ndcg_U = ndcg_of_users(predicted_R, rating_R, user_R, k)
    cold_U = np.isin(user_U, user_R[cold_R])
    scores = {}
    everything = np.ones_like
    for name, of_R, of_U in (
        ("", everything(cold_R), everything(cold_U)),
        ("/warm", ~cold_R, ~cold_U),
        ("/cold", cold_R, cold_U),
    ):
        if of_R.any():
            scores[f"rmse{name}"] = float(np.sqrt(square_R[of_R].mean()))
            scores[f"ndcg{name}"] = float(ndcg_U[of_U].mean())
    return scores

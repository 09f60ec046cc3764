"""An organisation in one paragraph, made from the numbers: who knows what, who idles, what settled.

Names of units and labels stand between backticks. A sentence is written only about what was
measured, and knowledge is claimed only where permuted labels rarely give as much anywhere: of runs
that know nothing, about one of twenty is said to know something.

Letters: L levels, S moments, N nodes.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from hmoe.metrics import History, Knowledge
from hmoe.report.numbers import THIN, decimals, number, p_value, share
from hmoe.report.organisation.view import (
    View,
    idle_nodes,
    known_L,
    known_share,
    level_word,
    node_words,
    significant_L,
)

ALL_KNOWN = 0.95  # of a label's entropy: what is left cannot be told from nothing
AS_MUCH = 0.02  # AMI: a smaller difference to k-means is called none
_EVEN_CV = 0.1  # a load that differs less from even is called even
SETTLED = 0.9  # share of choices that are as at the end
_CHANGED = 0.1  # a larger share of choices that changed last is called unsettled
_AS_FAR = 0.05  # of the distance at random: a smaller difference is called none
_NAMED = 4  # idle units by name


def describe(view: View) -> str:
    """The paragraph of a layer."""
    parts = (
        _knowledge(view),
        _others(view),
        _load(view),
        _near(view),
        _missed(view),
        _settling(view),
    )
    return " ".join(sentence for part in parts for sentence in part)


def _knowledge(view: View) -> Iterator[str]:
    known = view.best_known
    if known is None:
        return
    name, told_L = f"`{known.label}`", significant_L(known)
    if known.entropy <= 0:
        yield f"All tokens have the same {name}, so there is nothing to know of it."
        return
    if np.isnan(known.p_L).all():
        yield f"Whether the choice of experts tells more of {name} than chance was not measured."
        return
    if not told_L.any():
        yield (
            f"The choice of experts tells nothing of {name} that permuted labels would not tell "
            f"as well ({_at_least(known)})."
        )
        return
    net, part = known_L(known), known_share(known)
    amount = f"{decimals(float(net.sum()))} of {decimals(known.entropy)} nats"
    if part >= ALL_KNOWN:
        yield f"The choice of experts tells {name} almost in full ({amount}, chance taken off)."
    else:
        yield (f"The choice of experts tells {share(part)} of {name} ({amount}, chance taken off).")
    yield from _by_level(view, known, net, told_L)
    yield from _control(view, known, net)


def _by_level(view: View, known: Knowledge, net: np.ndarray, told_L: np.ndarray) -> Iterator[str]:
    """At which level it is known."""
    depth = view.tree.num_levels
    if depth == 1:
        return
    name, parts = f"`{known.label}`", net / net.sum()
    (levels,) = np.nonzero(told_L)
    if len(levels) == 1:
        where = _level(view, int(levels[0]))
        yield (
            f"All that the router knows of {name} is decided at {where}; the other "
            f"levels add nothing beyond chance ({_at_least(known, ~told_L)})."
        )
        return
    first, *rest = sorted(levels.tolist(), key=lambda i: -parts[i])
    others = _listed([f"{share(float(parts[i]))} at that of {_plural(view, i)}" for i in rest])
    text = (
        f"{share(float(parts[first]))} of what the router knows of {name} is decided at "
        f"{_level(view, first)}, {others}"
    )
    silent = [_plural(view, i) for i in range(depth) if not told_L[i]]
    yield f"{text}; {_listed(silent)} add nothing beyond chance." if silent else f"{text}."


def _control(view: View, known: Knowledge, net: np.ndarray) -> Iterator[str]:
    """What clusters of the inputs would tell, on the last level that knows and has the control."""
    levels = np.flatnonzero((net > 0) & np.isfinite(known.clusters_ami_L - known.ami_L))
    if not len(levels):
        return
    level = int(levels[-1])
    own, control = float(known.ami_L[level]), float(known.clusters_ami_L[level])
    beside = f"AMI {control:.2f} beside {own:.2f} of the {_plural(view, level)}"
    if control > own + AS_MUCH:
        yield f"k-means of the inputs would tell more ({beside})."
    elif control >= own - AS_MUCH:
        yield f"k-means of the inputs would tell as much ({beside})."
    else:
        yield f"k-means of the inputs would tell less ({beside})."


def _others(view: View) -> Iterator[str]:
    """The labels that are known less."""
    told = []
    for known in view.layer.knowledge:
        if known is not view.best_known and known.entropy > 0:
            amount = share(known_share(known)) if significant_L(known).any() else "nothing"
            told.append(f"{amount} of `{known.label}`")
    if told:
        yield f"It tells {_listed(told)}."


def _load(view: View) -> Iterator[str]:
    idle, tokens = idle_nodes(view), f"(on {number(view.inspection.num_tokens)} tokens)"
    if view.layer.load_N.sum() == 0:
        yield "No expert was asked for anything."
        return
    if len(idle) == 1:
        yield f"{_capital(node_words(view.tree, idle[0]))} idles {tokens}."
    elif 0 < len(idle) <= _NAMED:
        yield f"{_capital(_listed([node_words(view.tree, node) for node in idle]))} idle {tokens}."
    elif idle:
        dead = int((view.layer.load_N[list(view.tree.node_E)] == 0).sum())
        whole = "" if idle[0] in view.tree.node_E else "all of "
        yield (
            f"{number(dead)} of {number(view.tree.num_experts)} experts idle {tokens}, "
            f"among them {whole}{node_words(view.tree, idle[0])}."
        )
    yield from _unevenness(view)
    if view.layer.dropped > 0:
        yield f"A capacity took away {share(view.layer.dropped)} of the rows."


def _unevenness(view: View) -> Iterator[str]:
    tree = view.tree
    experts = list(tree.node_E)
    busiest = experts[int(np.argmax(view.ratio_N[experts]))]
    spread = float(np.sqrt((view.even_N[experts] * (view.ratio_N[experts] - 1) ** 2).sum()))
    if spread < _EVEN_CV:
        yield f"The load of the experts is even (CV {spread:.2f})."
        return
    times = f"{view.ratio_N[busiest]:.1f} times its even share"
    text = f"The busiest, {node_words(tree, busiest)}, has {times} (CV of the experts {spread:.2f})"
    kl_L = view.layer.decomposition.get("kl")
    if kl_L is None or tree.num_levels == 1 or kl_L.sum() <= 0:
        yield f"{text}."
        return
    level = int(np.argmax(kl_L))
    arises = share(float(kl_L[level] / kl_L.sum()))
    yield f"{text}; {arises} of the unevenness arises at {_level(view, level)}."


def _near(view: View) -> Iterator[str]:
    """How far apart the experts of one token are."""
    own, drawn = view.layer.locality, view.layer.locality_random
    if not np.isfinite([own, drawn]).all() or view.tree.num_levels == 1 or drawn <= 0:
        return
    than = "nearer in the tree than" if own < drawn else "farther apart in the tree than"
    if abs(own / drawn - 1) < _AS_FAR:
        than = "as far apart in the tree as"
    yield f"The experts of one token are {than} if drawn at random ({own:.2f} beside {drawn:.2f})."


def _missed(view: View) -> Iterator[str]:
    rise_N = view.layer.masked_N
    if not np.isfinite(rise_N).any():
        return
    most = int(np.nanargmax(rise_N))
    if rise_N[most] <= 0:
        yield "No unit that was taken away is missed: the loss never rises."
        return
    rise = decimals(float(rise_N[most]))
    missed = _capital(node_words(view.tree, most))
    of = "" if np.isfinite(rise_N).all() else " of those tried"
    yield f"{missed} is missed most{of}: without it the loss rises by {rise}."


def _settling(view: View) -> Iterator[str]:
    history = view.layer.history
    if history is None or len(history.step_S) < 2:
        return
    end = _last_telling(history)
    levels = np.flatnonzero(np.isfinite(history.churn_SL[end]))
    if not len(levels):
        return
    before, last = (number(int(step)) for step in history.step_S[[end - 1, end]])
    changed = history.churn_SL[end, levels]
    if changed.max() > _CHANGED:
        told = [
            f"{share(float(c))} of those of {_plural(view, i)}"
            for c, i in zip(changed, levels.tolist(), strict=True)
        ]
        yield (
            f"The choices had not settled: between steps {before} and {last} still "
            f"{_listed(told)} changed."
        )
        return
    steps = [settled_step(history, int(level)) for level in levels]
    names = [_plural(view, int(level)) for level in levels]
    if len(set(steps)) == 1:
        yield f"The choices had settled by step {number(steps[0])} on every level."
        return
    told = []
    for step in sorted(set(steps)):
        own = [name for name, other in zip(names, steps, strict=True) if other == step]
        told.append(f"those of {_listed(own)} by step {number(step)}")
    how = "one level after another" if len(told) == len(levels) else "not all at once"
    yield f"The choices settled {how}: {_listed(told)}."


def _last_telling(history: History) -> int:
    """The last moment before which there was time to change.

    A training need not end with a whole interval between validations: after a few steps more even
    choices that never settle are as they were.
    """
    last, steps_S = len(history.step_S) - 1, np.diff(history.step_S)
    short = last > 1 and steps_S[-1] < np.median(steps_S[:-1]) / 2
    return last - 1 if short else last


def settled_step(history: History, level: int) -> int:
    """The first moment from which on choices of a level are as at the end, but for a tenth."""
    as_at_end = np.nan_to_num(history.saturation_SL[:, level], nan=0.0) >= SETTLED
    away = np.flatnonzero(~as_at_end[:-1])
    return int(history.step_S[away[-1] + 1 if len(away) else 0])


def _at_least(known: Knowledge, of: np.ndarray | None = None) -> str:
    """The smallest p of some levels."""
    p_L = known.p_L if of is None else known.p_L[of]
    least = p_value(float(np.nanmin(p_L)))
    return f"p{THIN}{'' if least.startswith('<') else '=' + THIN}{least}" + (
        " at least" if len(p_L) > 1 else ""
    )


def _plural(view: View, level: int) -> str:
    """The nodes of a level."""
    word = level_word(view.tree, level)
    return f"units of {word}" if word.startswith("level") else word


def _level(view: View, level: int) -> str:
    """A level: "the department level", or by number where its units have no common name."""
    word = level_word(view.tree, level)
    return word if word.startswith("level") else f"the {word.removesuffix('s')} level"


def _listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

"""What a model of text would write, token by token."""

from collections.abc import Iterator

import torch

from hmoe.data import Language
from hmoe.errors import ConfigError
from hmoe.inspection.run import TrainedRun


def generate(
    run: TrainedRun,
    prompt: bytes,
    *,
    tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Iterator[bytes]:
    """Go on from a prompt: the bytes of one sampled token after another.

    The model reads as much of the end as fits into its window.

    Args:
        run: a run on text.
        prompt: at least one byte.
        tokens: how many to sample.
        temperature: scores are divided by it; 0 takes the likeliest token every time.
        top_k: sample among so many of the likeliest tokens; None among all.
        seed: of the samples.

    Raises:
        ConfigError: the data are not text, or an option is out of range.
    """
    data = run.data
    if not isinstance(data, Language):
        raise ConfigError(
            f"RUN = {run.folder}: its data ({type(data).__name__}) are not text, so there is "
            "nothing to write."
        )
    if not prompt:
        raise ConfigError("--prompt: must hold some text to go on from.")
    if tokens < 1:
        raise ConfigError(f"tokens = {tokens}: must be at least 1.")
    if temperature < 0:
        raise ConfigError(f"temperature = {temperature}: must be at least 0.")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k = {top_k}: must be null or at least 1.")
    return _sampled(run, data, prompt, tokens, temperature, top_k, seed)


def _sampled(
    run: TrainedRun,
    data: Language,
    prompt: bytes,
    count: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Iterator[bytes]:
    draw = torch.Generator().manual_seed(seed)
    empty_V = data.token_bytes == 0  # tokens without a meaning
    read = [int(token) for token in data.vocabulary.encode(prompt)]
    for _ in range(count):
        window = torch.tensor([read[-data.context :]])
        score_V = run.scores(window)[0, -1].double().masked_fill(empty_V, -torch.inf)
        if temperature == 0:
            token = int(score_V.argmax())
        else:
            if top_k is not None and top_k < len(score_V):
                score_V[score_V < score_V.topk(top_k).values[-1]] = -torch.inf
            probability_V = (score_V / temperature).softmax(0)
            token = int(torch.multinomial(probability_V, 1, generator=draw))
        read.append(token)
        yield data.vocabulary.decode([token])

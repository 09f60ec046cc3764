"""Recommender: by hand, what the gate reads, unknown users and tags, its control."""

import pytest
import torch

from hmoe.config import build, compose
from hmoe.errors import ConfigError
from hmoe.models import Recommender, cost

SIZES = ["model.dim=8", "experts.hidden_dim=8", "tree.spec=[2,2]", "selection.k=2"]


def make(*words: str, model: str = "recommender", out_dim: int = 1) -> Recommender:
    cfg = compose([f"model={model}", *(SIZES if model == "recommender" else SIZES[:2]), *words])
    made: Recommender = build(cfg.model)(in_dim=10, out_dim=out_dim)
    torch.nn.init.normal_(made.bias.weight)
    with torch.no_grad():
        made.bias.weight[0] = 0
    return made.eval()


IDS = torch.tensor([[1, 4, 7, 8, 0], [2, 4, 7, 0, 0], [1, 5, 0, 0, 0], [0, 5, 9, 0, 0]])


@torch.no_grad()
@pytest.mark.parametrize("model", ["recommender", "recommender_dense"])
def test_it_is_what_it_says(model: str) -> None:
    network = make(model=model)
    vector, number = network.embed.weight, network.bias.weight[:, 0]
    expected = []
    for user, thing, *tags in IDS.tolist():
        h = network.common_D + vector[user]
        norm, ffn = network.norms[0], network.ffns[0]
        h = h + ffn(norm(h[None]), torch.tensor([user]))[0][0]
        tags = [tag for tag in tags if tag]
        mean = sum((vector[t] for t in tags), torch.zeros(8)) / max(1, len(tags))
        tag_number = sum(float(number[t]) for t in tags) / max(1, len(tags))
        expected.append(h @ (vector[thing] + mean) + number[user] + number[thing] + tag_number)
    found, routings = network(IDS)
    torch.testing.assert_close(found[:, 0], torch.stack(expected))
    assert len(routings) == (model == "recommender")


@torch.no_grad()
def test_all_rows_of_a_user_go_to_the_same_experts() -> None:
    network = make()
    torch.nn.init.normal_(network.embed.weight)
    (routing,) = network(IDS)[1]
    experts = [set(routing.expert_R[routing.token_R == row].tolist()) for row in range(4)]
    assert experts[0] == experts[2]  # user 1, two things


@torch.no_grad()
def test_unknown_users_and_things_are_the_vector_zero_and_stay_so() -> None:
    network = make()
    assert not network.embed.weight[0].any()
    with torch.enable_grad():
        network(IDS)[0].sum().backward()
    for table in (network.embed, network.bias):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()


def test_a_gate_of_ids_sees_the_user() -> None:
    network = make("gate.score=hash", "selection.k=1", "selection.weights=even", "balance=none")
    ids = torch.tensor([[1, 4, 7], [1, 5, 8], [2, 4, 7], [2, 6, 0], [3, 4, 0], [3, 5, 9]])
    (routing,) = network(ids)[1]
    assert routing.expert_R.view(3, 2).diff(dim=1).eq(0).all()


def test_ratings_are_one_value() -> None:
    with pytest.raises(ConfigError, match="says one value, and the data ask 3"):
        make(out_dim=3)


def test_the_control_costs_no_gate() -> None:
    assert cost(make(model="recommender_dense")).gate_params == 0
    assert cost(make()).gate_params > 0

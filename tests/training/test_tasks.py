"""Tasks and objectives: the competitive loss by hand, its gradient, its likelihood, its use."""

from math import exp, log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Independent, MixtureSameFamily, Normal
from torch.distributions.categorical import Categorical

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.models import Blend
from hmoe.training import assemble, competitive, own, train
from hmoe.training.tasks import TASKS

REGRESSION, CLASSIFICATION = TASKS["regression"], TASKS["classification"]


def blend(reach: Any, answers: Any) -> Blend:
    reach_TE, answer_TEO = torch.as_tensor(reach), torch.as_tensor(answers)
    return Blend((reach_TE.unsqueeze(-1) * answer_TEO).sum(1), answer_TEO, reach_TE)


def random_blend(num_experts: int = 5) -> tuple[Blend, torch.Tensor]:
    answers = torch.randn(7, num_experts, 3, requires_grad=True)
    return blend(torch.randn(7, num_experts).softmax(-1), answers), torch.randn(7, 3)


def test_two_experts_by_hand() -> None:
    """d = (1, 0); answers (1, 0) and (0, 2) miss it by 0 and by 1 + 4; they have 1/4 and 3/4."""
    output = blend([[0.25, 0.75]], [[[1.0, 0.0], [0.0, 2.0]]])
    expected = -log(0.25 + 0.75 * exp(-2.5))
    assert competitive(REGRESSION, output, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(
        expected
    )
    # The first of two classes is (1, 0).
    assert competitive(CLASSIFICATION, output, torch.tensor([0])).item() == pytest.approx(expected)
    # Two rows: the mean of both.
    twice = blend([[0.25, 0.75]] * 2, [[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 2.0]]])
    other = -log(0.25 * exp(-2) + 0.75 * exp(-2))
    assert competitive(CLASSIFICATION, twice, torch.tensor([0, 0])).item() == pytest.approx(
        (expected + other) / 2
    )


def test_the_slope_of_an_answer_is_its_posterior_times_its_error() -> None:
    """dE/do_i = -h_i (d - o_i) (Jacobs et al. 1991, eq. 1.3 and after)."""
    output, y = random_blend()
    (found,) = torch.autograd.grad(7 * competitive(REGRESSION, output, y), output.answer_TEO)
    error_TEO = y.unsqueeze(1) - output.answer_TEO
    joint_TE = output.reach_TE * (-error_TEO.square().sum(-1) / 2).exp()
    h_TE = joint_TE / joint_TE.sum(-1, keepdim=True)
    torch.testing.assert_close(found, -h_TE.unsqueeze(-1) * error_TEO)


def test_it_is_the_likelihood_of_unit_gaussians_but_for_a_constant() -> None:
    output, y = random_blend()
    oracle = MixtureSameFamily(
        Categorical(probs=output.reach_TE), Independent(Normal(output.answer_TEO, 1.0), 1)
    )
    constant = 3 / 2 * log(2 * pi)
    expected = -oracle.log_prob(y).mean() - constant
    torch.testing.assert_close(competitive(REGRESSION, output, y), expected)


def test_one_expert_has_half_the_squared_error() -> None:
    answers, y = torch.randn(7, 1, 3), torch.randn(7, 3)
    output = blend(torch.ones(7, 1), answers)
    expected = (y - answers[:, 0]).square().sum(-1).mean() / 2
    torch.testing.assert_close(competitive(REGRESSION, output, y), expected)


def test_an_expert_out_of_reach_leaves_finite_gradients() -> None:
    reach = torch.tensor([[1.0, 0.0]], requires_grad=True)
    answers = torch.zeros(1, 2, 1, requires_grad=True)
    loss = competitive(REGRESSION, blend(reach, answers), torch.tensor([[100.0]]))
    loss.backward()
    for tensor in (loss, reach.grad, answers.grad):
        assert tensor is not None
        assert tensor.isfinite().all()
    assert loss.item() == pytest.approx(5000)


def test_the_own_loss_is_of_the_blended_mean() -> None:
    output, y = random_blend()
    expected = torch.nn.functional.mse_loss(output.mean_TO, y)
    torch.testing.assert_close(own(REGRESSION, output, y), expected)
    torch.testing.assert_close(own(REGRESSION, output.mean_TO, y), expected)


@pytest.mark.parametrize("model", ["mlp", "mlp_dense"])
def test_a_model_without_experts_answers_cannot_compete(model: str) -> None:
    with pytest.raises(ConfigError, match=r"loss = competitive: needs .* Use model=mixture, or"):
        assemble(compose(["loss=competitive", f"model={model}"]), device="meta")


QUICK = ("model=mixture", "tree.spec=[2,2]", "balance=none", "trainer.threads=1")
QUICK = (*QUICK, "trainer.max_steps=300", "trainer.accelerator=cpu", "optim.lr=0.02")


@pytest.mark.parametrize("loss", ["own", "competitive"])
@pytest.mark.parametrize(
    ("data", "key", "bound"),
    [
        # One linear model in the place of four has an error of 0.31, and an accuracy of 0.93.
        ("data=robot_arm", "test/mse", 0.27),
        ("data=digits", "test/accuracy", 0.93),
    ],
)
def test_a_mixture_trains_under_both_losses(
    data: str, key: str, bound: float, loss: str, tmp_path: Path
) -> None:
    cfg = compose([data, *QUICK, f"loss={loss}"])
    result = train(cfg, tmp_path / "run", command="", progress=False)
    value = result["metrics"][key]
    assert value < bound if key == "test/mse" else value > bound
    assert result["cost"]["num_mixtures"] == 1
    if key == "test/mse":  # a score is of the blended mean, whatever was trained on
        assert result["metrics"]["test/loss"] == value

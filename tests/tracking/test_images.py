"""Images along the steps of a run."""

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.tracking.fake import empty_store


@pytest.fixture
def store(tmp_path):
    return empty_store(tmp_path / "runs")


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=f"sqlite:///{store.runs}/mlflow.db")


@pytest.fixture
def run_id(store):
    return store.start_run(
        store.runs / "s" / "a", study="s", kind="trial", name="a", arm="a", seed=0, command="c"
    )


def drawn(*steps):
    return [(step, np.full((4, 6, 3), step, np.uint8)) for step in steps]


def steps_of(client, run_id):
    """Key and step of every file, as MLflow's page reads them from the names."""
    names = [file.path.split("/")[1] for file in client.list_artifacts(run_id, "images")]
    return sorted((n.split("+")[0].replace("~", "/"), int(n.split("+")[2])) for n in names)


def test_every_step_has_an_image_and_its_small_twin(store, client, run_id):
    assert store.log_images(run_id, "load/tree", drawn(10, 200)) == 2
    assert steps_of(client, run_id) == [("load/tree", s) for s in (10, 10, 200, 200)]
    assert client.get_run(run_id).data.tags["mlflow.loggedImages"] == "True"


def test_a_second_call_adds_what_is_new_and_draws_nothing_twice(store, client, run_id):
    store.log_images(run_id, "load", drawn(1))
    assert store.log_images(run_id, "load", drawn(1, 2)) == 1
    assert store.log_images(run_id, "load/b", drawn(1)) == 1  # another key, whose name begins so
    assert steps_of(client, run_id) == sorted([("load", 1), ("load", 2), ("load/b", 1)] * 2)


def test_an_image_whose_small_twin_is_missing_is_kept_again(store, client, run_id):
    store.log_images(run_id, "load", drawn(1))
    folder = store.runs / "mlartifacts" / "s" / run_id / "artifacts" / "images"
    (small,) = folder.glob("*.webp")
    small.unlink()  # as a kill between the two leaves it
    assert store.log_images(run_id, "load", drawn(1)) == 1

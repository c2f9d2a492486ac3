"""The instrument network and what it is trained on."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")
pytest.importorskip("monai", reason="the extra `train` (monai) is needed to build the network")

import torch

from models.training.export import ZERO_POINT, normalise, to_onnx
from models.training.fit import Batch, Schedule, fit
from models.training.scenery import Scene, Shape
from models.training.segmenter import (
    BATCH,
    COLUMNS,
    ROWS,
    batches,
    build_network,
    normalise_batch,
    objective,
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Return the first batch of an epoch over two plain scenes."""
    pixels = np.broadcast_to(np.array([150, 80, 60], np.uint8), (ROWS, COLUMNS, 3))
    content = np.ones((ROWS, COLUMNS), np.bool_)
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    mask[80:, 100:130] = True
    scenes = [Scene(name, "train", pixels, content) for name in "ab"]
    shapes = [Shape("c", "train", mask)]
    first, again, later = (next(batches(scenes, shapes, epoch=epoch, seed=0)) for epoch in (0, 0, 1))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, later.inputs)
    return first


def test_an_epoch_is_a_function_of_its_number_and_shows_both_kinds_of_frame(batch: Batch) -> None:
    """Resuming draws the same frames; a batch of instruments alone would teach to find one anywhere."""
    assert batch.inputs.shape == (BATCH, ROWS, COLUMNS, 3)
    assert batch.targets.shape == (BATCH, 1, ROWS, COLUMNS)
    shown = batch.targets.amax(dim=(1, 2, 3))
    assert 0 < shown.sum() < BATCH


def test_training_and_export_normalise_alike(batch: Batch) -> None:
    """A network quantised for another input than it was trained on answers, and answers wrongly."""
    frames = batch.inputs[:2]
    np.testing.assert_array_equal(normalise_batch(frames).numpy(), normalise(frames.numpy()))
    assert normalise(np.full((1, 1, 1, 3), ZERO_POINT, np.uint8)).max() == 0


def test_the_network_learns_and_its_graph_holds_only_what_runs_in_integers(batch: Batch) -> None:
    small = Batch(batch.inputs[:4, 64:128, 96:160], batch.targets[:4, :, 64:128, 96:160])
    torch.manual_seed(0)
    network = build_network()
    with torch.no_grad():
        before = objective(network, small).item()
    steps = itertools.repeat(small, 4)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    fit(network, lambda _: steps, objective=objective, optimiser=optimiser, schedule=Schedule(1))
    with torch.no_grad():
        assert objective(network, small).item() < before
    kinds = {node.op_type for node in to_onnx(network, rows=ROWS, columns=COLUMNS).graph.node}
    assert kinds <= {"Conv", "Relu", "MaxPool", "Concat", "Resize", "Constant", "DepthToSpace"}

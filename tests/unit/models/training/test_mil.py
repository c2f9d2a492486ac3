"""Attention against its formula written out, and where a few frames decide."""

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")

import onnx
import torch
from onnx import helper, numpy_helper

from models.counts import Flags, Floats
from models.dataset import CLASSES, LabelledFrame
from models.training.fit import Schedule
from models.training.learner import Settings
from models.training.mil import (
    GatedAttention,
    Patients,
    compare_rules,
    fit_attention,
    make_bags,
    read_attention,
)
from models.training.run import Frames, Plan

PATIENTS, SIZE = 60, 8


def make_patients(seed: int) -> tuple[Floats, Flags, Patients]:
    """Return frames of 8 values, of patients of 4 to 12 frames; two of each patient's tell its label.

    The last four values say which frames matter, the first what they say; elsewhere the first is noise.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(PATIENTS) % 2 == 1
    patients = np.repeat(np.arange(PATIENTS), generator.integers(4, 13, PATIENTS))
    embeddings = generator.normal(size=(len(patients), SIZE))
    for patient, label in enumerate(labels):
        telling = np.flatnonzero(patients == patient)[:2]
        embeddings[telling, 4:] += 3
        embeddings[telling, 0] += 2 if label else -2
    order = generator.permutation(len(patients))
    return embeddings[order], labels, patients[order]


def test_attention_is_the_published_formula() -> None:
    """Equations 8 and 9 of Ilse et al. 2018, number by number, on standardised frames."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    mean, spread = generator.normal(size=SIZE), generator.uniform(0.5, 2, SIZE)
    head = GatedAttention(torch.from_numpy(mean).float(), torch.from_numpy(spread).float())
    frames, patients = generator.normal(size=(7, SIZE)), np.array([0, 0, 0, 0, 1, 1, 1])
    given = {name: values.double().numpy() for name, values in head.state_dict().items()}
    weight, line = given["weight.weight"][0], given["line.weight"][0]
    expected = []
    for patient in (0, 1):
        scores, bag = [], []
        for frame in frames[patients == patient]:
            h = np.array([(x - m) / s for x, m, s in zip(frame, mean, spread, strict=True)])
            score = 0.0
            for unit, share in enumerate(weight):
                v, u = (
                    math.fsum(given[f"{layer}.weight"][unit] * h) + given[f"{layer}.bias"][unit]
                    for layer in ("value", "gate")
                )
                score += share * math.tanh(v) / (1 + math.exp(-u))
            scores.append(math.exp(score))
            bag.append(h)
        z = [sum(a * h[i] for a, h in zip(scores, bag, strict=True)) / sum(scores) for i in range(SIZE)]
        expected.append(math.fsum(line * np.array(z)) + given["line.bias"][0])
    assert read_attention(head, frames, patients).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def head() -> GatedAttention:
    return fit_attention(*make_patients(0))


def test_attention_finds_the_frames_that_tell_where_the_mean_drowns_them(head: GatedAttention) -> None:
    """Lesions show on a few frames of an exam."""
    right = []
    for seed in range(1, 5):
        embeddings, labels, patients = make_patients(seed)
        sums = np.bincount(patients, embeddings[:, 0])  # above 0 as the mean is
        margins = read_attention(head, embeddings, patients), sums
        right.append([((each > 0) == labels).mean() for each in margins])
    by_attention, by_mean = np.mean(right, axis=0)
    assert by_attention > 0.95
    assert by_attention > by_mean + 0.03


def test_a_reading_depends_on_neither_the_order_of_frames_nor_the_patients_beside(
    head: GatedAttention,
) -> None:
    """Padding to the longest patient must be nobody's frame."""
    embeddings, _, patients = make_patients(1)
    together = read_attention(head, embeddings, patients)
    for patient in range(5):
        own = embeddings[patients == patient][::-1]
        alone = read_attention(head, own, np.zeros(len(own), np.int64))
        assert alone[0] == pytest.approx(together[patient], abs=1e-5)


def test_training_is_a_function_of_its_arguments() -> None:
    """The state of torch when it starts is no argument; the seed is one."""
    heads = []
    for state, seed in enumerate((1, 1, 2)):
        torch.manual_seed(state)
        heads.append(fit_attention(*make_patients(0), schedule=Schedule(epochs=2, seed=seed)))
    one, again, other = heads
    assert all(torch.equal(values, again.state_dict()[name]) for name, values in one.state_dict().items())
    assert not torch.equal(other.line.weight, one.line.weight)


def test_a_bag_holds_each_frame_once_and_marks_it() -> None:
    bags = make_bags(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]))
    assert bags.tolist() == [[[1, 3, 4], [0, 0, 0]], [[1, 1, 2], [1, 5, 6]]]


def redness(green: float) -> onnx.ModelProto:
    """Return a graph whose embedding is half a view's mean red above 128, 256 times; a tenth is its margin.

    Both are of the other sign where the view's green is the one given.
    """
    constants = {
        "red": np.array([[0.5], [0], [0]], np.float32),
        "green": np.array([[0], [1 / 44], [0]], np.float32),
        "middle": np.array([64], np.float32),
        "given": np.array([green / 44], np.float32),
        "one": np.array([1], np.float32),
        "spread": np.ones((1, 256), np.float32),
        "weights": np.array([[0, 0.1 / 256]] * 256, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["views"], ["pixels"], to=1),
        helper.make_node("ReduceMean", ["pixels"], ["colours"], axes=[1, 2], keepdims=0),
        *(
            helper.make_node(kind, taken, [made])
            for kind, taken, made in (
                ("MatMul", ["colours", "red"], "reds"),
                ("Sub", ["reds", "middle"], "above"),
                ("MatMul", ["colours", "green"], "greens"),
                ("Sub", ["greens", "given"], "distance"),
                ("Abs", ["distance"], "far"),
                ("Sub", ["far", "one"], "sign"),
                ("Sign", ["sign"], "signs"),
                ("Mul", ["above", "signs"], "signed"),
                ("MatMul", ["signed", "spread"], "embedding"),
                ("MatMul", ["embedding", "weights"], "logits"),
            )
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "redness",
        [helper.make_tensor_value_info("views", 2, ["N", 2, 2, 3])],
        [
            helper.make_tensor_value_info("logits", 1, ["N", 2]),
            helper.make_tensor_value_info("embedding", 1, ["N", 256]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_a_fold_is_read_by_the_network_that_left_it_out_and_chose_on_the_next(tmp_path: Path) -> None:
    """Each network errs on its own fold alone, so that what is read right was read where it had chosen.

    Twelve patients of three frames; one frame of one ill patient looks healthy, and misleads the largest.
    """
    patients = np.repeat(np.arange(12), 3)
    labels, folds = patients % 2, patients // 2 % 3
    views = np.zeros((36, 2, 2, 3), np.uint8)
    views[..., 0] = np.where(labels, 190, 60)[:, None, None]
    views[..., 1] = (40 + 88 * folds)[:, None, None]
    views[3, ..., 0] = 60
    rows = tuple(
        LabelledFrame(f"p{patient:02}", CLASSES[label], f"{number}.png", str(number), "")
        for number, (patient, label) in enumerate(zip(patients, labels, strict=True))
    )
    (tmp_path / "models").mkdir()
    for fold in range(3):
        onnx.save(redness(40 + 88 * fold), tmp_path / "models" / f"inner-fold{fold}-seed5.onnx")
    plan = Plan(tmp_path, tmp_path, Settings(), seeds=(5,))
    found = compare_rules(tmp_path, plan, Frames(rows, views, labels, folds, ""))
    values = {rule: [each["value"] for each in of.values()] for rule, of in found.items()}
    assert values["mean"] == values["attention"] == [-1.0, 0.0, 0.0]
    assert values["max"][1:] == [round(1 / 6, 4), 0.0]

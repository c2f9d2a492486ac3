"""Weights that somebody brings: what is taken, what is refused, and what their normalisation becomes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional

from models.training.weights import WeightsError, fold_normalisation, load_weights

LAYERS = 60


def build(seed: int, classes: int = 2) -> torch.nn.Module:
    """Return a network of 120 backbone tensors that count, batch norm's counters, and a classifier."""
    torch.manual_seed(seed)
    blocks = [torch.nn.BatchNorm1d(3) for _ in range(LAYERS // 2)]
    for block in blocks:
        torch.nn.init.normal_(block.weight)
        torch.nn.init.normal_(block.running_mean)
    return torch.nn.ModuleDict({"layer1": torch.nn.Sequential(*blocks), "fc": torch.nn.Linear(3, classes)})


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def backbone(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: values for name, values in network.state_dict().items() if not name.startswith("fc.")}


def assert_same(network: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    found = network.state_dict()
    assert all(torch.equal(values, found[name]) for name, values in tensors.items())


def prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {prefix + name: values for name, values in tensors.items()}


@pytest.mark.parametrize("wrapper", ["teacher", "state_dict", "model", "model_state_dict", None])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "teacher.", "student_backbone.", "module.backbone."]
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    published, network = build(1), build(2)
    tensors = prefixed(prefix)(backbone(published))
    path = save(tmp_path / "weights.pth", {"epoch": 3, wrapper: tensors} if wrapper else tensors)
    loaded = load_weights(network, path)
    assert_same(network, backbone(published))
    assert loaded.missing == ("fc.weight", "fc.bias")
    assert loaded.unexpected == ()
    assert set(loaded.matched) == set(backbone(published))
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_classifier_of_other_classes_and_a_training_head_are_left_and_named(tmp_path: Path) -> None:
    published, network = build(1, classes=1000), build(2)
    line = network["fc"].weight.clone()
    extra = {**published.state_dict(), "projector.0.weight": torch.ones(2, 2)}
    loaded = load_weights(network, save(tmp_path / "weights.pth", extra))
    assert_same(network, {**backbone(published), "fc.weight": line})
    assert loaded.missing == ("fc.weight", "fc.bias")
    assert loaded.unexpected == ("fc.weight", "fc.bias", "projector.0.weight")


def test_batch_norms_counters_are_not_asked_for(tmp_path: Path) -> None:
    """Published files of 2017 have none; nothing is computed from them."""
    published, network = build(1), build(2)
    old = {name: values for name, values in backbone(published).items() if "num_batches" not in name}
    loaded = load_weights(network, save(tmp_path / "weights.pth", old))
    assert len(loaded.matched) == 2 * LAYERS
    assert_same(network, old)


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {name: values for name, values in tensors.items() if name not in names}


def test_one_tensor_of_120_may_be_missing_and_is_named(tmp_path: Path) -> None:
    lacking = without("layer1.3.bias")(backbone(build(1)))
    assert "layer1.3.bias" in load_weights(build(2), save(tmp_path / "weights.pth", lacking)).missing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            without("layer1.3.bias", "layer1.4.weight"),
            "118 of .* 120 .* missing: layer1.3.bias, layer1.4.weight;",
        ),
        (lambda tensors: {**tensors, "layer1.3.bias": torch.ones(4)}, "another shape: layer1.3.bias;"),
        (lambda tensors: {**tensors, "layer1.30.bias": torch.ones(3)}, "another shape: layer1.30.bias;"),
        (prefixed("encoder_q."), "0 of .* and 115 more"),
        (
            lambda tensors: {**tensors, **prefixed("teacher.")(tensors)},
            "one tensor 'layer1.0.weight' was expected",
        ),
        (lambda _: {"epoch": 3}, "tensors by name were expected"),
        (lambda tensors: list(tensors.values()), "tensors by name were expected, list"),
    ],
    ids=[
        "two-missing",
        "other-shape",
        "deeper-network",
        "unknown-prefix",
        "two-networks",
        "no-tensors",
        "no-names",
    ],
)
def test_what_is_not_this_network_is_refused_and_changes_nothing(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """A deeper network of the same family has every tensor of this one; they would compute nonsense."""
    network = build(2)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    with pytest.raises(WeightsError, match=words) as caught:
        load_weights(network, save(tmp_path / "weights.pth", change(backbone(build(1)))))
    assert "\n" not in str(caught.value)
    assert_same(network, before)


class Trap:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_needs_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    """A file of weights from elsewhere is a program, unless it is read as tensors alone."""
    sprung = tmp_path / "sprung"
    path = save(tmp_path / "weights.pth", {"state_dict": backbone(build(1)), "args": Trap(sprung)})
    with pytest.raises(WeightsError, match="without running code") as caught:
        load_weights(build(2), path)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()
    torch.load(path, weights_only=False)  # the trap is one
    assert sprung.exists()


def test_a_file_that_is_missing_torn_or_altered_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "weights.pth", backbone(build(1)))
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    assert load_weights(build(2), whole, sha256=digest).digest == digest
    with pytest.raises(WeightsError, match=f"{'0' * 64} was expected, {digest} was found"):
        load_weights(build(2), whole, sha256="0" * 64)
    with pytest.raises(WeightsError, match="a file of weights was expected"):
        load_weights(build(2), tmp_path / "none.pth")
    for content in (whole.read_bytes()[:-200], b"", b"no weights"):
        (tmp_path / "torn.pth").write_bytes(content)
        with pytest.raises(WeightsError, match="tensors alone was expected"):
            load_weights(build(2), tmp_path / "torn.pth")


def compare(
    conv: torch.nn.Conv2d, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, float]:
    """Fold; return the differences, ``(N, outputs, 16, 16)``, and the border error that is told."""
    frames = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).double()
    centre, spread = (torch.tensor(each).double().view(1, 3, 1, 1) for each in (mean, std))
    with torch.no_grad():
        expected = functional.conv2d(
            (frames / 255 - centre) / spread, conv.weight.double(), stride=2, padding=3
        )
        told = fold_normalisation(conv, mean=mean, std=std)
        return conv.double()((frames - 128) / 128) - expected, told


triples = st.tuples(*[st.floats(0.1, 0.9)] * 3)


@given(mean=triples, std=triples)
@example(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
def test_a_folded_normalisation_is_exact_inside_and_as_wrong_at_the_border_as_it_says(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """The padding is a pixel of level 128 now, for all channels; what that changes must be known."""
    torch.manual_seed(0)
    wrong, told = compare(torch.nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), mean, std)
    assert wrong[..., 2:-2, 2:-2].abs().max() < 1e-4
    assert wrong.abs().max().item() == pytest.approx(told, abs=1e-4)


def test_a_normalisation_about_level_128_folds_without_any_error() -> None:
    conv = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
    wrong, told = compare(conv, (128 / 255,) * 3, (0.229, 0.224, 0.225))
    assert wrong.abs().max() < 1e-5
    assert told < 1e-5

"""Batch norm that is put in changes nothing at first, and nothing is lost when it is folded away."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from models.training.mobilenet_v2 import Block
from models.training.norms import AddedNorm, add_norms, fold_norms, settle_norms


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def make_stages() -> nn.Sequential:
    """Return a chain with a residual block, and one convolution that has its own batch norm."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), Block(8, 8, 6, 1), own).eval()


FEATURES = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(1)) * 3 + 1


def count(stages: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in stages.modules())


def test_added_norms_begin_by_changing_nothing() -> None:
    stages = make_stages()
    normed = add_norms(stages, FEATURES)
    assert count(normed, AddedNorm) == 4  # one convolution has a norm of its own
    assert torch.allclose(normed(FEATURES), stages(FEATURES), atol=1e-5)
    normed.train()  # each batch's own statistics are those it began with
    assert torch.allclose(normed[:2](FEATURES), stages[:2](FEATURES), atol=1e-4)
    assert count(stages, AddedNorm) == 0


def test_folded_norms_leave_the_published_layers_and_their_effect() -> None:
    normed = add_norms(make_stages(), FEATURES)
    for module in normed.modules():
        if isinstance(module, nn.BatchNorm2d):  # as training might leave them
            for values in (module.weight, module.bias, module.running_mean):
                values.add_(torch.randn_like(values), alpha=0.3)
            module.running_var *= 1.7
    folded = fold_norms(normed)
    assert count(folded, AddedNorm) == 0
    assert count(folded, nn.BatchNorm2d) == 1
    assert [*folded.state_dict()] == [*make_stages().state_dict()]
    assert torch.allclose(folded(FEATURES), normed(FEATURES), atol=1e-4)


def test_settled_norms_have_the_statistics_of_what_is_shown_whole_and_published_ones_keep_theirs() -> None:
    normed = add_norms(make_stages(), FEATURES)
    own = normed[2][1]
    kept = own.running_mean.clone()
    for module in normed.modules():
        if isinstance(module, AddedNorm):  # as training leaves them
            module.num_batches_tracked += 50
    settle_norms(normed, [FEATURES[..., :4], FEATURES[..., 5:]])
    made = [normed[0][0](part) for part in (FEATURES[..., :4], FEATURES[..., 5:])]
    first = normed[0][1]
    assert torch.allclose(first.running_mean, torch.stack([each.mean((0, 2, 3)) for each in made]).mean(0))
    assert not any(module.training for module in normed.modules())
    assert torch.equal(own.running_mean, kept)

"""The backbones against the arithmetic of those who publish weights, written out on named tensors."""

import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")
pytest.importorskip("monai", reason="the extra `train` (monai) is needed to build the network")

import torch
from torch.nn import functional

from models.errors import ModelError
from models.training.backbones import EVERYTHING, LAST_TWO_CONVOLUTIONS, resnet50, trainable, vit_s16
from models.training.fit import Batch, Schedule, fit

State = dict[str, torch.Tensor]
BLOCKS = (3, 4, 6, 3)


def draw(shapes: dict[str, tuple[int, ...]]) -> State:
    """Return a tensor of each shape: weights that keep a signal's size, everything else away from 0 and 1."""
    generator = torch.Generator().manual_seed(0)

    def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        size = torch.tensor(shape[1:]).prod() if len(shape) in (2, 4) else torch.tensor(100)
        return torch.randn(shape, generator=generator, dtype=torch.float64) / size.sqrt()

    return {name: values(name, shape) for name, shape in shapes.items()}


def torchvision_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of torchvision's ResNet50, batch norm's counters left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(convolution: str, norm: str, *shape: int) -> None:
        shapes[f"{convolution}.weight"] = shape
        shapes.update(
            {f"{norm}.{kind}": shape[:1] for kind in ("weight", "bias", "running_mean", "running_var")}
        )

    layer("conv1", "bn1", 64, 3, 7, 7)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS, 1):
        width = 32 * 2**stage
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            layer(f"{at}.conv1", f"{at}.bn1", width, inputs, 1, 1)
            layer(f"{at}.conv2", f"{at}.bn2", width, width, 3, 3)
            layer(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                layer(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inputs, 1, 1)
            inputs = 4 * width
    return {**shapes, "fc.weight": (classes, 2048), "fc.bias": (classes,)}


def torchvision_forward(state: State, images: torch.Tensor) -> torch.Tensor:
    """Return ResNet50 v1.5's logits: the stride is in the 3x3 convolution, and in the shortcut."""

    def layer(
        x: torch.Tensor, convolution: str, norm: str, *, stride: int = 1, padding: int = 0
    ) -> torch.Tensor:
        x = functional.conv2d(x, state[f"{convolution}.weight"], stride=stride, padding=padding)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return functional.batch_norm(
            x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-5
        )

    x = layer(images, "conv1", "bn1", stride=2, padding=3).relu()
    x = functional.max_pool2d(x, 3, 2, 1, ceil_mode=False)
    for stage, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = layer(x, f"{at}.conv1", f"{at}.bn1").relu()
            y = layer(y, f"{at}.conv2", f"{at}.bn2", stride=stride, padding=1).relu()
            y = layer(y, f"{at}.conv3", f"{at}.bn3")
            if block == 0:
                x = layer(x, f"{at}.downsample.0", f"{at}.downsample.1", stride=stride)
            x = (x + y).relu()
    return x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_resnet50_has_torchvisions_names_shapes_and_number_of_parameters() -> None:
    """A file of weights fits by these names alone."""
    network = resnet50(1000)
    found = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    counters = {name for name in found if name.endswith("num_batches_tracked")}
    assert len(counters) == 53
    assert {name: found[name] for name in found if name not in counters} == torchvision_shapes(1000)
    assert len(list(network.parameters())) == 161
    assert sum(each.numel() for each in network.parameters()) == 25_557_032


def test_resnet50_computes_what_torchvisions_does() -> None:
    """Odd sides tell a pool that rounds up, or a stride in another place, from the published one."""
    state = draw(torchvision_shapes(5))
    network = resnet50(5).double()
    network.load_state_dict(state, strict=False)
    images = torch.randn(2, 3, 97, 65, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected, found = torchvision_forward(state, images), network.eval()(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def dino_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of ViT-S/16 in facebookresearch/dino, with a classifier."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 384), "pos_embed": (1, 197, 384)}
    weights: dict[str, tuple[int, ...]] = {"patch_embed.proj": (384, 3, 16, 16), "norm": (384,)}
    for block in range(12):
        at = f"blocks.{block}"
        weights |= {f"{at}.norm1": (384,), f"{at}.attn.qkv": (1152, 384), f"{at}.attn.proj": (384, 384)}
        weights |= {f"{at}.norm2": (384,), f"{at}.mlp.fc1": (1536, 384), f"{at}.mlp.fc2": (384, 1536)}
    for name, shape in {**weights, "head": (classes, 384)}.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def dino_forward(state: State, images: torch.Tensor) -> torch.Tensor:
    """Return ViT-S/16's logits, head by head."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    cells = (
        images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(len(images), 196, 768)
    )
    patches = cells @ state["patch_embed.proj.weight"].reshape(384, 768).T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"].repeat(len(images), 1, 1), patches], dim=1) + state["pos_embed"]
    for block in range(12):
        at = f"blocks.{block}"
        query, key, value = linear(norm(x, f"{at}.norm1"), f"{at}.attn.qkv").split(384, dim=2)
        heads = []
        for head in range(6):
            part = slice(64 * head, 64 * head + 64)
            shares = torch.softmax(query[..., part] @ key[..., part].transpose(1, 2) / 8, dim=-1)
            heads.append(shares @ value[..., part])
        x = x + linear(torch.cat(heads, dim=2), f"{at}.attn.proj")
        wide = linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")
        x = x + linear(wide * (1 + torch.erf(wide / 2**0.5)) / 2, f"{at}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


def test_vit_s16_has_the_names_of_dino_and_computes_what_it_does() -> None:
    state = draw(dino_shapes(5))
    network = vit_s16(5).double()
    assert sum(each.numel() for each in network.parameters()) == 21_665_664 + 5 * 385
    network.load_state_dict(state)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected, found = dino_forward(state, images), network(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return resnet50(2)


def learn(network: torch.nn.Module, layers: tuple[str, ...]) -> set[str]:
    """Train for one step; return the tensors it changed."""
    optimiser = torch.optim.SGD(trainable(network, layers), lr=0.1)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    batch = Batch(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2)

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets)

    fit(network, lambda _: [batch], objective=loss, optimiser=optimiser, schedule=Schedule(1))
    return {name for name, values in network.state_dict().items() if not torch.equal(values, before[name])}


def test_training_the_papers_layers_changes_them_alone_and_no_statistics_of_others(
    network: torch.nn.Module,
) -> None:
    """A frozen layer whose batch norm still follows the new frames is not frozen."""
    changed = learn(network, LAST_TWO_CONVOLUTIONS)
    norms = {
        f"layer4.2.bn{number}.{kind}"
        for number in (2, 3)
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert changed == norms | {"layer4.2.conv2.weight", "layer4.2.conv3.weight", "fc.weight", "fc.bias"}


def test_all_that_was_frozen_can_be_trained_again(network: torch.nn.Module) -> None:
    trainable(network, LAST_TWO_CONVOLUTIONS)
    assert len(trainable(network, EVERYTHING)) == 161
    assert learn(network, EVERYTHING) == set(network.state_dict())


def test_a_layer_that_is_not_there_is_refused_and_a_name_is_not_a_beginning_of_another(
    network: torch.nn.Module,
) -> None:
    """A misspelt layer would leave the network as it came; `layer4.2.conv` would be two layers by chance."""
    for name in ("layer5", "layer4.2.conv", "f"):
        with pytest.raises(ModelError, match=f"layer '{name}'.*expected"):
            trainable(network, ("fc", name))

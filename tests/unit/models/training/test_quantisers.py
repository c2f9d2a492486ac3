"""Uniform quantisers: what every integer stands for, equal to arithmetic done one number at a time."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to quantise")

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from models.training.quantisers.affine import UniformConfig, UniformQuantiser, round_to
from models.training.quantisers.observers import QuantiserError, least_squares

NUMBER = 100_000
CONFIGS = [
    UniformConfig(bits, symmetric=symmetric, axis=axis)
    for bits, symmetric, axis in itertools.product(range(2, 9), (False, True), (None, 0))
]


def frozen(config: UniformConfig, seen: torch.Tensor) -> UniformQuantiser:
    quantiser = UniformQuantiser(config)
    quantiser.observe(seen)
    quantiser.freeze()
    return quantiser


def scalar_grid(values: list[float], bits: int, *, symmetric: bool) -> tuple[float, int, int, int]:
    """Return scale, zero point, low and high, from the corrected equations of Datres et al."""
    if symmetric:
        high = 2 ** (bits - 1) - 1
        return max(abs(value) for value in values) / high, 0, -high, high
    high = 2**bits - 1
    a, b = min(*values, 0.0), max(*values, 0.0)
    scale = (b - a) / high
    return scale, min(max(round(-a / scale), 0), high), 0, high


@pytest.mark.parametrize("config", CONFIGS)
def test_every_value_is_rounded_as_one_number_at_a_time_would_be(config: UniformConfig) -> None:
    """Calibrated on a part, so that the rest falls outside the range too; equal to the bit."""
    generator = torch.Generator().manual_seed(config.bits)
    x = torch.randn(4, NUMBER // 4, generator=generator, dtype=torch.float64) * torch.tensor(
        [[0.1], [1.0], [3.0], [20.0]], dtype=torch.float64
    )
    seen = x[:, :50]
    found = frozen(config, seen).quantise(x)
    rows = seen.tolist() if config.axis == 0 else [seen.flatten().tolist()] * 4
    grids = [scalar_grid(row, config.bits, symmetric=config.symmetric) for row in rows]
    expected = [
        [(min(max(round(value / s) + z, low), high) - z) * s for value in row]
        for row, (s, z, low, high) in zip(x.tolist(), grids, strict=True)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize(("kind", "symmetric"), [(TensorProto.UINT8, False), (TensorProto.INT8, True)])
def test_eight_bits_are_rounded_as_onnx_runtime_rounds_them(kind: int, *, symmetric: bool) -> None:
    """A fake quantiser that rounds ties another way trains a network other than the one that runs."""
    x = torch.randn(NUMBER, generator=torch.Generator().manual_seed(0)) * 2
    quantiser = frozen(UniformConfig(8, symmetric=symmetric), x[:1000])
    grid = quantiser.pack()
    x[1000:2000] = (torch.arange(1000) - 500 + 0.5) * grid.scale
    arrays = (
        helper.make_tensor("s", TensorProto.FLOAT, [], [float(grid.scale)]),
        helper.make_tensor("z", kind, [], [int(grid.zero_point)]),
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (there,) = session.run(None, {"x": x.numpy()})
    here = quantiser.quantise(x).numpy()
    # A signed grid of ONNX has one integer more, -128, below every value that was seen.
    least = grid.scale * (grid.low - grid.zero_point)
    assert np.array_equal(here, np.maximum(there, least.numpy()))


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.sampled_from(CONFIGS))
def test_zero_is_exact_whatever_the_range(one: float, other: float, config: UniformConfig) -> None:
    """Padding is zero: with a zero point that is no integer every border would be off.

    The papers print ``round(x / s + Z)`` with ``Z = aq - a / s``, which is none.
    """
    x = torch.tensor([[one, other]])
    quantiser = frozen(config, x)
    grid = quantiser.pack()
    assert grid.zero_point.dtype == torch.int32
    assert grid.low <= int(grid.zero_point) <= grid.high
    assert float(grid.scale) > 0
    assert quantiser.quantise(torch.zeros(1, 2)).tolist() == [[0, 0]]
    error = (quantiser.quantise(x) - x).abs()
    assert float(error.max()) <= float(grid.scale) * 1.001  # half a step, and half a step of the zero point


def test_what_lies_beyond_the_range_becomes_its_end() -> None:
    """As printed the equation has no clip: 300 would be the integer 300 of 255."""
    quantiser = frozen(UniformConfig(8), torch.tensor([0.0, 255.0]))
    assert quantiser.quantise(torch.tensor([300.0, -7.0, 254.6])).tolist() == [255.0, 0.0, 255.0]


def test_weights_are_symmetric_with_a_scale_for_each_output_channel() -> None:
    """As printed weights would be affine, and r stands where x is meant in the symmetric range."""
    weight = torch.tensor([[[[-2.0]], [[1.0]]], [[[0.3]], [[0.5]]], [[[0.0]], [[0.0]]]])
    grid = frozen(UniformConfig(8, symmetric=True, axis=0), weight).pack()
    assert (grid.low, grid.high, grid.axis) == (-127, 127, 0)
    assert grid.zero_point.tolist() == [0, 0, 0]
    assert torch.equal(grid.scale, torch.tensor([2 / 127, 0.5 / 127, 1.0]))


@pytest.mark.parametrize("clipped", [True, False])
def test_the_gradient_is_one_inside_and_outside_only_where_it_is_not_clipped(*, clipped: bool) -> None:
    quantiser = frozen(UniformConfig(4, is_gradient_clipped=clipped), torch.tensor([-1.0, 2.0]))
    x = torch.tensor([-3.0, -0.5, 0.0, 1.9, 2.5], requires_grad=True)
    y = quantiser.quantise(x)
    y.backward(torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0]))
    outside = 0.0 if clipped else 1.0
    assert x.grad.tolist() == [2 * outside, 3, 5, 7, 11 * outside]
    assert torch.allclose(y, round_to(x, quantiser.pack()), rtol=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_quantised_tensor_can_be_differentiated_twice(config: UniformConfig) -> None:
    """Training on saliency takes the gradient of a gradient."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(config.bits), dtype=torch.float64)
    quantiser = frozen(config, x / 2)
    assert torch.autograd.gradgradcheck(quantiser.quantise, x.requires_grad_())


def test_while_observing_a_tensor_passes_as_it_is() -> None:
    quantiser = UniformQuantiser(UniformConfig(2))
    quantiser.observing = True
    x = torch.linspace(-1, 1, 7)
    assert quantiser(x) is x
    quantiser.freeze()
    quantiser.observing = False
    assert set(quantiser(x).tolist()) == {*(quantiser.pack().scale * torch.tensor([-2, -1, 0, 1])).tolist()}


def test_a_frozen_grid_is_kept_with_the_weights() -> None:
    """Training that is resumed must round as it did."""
    one = frozen(UniformConfig(8, axis=0, rule=least_squares), torch.randn(3, 50))
    other = frozen(UniformConfig(8, axis=0), torch.ones(3, 2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.pack().scale, other.pack().scale)
    assert torch.equal(one.pack().zero_point, other.pack().zero_point)


def test_what_a_quantiser_cannot_do_is_said_in_a_line() -> None:
    with pytest.raises(QuantiserError, match="2 to 8 bits were expected, 9 found"):
        UniformConfig(9)
    with pytest.raises(QuantiserError, match="none were observed"):
        UniformQuantiser(UniformConfig()).freeze()
    with pytest.raises(QuantiserError, match="call freeze first"):
        UniformQuantiser(UniformConfig()).quantise(torch.ones(1))
    with pytest.raises(QuantiserError, match="finite values were expected"):
        UniformQuantiser(UniformConfig()).observe(torch.tensor([math.nan]))

"""How fast ResNet50 reads one 224x224 view in 8-bit integers, beside float32 and the processor's best.

One process, one view at a time, the same number of threads on all sides, each timed in turn. Of twice as many
rounds the half is kept in which the process was least often put aside for another; ratios are medians over
these rounds. The best integer rate is that of `torch._int_mm`, the fastest of several shapes. One JSON line.
"""

import argparse
import importlib
import importlib.util
import json
import platform
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.training.backbones import resnet50
from models.training.export import export_twin, normalise
from models.training.quantisers.affine import UniformConfig, UniformQuantiser
from models.training.twin import build_twin, calibrate, layer_names

SIDE = 224
MACS = 4.087e9
"""Multiplications of ResNet50 v1.5 at 224x224, by which its time becomes a rate."""

PRODUCTS = ((1024, 1024, 1024), (784, 1152, 128), (3136, 256, 512), (196, 2304, 256))
"""Rows, depth, columns: a large product, and the shapes of ResNet50's own."""

WARM_UP = 3
"""Rounds that are not counted."""

BARS = {
    "onnxruntime_float": 3.0,
    "torch_eager": 5.0,
    "share_of_best_rate": 0.75,
    "openvino_share_together": 0.85,
}
SIZE_BAR = 0.257

TOGETHER = 8
"""Views that OpenVINO is also given at once: its bar speaks of a rate, and not of one view's time."""

MIXES = {"onnxruntime_paper_mix": ["conv1", "fc"], "onnxruntime_sensitive_mix": ["conv1"]}
"""What stays in float: as Datres et al. 2023 chose, and as sensitivity does in a trained ResNet50
(docs/results/resnet50-reference.json)."""


def make_network() -> nn.Module:
    """Return ResNet50 with random weights whose activations are of a trained network's order."""
    torch.manual_seed(0)
    network = resnet50(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    return network.eval()


def make_files(network: nn.Module, keep_float: list[str]) -> bytes:
    """Return the network's file, all but the named layers in integers."""
    twin = build_twin(
        network,
        weight=lambda: UniformQuantiser(UniformConfig(symmetric=True, axis=0)),
        activation=lambda: UniformQuantiser(UniformConfig()),
        keep_float=keep_float,
    )
    calibrate(twin, [torch.randn(4, 3, SIDE, SIDE)])
    return bytes(export_twin(twin, rows=SIDE, columns=SIDE).SerializeToString())


def open_onnxruntime(file: bytes, view: Any, threads: int, optimised: Path) -> Callable[[], object]:
    """Return a call that reads one view."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"frames": view})


def open_openvino(file: bytes, views: Any, threads: int) -> Callable[[], object]:
    """Return a call that reads the views at once in the same file."""
    core = importlib.import_module("openvino").Core()  # no extra asks for it
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    model = core.read_model(file)
    model.reshape({"frames": list(views.shape)})
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({"frames": views})


def open_product(rows: int, depth: int, columns: int) -> Callable[[], object]:
    """Return a call that multiplies two int8 matrices."""
    one, other = torch.ones(rows, depth, dtype=torch.int8), torch.ones(depth, columns, dtype=torch.int8)
    return lambda: torch._int_mm(one, other)


def time_rounds(sides: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """Return seconds a call of each side, for the rounds that were disturbed least."""
    found = []
    for number in range(2 * rounds + WARM_UP):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        seconds = {}
        for name, call in sides.items():
            started = time.perf_counter()
            call()
            seconds[name] = time.perf_counter() - started
        disturbed = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
        if number >= WARM_UP:
            found.append((disturbed, number, seconds))
    return [seconds for _, _, seconds in sorted(found)[:rounds]]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("/tmp"), help="folder for the optimised graphs")  # noqa: S108
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = make_network()
    view = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    files = {
        "onnxruntime_int8": make_files(network, []),
        **{name: make_files(network, kept) for name, kept in MIXES.items()},
        "onnxruntime_float": make_files(network, layer_names(network)),
    }
    sides: dict[str, Callable[[], object]] = {
        name: open_onnxruntime(file, view, arguments.threads, arguments.out / f"{name}.onnx")
        for name, file in files.items()
    }
    if importlib.util.find_spec("openvino"):
        views = np.repeat(view, TOGETHER, axis=0)
        for name, given in {"openvino": view, "openvino_together": views}.items():
            sides[name] = open_openvino(files["onnxruntime_int8"], given, arguments.threads)
    batch = torch.from_numpy(normalise(view))
    sides["torch_eager"] = lambda: network(batch)
    products = {"product_" + "x".join(map(str, shape)): shape for shape in PRODUCTS}
    sides |= {name: open_product(*shape) for name, shape in products.items()}
    with torch.inference_mode():
        rounds = time_rounds(sides, arguments.rounds)
    rates = {
        name: float(np.prod(shape)) / statistics.median(each[name] for each in rounds)
        for name, shape in products.items()
    }
    best = max(rates, key=lambda name: rates[name])
    work = float(np.prod(products[best]))
    int8 = "onnxruntime_int8"
    ratios = {
        name: statistics.median(each[name] / each[int8] for each in rounds)
        for name in ("onnxruntime_float", "torch_eager", *MIXES)
    }
    shares = {
        int8: ("share_of_best_rate", 1),
        "openvino": ("openvino_share", 1),
        "openvino_together": ("openvino_share_together", TOGETHER),
    }
    ratios |= {
        share: statistics.median(views * MACS / each[name] / (work / each[best]) for each in rounds)
        for name, (share, views) in shares.items()
        if name in sides
    }
    vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    met = {name: ratios[name] >= bar for name, bar in BARS.items() if name in ratios}
    size = len(files[int8]) / len(files["onnxruntime_float"])
    graph = onnx.load(arguments.out / f"{int8}.onnx", load_external_data=False).graph
    result = {
        "benchmark": "inference",
        "machine": platform.processor() or platform.machine(),
        "vnni": vnni,
        "threads": arguments.threads,
        "rounds": len(rounds),
        "median_ms": {
            name: round(1000 * statistics.median(each[name] for each in rounds), 3) for name in sides
        },
        "best_gmac_per_s": {best: round(rates[best] / 1e9, 1)},
        "int8_ratios": {name: round(value, 3) for name, value in ratios.items()},
        "met": met if vnni else "no bar without VNNI",
        "size_ratio": round(size, 4),
        "size_met": size <= SIZE_BAR,
        "nodes": dict(Counter(node.op_type for node in graph.node)),
    }
    print(json.dumps(result))  # noqa: T201 - the result


if __name__ == "__main__":
    main()

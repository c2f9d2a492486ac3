"""The network of a package in ONNX Runtime: views in, logits, class activations and embeddings out."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.errors import InferenceError, PackageError
from models.ood import rarity, read_rarity
from models.package import MODEL, Package

TOGETHER = 4
"""Views of a run: an exam is decoded, cleaned and read by ResNet50 in 13 % less time than one by one, with
the same result to the bit; each thread's memory grows by them."""

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the network gives for N views.

    Attributes
    ----------
    logits
        ``(N, classes)`` float32, uncalibrated, in the package's class order.
    cam
        ``(N, classes, h, w)`` float32: its spatial mean plus a bias is the logit; None where the network
        gives none.
    embedding
        ``(N, d)`` float32; None where the network gives none.
    foreignness
        ``(N,)`` float64, rising with how unlike the views are to what was learnt from; None where the package
        does not tell.
    """

    logits: NDArray[np.float32]
    cam: NDArray[np.float32] | None
    embedding: NDArray[np.float32] | None
    foreignness: NDArray[np.float64] | None = None


class Classifier:
    """One loaded network; safe to use from several threads at once.

    Raises
    ------
    PackageError
        The model file is altered, or is not a graph with the manifest's input and outputs.
    """

    def __init__(self, package: Package, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
        where = package.folder / MODEL
        try:
            self._session = ort.InferenceSession(
                package.read(MODEL), options, providers=["CPUExecutionProvider"]
            )
        except _LOAD_ERRORS as error:
            raise PackageError(f"{where}: a runnable ONNX graph was expected: {error}") from error
        (view, *others) = self._session.get_inputs()
        self._view_shape = (package.input_rows, package.input_columns, 3)
        if others or view.type != "tensor(uint8)" or tuple(view.shape[1:]) != self._view_shape:
            raise PackageError(
                f"{where}: one uint8 input (N, {', '.join(map(str, self._view_shape))}) was expected, "
                f"{view.type} {view.shape} was found"
            )
        self._input = view.name
        self._colours = read_rarity(package)
        self._outputs = sorted(package.manifest["outputs"])
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        for name in self._outputs:
            if name not in shapes or (name != "embedding" and shapes[name][1] != len(package.classes)):
                raise PackageError(f"{where}: the manifest's output {name!r} is not in the graph as stated")

    def score(self, views: NDArray[np.uint8]) -> Scores:
        """Run the network over ``(N, rows, columns, 3)`` uint8 RGB views; N may be 0.

        Raises
        ------
        ValueError
            The views are of another shape or dtype.
        InferenceError
            A logit is not finite.
        """
        if views.dtype != np.uint8 or views.shape[1:] != self._view_shape:
            raise ValueError(
                f"views: (N, {', '.join(map(str, self._view_shape))}) uint8 was expected, "
                f"{views.shape} {views.dtype} was found"
            )
        starts = range(0, max(len(views), 1), TOGETHER)
        runs = [self._session.run(self._outputs, {self._input: views[at : at + TOGETHER]}) for at in starts]
        found = dict(zip(self._outputs, map(np.concatenate, zip(*runs, strict=True)), strict=True))
        if not np.isfinite(found["logits"]).all():
            raise InferenceError("the network gave logits that are not finite; its package cannot be used")
        foreignness = None if self._colours is None else rarity(views, self._colours)
        return Scores(found["logits"], found.get("cam"), found.get("embedding"), foreignness)

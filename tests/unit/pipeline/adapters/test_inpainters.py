"""One contract for whatever fills a hole, and what each network is refused for."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.adapters.lama import Lama
from pipeline.adapters.onnx_inpainter import OnnxInpainter
from pipeline.clean.fill import Inpainter, InpainterError, check_inpainter, fill, navier_stokes, telea
from pipeline.frame import Pixels
from tests.unit.pipeline.adapters.conftest import LAMA, MIGAN, mean_graph, written
from tests.unit.pipeline.conftest import Mucosa

Open = Callable[[Path], Inpainter]

STAND_IN = """
import torch

class MeanOfKnown(torch.nn.Module):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert image.dtype == torch.float32 and mask.dtype == torch.int64
        assert image.size(2) % 8 == 0 and image.size(3) % 8 == 0
        known = (mask == 0).to(image.dtype)
        mean = (image * known).sum(dim=[2, 3], keepdim=True) / known.sum()
        return image * known + mean * (1 - known) - 0.5 / 255
"""
"""LaMa's signature; what was known comes back one level off, as from the real one."""


def scripted(folder: Path, source: str = STAND_IN) -> bytes:
    """Return a TorchScript file with LaMa's signature."""
    torch = pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
    pytest.importorskip("simple_lama_inpainting", reason="not installed: see docs/inpainting.md")
    (folder / "stand_in.py").write_text(source)
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would have everybody leave TorchScript, which LaMa is in
            torch.jit.script(__import__("stand_in").MeanOfKnown()).save(folder / "scripted.pt")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("stand_in", None)
    return (folder / "scripted.pt").read_bytes()


def open_lama(folder: Path) -> Inpainter:
    path, sha256 = written(folder, scripted(folder))
    return Lama(path, sha256=sha256)


def open_onnx(kind: str) -> Open:
    def open_kind(folder: Path) -> Inpainter:
        path, sha256 = written(folder, mean_graph(kind))
        return OnnxInpainter(path, sha256=sha256)

    return open_kind


INPAINTERS: dict[str, Open] = {
    "telea": lambda _: telea,
    "navier_stokes": lambda _: navier_stokes,
    "simple-lama-inpainting": open_lama,
    "LaMa ONNX": open_onnx(LAMA),
    "MI-GAN ONNX": open_onnx(MIGAN),
}


@pytest.fixture(scope="module", params=INPAINTERS)
def inpainter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Inpainter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of TorchScript
        return INPAINTERS[request.param](tmp_path_factory.mktemp("weights"))


def holed(mucosa: Mucosa, rows: int, columns: int) -> tuple[Pixels, np.ndarray, np.ndarray]:
    """Return a frame with white text-like marks, their mask, and a content area left of which is black."""
    frame = mucosa(rows, columns, 3)
    content, mask = np.ones((rows, columns), np.bool_), np.zeros((rows, columns), np.bool_)
    content[:, : columns // 6] = False
    mask[rows // 3 : rows // 3 + rows // 10, columns // 8 : columns // 2] = True
    mask[-rows // 8 :, -columns // 8 :] = True
    frame[mask], frame[~content] = 255, 0
    frame.setflags(write=False)
    return frame, mask, content


@pytest.mark.parametrize("size", [(97, 131), (576, 720), (64, 500)], ids=str)
def test_an_inpainter_paints_the_hole_like_tissue_and_nothing_else(
    inpainter: Inpainter, mucosa: Mucosa, size: tuple[int, int]
) -> None:
    """Every pixel that was not to be filled is evidence; what was filled must not look like an artefact."""
    frame, mask, content = holed(mucosa, *size)
    before = frame.copy()
    filled, hole = fill(frame, mask, content, inpainter=inpainter)
    assert np.array_equal(hole, mask)
    assert np.array_equal(filled[~hole], before[~hole])
    assert np.array_equal(frame, before)
    tissue = before[content & ~mask].astype(int)
    inside = filled[hole & content].astype(int)
    assert np.abs(np.median(inside, axis=0) - np.median(tissue, axis=0)).max() <= 40
    assert inside.max() < 255, "the white that was to go is still there"
    low = np.percentile(tissue, 1, axis=0) - 30
    assert (inside >= low).mean() >= 0.99, "black of the border, or of nothing, was painted"


def test_an_inpainter_neither_shifts_nor_stretches(inpainter: Inpainter) -> None:
    """A network pads or scales a frame; what it paints must come back to where the hole was."""
    rows, columns = 97, 131
    ramps = np.full((rows, columns, 3), 20, np.uint8)  # as red as tissue: nothing else is a source of colour
    ramps[..., 0], ramps[..., 1] = np.linspace(150, 250, columns), np.linspace(20, 110, rows)[:, None]
    unknown = np.zeros((rows, columns), np.bool_)
    unknown[30:50, 40:80] = True
    painted = inpainter(ramps, unknown)
    off = np.abs(painted.astype(int) - ramps)[
        ~cv2.dilate(unknown.astype(np.uint8), np.ones((5, 5))).astype(bool)
    ]
    assert off.max() <= 4


def test_without_a_hole_an_inpainter_is_not_asked(inpainter: Inpainter, mucosa: Mucosa) -> None:
    frame = mucosa(97, 131, 1)
    nothing = np.zeros((97, 131), np.bool_)
    filled, hole = fill(frame, nothing, ~nothing, inpainter=inpainter)
    assert filled is frame
    assert not hole.any()


def test_an_inpainter_gives_the_same_twice(inpainter: Inpainter, mucosa: Mucosa) -> None:
    """A reading that is done again after a crash must be the same reading."""
    once, twice = (fill(*holed(mucosa, 97, 131), inpainter=inpainter)[0] for _ in range(2))
    assert np.array_equal(once, twice)


@pytest.mark.parametrize("kind", [LAMA, MIGAN])
def test_a_network_whose_mask_means_the_opposite_is_refused(kind: str, tmp_path: Path) -> None:
    """LaMa's 1 is a hole, MI-GAN's 255 is none: mistaken, text stays and the tissue round it is invented."""
    path, sha256 = written(tmp_path, mean_graph(kind, is_hole_one=kind != LAMA))
    with pytest.raises(InpainterError, match=r"painted like it, \(0, 255, 0\) was found"):
        OnnxInpainter(path, sha256=sha256)


def test_a_network_that_answers_in_another_scale_is_refused(tmp_path: Path) -> None:
    """Exports in 0-1 exist: rounded, they would paint every hole black."""
    path, sha256 = written(tmp_path, mean_graph(LAMA, answers_to=1.0))
    with pytest.raises(InpainterError, match=r"was found; is the mask's meaning or the scale"):
        OnnxInpainter(path, sha256=sha256)


@pytest.mark.parametrize("adapter", [Lama, OnnxInpainter])
def test_other_weights_are_refused_before_they_are_loaded(
    adapter: Callable[..., Inpainter], tmp_path: Path
) -> None:
    """Weights are code: TorchScript runs what it holds."""
    path, _ = written(tmp_path, b"something else")
    with pytest.raises(InpainterError, match=f"SHA-256 {'0' * 64} were expected"):
        adapter(path, sha256="0" * 64)
    with pytest.raises(InpainterError, match="cannot be read: No such file"):
        adapter(tmp_path / "absent", sha256="0" * 64)


def test_what_is_no_inpainting_graph_is_refused(tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, b"no ONNX")
    with pytest.raises(InpainterError, match="a runnable ONNX graph was expected"):
        OnnxInpainter(path, sha256=sha256)
    path, sha256 = written(tmp_path, mean_graph(LAMA).replace(b"\x0a\x05image", b"\x0a\x05other"))
    with pytest.raises(InpainterError, match=r"ONNX graph was expected|inputs .* were expected"):
        OnnxInpainter(path, sha256=sha256)


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:DeprecationWarning")
def test_lama_reads_the_named_file_and_leaves_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where $LAMA_MODEL names nothing the package downloads; where it names another file, that one runs."""
    path, sha256 = written(tmp_path, scripted(tmp_path))
    for value in ("/nowhere/other.pt", None):
        if value is None:
            monkeypatch.delenv("LAMA_MODEL", raising=False)
        else:
            monkeypatch.setenv("LAMA_MODEL", value)
        Lama(path, sha256=sha256)
        assert os.environ.get("LAMA_MODEL") == value


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:DeprecationWarning")
def test_lama_refuses_what_is_no_torchscript_and_what_keeps_the_hole(tmp_path: Path) -> None:
    kept = scripted(tmp_path, STAND_IN.replace("(mask == 0)", "(mask == 1)"))
    for content, said in ((b"no TorchScript", "TorchScript file was expected"), (kept, "painted like it")):
        path, sha256 = written(tmp_path, content)
        with pytest.raises(InpainterError, match=said):
            Lama(path, sha256=sha256)


def test_without_the_package_lama_says_how_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "simple_lama_inpainting", None)
    path, sha256 = written(tmp_path, b"whatever")
    with pytest.raises(InpainterError, match=r"docs/inpainting\.md says how it is installed"):
        Lama(path, sha256=sha256)


def test_an_inpainter_that_does_not_crop_back_is_refused(mucosa: Mucosa) -> None:
    """Padded to a multiple of 8 and pasted, every filled pixel would come from another place."""
    with pytest.raises(InpainterError, match=r"\(97, 131, 3\) uint8 was expected, \(104, 136, 3\)"):
        fill(*holed(mucosa, 97, 131), inpainter=lambda *_: mucosa(104, 136, 1))
    with pytest.raises(InpainterError, match="painted like it"):
        check_inpainter(lambda pixels, _: pixels, "one that does nothing")

"""`medseg export`: a model in a form that other programs read, with its values compared."""

import argparse
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from medseg.package import Package

Run = Callable[["np.ndarray"], "np.ndarray"]

_TOLERANCE = 1e-4
_LEAST = 32
_FILES = {".onnx", ".pt2", ".pt", ".pth", ".tar", ".gz", ".tgz", ".txt", ".json"}
_EXTRA = ("onnx", "onnxruntime", "onnxscript")


def main(arguments: list[str]) -> int:
    """Export one model; the file appears only if it gives the same values."""
    from medseg import package
    from medseg.data.predictions import opened

    options = _parser().parse_args(arguments)
    out = Path(options.out)
    folders = package.find(Path(options.model))
    if len(folders) > 1:
        raise ValueError(
            f"{options.model} holds {len(folders)} models and one is exported at a time; "
            f"give e.g. {folders[0]}"
        )
    _check_name(out, options.format)
    with opened(out.parent):
        text = _FORMATS[options.format](package.load(folders[0]), out)
    sys.stdout.write(f"{out}: {text}\n")
    return 0


_SUFFIX = {"onnx": ".onnx", "program": ".pt2"}


def _check_name(out: Path, kind: str) -> None:
    """The suffix says the format; a bundle is a folder or a .zip file."""
    wanted = _SUFFIX.get(kind)
    if wanted is not None and out.is_dir():
        raise ValueError(f"--out {out} is a folder; {kind} is one file: name it")
    if wanted is not None and out.suffix.lower() != wanted:
        raise ValueError(
            f"--out {out} does not end in {wanted}, as --format {kind} does; give "
            f"{out.with_suffix(wanted)}"
        )
    if wanted is None and (
        out.suffix.lower() in _FILES or (out.is_file() and out.suffix != ".zip")
    ):
        raise ValueError(
            f"--out {out}: a bundle is a folder or a .zip file; give {out.with_suffix('')} or "
            f"{out.with_suffix('.zip')}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg export",
        allow_abbrev=False,
        description="Turn a model into ONNX, an exported PyTorch program or a MONAI bundle. "
        "What is exported is the network: normalised values in, logits out.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model folder")
    parser.add_argument("--format", required=True, choices=tuple(_FORMATS))
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="file to write (.onnx, .pt2), or folder (or .zip) of the bundle",
    )
    return parser


def _onnx(model: "Package", out: Path) -> str:
    """ONNX by way of torch.export, run by onnxruntime."""
    _need(*_EXTRA)
    import onnxruntime
    import torch

    from medseg.provenance import atomic

    def convert(free: bool) -> Any:  # noqa: ANN401 -- torch has no type for it
        with _quiet():
            return torch.onnx.export(
                model.network,
                (_traced(model) if free else _example(model, 0),),
                dynamo=True,
                dynamic_shapes=(_shapes(model) if free else None),
                input_names=["image"],
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )

    program, free = _freest(convert)
    program.model.metadata_props["medseg"] = json.dumps(dict(model.spec))
    with atomic(out) as part:
        with _quiet():
            program.save(str(part), external_data=False)
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        found = _compare(model, lambda x: session.run(None, {"image": x})[0], free=free)
    return f"ONNX, {found}"


def _program(model: "Package", out: Path) -> str:
    """An exported program, loaded again and run."""
    import torch

    from medseg.provenance import atomic

    def convert(free: bool) -> Any:  # noqa: ANN401 -- as above
        with _quiet():
            return torch.export.export(
                model.network,
                (_traced(model) if free else _example(model, 0),),
                dynamic_shapes=(_shapes(model) if free else None),
            )

    program, free = _freest(convert)
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder, atomic(out) as part:
        file = Path(folder) / "model.pt2"
        with _quiet():
            extra = {"model.json": json.dumps(dict(model.spec))}
            torch.export.save(program, file, extra_files=extra)
            again = torch.export.load(file).module()
        shutil.copyfile(file, part)
        found = _compare(model, lambda x: again(torch.from_numpy(x)).numpy(), free=free)
    return f"exported program (torch.export.load), {found}"


def _bundle(model: "Package", out: Path) -> str:
    """A MONAI bundle as a folder or a zip file, opened by MONAI and run."""
    from medseg import bundle
    from medseg.provenance import atomic, atomic_folder

    bundle.refuse(model)
    if out.suffix != ".zip":
        if (
            out.is_dir()
            and any(out.iterdir())
            and not (out / "configs" / "metadata.json").is_file()
        ):
            raise ValueError(
                f"{out} is a folder with other things in it; give a new folder for the bundle"
            )
        with atomic_folder(out) as part:
            return _write_bundle(model, part, out.stem)
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder, atomic(out) as part:
        found = _write_bundle(model, Path(folder) / out.stem, out.stem)
        made = shutil.make_archive(str(Path(folder) / "bundle"), "zip", folder, out.stem)
        shutil.copyfile(made, part)
    return found


def _write_bundle(model: "Package", folder: Path, name: str) -> str:
    import torch

    from medseg import bundle
    from medseg.provenance import write_json

    (folder / "models").mkdir(parents=True)
    torch.save(model.network.state_dict(), folder / "models" / "model.pt")
    write_json(folder / "configs" / "metadata.json", bundle.metadata(model, name))
    write_json(folder / "configs" / "inference.json", bundle.inference(model))
    write_json(folder / "docs" / "medseg_model.json", dict(model.spec))
    network = _open_bundle(folder)
    found = _compare(model, lambda x: network(torch.from_numpy(x)).detach().numpy(), free=True)
    return f"MONAI bundle, {found}"


def _open_bundle(folder: Path) -> Callable[["Tensor"], "Tensor"]:
    """The bundle's network as MONAI's parser gives it, on the processor."""
    with _quiet():
        from monai.bundle.config_parser import ConfigParser

        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser.read_meta(folder / "configs" / "metadata.json")
        parser["bundle_root"], parser["device"] = str(folder), "cpu"
        network: Any = parser.get_parsed_content("network")
        for name in ("dataset", "inferer", "postprocessing"):
            parser.get_parsed_content(name)
    return network


_FORMATS: dict[str, Callable[["Package", Path], str]] = {
    "onnx": _onnx,
    "program": _program,
    "bundle": _bundle,
}


def _need(*names: str) -> None:
    import importlib.util

    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"this format needs {', '.join(missing)}; install them with "
            "`pip install 'medseg[export]'`"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and MONAI tell of things that a user cannot change."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _example(model: "Package", extra: int, *, least: int = 1) -> "Tensor":
    """A random window of the network's own size; `extra` more, and so many strides larger.

    Each axis has `least` strides or more.
    """
    import torch

    sizes = [
        (max(-(-size // stride), least) + extra) * stride
        for size, stride in zip(model.spec["patch_size"], model.stride, strict=True)
    ]
    generator = torch.Generator().manual_seed(extra)
    return torch.randn(1 + extra, len(model.inputs), *sizes, generator=generator)


def _traced(model: "Package") -> "Tensor":
    """Two small windows whose sizes all differ, so that none is taken for a constant."""
    import torch

    counts = [max(2, -(-_LEAST // stride)) + axis for axis, stride in enumerate(model.stride)]
    sizes = [count * stride for count, stride in zip(counts, model.stride, strict=True)]
    return torch.zeros(2, len(model.inputs), *sizes)


def _shapes(model: "Package") -> "tuple[dict[int, Any]]":
    """Free batch and sizes; sizes are multiples of the stride, one alone being a special case."""
    from torch.export import Dim

    shapes: dict[int, Any] = {0: Dim("batch", min=1, max=1 << 10)}
    for axis, stride in enumerate(model.stride):
        count = Dim(f"n{axis}", min=2, max=1 << 12)
        shapes[axis + 2] = stride * count if stride > 1 else count
    return (shapes,)


def _freest(convert: Callable[[bool], Any]) -> tuple[Any, bool]:
    """The export with free sizes; where the network does not allow it, with its own."""
    try:
        return convert(True), True
    except Exception as error:
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        sys.stderr.write(
            "medseg export: warning: this network takes one window of its own size at a time once "
            f"it is exported ({reason})\n"
        )
    return convert(False), False


def _compare(model: "Package", run: Run, *, free: bool) -> str:
    """The largest difference between the model's values and the export's, on random windows."""
    import numpy as np
    import torch

    largest = scale = 0.0
    for extra in (0, 1) if free else (0,):
        image = _example(model, extra, least=2 if free else 1)
        with torch.no_grad():
            wanted = model.network(image).numpy()
        try:
            found = run(image.numpy())
        except AssertionError as error:
            raise RuntimeError(f"the exported network refuses its input: {error}") from None
        largest = max(largest, float(np.abs(found - wanted).max()))
        scale = max(scale, float(np.abs(wanted).max()))
    if not largest <= _TOLERANCE * max(scale, 1.0):
        raise RuntimeError(
            f"the exported network differs by {largest:.3g} from the model (values up to "
            f"{scale:.3g}); nothing was written"
        )
    sizes = "any batch and any size that is a multiple (2 or more) of" if free else "windows of"
    numbers = model.stride if free else tuple(_example(model, 0).shape)
    what = f"{sizes} {'x'.join(map(str, numbers))}"
    return f"for {what}; largest difference {largest:.3g} of values up to {scale:.3g}"

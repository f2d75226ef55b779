"""`medseg export`: a model in a form that other programs read, with its values compared."""

import argparse
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from medseg.package import Package

Run = Callable[["np.ndarray"], "np.ndarray"]

_TOLERANCE = 1e-4
_EXTRA = ("onnx", "onnxruntime", "onnxscript")


def main(arguments: list[str]) -> int:
    """Export one model; the file appears only if it gives the same values."""
    from medseg import package

    options = _parser().parse_args(arguments)
    out = Path(options.out)
    folders = package.find(Path(options.model))
    if len(folders) > 1:
        raise ValueError(
            f"{options.model} holds {len(folders)} models and one is exported at a time; "
            f"give e.g. {folders[0]}"
        )
    if options.format != "bundle" and out.is_dir():
        raise ValueError(f"--out {out} is a folder; {options.format} is one file: name it")
    model = package.load(folders[0])
    text = _FORMATS[options.format](model, out)
    sys.stdout.write(f"{out}: {text}\n")
    return 0


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
                (_example(model, 0),),
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
                (_example(model, 0),),
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
    from medseg.provenance import atomic, atomic_folder

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

    from medseg.provenance import write_json

    (folder / "models").mkdir(parents=True)
    torch.save(model.network.state_dict(), folder / "models" / "model.pt")
    write_json(folder / "configs" / "metadata.json", _metadata(model, name))
    write_json(folder / "configs" / "inference.json", _inference(model))
    write_json(folder / "docs" / "medseg_model.json", dict(model.spec))
    network = _open_bundle(folder)
    found = _compare(model, lambda x: network(torch.from_numpy(x)).detach().numpy(), free=True)
    return f"MONAI bundle, {found}"


def _open_bundle(folder: Path) -> Callable[["Tensor"], "Tensor"]:
    """The bundle's network as MONAI builds it, with the bundle's weights."""
    import torch

    with _quiet():
        from monai.bundle.config_parser import ConfigParser

        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser.read_meta(folder / "configs" / "metadata.json")
        network: Any = parser.get_parsed_content("network_def")
        parser.get_parsed_content("inferer")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    return network.eval()


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
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _example(model: "Package", extra: int) -> "Tensor":
    """Random windows of the network's own size, plus `extra` strides along each axis."""
    import torch

    sizes = [
        (-(-size // stride) + extra) * stride
        for size, stride in zip(model.spec["patch_size"], model.stride, strict=True)
    ]
    generator = torch.Generator().manual_seed(extra)
    return torch.randn(2 + extra, len(model.channels), *sizes, generator=generator)


def _shapes(model: "Package") -> "tuple[dict[int, Any]]":
    """Free batch and sizes; sizes are multiples of the stride."""
    from torch.export import Dim

    shapes: dict[int, Any] = {0: Dim("batch", min=1, max=1 << 10)}
    for axis, stride in enumerate(model.stride):
        count = Dim(f"n{axis}", min=1, max=1 << 12)
        shapes[axis + 2] = stride * count if stride > 1 else count
    return (shapes,)


def _freest(convert: Callable[[bool], Any]) -> tuple[Any, bool]:
    """The export with free sizes; where the network does not allow it, with its own."""
    try:
        return convert(True), True
    except Exception as error:
        reason = str(error).strip().splitlines()
        sys.stderr.write(
            "medseg export: warning: this network is exported for its own window size alone "
            f"({reason[0] if reason else type(error).__name__})\n"
        )
    return convert(False), False


def _compare(model: "Package", run: Run, *, free: bool) -> str:
    """The largest difference between the model's values and the export's, on random windows."""
    import numpy as np
    import torch

    largest = scale = 0.0
    for extra in (0, 1) if free else (0,):
        image = _example(model, extra)
        with torch.no_grad():
            wanted = model.network(image).numpy()
        largest = max(largest, float(np.abs(run(image.numpy()) - wanted).max()))
        scale = max(scale, float(np.abs(wanted).max()))
    if not largest <= _TOLERANCE * max(scale, 1.0):
        raise RuntimeError(
            f"the exported network differs by {largest:.3g} from the model (values up to "
            f"{scale:.3g}); nothing was written"
        )
    sizes = "any batch and any size that is a multiple of" if free else "windows of"
    numbers = model.stride if free else tuple(_example(model, 0).shape)
    what = f"{sizes} {'x'.join(map(str, numbers))}"
    return f"for {what}; largest difference {largest:.3g} of values up to {scale:.3g}"


def _target(value: Any) -> Any:  # noqa: ANN401 -- any JSON value
    """A block's description in MONAI's words."""
    if isinstance(value, Mapping) and "block" in value:
        path = f"medseg.nn.blocks.{value['block']}.{value['class']}"
        inner = {k: _target(v) for k, v in (value.get("arguments") or {}).items()}
        return {"_target_": path, "_mode_": "callable", **inner}
    return value


_INTENSITY: dict[str, list[dict[str, Any]]] = {
    "zscore": [
        {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}
    ],
    "percentile": [
        {
            "_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 0.5,
            "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True, "channel_wise": True,
        }
    ],
}  # fmt: skip


def _inference(model: "Package") -> dict[str, Any]:
    """`inference.json`: network, weights, and MONAI's nearest to our own preparation."""
    spec = model.spec
    network = spec["network"]
    arguments = {k: _target(v) for k, v in (network.get("arguments") or {}).items()}
    spacing = spec["spacing_mm"]
    respace = [] if not spacing or None in spacing else [
        {"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": "bilinear"}
    ]  # fmt: skip
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": f"medseg.models.{network['name']}.{network['class']}",
            **arguments,
        },
        "weights": "$torch.load(@bundle_root + '/models/model.pt', weights_only=True)",
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                *respace,
                *_INTENSITY.get(spec["intensity"], []),
            ],
        },
        "inferer": _inferer(spec),
    }


def _inferer(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Windows as predict lays them, in MONAI's words."""
    from medseg.inference import BATCH_SIZE
    from medseg.windows import OVERLAP

    overlap = spec.get("overlap")
    flat = spec["ndim"] == 2
    inferer: dict[str, Any] = {
        "_target_": "SliceInferer" if flat else "SlidingWindowInferer",
        "roi_size": spec["patch_size"],
        "sw_batch_size": BATCH_SIZE,
        "overlap": OVERLAP if overlap is None else overlap,
        "mode": "gaussian",
    }
    if flat:
        inferer["spatial_dim"] = spec["slice_axis"] or 0
    return inferer


def _metadata(model: "Package", name: str) -> dict[str, Any]:
    """`metadata.json` by MONAI's schema."""
    from medseg.provenance import versions

    spec = model.spec
    found = versions(("torch", "numpy", "monai", "medseg"))
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by medseg"},
        "monai_version": found["monai"],
        "pytorch_version": found["torch"],
        "numpy_version": found["numpy"],
        "required_packages_version": {"medseg": found["medseg"]},
        "name": name,
        "task": f"{spec['task']['name']}: {', '.join(model.labels)}",
        "description": "The network takes normalised images in RAS order to logits. `medseg "
        "predict` prepares scans and brings labels back; MONAI's transforms here come near it.",
        "authors": "the medseg authors",
        "copyright": "see the model's own terms",
        "network_data_format": _data_format(model),
        "intended_use": f"spacing_mm {spec['spacing_mm']}, intensity {spec['intensity']}",
    }


def _data_format(model: "Package") -> dict[str, Any]:
    """What goes in and comes out, in the words of MONAI's schema."""
    classes = {"0": "background", **{str(n): c for n, c in enumerate(model.labels, start=1)}}
    common = {
        "type": "image",
        "spatial_shape": [f"{stride}*n" for stride in model.stride],
        "dtype": "float32",
        "is_patch_data": False,
        "value_range": [],
    }
    image = {
        **common,
        "format": "magnitude",
        "modality": "MR",
        "num_channels": len(model.channels),
        "channel_def": {str(n): c for n, c in enumerate(model.channels)},
    }
    pred = {
        **common,
        "format": "segmentation",
        "num_channels": len(classes),
        "channel_def": classes,
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}

"""A model in the words of a MONAI bundle: `configs/inference.json` and `configs/metadata.json`."""

from collections.abc import Mapping
from typing import Any

from medseg.inference import BATCH_SIZE
from medseg.package import Package
from medseg.provenance import versions
from medseg.windows import OVERLAP


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


_POSTPROCESSING = {
    "_target_": "Compose",
    "transforms": [
        {
            "_target_": "Invertd", "keys": "pred", "orig_keys": "image",
            "transform": "@preprocessing", "nearest_interp": False,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir",
            "output_postfix": "seg", "output_dtype": "uint8", "separate_folder": False,
            "print_log": False,
        },
    ],
}  # fmt: skip


def refuse(model: Package) -> None:
    """Refuse what MONAI's own reading and writing would get wrong."""
    cure = "export it as onnx"
    if not model.labels:
        task = model.spec["task"]["name"]
        raise ValueError(f"a bundle writes labels of voxels, and {task} makes none; {cure}")
    if model.spec.get("complex_input"):
        raise ValueError(f"MONAI's transforms drop imaginary parts, which this model sees; {cure}")


def inference(model: Package) -> dict[str, Any]:
    """`inference.json`: the network with its weights, and MONAI's nearest to what predict does.

    `cases` holds one list of files a case, in the order of the channels.
    """
    spec = model.spec
    network = spec["network"]
    arguments = {k: _target(v) for k, v in (network.get("arguments") or {}).items()}
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/output'",
        "cases": [[f"{name}.nii.gz" for name in model.channels]],
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": f"medseg.models.{network['name']}.{network['class']}",
            **arguments,
        },
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, "
        "weights_only=True)",
        "network": "$(@network_def.load_state_dict(@weights), @network_def.to(@device).eval())[1]",
        "preprocessing": _preprocessing(spec),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': files} for files in @cases]",
            "transform": "@preprocessing",
        },
        "inferer": _inferer(spec),
        "postprocessing": _POSTPROCESSING,
        "initialize": ["$torch.set_grad_enabled(False)"],
        "run": [
            "$[@postprocessing({'image': case['image'], 'pred': "
            "@inferer(case['image'][None].to(@device), @network)[0].cpu()}) for case in @dataset]"
        ],
    }


def _preprocessing(spec: Mapping[str, Any]) -> dict[str, Any]:
    """From files to the network's input."""
    spacing = spec["spacing_mm"]
    respace = [] if not spacing or None in spacing else [
        {"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": "bilinear"}
    ]  # fmt: skip
    return {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            *respace,
            *_INTENSITY.get(spec["intensity"], []),
        ],
    }


def _inferer(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Windows as predict lays them, in MONAI's words."""
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


def metadata(model: Package, name: str) -> dict[str, Any]:
    """`metadata.json` by MONAI's schema."""
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


def _data_format(model: Package) -> dict[str, Any]:
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
        "num_channels": len(model.inputs),
        "channel_def": {str(n): c for n, c in enumerate(model.inputs)},
    }
    pred = {
        **common,
        "format": "segmentation",
        "num_channels": len(classes),
        "channel_def": classes,
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}

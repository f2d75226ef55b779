"""State dicts as the DeepSphere authors' U-Nets have them, with random numbers and few channels."""

import itertools

import torch

DOWN, UP = ((5, 6), 7, 8, 9, 10, 10), (9, 8, 7, 6, 4)


def tensors(place, i, o, *, order, norm=True):
    """A unit of deepsphere-pytorch, weight K x in x out as it is stored."""
    conv, batch = f"{place}.spherical_cheb.chebconv", f"{place}.batchnorm"
    found = {f"{conv}.weight": torch.randn(order, i, o), f"{conv}.bias": torch.randn(o)}
    if norm:
        found |= {f"{batch}.{n}": torch.rand(o) for n in ("weight", "bias", "running_mean")}
        found |= {f"{batch}.running_var": torch.rand(o) + 0.5}
        found |= {f"{batch}.num_batches_tracked": torch.tensor(3)}
    return found


def climate(order=3, inputs=2, outputs=3):
    """A state dict of `SphericalUNet`, its widths made small."""
    torch.manual_seed(0)
    unit = {"order": order}
    state = tensors("encoder.enc_l5.spherical_cheb_bn_1", inputs, DOWN[0][0], **unit)
    state |= tensors("encoder.enc_l5.spherical_cheb_bn_2", *DOWN[0], **unit)
    for level, (i, o) in zip((4, 3, 2, 1), itertools.pairwise((6, *DOWN[1:5])), strict=True):
        state |= tensors(f"encoder.enc_l{level}.spherical_cheb_bn", i, o, **unit)
    state |= tensors("encoder.enc_l0", DOWN[4], DOWN[5], **unit, norm=False)
    skips = (10, 9, 8, 7)
    for level, (i, o) in enumerate(itertools.pairwise((10, *UP[:-1])), 1):
        place = f"decoder.dec_l{level}"
        state |= tensors(f"{place}.spherical_cheb_bn_pool.spherical_cheb_bn", i, o, **unit)
        state |= tensors(f"{place}.spherical_cheb_bn", o + skips[level - 1], o, **unit)
    last = "decoder.dec_l5"
    state |= tensors(f"{last}.spherical_cheb_bn_pool.spherical_cheb_bn", *UP[-2:], **unit)
    return state | tensors(last, UP[-1], outputs, **unit, norm=False)


def weather(order=3, inputs=4, outputs=2):
    """A state dict of `UNetSpherical`, its widths made small; weights in x K x out."""
    torch.manual_seed(0)
    blocks = {
        "conv1": (inputs, 3, 5), "conv2": (5, 6, 7), "conv3": (7, 8, 7),
        "uconv2": (14, 6, 5), "uconv1": (10, 4, 3), "uconv1_final": (3, outputs),
    }  # fmt: skip
    state = {}
    for name, widths in blocks.items():
        for n, (i, o) in enumerate(itertools.pairwise(widths), 1):
            state[f"{name}.convblock{n}.conv.weight"] = torch.randn(i, order, o)
            state[f"{name}.convblock{n}.conv.bias"] = torch.randn(o)
            state[f"{name}.convblock{n}.conv.laplacian"] = torch.eye(3)
        state[f"{name}.rezero_weight"] = torch.randn(1)
        if widths[0] != widths[-1]:
            state[f"{name}.res_connection.weight"] = torch.randn(widths[-1], widths[0])
            state[f"{name}.res_connection.bias"] = torch.randn(widths[-1])
    return state

"""Complex convolutions of other libraries: `.npz` with x, y, weights, a cotangent G and gradients.

Gradients are torch's of L = Re Σ y conj(G). A file says nothing of stride, padding and dilation:
those that fit the sizes are tried, and the one that comes nearest to y is named in its note. Of
the bias b, torchcvnn's transposed and pytorch-complex's layers add (1+i) b; the file's name or its
tensors' names say which library it is of, and where neither does, the nearer reading is taken.
Tolerances, of the largest magnitude: 1e-5, for gradients of weights and biases 1e-4.
"""

import re
import zipfile
from itertools import chain, islice, product

import numpy as np
import torch
from row import Row, largest

from medseg.nn.complex.conv import Conv, ConvTranspose
from medseg.nn.complex.parts import as_complex

FORWARD, PARAMETER = 1e-5, 1e-4
PART = re.compile(r"(?:^|[._])(r|re|real|i|im|imag)(?=[._]|$)")
LIMIT = 2000


def recognise(path):
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path) as file:
            numbers = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False
    if not {"x", "y"} <= numbers.keys() or "param.weight" not in {plain(k) for k in numbers}:
        return False
    x, y, weight = numbers["x"], numbers["y"], named(numbers, "param.weight")
    complex_map = x.ndim == y.ndim == weight.ndim and 3 <= x.ndim <= 5 and np.iscomplexobj(x)
    return complex_map and np.iscomplexobj(weight) and bool(layers(x, y, weight))


def compare(path):
    with np.load(path) as file:
        numbers = {name: file[name] for name in file.files}
    layer, factor = nearest(numbers, factors(path.name, numbers))
    return [*rows(layer, numbers, factor), *strangers(numbers)]


def nearest(numbers, readings):
    """The layer and the factor of its bias whose output agrees, or is least far off."""
    x, y, weight = numbers["x"], numbers["y"], named(numbers, "param.weight")
    bias = named(numbers, "param.bias")
    bias = np.zeros(y.shape[1], np.complex64) if bias is None else bias
    within = FORWARD * float(np.abs(y).max())
    best, least = None, np.inf
    for layer in fitting(x, y, weight):
        layer.weight.data = torch.view_as_real(torch.from_numpy(weight.astype(np.complex64)))
        for factor in readings if bias.any() else [1]:
            add(layer, bias * factor)
            off = distance(layer, numbers)
            if best is None or off < least:
                best, least = (layer, factor), off
            if off <= within:
                return layer, factor
    if best is None:
        raise ValueError(f"no convolution takes {x.shape} to {y.shape} by {weight.shape}")
    add(best[0], bias * best[1])
    return best


def add(layer, bias):
    """Give a layer its bias."""
    layer.bias.data = torch.view_as_real(torch.from_numpy(bias.astype(np.complex64)))


def rows(layer, numbers, factor):
    """The output, and where there is a cotangent the gradients."""
    x = torch.from_numpy(numbers["x"]).requires_grad_()
    ours = layer(x)
    how = ", ".join(f"{k} {v}" for k, v in layer.kernel.keywords.items())
    how += f", bias b·{factor}" if "param.bias" in map(plain, numbers) else ""
    found = [row("y", ours, numbers["y"], FORWARD, how)]
    if "cotangent" not in numbers:
        return found
    ours.backward(torch.from_numpy(numbers["cotangent"]))
    if "grad_x" in numbers:
        found.append(row("grad_x", x.grad, numbers["grad_x"], FORWARD))
    if (theirs := named(numbers, "grad.weight")) is not None:
        found.append(row("grad.weight", as_complex(layer.weight.grad), theirs, PARAMETER))
    if (theirs := named(numbers, "grad.bias")) is not None:
        grad = as_complex(layer.bias.grad) * np.conj(factor)
        found.append(row("grad.bias", grad, theirs, PARAMETER))
    return found


def row(name, ours, theirs, share, note=""):
    """The largest difference of a part, against a share of the largest magnitude."""
    high = float(np.abs(theirs).max()) if theirs.size else 0.0
    theirs = torch.view_as_real(torch.from_numpy(theirs))
    return Row(name, largest(torch.view_as_real(ours.resolve_conj()), theirs), share * high, note)


def strangers(numbers):
    """A failed row for every array that nothing here is compared with."""
    known = {"x", "y", "cotangent", "grad_x"}
    known |= {f"{group}.{what}" for group in ("param", "grad") for what in ("weight", "bias")}
    unknown = sorted(name for name in numbers if plain(name) not in known)
    return [Row(name, float("inf"), 0.0, "nothing here gives this") for name in unknown]


def plain(name):
    """`param.weight` of `param.conv.weight`, `param.conv_r.weight` and `param.weight`."""
    group, _, rest = name.partition(".")
    kind = re.search(r"weight|bias", rest)
    return f"{group}.{kind[0]}" if kind else name


def named(numbers, wanted):
    """A parameter's or gradient's complex array, put together if its parts lie apart."""
    found = {name: array for name, array in numbers.items() if plain(name) == wanted}
    whole, parts = [], {}
    for name, array in found.items():
        mark = PART.search(name.partition(".")[2])
        if np.iscomplexobj(array) or mark is None:
            whole.append(array)
        else:
            parts[mark[1][0]] = array
    if len(whole) == 1 and not parts:
        return whole[0]
    if parts.keys() == {"r", "i"} and not whole:
        return (parts["r"] + 1j * parts["i"]).astype(np.complex64)
    if not found:
        return None
    raise ValueError(f"{', '.join(found)}: neither one complex array nor two real ones")


def factors(name, numbers):
    """What b is multiplied by before it is added: 1, 1+i, or either if nothing tells."""
    keys = " ".join(numbers)
    if "m_real" in keys or "pytorch-complex" in name:
        return [1 + 1j]
    if "complextorch" in name or "bias_r" in keys or ".conv." in keys or ".conv_tr" in keys:
        return [1]
    return [1, 1 + 1j]


def layers(x, y, weight):
    """The kinds of layer whose channels fit, with their number of groups."""
    before, after, (first, second) = x.shape[1], y.shape[1], weight.shape[:2]
    found = []
    if first == after and before % second == 0 and after % (before // second) == 0:
        found.append((Conv, before // second))
    if first == before and after % second == 0 and before % (after // second) == 0:
        found.append((ConvTranspose, after // second))
    return found


def fitting(x, y, weight):
    """Layers whose channels and sizes fit, at most so many; alike axes come first."""
    for kind, groups in layers(x, y, weight):
        spaces = zip(x.shape[2:], y.shape[2:], weight.shape[2:], strict=True)
        axes = [list(geometries(kind, *space)) for space in spaces]
        if not all(axes):
            continue
        alike = [(g,) * len(axes) for g in axes[0] if all(g in axis for axis in axes)]
        others = (choice for choice in product(*axes) if len(set(choice)) > 1)
        for chosen in chain(alike, islice(others, LIMIT)):
            stride, dilation, padding, extra = zip(*chosen, strict=True)
            options = {} if kind is Conv else {"output_padding": extra}
            yield kind(
                x.shape[1], y.shape[1], kernel=weight.shape[2:], ndim=x.ndim - 2, stride=stride,
                dilation=dilation, padding=padding, groups=groups, **options,
            )  # fmt: skip


def geometries(kind, before, after, kernel):
    """(stride, dilation, padding, output padding) that take one size to the other."""
    for stride, dilation in product(range(1, 5), range(1, 4 if kernel > 1 else 2)):
        reach = dilation * (kernel - 1)
        for padding in range(reach + 1):
            if kind is Conv:
                if (before + 2 * padding - reach - 1) // stride + 1 == after:
                    yield stride, dilation, padding, 0
                continue
            extra = after - ((before - 1) * stride - 2 * padding + reach + 1)
            if 0 <= extra < max(stride, dilation):
                yield stride, dilation, padding, extra


def distance(layer, numbers):
    """The largest difference of the outputs; infinite instead of NaN."""
    with torch.no_grad():
        off = np.abs(layer(torch.from_numpy(numbers["x"])).numpy() - numbers["y"]).max()
    return float(off) if np.isfinite(off) else np.inf

"""Second moments of complex numbers, and the real-linear map per channel that a norm is.

Source: none for the passes; the whitening is Trabelsi et al. 2018, arXiv:1705.09792, sec. 3.5.
Any real-linear map of the plane is a·d + b·conj(d), so complex kernels do it on neighbouring
channels without taking parts out. Rows are read twice forwards and twice backwards, in blocks that
stay in a processor's cache; the few numbers per channel are double and left to autograd.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Mode = Literal["whiten", "circular", "split"]
Statistics = tuple[Tensor, Tensor]  # mean (s, c, 2), spread (s, c, 3): rr, ii, ri
Recipe = Callable[..., tuple[Tensor, Tensor]]  # statistics, parameters: matrix, offset
_Term = tuple[Tensor, Tensor | None, Tensor]  # rows, what is taken off, matrix

_FLOOR = 1e-12  # the least spread that a relative epsilon is relative to
_BLOCK = 2**15  # complex numbers a thread has in hand at once
_WIDE = 128  # numbers in a line: enough for vector instructions
_PILOTS = 64  # rows that the first guess of a mean looks at


def inverse_root(
    spread: Float[Tensor, "*k 3"], *, mode: Mode, eps: float, relative: bool, ridge: bool = True
) -> Float[Tensor, "*k 2 2"]:
    """The symmetric matrix that gives centred numbers unit variance.

    Args:
        spread: covariance of the parts: rr, ii, ri.
        mode: `whiten` makes the parts uncorrelated, each of variance 1; `split` looks at their
            variances alone; `circular` divides both by the root of E|z|².
        eps: what is added to a variance.
        relative: eps counts in units of the mean variance of both parts, which is at least 1e-12.
        ridge: whether eps is added; the determinant is at least eps² in any case.
    """
    rr, ii, ri = spread.unbind(-1)
    unit = spread_unit(spread, relative=relative)
    rr, ii, ri = rr / unit, ii / unit, ri / unit
    added, none = (eps if ridge else 0.0), torch.zeros_like(rr)
    if mode == "circular":
        first = last = (rr + ii + added).clamp_min(eps).rsqrt()
    elif mode == "split":
        first, last = ((part + added).clamp_min(eps).rsqrt() for part in (rr, ii))
    else:
        rr, ii = rr + added, ii + added
        root = (rr * ii - ri * ri).clamp_min(eps**2).sqrt()
        scale = 1 / (root * (rr + ii + 2 * root).sqrt())
        first, last, none = scale * (ii + root), scale * (rr + root), -scale * ri
    return _square(first, none, none, last) * unit.rsqrt()[..., None, None]


def spread_unit(spread: Float[Tensor, "*k 3"], *, relative: bool) -> Float[Tensor, "*k"]:
    """What epsilon counts in: the mean variance of both parts, at least 1e-12; or one."""
    rr, ii, _ = spread.unbind(-1)
    return ((rr + ii) / 2).clamp_min(_FLOOR) if relative else torch.ones_like(rr)


def gain_matrix(gain: Tensor) -> Float[Tensor, "c 2 2"]:
    """A gain per channel as a matrix: one number, (r, i), symmetric (rr, ii, ri) or all four."""
    if gain.ndim == 3:
        return gain
    if gain.ndim == 1:
        gain = torch.stack([gain, gain], -1)
    rr, ii, *cross = gain.unbind(-1)
    ri = cross[0] if cross else torch.zeros_like(rr)
    return _square(rr, ri, ri, ii)


def product(
    left: Float[Tensor, "*#k 2 2"], right: Float[Tensor, "*#k 2 m"]
) -> Float[Tensor, "*k 2 m"]:
    """The matrix product, in full precision under any setting."""
    return (left[..., None] * right[..., None, :, :]).sum(-2)


def _square(*parts: Tensor) -> Tensor:
    """A 2 x 2 matrix of its four numbers, row by row."""
    return torch.stack(parts, -1).view(*parts[0].shape, 2, 2)


def normalised(
    rows: Complex[Tensor, "s n c"],
    recipe: Recipe,
    *,
    parameters: Sequence[Tensor] = (),
    given: Statistics | None = None,
) -> tuple[Complex[Tensor, "s n c"], Statistics]:
    """Every number d away from its mean becomes matrix · d + offset; and the statistics used.

    Args:
        rows: the channels of voxels; each of s sets has statistics of its own.
        recipe: matrix (s, c, 2, 2) and offset (s, c, 2) of mean, spread and parameters.
        parameters: what is trained.
        given: statistics to use for the rows' own.
    """
    if torch.compiler.is_compiling():
        return _plain(rows, recipe, parameters=parameters, given=given)
    with torch.no_grad():
        rows = rows if rows.is_contiguous() else rows.contiguous()
        mean, spread = given or moments(rows)
    own = given is None
    out: Tensor = _Normalised.apply(rows, mean, spread, recipe, own, *parameters)  # type: ignore[no-untyped-call]
    return out, (mean, spread)


def _plain(
    rows: Tensor, recipe: Recipe, *, parameters: Sequence[Tensor], given: Statistics | None
) -> tuple[Tensor, Statistics]:
    """The same in whole passes on real numbers, for compilers and exporters."""
    x = torch.view_as_real(rows)
    if given is None:
        mean = x.mean(1)
        r, i = (x - mean[:, None]).unbind(-1)
        spread = torch.stack([r * r, i * i, r * i], -1).mean(1)
        given = mean.double(), spread.double()
    matrix, offset = (t.to(x.dtype)[:, None] for t in recipe(*given, *parameters))
    d = x - given[0].to(x.dtype)[:, None]
    y = matrix[..., 0] * d[..., :1] + matrix[..., 1] * d[..., 1:] + offset
    return torch.view_as_complex(y.contiguous()), (given[0].detach(), given[1].detach())


class _Normalised(torch.autograd.Function):
    """The map, with its derivative by way of the statistics where they are the rows' own."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        rows: Tensor,
        mean: Tensor,
        spread: Tensor,
        recipe: Recipe,
        own: bool,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.recipe, ctx.own = recipe, own
        ctx.save_for_backward(rows, mean, spread, *parameters)
        matrix, offset = recipe(mean, spread, *parameters)
        return _mapped([(rows, mean, matrix)], offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, mean, spread, *parameters = ctx.saved_tensors
        gradient = gradient.resolve_conj().contiguous()
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (mean, spread, *parameters)]
            matrix, _ = made = ctx.recipe(*leaves)
        matrix = matrix.detach().mT
        by_matrix, by_offset = _products(gradient, rows, mean)
        by_mean, by_spread, *rest = torch.autograd.grad(
            made, leaves, (by_matrix, by_offset), allow_unused=True, materialize_grads=True
        )
        found = None
        if ctx.needs_input_grad[0]:
            terms: list[_Term] = [(gradient, None, matrix)]
            shift = torch.zeros_like(mean)
            if ctx.own:
                shift = (by_mean - product(matrix, by_offset[..., None])[..., 0]) / rows.shape[1]
                rr, ii, ri = by_spread.unbind(-1)
                terms.append((rows, mean, _square(2 * rr, ri, ri, 2 * ii) / rows.shape[1]))
            found = _mapped(terms, shift)
        return found, None, None, None, None, *rest


def moments(rows: Complex[Tensor, "s n c"]) -> Statistics:
    """Mean and spread (covariance of the parts: rr, ii, ri; by n), in double precision.

    One pass over numbers that a first guess of the mean is taken off, so that little cancels.
    """
    s, n, c = rows.shape
    guess = rows[:, :: max(n // _PILOTS, 1)].mean(1)
    lines, offset = _lines(rows), _repeated(guess, rows)
    first = lines.new_zeros(s, lines.shape[2], dtype=torch.complex128)
    second, pseudo = first.clone(), first.clone()
    for part in _blocks(lines):
        d = lines[part] - offset[part[0]]
        first[part[0]] += d.sum(1)
        second[part[0]] += torch.view_as_complex(torch.view_as_real(d).square().sum(1))
        pseudo[part[0]] += d.mul_(d).sum(1)
    first, second, pseudo = (t.view(s, -1, c).sum(1) / n for t in (first, second, pseudo))
    rr = (second.real - first.real**2).clamp_min(0)
    ii = (second.imag - first.imag**2).clamp_min(0)
    ri = pseudo.imag / 2 - first.real * first.imag
    return torch.view_as_real(guess + first), torch.stack([rr, ii, ri], -1)


def _mapped(terms: Sequence[_Term], offset: Float[Tensor, "s c 2"]) -> Complex[Tensor, "s n c"]:
    """The sum of matrix · (rows - mean) over the terms, and the offset."""
    rows = terms[0][0]
    out = torch.empty_like(rows)
    target, start = _lines(out), _repeated(torch.view_as_complex(offset), rows)
    ready = []
    for values, mean, matrix in terms:
        (p, q), (r, t) = (row.unbind(-1) for row in matrix.unbind(-2))
        a, b = torch.complex(p + t, r - q) / 2, torch.complex(p - t, r + q) / 2
        off = None if mean is None else _repeated(torch.view_as_complex(mean), rows)
        ready.append((_lines(values), off, _repeated(a, rows), _repeated(b, rows)))
    for part in _blocks(target):
        sets, goal = part[0], target[part]
        so_far = start[sets]
        for lines, off, a, b in ready:
            d = lines[part] if off is None else lines[part] - off[sets]
            torch.addcmul(so_far, d, a[sets], out=goal)
            goal.addcmul_(d.conj_physical(), b[sets])
            so_far = goal
    return out


def _products(
    gradient: Complex[Tensor, "s n c"], rows: Complex[Tensor, "s n c"], mean: Float[Tensor, "s c 2"]
) -> tuple[Float[Tensor, "s c 2 2"], Float[Tensor, "s c 2"]]:
    """Derivative by matrix and offset: the sums of gradient · (rows - mean)ᵀ and of gradient."""
    s, _, c = rows.shape
    lines, slopes = _lines(rows), _lines(gradient)
    off = _repeated(torch.view_as_complex(mean), rows)
    total = lines.new_zeros(s, lines.shape[2], dtype=torch.complex128)
    plain, turned = total.clone(), total.clone()
    for part in _blocks(lines):
        d, g = lines[part] - off[part[0]], slopes[part]
        total[part[0]] += g.sum(1)
        plain[part[0]] += (d * g).sum(1)
        turned[part[0]] += d.conj_physical_().mul_(g).sum(1)
    total, plain, turned = (t.view(s, -1, c).sum(1) for t in (total, plain, turned))
    both, apart = (turned + plain) / 2, (turned - plain) / 2
    return _square(both.real, -apart.imag, both.imag, apart.real), torch.view_as_real(total)


def _lines(rows: Complex[Tensor, "s n c"]) -> Complex[Tensor, "s l w"]:
    """Some voxels a line, where lines of one would be too short for vector instructions."""
    s, n, c = rows.shape
    return rows.view(s, n // _tile(n, c), -1)


def _repeated(values: Tensor, rows: Tensor) -> Complex[Tensor, "s 1 w"]:
    """A number per channel, (s, c), for every number of a line, in the precision of the rows."""
    s, n, c = rows.shape
    return values.to(rows.dtype)[:, None].expand(s, _tile(n, c), c).reshape(s, 1, -1)


def _tile(voxels: int, channels: int) -> int:
    """Voxels in a line: the largest power of two that divides their number, and is of use."""
    return math.gcd(voxels, 1 << max(_WIDE // channels, 1).bit_length() - 1)


def _blocks(lines: Complex[Tensor, "s l w"]) -> Iterator[tuple[slice, slice]]:
    """Slices of sets and lines that fit the caches of a processor; elsewhere all at once."""
    s, length, width = lines.shape
    block = _BLOCK * torch.get_num_threads()
    sets, step = max(block // (length * width), 1), max(block // width, 1)
    if not lines.is_cpu:
        sets, step = s, length
    for one in range(0, s, sets):
        for line in range(0, length, step):
            yield slice(one, one + sets), slice(line, line + step)

"""Complex convolutions: every form gives torch's complex values, in any geometry and layout."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from medseg.nn.complex.conv import Conv, ConvTranspose, Linear, block
from medseg.nn.complex.parts import MEMORY, ComplexParameter, as_complex, channels_last, interleaved

FORMS = ("block", "gauss", "native")
NATIVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
NATIVE_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
SIZES = {1: (9,), 2: (9, 8), 3: (6, 5, 7)}
GEOMETRIES = [
    {"ndim": 1},
    {"ndim": 1, "kernel": 5, "stride": 2, "dilation": 2, "groups": 2},
    {"ndim": 2},
    {"ndim": 2, "bias": False},
    {"ndim": 2, "kernel": 2, "padding": 1},
    {"ndim": 2, "kernel": 1},
    {"ndim": 2, "kernel": 1, "stride": (2, 1)},
    {"ndim": 2, "kernel": 1, "padding": 1},
    {"ndim": 2, "kernel": 1, "groups": 2},
    {"ndim": 2, "kernel": (3, 2), "padding": (0, 1), "stride": (2, 1), "dilation": (1, 3)},
    {"ndim": 2, "groups": 2, "dilation": 2},
    {"ndim": 3},
    {"ndim": 3, "kernel": (1, 3, 3), "stride": (1, 2, 2), "groups": 2},
    {"ndim": 3, "kernel": 1, "bias": False},
]
TRANSPOSED = [
    {"ndim": 1},
    {"ndim": 2},
    {"ndim": 2, "bias": False, "groups": 2},
    {"ndim": 2, "kernel": 3, "padding": 1, "output_padding": 1, "groups": 2},
    {"ndim": 2, "kernel": (2, 4), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"ndim": 3, "kernel": 3, "padding": 1, "output_padding": (1, 0, 1)},
    {"ndim": 3, "kernel": (1, 2, 2), "stride": (1, 2, 2)},
]


def drawn(*shape, dtype=torch.complex128, seed=0):
    """Improper noise: the parts differ in mean and variance and depend on each other."""
    a, b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)).double()
    return torch.complex(1.5 * a + 0.3, 0.4 * a + 0.6 * b - 0.2).to(dtype)


def made(layer, form, options):
    """A 4 to 6 channel layer in double, with a bias that counts, its input, and torch's kernel."""
    torch.manual_seed(0)
    ndim = options["ndim"]
    module = layer(4, 6, form=form, **options).double()
    if module.bias is not None:
        nn.init.normal_(module.bias)
    native = (NATIVE if layer is Conv else NATIVE_TRANSPOSED)[ndim]
    return module, drawn(2, 4, *SIZES[ndim]), native


def reference(module, z, native):
    """Torch's own complex kernel with the layer's numbers; the result and its parameters."""
    weight = as_complex(module.weight.detach()).to(z.dtype).requires_grad_()
    bias = None if module.bias is None else as_complex(module.bias.detach()).to(z.dtype)
    bias = None if bias is None else bias.requires_grad_()
    return native(z, weight, bias, **module.kernel.keywords), weight, bias


def test_a_kernel_is_written_as_torch_writes_it():
    z = drawn(1, 1, 5)
    layer = Conv(1, 1, ndim=1, kernel=2, padding=0).double()
    first, second = as_complex(layer.weight[0, 0])
    assert_close(layer(z)[0, 0], first * z[0, 0, :-1] + second * z[0, 0, 1:])


def test_padding_of_none_keeps_the_size():
    layer = Conv(1, 1, kernel=(3, 5), dilation=(2, 1))
    assert layer(torch.zeros(1, 1, 9, 8, dtype=torch.complex64)).shape == (1, 1, 9, 8)


@pytest.mark.parametrize("form", ["auto", *FORMS])
@pytest.mark.parametrize(
    ("layer", "options"),
    [*((Conv, g) for g in GEOMETRIES), *((ConvTranspose, g) for g in TRANSPOSED)],
)
def test_values_and_gradients_are_torchs(layer, options, form):
    module, z, native = made(layer, form, options)
    z, twin = z.clone().requires_grad_(), z.clone().requires_grad_()
    ours = module(z)
    theirs, weight, bias = reference(module, twin, native)
    exact = {"rtol": 0, "atol": 1e-10}
    assert_close(ours, theirs, **exact)
    cotangent = drawn(*theirs.shape, seed=1)
    ours.backward(cotangent)
    theirs.backward(cotangent)
    assert_close(z.grad, twin.grad, **exact)
    assert_close(as_complex(module.weight.grad), weight.grad, **exact)
    if bias is not None:
        assert_close(as_complex(module.bias.grad), bias.grad, **exact)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("layer", "options"),
    [(Conv, {"ndim": 2}), (Conv, {"ndim": 3, "groups": 2}), (ConvTranspose, {"ndim": 2})],
)
def test_single_precision_is_near_double(layer, options, form):
    module, z, native = made(layer, form, options)
    module.float()
    theirs, weight, _ = reference(module, z, native)
    ours = module(z.to(torch.complex64))
    assert ours.dtype == torch.complex64
    assert_near(ours, theirs, 1e-5)  # float32 and a few hundred summands
    cotangent = drawn(*theirs.shape, seed=1)
    ours.backward(cotangent.to(torch.complex64))
    theirs.backward(cotangent)
    assert_near(as_complex(module.weight.grad), weight.grad, 1e-4)


def assert_near(ours, theirs, share):
    """Within a share of the largest expected magnitude."""
    theirs = theirs.detach()
    assert float((ours.detach() - theirs).abs().max()) <= share * float(theirs.abs().max())


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (Conv, {"ndim": 1, "dilation": 2}),
        (Conv, {"ndim": 2, "groups": 2, "stride": 2}),
        (Conv, {"ndim": 2, "kernel": 1}),
        (Conv, {"ndim": 3, "kernel": 2}),
        (Conv, {"ndim": 2, "form": "gauss"}),
        (ConvTranspose, {"ndim": 2, "groups": 2}),
        (ConvTranspose, {"ndim": 3, "form": "gauss"}),
    ],
)
def test_gradients_are_those_of_finite_differences(layer, options):
    torch.manual_seed(0)
    module = layer(2, 4, **options).double()
    z = drawn(1, 2, *(3, 2, 2)[: options["ndim"]]).requires_grad_()

    def function(z, weight, bias):
        state = {"weight": weight, "bias": bias}
        return torch.func.functional_call(module, state, (z,))

    bias = torch.randn_like(module.bias).requires_grad_()
    assert torch.autograd.gradcheck(function, (z, module.weight.detach().requires_grad_(), bias))


def test_a_linear_maps_gradients_are_those_of_finite_differences():
    layer = Linear(3, 2).double()
    z = drawn(2, 4, 3).requires_grad_()

    def function(z, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (z,))

    inputs = (z, layer.weight.detach().requires_grad_(), torch.randn_like(layer.bias))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (3,)])
def test_a_linear_map_is_the_complex_matrix(shape):
    layer = Linear(3, 4).double()
    nn.init.normal_(layer.bias)
    z = drawn(*shape)
    expected = z @ as_complex(layer.weight).T + as_complex(layer.bias)
    assert_close(layer(z), expected, rtol=0, atol=1e-12)


def test_gradients_are_twice_the_conjugate_wirtinger_derivative():
    """For L = Σ|w z + b|²: dL/dz = 2 conj(w) y, dL/dw = Σ 2 y conj(z), dL/db = Σ 2 y."""
    layer = Conv(1, 1, kernel=1).double()
    nn.init.normal_(layer.bias)
    z = drawn(1, 1, 3, 3).requires_grad_()
    y = layer(z)
    y.abs().square().sum().backward()
    w, y = as_complex(layer.weight).flatten(), y.detach()
    assert_close(z.grad, 2 * w.conj() * y)
    assert_close(as_complex(layer.weight.grad).flatten()[0], (2 * y * z.conj()).sum())
    assert_close(as_complex(layer.bias.grad)[0], (2 * y).sum())


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_without_bias_a_turn_of_the_input_turns_the_output(layer):
    module = layer(2, 3, bias=False).double()
    z, turn = drawn(1, 2, 5, 5), torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
    assert_close(module(turn * z), turn * module(z), rtol=0, atol=1e-12)


def test_transposed_with_the_conjugate_weight_is_the_adjoint():
    """<conv(z), y> = <z, transposed(y)>."""
    conv = Conv(3, 4, stride=2, bias=False).double()
    back = ConvTranspose(4, 3, kernel=3, padding=1, output_padding=1, bias=False).double()
    back.weight.data = torch.view_as_real(as_complex(conv.weight.detach()).conj().resolve_conj())
    z, y = drawn(1, 3, 8, 8), drawn(1, 4, 4, 4, seed=1)
    assert_close((conv(z) * y.conj()).sum(), (z * back(y).conj()).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_padding_modes_are_torchs(mode, ndim):
    kernel = (3, 5) if ndim == 2 else (3, 1, 5)
    options = {"kernel_size": kernel, "padding": tuple(k // 2 for k in kernel)}
    peer = {2: nn.Conv2d, 3: nn.Conv3d}[ndim](
        2, 3, padding_mode=mode, dtype=torch.complex128, **options
    )
    ours = Conv(2, 3, kernel=kernel, ndim=ndim, padding_mode=mode).double()
    ours.weight.data = torch.view_as_real(peer.weight.detach())
    ours.bias.data = torch.view_as_real(peer.bias.detach())
    z = drawn(1, 2, *SIZES[ndim])
    assert_close(ours(z), peer(z), rtol=0, atol=1e-12)


def test_a_circular_convolution_commutes_with_a_roll():
    layer = Conv(2, 2, padding_mode="circular")
    z = drawn(1, 2, 8, 8, dtype=torch.complex64)
    assert_close(layer(z.roll(3, -1)), layer(z).roll(3, -1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
@pytest.mark.parametrize("ndim", [2, 3])
def test_memory_layout_does_not_change_values(layer, ndim, form):
    module, z, _ = made(layer, form, {"ndim": ndim})
    last = z.contiguous(memory_format=MEMORY[z.ndim])
    turned = z.movedim(2, 3).contiguous().movedim(2, 3)
    assert_close(module(last), module(z), rtol=0, atol=1e-12)
    assert_close(module(turned), module(z), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {"ndim": ndim}) for form in ("auto", "block", "gauss") for ndim in (2, 3)),
        ("block", {"ndim": 3, "kernel": 1}),
    ],
)
@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_a_channels_last_map_stays_so_and_the_next_layer_takes_it_without_a_copy(
    layer, options, form
):
    memory = MEMORY[options["ndim"] + 2]
    module = layer(4, 6, form=form, **options)
    z = drawn(2, 4, *SIZES[options["ndim"]], dtype=torch.complex64)
    y = module(z.contiguous(memory_format=memory))
    assert y.is_contiguous(memory_format=memory)
    assert interleaved(y).data_ptr() == y.data_ptr()


@pytest.mark.parametrize("form", FORMS)
def test_a_lazy_conjugate_is_taken_as_its_values(form):
    module, z, _ = made(Conv, form, {"ndim": 2})
    for layer, x in ((module, z), (Linear(8, 2).double(), z), (Conv(4, 2, kernel=1).double(), z)):
        assert_close(layer(x.conj()), layer(x.conj().resolve_conj()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"ndim": 1}, {"ndim": 2}, {"ndim": 3, "kernel": 1}])
def test_a_gradient_has_the_layout_of_its_input(options):
    module, z, _ = made(Conv, "block", options)
    twin = channels_last(z).requires_grad_()
    module(z.requires_grad_()).abs().sum().backward()
    module(twin).abs().sum().backward()
    assert z.grad.stride() == z.stride()
    assert twin.grad.stride() == twin.stride()
    assert_close(z.grad, twin.grad, rtol=0, atol=1e-12)


def test_second_derivatives_are_those_of_finite_differences():
    module = Conv(2, 2).double()
    assert torch.autograd.gradgradcheck(module, (drawn(1, 2, 2, 3).requires_grad_(),))


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_keeps_both_parts(layer, form):
    """Eight bits of a bfloat16 product, times three for the differences of the gauss form."""
    module = layer(4, 6, form=form)
    nn.init.normal_(module.bias)
    z = drawn(2, 4, 9, 8, dtype=torch.complex64)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(z)
    whole, share = module(z), 0.03 if form == "gauss" else 0.01
    assert half.dtype == torch.complex64
    assert_near(half, whole, share)
    half_grad, whole_grad = (gradient(module, y) for y in (half, whole))
    assert half_grad.dtype == torch.float32
    assert_near(as_complex(half_grad), as_complex(whole_grad), share)


def gradient(module, y):
    """The weight's gradient of Σ|y|²."""
    return torch.autograd.grad(y.abs().square().sum(), module.weight)[0]


def test_half_precision_of_a_pointwise_and_a_linear_map_keeps_both_parts():
    z = drawn(2, 4, 9, 8, dtype=torch.complex64)
    for module, x in ((Conv(4, 6, kernel=1), z), (Linear(8, 3), z)):
        with torch.autocast("cpu", torch.bfloat16):
            half = module(x)
        assert half.dtype == torch.complex64
        assert_near(half, module(x), 0.01)


def test_auto_is_block_for_few_weights_and_gauss_for_many():
    z = torch.zeros(1, 64, 4, 4, dtype=torch.complex64)
    assert Conv(32, 32).chosen(z) == "block"
    assert Conv(64, 64).chosen(z) == "gauss"
    assert Conv(64, 64, groups=4).chosen(z) == "block"
    assert Conv(64, 64, form="native").chosen(z) == "native"
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv(64, 64).chosen(z) == "block"


def test_a_block_weight_multiplies_like_complex_numbers():
    """block(v) block(w) = block(v w)."""
    v, w = drawn(3, 4), drawn(4, 2, seed=1)
    first, second, both = (block(torch.view_as_real(m)) for m in (v, w, v @ w))
    assert_close(first @ second, both)


def test_parameters_are_real_and_count_both_parts():
    layer = Conv(4, 4)
    assert sum(p.numel() for p in layer.parameters()) == 2 * (4 * 4 * 9 + 4)
    assert {type(p) for p in layer.parameters()} == {ComplexParameter}
    assert [*Conv(4, 4, bias=False).state_dict()] == ["weight"]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_a_copy_gives_the_same_values(clone):
    z = drawn(1, 4, 6, 6, dtype=torch.complex64)
    for layer in (Conv(4, 2, stride=2), ConvTranspose(4, 2), Conv(4, 3, kernel=1)):
        twin = clone(layer)
        assert_close(twin(z), layer(z), rtol=0, atol=0)
        assert isinstance(twin.weight, ComplexParameter)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="ndim is 4"):
        Conv(2, 2, ndim=4)
    with pytest.raises(ValueError, match="2 groups do not divide 3"):
        Conv(3, 4, groups=2)
    with pytest.raises(ValueError, match="2 groups do not divide 4 channels into 3"):
        ConvTranspose(4, 3, groups=2)
    with pytest.raises(ValueError, match="give 2"):
        Conv(2, 2, stride=(1, 2, 3))

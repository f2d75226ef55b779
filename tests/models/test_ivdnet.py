"""IVD-Net: sizes, wiring, and weights that move between its variants."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from medseg.models.ivdnet import IVDNet, centre_crop, load_upstream
from medseg.nn.conv import check_size


def count(**arguments):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in IVDNet(**arguments).parameters())


@pytest.mark.parametrize(
    ("modalities", "width", "parameters"),
    [
        (4, 32, 54_313_954), (4, 16, 13_605_874), (4, 8, 3_415_162), (4, 4, 860_638),
        (4, 2, 218_584), (1, 32, 26_455_330), (2, 32, 34_451_298), (3, 32, 43_737_506),
        (5, 32, 66_180_642),
    ],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones(modalities, width, parameters):
    assert count(in_channels=modalities, width=width) == parameters


def test_the_count_does_not_depend_on_the_history():
    assert count(in_channels=2, width=2) == count(in_channels=2, width=2, history="crop")


def test_plain_encoder_has_the_published_count():
    assert count(factorised=False) == 68_314_466


def test_module_and_tensor_counts_are_the_published_ones():
    with torch.device("meta"):
        network = IVDNet()
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("Conv2d") == 254
    assert kinds.count("ConvTranspose2d") == 4
    assert kinds.count("BatchNorm2d") == 257
    assert len(network.state_dict()) == 1801


def reference(network, image, crop):
    """The network once more, written from the specification as plain loops over its tensors."""
    state = network.state_dict()

    def unit(x, name, padding=0, dilation=1):
        x = functional.conv2d(
            x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], 1, padding, dilation
        )
        return normal(x, f"{name}.1")

    def normal(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        gain, offset = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.batch_norm(x, mean, var, gain, offset, eps=1e-5).relu()

    def block(x, name, factorised):
        a = unit(x, f"{name}.enter", 1)
        views = []
        for n, (k, d) in enumerate([(1, 1), (3, 1), (5, 1), (3, 2), (3, 4)]):
            pad, branch = d * (k - 1) // 2, f"{name}.branches.{n}"
            if factorised:
                b = unit(a, f"{branch}.0", (pad, 0), (d, 1))
                views.append(unit(b, f"{branch}.1", (0, pad), (1, d)))
            else:
                views.append(unit(a, f"{branch}.0", pad, d))
        return unit(a + unit(torch.cat(views, 1), f"{name}.merge"), f"{name}.leave", 1)

    n = image.shape[1]
    inputs, skips = [image[:, m : m + 1] for m in range(n)], []
    for level in range(4):
        e = [block(inputs[m], f"encoder.{level}.{m}", True) for m in range(n)]
        skips.append(e)
        p = [functional.max_pool2d(x, 2) for x in e]
        following = []
        for m in range(n):
            x = torch.cat([p[(m + i) % n] for i in range(n)], 1)
            if level:
                h, w = p[0].shape[2:]
                top, left = (inputs[m].shape[2] - h) // 2, (inputs[m].shape[3] - w) // 2
                cropped = inputs[m][:, :, top : top + h, left : left + w]
                history = cropped if crop else functional.max_pool2d(inputs[m], 2)
                x = torch.cat([x, history], 1)
            following.append(x)
        inputs = following
    y = block(inputs[0], "bridge", True)
    for k in range(4):
        weight, bias = state[f"up.{k}.0.weight"], state[f"up.{k}.0.bias"]
        u = normal(functional.conv_transpose2d(y, weight, bias, 2, 1, 1), f"up.{k}.1")
        y = block(sum(skips[3 - k], u) / (n + 1), f"decoder.{k}", False)
    return functional.conv2d(y, state["head.weight"], state["head.bias"], padding=1)


@pytest.mark.parametrize("history", ["maxpool", "crop"])
@pytest.mark.parametrize("modalities", [1, 3])
def test_wiring_is_the_specified_one(modalities, history):
    torch.manual_seed(modalities)
    network = IVDNet(modalities, 3, width=2, history=history).double().eval()
    image = torch.randn(1, modalities, 32, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(network, image, history == "crop")
        assert_close(network(image), expected, rtol=0, atol=1e-10)


def test_weights_move_between_the_two_histories_and_change_the_result():
    torch.manual_seed(0)
    pooled, cropped = IVDNet(2, 2, width=2).eval(), IVDNet(2, 2, width=2, history="crop").eval()
    cropped.load_state_dict(pooled.state_dict())
    image = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(pooled(image), cropped(image))


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = IVDNet(2, 2, width=2)
    network(torch.randn(2, 2, 48, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_swapped_contrasts_change_the_result():
    torch.manual_seed(0)
    network = IVDNet(2, 2, width=2).eval()
    image = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(network(image), network(image.flip(1)))


@pytest.mark.parametrize("strides", [None, [(1, 2, 2), (1, 2, 2), 2, 2]])
def test_volumes_keep_their_size(strides):
    network = IVDNet(2, 3, width=1, ndim=3, strides=strides).eval()
    size = (16, 16, 32) if strides is None else (4, 16, 32)
    assert network.stride == (16 if strides is None else (4, 16, 16))
    with torch.no_grad():
        assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_a_volume_branch_works_along_one_axis_a_layer():
    with torch.device("meta"):
        network = IVDNet(1, 2, width=1, ndim=3)
    kernels = [tuple(layer[0].kernel_size) for layer in network.encoder[0][0].branches[2]]
    assert kernels == [(5, 1, 1), (1, 5, 1), (1, 1, 5)]


@pytest.mark.parametrize(("history", "stride"), [("maxpool", 16), ("crop", 32)])
def test_stride_is_the_smallest_that_works(history, stride):
    network = IVDNet(1, 2, width=1, history=history).eval()
    assert network.stride == stride
    with torch.no_grad():
        assert network(torch.randn(1, 1, stride, 3 * stride)).shape[2:] == (stride, 3 * stride)
        with pytest.raises(RuntimeError):
            network(torch.randn(1, 1, 3 * stride, 3 * stride + stride // 2))


def test_a_size_that_does_not_fit_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"\(36, 48\) must be a multiple of 16; pad it to \(48, 4"):
        check_size((36, 48), IVDNet(1, 2, width=1).stride)


def test_sum_is_the_mean_times_the_number_of_terms():
    torch.manual_seed(0)
    mean, total = IVDNet(3, 2, width=1).eval(), IVDNet(3, 2, width=1, skip_reduce="sum").eval()
    assert (mean.skip_divisor, total.skip_divisor) == (4, 1)


def test_odd_crop_leaves_one_voxel_too_many():
    x = torch.arange(63.0).reshape(1, 1, 7, 9)
    assert_close(centre_crop(x, (4, 4)), x[:, :, 1:6, 2:7])


@pytest.mark.parametrize(
    "wrong",
    [
        {"history": "pool"}, {"init": "zeros"}, {"skip_reduce": "max"}, {"ndim": 4}, {"width": 0},
        {"strides": [2, 2]},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))[:2].strip("[")):
        IVDNet(2, 2, **wrong)


def test_initialisation_of_2018():
    torch.manual_seed(0)
    network = IVDNet(1, 2, width=16)
    gains = torch.cat([m.weight for m in network.modules() if type(m).__name__ == "BatchNorm2d"])
    assert abs(float(gains.detach().std()) - 0.02) < 0.002
    weight = network.bridge.leave[0].weight
    fan = weight.shape[0] * 9 + weight.shape[1] * 9
    assert abs(float(weight.detach().std()) / (2 / fan) ** 0.5 - 1) < 0.05


def test_what_is_no_state_dict_is_refused():
    with pytest.raises(ValueError, match="no state dict"):
        load_upstream({"epoch": 3, "state_dict": {}})
    with pytest.raises(ValueError, match="is missing"):
        load_upstream({"weight": torch.zeros(1)})


def test_export_gives_the_same_numbers():
    torch.manual_seed(0)
    network = IVDNet(2, 2, width=1, depth=2).eval()
    image = torch.randn(2, 2, 16, 24)
    program = torch.export.export(network, (image,))
    assert_close(program.module()(image), network(image))

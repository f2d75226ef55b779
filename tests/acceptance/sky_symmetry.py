"""How equivariant the sphere's operators are, and a trained model of the sphere with them.

    python tests/acceptance/sky_symmetry.py [MODEL] [--nside 32] [--degrees 10 20 30]

For every graph kind: the squared equivariance error of its Laplacian under rotations
by any angle (fields of one degree), and the largest deviation of a Chebyshev layer under the
grid's sixteen exact symmetries. The same symmetries for whole networks: of standing recipes
(a U-Net, a classifier, the weather's topology and both kinds of filler) with weights
drawn by chance, none of them zero, and of MODEL.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from medseg import config, package
from medseg.geometry.skygraph import KINDS
from medseg.geometry.sphere import FACES
from medseg.metrics.equivariance import equivariance_error, symmetry_deviation
from medseg.nn.sphere import ChebConv, operator_of, propagate

NETWORKS = ("spherenet", "spherenet_cosmology", "spherenet_weather", "skyreconnet", "skyreconnet_s")
SPREAD = 0.1


def of_operators(nside, degrees):
    """A row a graph kind."""
    print(
        f"{'graph':<10}{'':>2}"
        + "".join(f"{f'E² l={n}':>12}" for n in degrees)
        + f"{'16 sym.':>12}"
    )
    for kind in ("healpix8", *(k for k in KINDS if k != "healpix8")):
        table = operator_of(torch.zeros(1, 1, FACES * nside**2), kind=kind)

        def act(values, table=table):
            sky = torch.from_numpy(np.asarray(values)).float()[:, None]
            return (propagate(sky, table) + sky)[:, 0].double().numpy()  # the Laplacian itself

        errors = [equivariance_error(act, nside, degree=n, functions=4).squared for n in degrees]
        torch.manual_seed(0)
        layer = ChebConv(2, 3, order=5, kind=kind).eval()
        sky = torch.randn(1, 2, FACES * 16**2)
        deviation = symmetry_deviation(layer, sky).max()
        print(f"{kind:<12}" + "".join(f"{e:>12.2e}" for e in errors) + f"{deviation:>12.1e}")


def of_network(name, network, channels, nside):
    """How far a whole network is from the symmetries: the largest of each kind."""
    torch.manual_seed(0)
    sky = torch.randn(1, channels, FACES * nside**2)
    if hasattr(network, "of_maps"):
        sky[:, -1] = (sky[:, -1] > -1).float()
    found = symmetry_deviation(network.eval(), sky)
    parts = {"quarter turns": found[:4], "rotations": found[:8], "reflections": found[8:]}
    print(f"{name:<32}" + "   ".join(f"{what} {each.max():.1e}" for what, each in parts.items()))
    return found


def by_chance(network):
    """The network without any parameter that is zero, as gains and last layers start."""
    for parameter in network.parameters():
        if not parameter.detach().all():
            torch.nn.init.normal_(parameter, std=SPREAD)
    return network


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--nside", type=int, default=32)
    parser.add_argument("--network-nside", type=int, default=32)
    parser.add_argument("--degrees", type=int, nargs="+", default=[10, 20, 30, 40, 50, 60])
    options = parser.parse_args()
    of_operators(options.nside, options.degrees)
    print()
    for stem in NETWORKS:
        cfg = config.compose("train", [f"model={stem}"])
        if "footprint" in cfg.model:
            cfg.model.footprint = None  # a part of the sky has no symmetry
        given = {"in_channels": 2, "n_classes": 3}
        given = {k: v for k, v in given.items() if config.accepts(cfg.model, k)}
        if stem.startswith("skyreconnet"):
            given.pop("n_classes", None)
        torch.manual_seed(0)
        network = by_chance(config.build(cfg.model, **given))
        of_network(f"{stem} (by chance)", network, 2, options.network_nside)
    if options.model:
        one = package.load(options.model)
        of_network(str(options.model), one.network, len(one.channels), one.spec["nside"])


if __name__ == "__main__":
    main()

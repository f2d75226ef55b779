"""How equivariant the sphere's operators are, and a trained model of the sphere with them.

    python tests/acceptance/sky_symmetry.py [MODEL] [--nside 32] [--degrees 10 20 30]

For every graph kind: the squared equivariance error of its Laplacian under rotations
by any angle (fields of one degree), and the largest deviation of a Chebyshev layer under the
grid's sixteen exact symmetries. The same symmetries for whole networks: of the standing recipes
with weights drawn by chance, and of MODEL.
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

NETWORKS = ("spherenet", "skyreconnet")


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
    """How far a whole network is from the symmetries: largest of the rotations, reflections."""
    torch.manual_seed(0)
    sky = torch.randn(1, channels, FACES * nside**2)
    if hasattr(network, "of_maps"):
        sky[:, -1] = (sky[:, -1] > -1).float()
    found = symmetry_deviation(network.eval(), sky)
    print(f"{name:<24}rotations {found[:8].max():.1e}   reflections {found[8:].max():.1e}")
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--nside", type=int, default=32)
    parser.add_argument("--degrees", type=int, nargs="+", default=[10, 20, 30, 40, 50, 60])
    options = parser.parse_args()
    of_operators(options.nside, options.degrees)
    print()
    for stem in NETWORKS:
        cfg = config.compose("train", [f"model={stem}"])
        given = {"in_channels": 2, "n_classes": 3}
        given = {k: v for k, v in given.items() if config.accepts(cfg.model, k)}
        if stem == "skyreconnet":
            given.pop("n_classes", None)
        torch.manual_seed(0)
        of_network(f"{stem} (by chance)", config.build(cfg.model, **given), 2, 16)
    if options.model:
        one = package.load(options.model)
        of_network(str(options.model), one.network, len(one.channels), one.spec["nside"])


if __name__ == "__main__":
    main()

"""Which recipes are about the sphere, for tests that go through all recipes."""

from functools import cache

from medseg import config, signature


@cache
def networks() -> tuple[str, ...]:
    """Stems of the networks and methods that see maps of the sphere."""
    stems = sorted(path.stem for path in (config.conf_dir() / "model").glob("*.yaml"))
    return tuple(stem for stem in stems if _ndim(stem) == 1)


def _ndim(stem: str) -> int | None:
    target = config.plain(config.compose("train", [f"model={stem}"]).model)["_target_"]
    return getattr(signature.locate(target), "ndim", None)


@cache
def experiments() -> tuple[str, ...]:
    """Stems of the experiments whose data lie on the sphere."""
    stems = sorted(path.stem for path in (config.conf_dir() / "experiment").glob("*.yaml"))
    return tuple(stem for stem in stems if stem.rpartition("_")[2] in {"cmb", "wmap", "sky"})

"""What every test shares: shape checks on the whole package, and the reference folder."""

import beartype
from jaxtyping import install_import_hook

# The hook takes a checker by name only; ours lets an int stand for a float, as the typing rules do.
beartype.with_numeric_tower = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
install_import_hook("medseg", "beartype.with_numeric_tower")

import os  # noqa: E402 -- the hook must stand before anything that may import the package
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of real scans, fixtures and specifications that not everybody has."""
    folder = Path(os.environ.get("MEDSEG_REFERENCE", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no reference folder at {folder}; set MEDSEG_REFERENCE to have this checked")
    return folder

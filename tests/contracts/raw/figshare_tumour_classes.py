"""The files of `figshare_tumour`, whose slices are told apart whole."""

import runpy
from pathlib import Path

write = runpy.run_path(str(Path(__file__).with_name("figshare_tumour.py")))["write"]

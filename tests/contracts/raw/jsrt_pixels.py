"""The files of `jsrt`, whose masks are read as classes of pixels."""

import runpy
from pathlib import Path

write = runpy.run_path(str(Path(__file__).with_name("jsrt.py")))["write"]

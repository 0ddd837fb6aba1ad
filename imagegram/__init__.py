"""Imagegram: can n-gram statistics over image tokens generate images?"""

import os
import sys
from importlib.util import find_spec

if sys.version_info < (3, 11) or find_spec("tyro") is None or find_spec("torch") is None:
    sys.exit(f"error: {sys.executable} lacks Imagegram's packages: run `make setup`, then use .venv/bin/python instead")

# OpenMP reads this once, when torch is imported. By default its threads spin while they wait for each other; where
# other processes want the same cores, most of the time is lost to that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

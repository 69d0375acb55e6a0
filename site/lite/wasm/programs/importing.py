"""The packages are imported, and numba is not asked for."""

import json
import sys

import moe_numpy

print(json.dumps({"platform": sys.platform, "numba": "numba" in sys.modules, "version": moe_numpy.__version__}))

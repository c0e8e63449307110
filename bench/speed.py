"""The engine against the plain reference loop; the same as `triaxis bench speed`, without the command line's packages.

    PYTHONPATH=src python bench/speed.py --shape llada-8b           # one GPU, random weights, some minutes
    PYTHONPATH=src python bench/speed.py --shape llada-8b --quick   # does everything run?
    PYTHONPATH=src python bench/speed.py --shape small              # a CPU

The loop it is measured against is `triaxis/sampling/reference.py`: LLaDA's generate.py and network, plainly.
"""

import sys

from triaxis.errors import script
from triaxis.sampling.speed import main

sys.exit(script(main))

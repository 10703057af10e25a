"""Runs parity as a Ray job, from a clone that need not be installed: what `parity submit` does.

python jobs/submit.py --address http://127.0.0.1:8265 --out /shared/runs/first [options of both commands]
"""

import sys
from pathlib import Path

# The parity of the clone that this file is in goes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parity.submit import main

if __name__ == "__main__":
    sys.exit(main())

"""Stands in for one of Ray's agents, without which a raylet does not live: does nothing until the raylet ends.

    python -I -S idle_agent.py SESSION

SESSION is the folder of the cluster's files. Nothing is imported that a start of Python does not import anyway.
"""

import os
import sys
import time

LOOK_EVERY_S = 1.0

if __name__ == "__main__":
    raylet = os.getppid()
    # If the raylet ended before its id was read above, the parent is another process, but the folder is gone.
    while os.getppid() == raylet and os.path.isdir(sys.argv[1]):  # noqa: PTH112 - pathlib would be imported for it
        time.sleep(LOOK_EVERY_S)

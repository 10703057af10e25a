"""Parses and checks the value of `--task`, without importing torch or running the user's code."""

from parity.ground.spelling import did_you_mean
from parity.plan.user_code import CodeSpec, parse_code

# The shipped tasks and their modules. In place of the function `loss`, each has a dict `LOSSES` with these names.
TASKS = {"mnist-autoencoder": "parity.tasks.mnist_autoencoder", "mnist-classifier": "parity.tasks.mnist_classifier"}
SHIPPED_LOSSES = ("builtin", "numpy")
# Number of rows of their data, and its size: known before the data is loaded.
ROWS = 60_000
DATA_BYTES = ROWS * (28 * 28 + 1)


def parse_task(text: str) -> CodeSpec:
    """Parses the value of `--task`.

    Raises:
        Trouble: The task is unknown, or its file, module or attribute does not exist.
    """
    if text in TASKS:
        return CodeSpec(name=text, attr=text)
    unknown = (
        f"Unknown task {text!r}. Known tasks: {', '.join(TASKS)}; or give module:attr or file.py:attr."
        f"{did_you_mean(text, TASKS)}"
    )
    return parse_code(text, kind="task", unknown=unknown)


def shipped_losses(spec: CodeSpec) -> tuple[str, ...]:
    """The names of the losses that come with the task; the first is the default baseline."""
    return SHIPPED_LOSSES if spec.shipped else ("builtin",)

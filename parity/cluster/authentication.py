"""Tokens: a cluster that is started for a run requires a new one, and a cluster that is joined is sent the user's.

Uses the standard library only, and has to be called before Ray is imported: Ray reads these variables once, then.

Source:
    docs.ray.io/en/latest/ray-security/token-auth.html.
"""

import functools
import os
import secrets
import stat
import sys
from collections.abc import MutableMapping
from pathlib import Path

from parity.ground.errors import Trouble

Environment = MutableMapping[str, str]

# Ray tries a cluster that refuses its token once a second, 20 times; but waiting does not make a token right.
CONNECT_ATTEMPTS = 3
# Words for a refused token in Ray's errors, over gRPC and over HTTP.
_REFUSALS = ("InvalidAuthToken", "AuthenticationError", "Unauthenticated", "Authentication failed")


def require_token(environment: Environment, folder: Path) -> None:
    """Makes a local cluster require a token, and stores the token in a file that only this user can read.

    A token that the user has set is used as it is. The environment gets the path of the file rather than the token,
    because more tools show a process's environment than its files.

    Args:
        environment: Environment in which Ray will be imported.
        folder: Temporary folder of the run; its mode is set to 0700.

    Raises:
        Trouble: RAY_AUTH_TOKEN_PATH is set, and that file does not hold a token.
    """
    _set_common(environment)
    if not _requires_token(environment):
        return
    # The user's own token is used as it is; checking it here names a file that is missing or empty.
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        present_token(environment)
        return
    folder.chmod(0o700)
    path = folder / "auth_token"
    # Created with its final mode: a chmod afterwards would leave a moment in which others can read it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_own_token())
    environment["RAY_AUTH_TOKEN_PATH"] = str(path)


def forget_token(environment: Environment, folder: Path) -> None:
    """Removes from the environment the path that `require_token` put there, before the folder is removed."""
    if environment.get("RAY_AUTH_TOKEN_PATH") == str(folder / "auth_token"):
        del environment["RAY_AUTH_TOKEN_PATH"]


def present_token(environment: Environment) -> None:
    """Makes sure that Ray will find a token to send to a cluster that is joined.

    Raises:
        Trouble: The token is missing or cannot be read.
    """
    _set_common(environment)
    if not _requires_token(environment) or environment.get("RAY_AUTH_TOKEN", "").strip():
        return
    # Ray looks in the same places, in the same order.
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = path.read_text(encoding="utf-8").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise Trouble(_no_token(f"{path} does not exist")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(_no_token(f"{path} cannot be read ({error})")) from error
    if not token:
        raise Trouble(_no_token(f"{path} is empty"))
    if mode & 0o077:
        _protect(path, mode)


def refused(error: BaseException) -> bool:
    """Whether an error of Ray, or one of its causes, says that the cluster refused the token."""
    cause: BaseException | None = error
    # Ray wraps a refusal in errors of its own.
    while cause is not None:
        if any(word in f"{type(cause).__name__}: {cause}" for word in _REFUSALS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def refusal(address: str, environment: Environment) -> str:
    """The message about a cluster that refused the token.

    Args:
        address: The cluster's address, as the user gave it.
        environment: Environment in which Ray was imported.
    """
    if not _requires_token(environment):
        return (
            f"The Ray cluster at {address} requires a token, and with RAY_AUTH_MODE={environment['RAY_AUTH_MODE']} "
            "none is sent. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH."
        )
    return (
        f"The Ray cluster at {address} refused the token from {_origin(environment)}. Most likely it belongs to "
        "another cluster. Set RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with."
    )


@functools.cache
def _own_token() -> str:
    """The token of all clusters that this process starts, since Ray reads a token once for each process."""
    return secrets.token_hex(32)


def _set_common(environment: Environment) -> None:
    # Without it Ray sends no token to a cluster that is joined by its address.
    environment.setdefault("RAY_AUTH_MODE", "token")
    # No usage statistics are sent unless the user asks for it.
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _requires_token(environment: Environment) -> bool:
    return environment["RAY_AUTH_MODE"].lower() == "token"


def _origin(environment: Environment) -> str:
    if environment.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return environment.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"


def _no_token(found: str) -> str:
    return (
        f"No token was found for the Ray cluster: {found}. A token is expected in RAY_AUTH_TOKEN, in the file that "
        "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token. To join a cluster without authentication, "
        "set RAY_AUTH_MODE=disabled."
    )


def _protect(path: Path, mode: int) -> None:
    """Makes the token's file private; `ray get-auth-token --generate` creates it with mode 0644."""
    try:
        path.chmod(0o600)
    except OSError as error:
        result = f"could not be changed to 0600 ({error.strerror})"
    else:
        result = "is 0600 now"
    print(f"parity: {path} was readable by other users (mode {mode:04o}); its mode {result}.", file=sys.stderr)

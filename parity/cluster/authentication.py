"""Tokens: a cluster that is started for a run asks for a new one, and a cluster that is joined is shown the user's.

Standard library only, and to be called before Ray is imported: Ray reads these variables once, at its import.

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

# Ray asks a cluster that refuses it once a second, 20 times; a wrong token does not get right by waiting.
CONNECT_ATTEMPTS = 3
# How Ray's errors name a refused token, over gRPC and over HTTP.
_REFUSALS = ("InvalidAuthToken", "AuthenticationError", "Unauthenticated", "Authentication failed")


def require_token(environment: Environment, folder: Path) -> None:
    """Makes a local cluster ask for a token, which lies in a file that only this user can read.

    A token that the user has set is left as it is. Where the file is goes into the environment, not what it holds:
    the environment of a process is shown by more tools than its files are.

    Args:
        environment: That Ray will be imported in.
        folder: The run's own temporary folder; made accessible to this user only.

    Raises:
        Trouble: The user's RAY_AUTH_TOKEN_PATH names no token.
    """
    _set_common(environment)
    if not _asks_for_token(environment):
        return
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        present_token(environment)
        return
    folder.chmod(0o700)
    path = folder / "auth_token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_own_token())
    environment["RAY_AUTH_TOKEN_PATH"] = str(path)


def forget_token(environment: Environment, folder: Path) -> None:
    """Takes back what `require_token` said about a folder that is going to be removed."""
    if environment.get("RAY_AUTH_TOKEN_PATH") == str(folder / "auth_token"):
        del environment["RAY_AUTH_TOKEN_PATH"]


def present_token(environment: Environment) -> None:
    """Makes sure that there is a token to show to a cluster that is joined, where Ray looks for it.

    Raises:
        Trouble: There is none, or it cannot be read.
    """
    _set_common(environment)
    if not _asks_for_token(environment) or environment.get("RAY_AUTH_TOKEN", "").strip():
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = path.read_text(encoding="utf-8").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise Trouble(_no_token(f"{path} is not there")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(_no_token(f"{path} cannot be read ({error})")) from error
    if not token:
        raise Trouble(_no_token(f"{path} is empty"))
    if mode & 0o077:
        _protect(path, mode)


def refused(error: BaseException) -> bool:
    """Whether an error of Ray, or one that led to it, says that the token is not the cluster's."""
    cause: BaseException | None = error
    while cause is not None:
        if any(word in f"{type(cause).__name__}: {cause}" for word in _REFUSALS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def refusal(address: str, environment: Environment) -> str:
    """What to say about a cluster that refused the token."""
    if not _asks_for_token(environment):
        return (
            f"The Ray cluster at {address} asks for a token, and RAY_AUTH_MODE={environment['RAY_AUTH_MODE']} "
            "shows none. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH."
        )
    return (
        f"The Ray cluster at {address} refused the token of {_origin(environment)}: most likely it is another "
        "cluster's. Set RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with."
    )


@functools.cache
def _own_token() -> str:
    """The token of the clusters that this process starts: Ray reads it once for each process."""
    return secrets.token_hex(32)


def _set_common(environment: Environment) -> None:
    environment.setdefault("RAY_AUTH_MODE", "token")
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _asks_for_token(environment: Environment) -> bool:
    return environment["RAY_AUTH_MODE"].lower() == "token"


def _origin(environment: Environment) -> str:
    if environment.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return environment.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"


def _no_token(found: str) -> str:
    return (
        f"There is no token for the Ray cluster: {found}. A token is expected in RAY_AUTH_TOKEN, in the file that "
        "RAY_AUTH_TOKEN_PATH names or in ~/.ray/auth_token. A cluster without authentication is joined only with "
        "RAY_AUTH_MODE=disabled set explicitly."
    )


def _protect(path: Path, mode: int) -> None:
    """Takes the token's file away from group and others: `ray get-auth-token --generate` makes it 0644."""
    try:
        path.chmod(0o600)
    except OSError as error:
        told = f"and cannot be made 0600 ({error.strerror})"
    else:
        told = "and is 0600 now"
    print(f"parity: {path} could be read by other users (mode {mode:04o}), {told}.", file=sys.stderr)

"""A cluster requires a token, and only its user can read that token."""

import ast
import os
import stat
from pathlib import Path

import pytest

from parity.cluster import authentication, connection
from parity.cluster.authentication import forget_token, present_token, refusal, refused, require_token
from parity.ground.errors import Trouble

from conftest import ROOT, command, parity_command

NO_TOKEN = (
    " A token is expected in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token. "
    "To join a cluster without authentication, set RAY_AUTH_MODE=disabled."
)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_local_cluster_gets_a_token_that_only_this_user_can_read(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    environment = {}
    require_token(environment, folder)
    path = folder / "auth_token"
    assert environment == {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    assert (mode(path), mode(folder)) == (0o600, 0o700)
    assert len(bytes.fromhex(path.read_text())) == 32
    forget_token(environment, folder)
    assert "RAY_AUTH_TOKEN_PATH" not in environment


def test_the_token_file_is_never_wider_than_0600(tmp_path, monkeypatch):
    """Not even before a chmod: it is made with its mode, whatever the umask says."""
    seen = []
    opened = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: seen.append(arguments[2]) or opened(*arguments))
    before = os.umask(0)
    try:
        require_token({}, tmp_path)
    finally:
        os.umask(before)
    assert seen == [0o600] and mode(tmp_path / "auth_token") == 0o600


@pytest.mark.parametrize("mode_of_user", ["disabled", "Disabled"])
def test_what_the_user_set_is_left(tmp_path, mode_of_user):
    environment = {"RAY_AUTH_MODE": mode_of_user, "RAY_USAGE_STATS_ENABLED": "1"}
    before = dict(environment)
    require_token(environment, tmp_path)
    present_token(environment)
    assert environment == before and list(tmp_path.iterdir()) == []


def test_a_token_of_the_user_is_left(tmp_path):
    environment = {"RAY_AUTH_TOKEN": "mine"}
    require_token(environment, tmp_path)
    assert environment["RAY_AUTH_TOKEN"] == "mine" and "RAY_AUTH_TOKEN_PATH" not in environment
    mine = tmp_path / "mine"
    mine.write_text("mine")
    mine.chmod(0o600)
    environment = {"RAY_AUTH_TOKEN_PATH": str(mine)}
    require_token(environment, tmp_path)
    forget_token(environment, tmp_path)
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(mine)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    return tmp_path


def test_a_missing_token_is_reported_with_the_places_where_it_may_be(home):
    path = home / ".ray" / "auth_token"
    with pytest.raises(Trouble) as trouble:
        present_token({})
    assert str(trouble.value) == f"No token was found for the Ray cluster: {path} does not exist.{NO_TOKEN}"
    path.write_text(" \n")
    with pytest.raises(Trouble) as trouble:
        present_token({})
    assert str(trouble.value) == f"No token was found for the Ray cluster: {path} is empty.{NO_TOKEN}"
    with pytest.raises(Trouble) as trouble:
        present_token({"RAY_AUTH_TOKEN_PATH": str(home)})
    assert str(trouble.value) == (
        f"No token was found for the Ray cluster: {home} cannot be read ([Errno 21] Is a directory: '{home}')."
        f"{NO_TOKEN}"
    )


def test_tokens_are_looked_for_in_rays_order(home):
    (home / ".ray" / "auth_token").touch(0o600)
    with pytest.raises(Trouble, match=r"\.ray/auth_token is empty"):
        present_token({})
    with pytest.raises(Trouble, match="nowhere does not exist"):
        present_token({"RAY_AUTH_TOKEN_PATH": str(home / "nowhere")})
    present_token({"RAY_AUTH_TOKEN": "first", "RAY_AUTH_TOKEN_PATH": str(home / "nowhere")})


def test_a_token_that_others_can_read_is_taken_from_them(home, capsys):
    path = home / ".ray" / "auth_token"
    path.write_text("token")
    path.chmod(0o644)
    present_token({})
    assert mode(path) == 0o600
    assert capsys.readouterr().err == (
        f"parity: {path} was readable by other users (mode 0644); its mode is 0600 now.\n"
    )
    present_token({})
    assert capsys.readouterr().err == ""


def test_a_token_that_cannot_be_protected_is_reported_and_used(home, capsys, monkeypatch):
    path = home / ".ray" / "auth_token"
    path.write_text("token")
    path.chmod(0o644)

    def refuse(self, mode):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "chmod", refuse)
    present_token({})
    assert capsys.readouterr().err == (
        f"parity: {path} was readable by other users (mode 0644); "
        "its mode could not be changed to 0600 (Read-only file system).\n"
    )


def test_a_refused_token_is_recognised_in_what_led_to_an_error():
    error = ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")
    error.__cause__ = RuntimeError("... ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: ...")
    assert refused(error)
    assert not refused(ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379"))
    assert "with RAY_AUTH_MODE=disabled none is sent" in refusal("HOST:6379", {"RAY_AUTH_MODE": "disabled"})
    assert "the token from RAY_AUTH_TOKEN." in refusal("HOST:6379", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"})


def test_another_version_of_ray_or_python_is_reported():
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        "This process on node 127.0.0.1 was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
    )
    assert connection._not_joined("HOST:6379", error) == (
        "The Ray cluster at HOST:6379 runs Ray 2.60.0 and Python 3.11.7, this process Ray 2.59.0 and Python 3.12.1. "
        "They have to be the same: run parity in the cluster's image, or submit it as a Ray job."
    )


def test_a_wrong_token_is_reported_soon(stranger, tmp_path):
    address, _ = stranger
    wrong = {"RAY_AUTH_TOKEN": "wrong-token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    ended = parity_command("parity.run", "--address", address, "--out", tmp_path / "run", timeout_s=30, **wrong)
    assert ended.status == 2
    assert ended.stderr.splitlines()[-1] == (
        f"parity: The Ray cluster at {address} refused the token from RAY_AUTH_TOKEN. Most likely it belongs to "
        "another cluster. Set RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with."
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_token_is_reported_before_the_cluster_is_asked(stranger, tmp_path):
    address, _ = stranger
    ended = parity_command("parity.run", "--address", address, "--out", tmp_path / "run", HOME=tmp_path)
    assert ended.status == 2
    assert ended.stderr.endswith(
        f"parity: No token was found for the Ray cluster: {tmp_path}/.ray/auth_token does not exist.{NO_TOKEN}\n"
    )


def test_authentication_needs_nothing_but_python():
    ended = command(
        "-c", "import sys, parity.cluster.authentication; print(sorted({'ray', 'numpy', 'torch'} & set(sys.modules)))"
    )
    assert ended.stdout == "[]\n"


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def unpickling(source):
    """What of a module's source reads, or could read, pickled data: that would run whatever code the data holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if PICKLES & set(alias.name.split("."))]
        elif isinstance(node, ast.ImportFrom):
            harmless = [name.name for name in node.names] == ["UnpicklingError"]
            found += [node.module] if PICKLES & set((node.module or "").split(".")) and not harmless else []
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            pickled = (
                called.endswith("read_pickle")
                or (called == "torch.load" and given.get("weights_only") != "True")
                or given.get("allow_pickle", "False") != "False"
            )
            found += [called] if pickled else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from ray import cloudpickle as c\nimport ray.cloudpickle",
        "def f():\n    from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pd.read_pickle(path)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_this_check_can_fail(source):
    assert unpickling(source)


def test_nothing_pickled_is_read_back():
    assert unpickling("torch.load(path, weights_only=True)\nnp.load(path)\njson.loads(text)") == []
    assert unpickling("from pickle import UnpicklingError") == []
    paths = [path for folder in ("parity", "jobs") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 40
    assert {path.name: found for path in paths if (found := unpickling(path.read_text(encoding="utf-8")))} == {}


def test_attempts_end_before_people_lose_patience():
    assert 1 <= authentication.CONNECT_ATTEMPTS <= 5

"""Recognises files that hold secrets, by their names and by what is in them; such files are never sent."""

import fnmatch
import re
from functools import cache
from pathlib import Path, PurePath

from parity.ground.errors import Trouble

# Names are compared in lower case. A file in or under one of these folders is never sent.
FOLDERS = """
    .ssh .aws .azure .config/gcloud .config/gh .config/rclone .docker .gnupg .kaggle .kube .oci run/secrets
"""
# Files and folders that tools and people keep secrets in. `secrets.py` is one of them: as a module it would hide
# Python's own.
NAMES = """
    .env .env.* *.env .envrc .envrc.* secret secret.* secrets secrets.* .secrets .secrets.*
    .git-credentials .netrc _netrc .npmrc .pypirc .htpasswd .dockercfg .dockerconfigjson
    .pgpass pgpass.conf .my.cnf .mylogin.cnf .s3cfg .boto .passwd-s3fs rclone.conf
    kaggle.json .databrickscfg .cdsapirc .vault-token .vault_pass* vault_pass* *.ovpn
    *.tfstate *.tfstate.* *.tfvars *.tfvars.json
    *.key *.p8 *.p12 *.pem *.pfx *.jks *.jceks *.keystore *.ppk *.kdb *.kdbx
    *.token *auth_token* *credentials*
"""
# Words that are in the names of code and arrays as well: `token_loss.py`, `id_map.py`, `tokens.npy` are sent.
WORDS = """
    id_* token* *_token *-token *[._-]token.* *[._-]secret *[._-]secret.* *secret_key* *client_secret*
    key.json keys.json keyfile.json *[._-]key.json *[._-]keys.json *[._-]keyfile.json
    *service-account* *service_account* *serviceaccount* *kubeconfig*
    *credential* *password* *passwd* *passphrase* *apikey* *api_key* *api-key*
"""
# Not refused for a word: the vocabulary of a language model, and what is made by its tokenizer.
VOCABULARY = "tokeni[sz]* special_token* added_token*"
# Code and arrays hold no credentials that have only a word of their names in common with one.
CODE = frozenset({".py", ".pyi", ".pyx", ".pxd", ".c", ".cc", ".cpp", ".h", ".hpp", ".cu", ".cuh", ".so"})
ARRAYS = frozenset({".npy", ".npz", ".pt", ".pth", ".safetensors", ".parquet", ".arrow", ".feather", ".h5", ".hdf5"})

# As much of a file is searched. Chosen: keys and their files are a few kB long, and large files are data.
SEARCHED_BYTES = 2**20
_KEY = rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
# In code the line may be what a key is recognised by, as here; only one that a key follows is a key.
_KEY_IN_CODE = re.compile(_KEY + rb"(?:\s|\\[nr])*[A-Za-z0-9+/]{16}")
# What a service account, an OAuth client, a user's login and the configuration of a cluster are made of.
_CONTENTS = (
    ("a private key", re.compile(_KEY + rb"|^PuTTY-User-Key-File-", re.MULTILINE)),
    (
        "a key",
        re.compile(
            rb'"(?:private_key|client_secret|refresh_token|(?:aws_)?secret_access_key|SecretAccessKey)"\s*:\s*"[^"]'
        ),
    ),
    ("a key", re.compile(rb"^\s*(?:client-key-data|aws_secret_access_key)\s*[:=]\s*\S", re.MULTILINE)),
)


def check_name(path: Path, relative: PurePath) -> None:
    """Checks the names of a file or folder: its own, and that of what it links to.

    Args:
        path: The file or folder.
        relative: The part of the path that is sent.

    Raises:
        Trouble: A name is known to hold secrets.
    """
    # The target of a link counts as well: a harmless name must not hide a key.
    target = path.resolve()
    whole = [f"/{each.as_posix().strip('/').lower()}/" for each in (path, target)]
    found = [name for name in sorted(FOLDERS.split()) if any(f"/{name}/" in each for each in whole)]
    parts = {part.lower() for part in (*relative.parts, target.name)}
    # A folder is refused for the names of tools alone: `token_loss` may be a package.
    folders = {part.lower() for part in relative.parts[:-1]} if path.is_file() else parts
    found += [name for name in sorted(parts) if name not in found and _known(name, words=name not in folders)]
    if found:
        raise Trouble(_refusal(path, ", ".join(found), "Leave it out, or rename it if it holds none."))


def check_content(path: Path) -> None:
    """Checks what is in a file.

    Raises:
        Trouble: It holds a private key, or the secret of an account.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(SEARCHED_BYTES)
    if path.suffix.lower() in CODE:
        found = "a private key" if _KEY_IN_CODE.search(content) else None
    else:
        found = next((what for what, pattern in _CONTENTS if pattern.search(content)), None)
    if found:
        raise Trouble(_refusal(path, found, "Leave it out, or remove that from it."))


def _known(name: str, *, words: bool) -> bool:
    """Whether a name in lower case is one that secrets are kept under."""
    if _matches(name, NAMES):
        return True
    if not words or PurePath(name).suffix in CODE | ARRAYS:
        return False
    return _matches(name, WORDS) and not _matches(name, VOCABULARY)


def _matches(name: str, patterns: str) -> bool:
    return _compiled(patterns).match(name) is not None


@cache
def _compiled(patterns: str) -> re.Pattern[str]:
    """One expression for all patterns, since each name of some 400 files is compared with up to 70 of them."""
    return re.compile("|".join(map(fnmatch.translate, patterns.split())))


def _refusal(path: Path, found: str, remedy: str) -> str:
    return f"{path} may hold a credential ({found}), and credentials are never sent. {remedy}"

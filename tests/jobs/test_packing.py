"""What a job is sent is what it needs, is listed, and holds no secrets."""

from pathlib import Path, PurePosixPath

import pytest

from parity.cluster.jobs import packing as packing_module
from parity.cluster.jobs.packing import Packing, pack
from parity.ground.errors import Trouble
from parity.plan.options import make_parser


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder, which is the current one."""
    folder = tmp_path / "project"
    (folder / "losses").mkdir(parents=True)
    (folder / "losses" / "mine.py").write_text("import torch\n\ndef f():\n    from near import x\n\nmine = print\n")
    (folder / "losses" / "near.py").write_text("import numpy\nfrom pack.inner import y\nimport parity\nx = y\n")
    (folder / "losses" / "pack").mkdir()
    (folder / "losses" / "pack" / "__init__.py").write_text("from . import inner\n")
    (folder / "losses" / "pack" / "inner.py").write_text("import far\ny = 1\n")
    (folder / "losses" / "pack" / "table.csv").write_text("1\n")
    (folder / "losses" / "far.py").write_text("import near\n")
    (folder / "losses" / "unrelated.py").write_text("z = 1\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def bare(project, monkeypatch):
    """The same, of which nothing is sent but what is asked for: packing parity itself takes most of the time."""
    monkeypatch.setattr(packing_module, "_add_parity", lambda packing: None)
    return project


def packed(*arguments, include=()):
    """What is sent beside parity itself, and the arguments as sent."""
    packing, sent = pack(make_parser().parse_args(arguments), arguments, [Path(path) for path in include])
    return {str(path) for path in packing.files if path.parts[0] not in ("parity", "jobs")}, sent


def refused(*arguments, include=()):
    with pytest.raises(Trouble) as trouble:
        packed(*arguments, include=include)
    return str(trouble.value)


def test_parity_itself_is_sent_with_its_data():
    packing, _ = pack(make_parser().parse_args([]), [], [])
    paths = {str(path) for path in packing.files}
    assert {"parity/run.py", "parity/tasks/__init__.py", "parity/render/terminal.py", "jobs/pack_run.py"} <= paths
    assert "parity/tasks/data/train-images-idx3-ubyte.zst" in paths
    assert not [path for path in paths if "__pycache__" in path or path.startswith("tests")]


def test_a_loss_is_sent_with_what_it_imports_from_beside_itself(project):
    files, sent = packed("--loss", "builtin", "losses/mine.py:mine", "--steps", "3")
    assert files == {
        "losses/mine.py",
        "losses/near.py",
        "losses/far.py",
        "losses/pack/__init__.py",
        "losses/pack/inner.py",
    }
    assert sent == ["--loss", "builtin", "losses/mine.py:mine", "--steps", "3"]


def test_a_file_of_another_folder_is_sent_under_a_path_of_its_own(project, monkeypatch):
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    files, sent = packed("--loss", "builtin", f"{project}/losses/far.py:near", f"--task={project}/losses/near.py:x")
    (far,) = [path for path in files if path.endswith("-losses/far.py")]
    assert far.startswith("outside/") and str(project) not in far
    assert sent == ["--loss", "builtin", f"{far}:near", f"--task={far.replace('far', 'near')}:x"]
    assert f"{far.rpartition('/')[0]}/pack/inner.py" in files


def test_a_module_of_the_current_folder_is_sent_and_an_installed_one_is_not(project, monkeypatch):
    monkeypatch.chdir(project / "losses")
    files, sent = packed("--loss", "pack.inner:y", "torch.nn:MSELoss")
    assert files == {"pack/__init__.py", "pack/inner.py", "far.py", "near.py"}
    assert sent == ["--loss", "pack.inner:y", "torch.nn:MSELoss"]


def test_included_files_and_folders_are_sent(project):
    (project / "losses" / "__pycache__").mkdir()
    (project / "losses" / "__pycache__" / "x.pyc").write_text("")
    files, _ = packed(include=["losses/pack", "losses/unrelated.py"])
    assert files == {
        "losses/pack/__init__.py",
        "losses/pack/inner.py",
        "losses/pack/table.csv",
        "losses/unrelated.py",
    }
    assert "losses/__pycache__/x.pyc" not in packed(include=["losses"])[0]


@pytest.mark.parametrize("folder", ["..", "/", "../home"])
def test_the_home_folder_is_never_sent(project, folder):
    (project.parent / "home").mkdir()
    assert "contains your home folder, which is never sent" in refused(include=[folder])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (".ssh/config", ".ssh"),
        (".aws/config", ".aws"),
        (".config/gcloud/x.db", ".config/gcloud"),
        (".kube/config", ".kube"),
        (".env", ".env"),
        (".env.local", ".env.local"),
        ("server.PEM", "server.pem"),
        ("id_ed25519", "id_ed25519"),
        ("auth_token", "auth_token"),
        ("my-credentials.json", "my-credentials.json"),
        (".netrc", ".netrc"),
        (".envrc", ".envrc"),
        ("production.env", "production.env"),
        (".pgpass", ".pgpass"),
        (".s3cfg", ".s3cfg"),
        ("kubeconfig", "kubeconfig"),
        ("kubeconfig-prod.yaml", "kubeconfig-prod.yaml"),
        ("my-service-account.json", "my-service-account.json"),
        ("serviceAccountKey.json", "serviceaccountkey.json"),
        ("gcp-key.json", "gcp-key.json"),
        ("client_secret_12.json", "client_secret_12.json"),
        ("kaggle.json", "kaggle.json"),
        ("token", "token"),
        ("token.txt", "token.txt"),
        ("tokens.json", "tokens.json"),
        ("hf_token", "hf_token"),
        ("deploy.token", "deploy.token"),
        ("openai-api-key.txt", "openai-api-key.txt"),
        ("passwords.txt", "passwords.txt"),
        ("secrets.yaml", "secrets.yaml"),
        ("secrets.py", "secrets.py"),
        ("secrets/value", "secrets"),
        ("release.jks", "release.jks"),
        ("work.ppk", "work.ppk"),
        ("all.kdbx", "all.kdbx"),
        ("terraform.tfstate", "terraform.tfstate"),
        ("terraform.tfstate.backup", "terraform.tfstate.backup"),
    ],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_credentials_are_never_sent(bare, name, found, given):
    path = bare / "extra" / name
    path.parent.mkdir(parents=True)
    path.write_text("secret")
    message = refused(include=["extra" if given == "folder" else f"extra/{name}"])
    assert (
        f"may hold a credential ({found}), and credentials are never sent" in message and str(bare / "extra") in message
    )


def test_a_folder_of_secrets_is_not_sent_by_its_own_name_either(bare):
    (bare / "secrets").mkdir()
    (bare / "secrets" / "value").write_text("planted")
    for include in ("secrets", "secrets/value"):
        assert "may hold a credential (secrets)" in refused(include=[include])


@pytest.mark.parametrize(
    "name",
    [
        "id_map.py",
        "token_loss.py",
        "token_loss/inner.py",
        "tokenizer.py",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "tokens.npy",
        "password_loss.py",
        "environment.py",
        "environment.yaml",
        "keys.py",
        "monkey.json",
        "secretary.csv",
    ],
)
def test_code_and_data_are_not_taken_for_credentials(bare, name):
    path = bare / "extra" / name
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\n")
    assert packed(include=["extra"])[0] == {f"extra/{name}"}


KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAplantedplanted\n-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("project-1a2b.json", '{"type": "service_account", "private_key": "planted"}', "a key"),
        ("client.json", '{"installed": {"client_secret" : "planted"}}', "a key"),
        ("login.json", '{"refresh_token": "planted"}', "a key"),
        ("deploy", KEY, "a private key"),
        ("deploy.txt", f"some text\n{KEY}", "a private key"),
        ("openssh", KEY.replace("RSA", "OPENSSH"), "a private key"),
        ("plain", KEY.replace("RSA ", ""), "a private key"),
        ("pgp.asc", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "a private key"),
        ("mine.py", f'KEY = """{KEY}"""', "a private key"),
        ("mine.py", f"KEY = {KEY!r}", "a private key"),
        ("cluster.yaml", "users:\n- user:\n    client-key-data: planted\n", "a key"),
        ("access.json", '{"SecretAccessKey": "planted"}', "a key"),
        ("access.json", '{"secret_access_key": "planted"}', "a key"),
        ("settings.ini", "[default]\naws_secret_access_key = planted\n", "a key"),
        ("putty", "PuTTY-User-Key-File-3: ssh-ed25519\n", "a private key"),
    ],
)
def test_credentials_are_known_by_their_content(bare, name, content, found):
    (bare / name).write_text(content)
    assert refused(include=[name]) == (
        f"{bare / name} may hold a credential ({found}), and credentials are never sent. "
        "Leave it out, or remove that from it."
    )


def test_a_loss_that_looks_for_keys_holds_none(bare):
    (bare / "scan.py").write_text('mark = "-----BEGIN RSA PRIVATE KEY-----"\nnames = {"private_key": "planted"}\n')
    (bare / "settings.json").write_text('{"private_key": "", "client_secret": null, "refresh_token": 3}')
    (bare / "public.txt").write_text("-----BEGIN PUBLIC KEY-----\nplanted\n")
    assert len(packed("--loss", "builtin", "scan.py:mark", include=["settings.json", "public.txt"])[0]) == 3


def test_what_run_json_names_is_sent_from_the_current_folder(project, monkeypatch):
    def sent(*named, arguments=("--resume", "/runs/x")):
        packing, sent = pack(make_parser().parse_args(arguments), arguments, [], named=named)
        assert sent[:2] == ["--resume", "/runs/x"]
        return {str(path) for path in packing.files if path.parts[0] not in ("parity", "jobs")}

    assert sent("builtin", "losses/far.py:near", "mnist-autoencoder") == {
        "losses/far.py",
        "losses/near.py",
        "losses/pack/__init__.py",
        "losses/pack/inner.py",
    }
    assert sent("torch.nn:MSELoss", "/on/the/cluster.py:x") == set()
    assert sent("losses/unrelated.py:z") == {"losses/unrelated.py"}
    monkeypatch.chdir(project / "losses")
    assert sent("unrelated:z") == {"unrelated.py"}


@pytest.mark.parametrize("path", ["gone.py", "outside/0123abcd-losses/far.py", "../project/losses/far.py"])
def test_a_file_that_run_json_names_and_that_is_not_here_is_reported(project, path):
    with pytest.raises(Trouble) as trouble:
        pack(make_parser().parse_args([]), [], [], named=[f"{path}:x"])
    assert str(trouble.value) == (
        f"The run was started with {path}:x, which is not a file below {project}. Run the command in the folder "
        "that it was first run in, and give --loss and --task again if their files were in another folder."
    )


def test_a_file_of_another_folder_is_sent_again_if_its_loss_is_given_again(project, monkeypatch):
    (project.parent / "elsewhere").mkdir()
    monkeypatch.chdir(project.parent / "elsewhere")
    arguments = ["--resume", "/runs/x", "--loss", "builtin", f"{project}/losses/unrelated.py:z"]
    _, first = pack(make_parser().parse_args(arguments), arguments, [])
    packing, sent = pack(make_parser().parse_args(arguments), arguments, [], named=["builtin", first[-1]])
    assert sent == first
    assert first[-1].rpartition(":")[0] in {str(path) for path in packing.files}


def test_a_link_that_leads_outside_is_refused(project):
    (project.parent / "secret.txt").write_text("secret")
    (project / "losses" / "link.txt").symlink_to(project.parent / "secret.txt")
    assert refused(include=["losses"]) == (
        f"{project}/losses/link.txt is a link that leads outside, to {project.parent}/secret.txt. "
        "Name that file itself, or copy it here."
    )
    (project / "losses" / "link.txt").unlink()
    (project / "losses" / "folder").symlink_to(project.parent)
    assert "is a link to a folder, which is not followed" in refused(include=["losses"])


def test_a_link_inside_is_sent_as_the_file(project):
    (project / "losses" / "same.py").symlink_to("far.py")
    assert "losses/same.py" in packed(include=["losses"])[0]


def test_a_missing_file_is_reported(project):
    assert refused("--loss", "gone.py:x") == f"gone.py does not exist (looked in {project}). Check the path."
    assert refused(include=["gone"]) == f"--include gone does not exist (looked in {project}). Check the path."
    (project / "wrong.py").write_text("def")
    assert "wrong.py is not valid Python" in refused("--loss", "wrong.py:x")


def test_the_imports_of_a_file_are_found_as_python_reads_it(project):
    (project / "beside.py").write_text("x = 1\n")
    for encoding, first in (("utf-8-sig", ""), ("latin-1", "# -*- coding: latin-1 -*-\n")):
        (project / "read.py").write_text(f"{first}# Größe\nimport beside\nx = 1\n", encoding=encoding)
        assert "beside.py" in packed("--loss", "read.py:x")[0]


def test_too_much_is_refused(project, monkeypatch):
    monkeypatch.setattr(packing_module, "LARGEST_BYTES", 1000)
    assert "bytes would be sent, and the limit is 1,000" in refused()


def test_two_files_for_one_place_are_refused(project):
    packing = Packing()
    packing.add(project / "losses" / "far.py", project / "losses", under=PurePosixPath())
    (project / "far.py").write_text("other")
    with pytest.raises(Trouble, match=r"would both be far\.py in the job"):
        packing.add(project / "far.py", project, under=PurePosixPath())


def test_the_listing_has_each_path_its_size_and_the_total(project):
    packing = Packing()
    packing.add_folder(project / "losses" / "pack", under=PurePosixPath("p"), pattern="*.py")
    assert packing.listing() == (
        "          20  p/__init__.py\n          17  p/inner.py\n          37  bytes in 2 files"
    )


def test_the_digest_is_of_paths_and_contents(project):
    def digest(under="p"):
        packing = Packing()
        packing.add_folder(project / "losses" / "pack", under=PurePosixPath(under))
        return packing.digest()

    before = digest()
    assert digest() == before
    assert digest("q") != before
    (project / "losses" / "pack" / "inner.py").write_text("import far\ny = 2\n")
    assert digest() != before


def test_what_is_written_is_what_was_listed(project, tmp_path):
    packing, _ = pack(make_parser().parse_args([]), [], [])
    packing.write(tmp_path / "sent")
    sent = {path.relative_to(tmp_path / "sent").as_posix() for path in (tmp_path / "sent").rglob("*") if path.is_file()}
    assert sent == {str(path) for path in packing.files}

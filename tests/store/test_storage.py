"""Files of runs, on the local disk and on an object store: whole or not at all, and each failure reported."""

import http.client
import importlib

import aiohttp
import botocore.exceptions
import botocore.parsers
import pytest
from fsspec.exceptions import FSTimeoutError
from upath import UPath

from parity.ground.errors import Trouble
from parity.store import storage


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return tmp_path if request.param == "local" else UPath(f"memory://{tmp_path.name}")


class Failing:
    """Fails a number of times, then answers."""

    def __init__(self, times, error=None):
        self.times, self.error = times, error or ConnectionError("the store is away\nfor a while")

    def __call__(self):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return "answer"


@pytest.fixture
def _no_pauses(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)


def test_what_is_written_is_read(folder):
    path = folder / "file"
    assert not storage.exists(path)
    storage.write_whole(path, b"one")
    storage.write_whole(path, b"another")
    assert storage.exists(path) and storage.read(path) == b"another"
    with storage.on_disk(path) as copy:
        file = copy.open("rb")
    assert file.read() == b"another"
    file.close()
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)
    with pytest.raises(FileNotFoundError):
        storage.read(path)
    with pytest.raises(FileNotFoundError), storage.on_disk(path) as copy:
        copy.read_bytes()


def test_files_are_found_in_folders(folder):
    if not isinstance(folder, UPath):
        (folder / "traces").mkdir()
    for name in ("b.parquet", "traces/a.parquet", "traces/other"):
        storage.write_whole(folder / name, b"")
    assert storage.find(folder, ".parquet") == ["b.parquet", "traces/a.parquet"]
    storage.remove_folder(folder / "traces")
    storage.remove_folder(folder / "traces")
    assert storage.find(folder, "") == ["b.parquet"]


def test_a_file_takes_its_place_when_all_of_it_is_written(folder):
    path = folder / "file"
    storage.write_whole(path, b"before")
    with pytest.raises(KeyError), storage.written_beside(path) as beside:
        beside.write_bytes(b"half")
        raise KeyError
    assert storage.read(path) == b"before"
    with storage.written_beside(path) as beside:
        beside.write_bytes(b"whole")
        assert storage.read(path) == b"before"
    assert storage.read(path) == b"whole"


def test_of_two_writers_of_a_new_object_one_succeeds(tmp_path):
    path = UPath(f"memory://{tmp_path.name}/new")
    storage.write_new(path, b"mine")
    storage.write_new(path, b"mine")  # as if the answer to the first had been lost
    with pytest.raises(FileExistsError):
        storage.write_new(path, b"theirs")
    assert storage.read(path) == b"mine"


@pytest.mark.usefixtures("_no_pauses")
def test_a_store_that_is_away_for_a_while_is_asked_again(capsys):
    path = UPath("memory://store/file")
    assert storage.patiently(path, Failing(3)) == "answer"
    lines = capsys.readouterr().err.splitlines()
    pauses = ["0.5", "1", "2"]
    assert lines == [f"memory://store/file: the store is away; trying again in {pause} s" for pause in pauses]


NO_ANSWER = [
    TimeoutError("no answer"),
    FSTimeoutError("no answer"),
    http.client.IncompleteRead(b""),
    aiohttp.ClientPayloadError("no answer"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="s3://store"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="s3://store"),
    botocore.exceptions.ClientError({"Error": {"Code": "SlowDown"}}, "PutObject"),
    botocore.parsers.ResponseParserError("no answer"),
]


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("error", NO_ANSWER, ids=lambda error: type(error).__name__)
def test_what_a_library_raises_for_a_store_that_does_not_answer_is_retried(error):
    path = UPath("memory://store/file")
    assert storage.patiently(path, Failing(1, error)) == "answer"
    with pytest.raises(OSError) as caught:
        storage.patiently(path, Failing(1, error), patience_s=0)
    assert type(caught.value) is OSError and caught.value.__cause__ is error


OURS = [TypeError, KeyError, AttributeError, ValueError, AssertionError, RuntimeError, KeyboardInterrupt]


@pytest.mark.parametrize("kind", OURS)
def test_a_bug_of_ours_is_raised_at_once(kind, capsys):
    failing = Failing(1, error := kind("planted"))
    with pytest.raises(kind) as caught:
        storage.patiently(UPath("memory://store/file"), failing)
    assert caught.value is error and failing.times == 0
    assert capsys.readouterr().err == ""


def test_every_named_error_is_one_that_an_installed_library_has():
    for name in storage.STORE_ERRORS:
        module, _, kind = name.rpartition(".")
        try:
            errors = importlib.import_module(module)
        except ModuleNotFoundError:
            assert module.startswith(("azure.", "gcsfs.", "google."))  # the test extra has no use for them
            continue
        assert issubclass(getattr(errors, kind), Exception)


@pytest.mark.usefixtures("_no_pauses")
def test_one_that_stays_away_is_an_error_of_the_disk():
    with pytest.raises(OSError, match=r"^the store is away$"):
        storage.patiently(UPath("memory://store/file"), Failing(1), patience_s=0)
    missing = Failing(1, FileNotFoundError("gone"))
    with pytest.raises(FileNotFoundError):  # asking again would bring the same
        storage.patiently(UPath("memory://store/file"), missing)
    assert missing.times == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nix://bucket/run",
            "nix://bucket/run cannot be used (Unsupported filesystem: 'nix'). Give a path, or a URI such as s3://BUCKET/DIR.",
        ),
        (
            "gs://bucket/run",
            "gs://bucket/run: gs needs a package that is not installed. Please install gcsfs to access Google Storage.",
        ),
    ],
)
def test_a_uri_that_cannot_be_used_is_reported(text, message):
    with pytest.raises(Trouble) as caught:
        storage.parse_path(text)
    assert str(caught.value) == message


def test_paths_and_uris_are_distinguished(tmp_path):
    assert storage.parse_path("runs/first") == storage.Path("runs/first")
    assert storage.parse_path(f"file://{tmp_path}/run") == tmp_path / "run"
    assert str(storage.parse_path("memory://bucket/run/")) == "memory://bucket/run"


def test_a_folder_whose_removal_was_not_answered_is_removed(tmp_path, monkeypatch, _no_pauses, capsys):
    folder = UPath(f"memory://{tmp_path.name}/states")
    storage.write_whole(folder / "one", b"state")
    genuine = type(folder.fs).rm
    calls = []

    def lossy(store, path, **options):
        calls.append(path)
        genuine(store, path, **options)
        if len(calls) == 1:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(type(folder.fs), "rm", lossy)
    storage.remove_folder(folder)
    assert len(calls) == 2 and not storage.exists(folder / "one")
    assert "trying again" in capsys.readouterr().err

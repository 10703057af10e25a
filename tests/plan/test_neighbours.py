"""What a loss or task imports from beside itself: found without running it, and loaded from the texts that travel."""

import hashlib
import importlib
import inspect
import linecache
import os
import pickle
import sys
import traceback
from dataclasses import replace

import pytest

from parity.plan.loss_spec import parse_losses
from parity.plan.neighbours import can_find, find_module, in_environment
from parity.plan.pinned import imports_restored
from parity.plan.user_code import code_digest, load_code


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # also forgets what Python has cached of folders
    monkeypatch.chdir(tmp_path)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()
    return folder


def parse(*texts):
    return parse_losses(list(map(str, texts)), shipped=())


def names(spec):
    return [file.name for file in spec.files]


def test_the_files_beside_a_loss_are_found_with_what_they_import(tmp_path):
    write(
        tmp_path / "there",
        mine="import json, torch, helper\nfrom pkg import sub\nfrom lib.deep import x\ndef loss():\n    import late",
        helper="import other",
        other="import helper",
        late="",
        unused="",
        json="",
        torch="",
        pkg____init__="",
        pkg__sub="from . import sibling\nfrom .attribute import nothing",
        pkg__sibling="from .. import beyond",
        pkg__attribute="",
        pkg__unused="",
        lib__deep="",
    )
    (spec,) = parse(f"{tmp_path}/there/mine.py:loss")
    expected = "helper.py late.py lib/deep.py other.py pkg/__init__.py pkg/attribute.py pkg/sibling.py pkg/sub.py"
    assert names(spec) == expected.split(), "json ships with Python, torch is installed"
    (helper,) = [file for file in spec.files if file.name == "helper.py"]
    assert (helper.path, helper.text) == (str(tmp_path / "there" / "helper.py"), "import other")
    assert helper.sha256 == hashlib.sha256(b"import other").hexdigest()


def test_a_module_of_the_current_folder_travels_and_an_installed_one_does_not(tmp_path):
    write(tmp_path, mine="from helper import x\ndef loss(o, t): ...", helper="x = 1")
    assert [names(spec) for spec in parse("mine:loss", "torch.nn.functional:mse_loss")] == [
        ["helper.py", "mine.py"],
        [],
    ]


def test_where_the_current_folder_has_the_name_too_python_takes_that(tmp_path):
    write(tmp_path, helper="x = 'current'")
    write(tmp_path / "there", mine="import helper\ndef loss(): return helper.x", helper="x = 'beside'")
    (spec,) = parse(f"{tmp_path}/there/mine.py:loss")
    assert [file.path for file in spec.files] == [str(tmp_path / "helper.py")]


def test_what_is_not_python_is_left_to_its_import(tmp_path):
    write(tmp_path, mine="import broken, latin\ndef loss(): ...", broken="def (:")
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    (spec,) = parse("mine.py:loss")
    assert names(spec) == ["broken.py"]


@pytest.mark.parametrize("text", ["mine.py:loss", "mine:loss"])
def test_a_worker_loads_what_travelled_and_not_its_own_copy(tmp_path, text):
    write(
        tmp_path,
        mine="from helper import x\ndef loss():\n    import late\n    return x, late.x",
        helper="x = 1",
        late="x = 2",
    )
    (spec,) = pickle.loads(pickle.dumps(parse(text)))  # noqa: S301
    write(tmp_path, mine="nonsense", helper="x = -1", late="x = -2")
    assert load_code(spec)() == (1, 2)
    for path in tmp_path.glob("*.py"):
        path.unlink()
    for name in ("mine", "helper", "late"):
        sys.modules.pop(name, None)
    assert load_code(replace(spec, name="again"))() == (1, 2)


def test_what_travelled_knows_its_file_and_shows_its_lines(tmp_path):
    write(
        tmp_path,
        mine="import helper\ndef loss():\n    helper.fail()",
        helper="def fail():\n    raise ValueError(__file__)",
    )
    (spec,) = parse("mine.py:loss")
    (tmp_path / "helper.py").unlink()
    loss = load_code(spec)
    linecache.checkcache()
    with pytest.raises(ValueError, match=r"helper\.py$") as caught:
        loss()
    assert "    raise ValueError(__file__)\n" in traceback.format_exception(caught.value)[-2]
    assert caught.value.args == (str(tmp_path / "helper.py"),)


def test_two_losses_each_have_the_helper_of_their_own_folder(tmp_path):
    mine = "import helper\nfrom lib import deep\ndef {}():\n    import late\n    return helper.x, deep.x, late.x"
    for name in ("old", "new"):
        each = {"helper": f"x = '{name}'", "late": f"x = '{name}'", "lib__deep": f"x = '{name}'"}
        write(tmp_path / name, **{name: mine.format(name)}, **each)
    specs = parse(f"{tmp_path}/old/old.py:old", f"{tmp_path}/new/new.py:new")
    old, new = map(load_code, specs)
    assert [old(), new(), old()] == [("old",) * 3, ("new",) * 3, ("old",) * 3]
    assert load_code(specs[0])() == ("old",) * 3


def test_code_that_was_loaded_before_hides_no_helper_of_other_code(tmp_path):
    for name in ("old", "new"):
        write(tmp_path / name, mine="import helper\ndef loss(): return helper.x", helper=f"x = '{name}'")
    losses = [load_code(*parse(f"{tmp_path}/{name}/mine.py:loss")) for name in ("old", "new", "old")]
    assert [loss() for loss in losses] == ["old", "new", "old"]


def test_a_module_that_this_process_has_by_that_name_stays_its_own(tmp_path):
    write(tmp_path, helper="x = 'own'")
    own = importlib.import_module("helper")
    sys.path.remove(str(tmp_path))
    write(tmp_path / "there", mine="import helper\ndef loss():\n    import helper\n    return helper.x", helper="x = 1")
    assert (load_code(*parse("there/mine.py:loss"))(), sys.modules["helper"]) == (1, own)


def test_a_file_that_was_changed_is_loaded_anew(tmp_path):
    write(tmp_path / "there", mine="import helper\ndef loss(): return helper.x", helper="x = 1")
    assert load_code(*parse("there/mine.py:loss"))() == 1
    write(tmp_path / "there", helper="x = 2")
    assert load_code(*parse("there/mine.py:loss"))() == 2


def test_what_the_process_has_imported_from_that_file_itself_is_shared(tmp_path):
    write(tmp_path, mine="import helper\ndef loss(): return helper.things", helper="things = []")
    os.utime(tmp_path / "helper.py", (1e9, 1e9))  # before this process began
    own = importlib.import_module("helper").things
    assert load_code(*parse("mine.py:loss"))() is own


def test_what_the_process_has_imported_from_a_file_that_is_not_what_travelled_is_not_shared(tmp_path):
    write(tmp_path, mine="import helper\ndef loss(): return helper.x", helper="x = 1")
    specs = parse("mine.py:loss")
    write(tmp_path, helper="x = 2")
    os.utime(tmp_path / "helper.py", (1e9, 1e9))
    assert importlib.import_module("helper").x == 2
    assert load_code(*specs)() == 1


def test_what_the_process_has_imported_from_a_file_that_was_changed_since_is_not_shared(tmp_path):
    """As in a notebook, whose user has edited the file since."""
    write(tmp_path, mine="import helper\ndef loss(): return helper.x", helper="x = 1")
    own = importlib.import_module("helper")
    write(tmp_path, helper="x = 2")
    assert load_code(*parse("mine.py:loss"))() == 2
    assert (sys.modules["helper"], own.x) == (own, 1)


def test_after_a_check_a_helper_is_imported_from_its_file(tmp_path):
    write(tmp_path, mine="import helper\ndef loss(): return helper.x", helper="x = 1")
    with imports_restored():
        loss = load_code(*parse("mine.py:loss"))
        assert sys.modules["helper"].x == 1
    write(tmp_path, mine="def loss(): return 3", helper="x = 2")
    assert (importlib.import_module("helper").x, loss()) == (2, 1)
    assert inspect.getsource(importlib.import_module("mine").loss) == "def loss(): return 3\n"


def test_what_is_imported_dynamically_comes_from_the_folder(tmp_path):
    source = "import importlib\nimport pkg\ndef loss(): return importlib.import_module('pkg.' + 'plugin').x"
    write(tmp_path / "there", mine=source, pkg____init__="", pkg__plugin="x = 3")
    (spec,) = parse("there/mine.py:loss")
    assert (names(spec), load_code(spec)()) == (["pkg/__init__.py"], 3)


def test_one_digest_covers_all_that_travels(tmp_path):
    def digest():
        return code_digest(*parse("mine.py:loss"))

    write(tmp_path, mine="import helper\ndef loss(): ...", helper="x = 1")
    first = digest()
    assert digest() == first
    write(tmp_path, helper="x = 2")
    second = digest()
    write(tmp_path, helper="x = 1", mine="import helper\ndef loss(): pass")
    assert len({first, second, digest()}) == 3
    assert code_digest(*parse("torch.nn.functional:mse_loss")) is None


def test_the_environment_is_what_ships_with_python_and_what_is_installed(tmp_path):
    import json
    from pathlib import Path

    import torch

    assert all(in_environment(Path(module.__file__)) for module in (json, torch))
    assert not in_environment(tmp_path / "helper.py")
    assert find_module("parity.tasks.mnist_autoencoder") == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("json.decoder", True),
        ("helper", True),
        ("pkg.sub", True),
        ("pkg.none", False),
        ("helper.x", False),
        ("no", False),
    ],
)
def test_whether_a_module_could_be_imported_is_known_without_importing_it(tmp_path, name, found):
    write(tmp_path / "there", helper="raise SystemExit", pkg____init__="raise SystemExit", pkg__sub="")
    assert can_find(name, [str(tmp_path / "there")]) is found

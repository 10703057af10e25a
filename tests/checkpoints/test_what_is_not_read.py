"""Nothing that a checkpoint has goes unnoticed: files of folders, names that come twice, and damage in every place."""

import json
import pickle
import struct
import zipfile
from decimal import Decimal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parity import report
from parity.checkpoints.comparing import compare_checkpoints
from parity.checkpoints.reading import read_checkpoint
from parity.ground.errors import Trouble
from parity.plan.tolerance import EXACT, Tolerance

ONE, TWO = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
INDEX = {"weight_map": {"w": "m-1.safetensors"}}
MODEL = {"model.safetensors": ONE}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


def compared(folder, baseline, candidate, *, tolerance=EXACT):
    """Compares two files or folders; a folder is given as its files."""
    paths = []
    for side, content in (("a", baseline), ("b", candidate)):
        for name, each in content.items():
            write(folder / side / name, each)
        paths.append(folder / side if len(content) > 1 else folder / side / next(iter(content)))
    return compare_checkpoints(*(read_checkpoint(str(path)) for path in paths), tolerance=tolerance)


@pytest.mark.parametrize(
    ("beside", "name", "one", "two", "status"),
    [
        (MODEL, "model_1.safetensors", ONE, TWO, 1),
        (MODEL, "optimizer_1.bin", ONE, TWO, 1),
        (MODEL, "random_states_0.pkl", ONE, TWO, 1),
        (MODEL, "rng_state_0.pth", ONE, TWO, 1),
        (MODEL, "adapter_model.safetensors", ONE, TWO, 1),
        (MODEL, "pytorch_model.bin", ONE, TWO, 1),
        (MODEL, "global_step1/mp_rank_00_model_states.pt", ONE, TWO, 3),
        (MODEL, "trainer_state.json", {"loss": 1.5}, {"loss": 99.5}, 1),
        (MODEL, "below/trainer_state.json", {"loss": 1.5}, {"loss": 99.5}, 3),
        (MODEL, "below/README.md", b"10", b"20", 3),
        (MODEL, "vocabulary.bin", b"text 1", b"text 2", 3),
        ({"z.pt": ONE}, "foreign.bin", b"text 1", b"text 2", 3),
        (MODEL, "config.json", {"num_attention_heads": 10}, {"num_attention_heads": 20}, 3),
        (MODEL, "global_step1/x.gguf", b"10", b"20", 3),
        (MODEL, "random_states_0", b"10", b"20", 3),
        (MODEL, "training_args.bin", b"PK\x03\x04a", b"PK\x03\x04b", 3),
        (MODEL, "random_states_0.pkl", b"\x80\x04a", b"\x80\x04b", 3),
        ({"a.pt": ONE}, "last.ckpt", ONE, TWO, 1),
        ({"ema.pt": ONE, "z.pt": ONE}, "ema.bin", ONE, TWO, 1),
        ({**MODEL, "optimizer.pt": ONE}, "optimizer.bin", ONE, TWO, 1),
        ({"m.safetensors.index.json": INDEX, "m-1.safetensors": ONE}, "m-2.safetensors", ONE, TWO, 1),
        (
            {
                "x.safetensors.index.json": INDEX,
                "m-1.safetensors": ONE,
                "y.safetensors.index.json": {"weight_map": {"w": "n-1.safetensors"}},
            },
            "n-1.safetensors",
            ONE,
            TWO,
            1,
        ),
    ],
)
def test_each_file_of_a_folder_counts(tmp_path, beside, name, one, two, status):
    found = compared(tmp_path / "planted", {**beside, name: one}, {**beside, name: two})
    assert (found.exit_status, found.word) == (status, {1: "differ", 3: "undecided"}[status])
    assert len(found.unread) == (status == 3) and all(name in text for text in found.unread)
    assert compared(tmp_path / "same", {**beside, name: one}, {**beside, name: one}).word == "identical"
    if name == "n-1.safetensors":  # an index names it
        return
    alone = compared(tmp_path / "alone", {"a.json": {}, **beside, name: one}, {"a.json": {}, **beside})
    assert alone.exit_status == status


@pytest.mark.parametrize("name", ["extra.safetensors", "extra.pt", "extra.bin"])
@pytest.mark.parametrize("damage", [(10).to_bytes(8, "little") + b"{damaged!!", b"PK\x03\x04damaged", b""])
def test_a_damaged_file_of_a_folder_is_trouble_and_not_equal(tmp_path, name, damage):
    write(tmp_path / "model.safetensors", ONE)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(Trouble, match=rf"{name} (is damaged|cannot be loaded|is empty)"):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize("damage", ["/data.pkl", "/data/0"])
def test_an_archive_of_torch_that_does_not_load_is_damaged_and_not_of_another_program(tmp_path, damage):
    write(tmp_path / "model.safetensors", ONE)
    torch.save(ONE, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(tmp_path / "extra.pt", "w") as archive:
        for each in whole.namelist():
            content = whole.read(each)
            if not each.endswith(damage):
                archive.writestr(each, content)
            elif damage == "/data.pkl":
                archive.writestr(each, content[:20])
    (tmp_path / "whole").unlink()
    with pytest.raises(Trouble, match=r"extra\.pt (cannot be loaded by torch|.* or it is damaged)"):
        read_checkpoint(str(tmp_path))


def test_a_file_that_would_run_code_is_compared_by_its_bytes(tmp_path):
    sides = [{**MODEL, "extra.pt": {"x": Decimal(text)}} for text in ("1", "2")]
    assert compared(tmp_path / "same", sides[0], sides[0]).word == "identical"
    (text,) = compared(tmp_path / "other", *sides).unread
    assert text.startswith("extra.pt has other bytes (") and "would run code" in text


def archive_of_numpy(path, value):
    with path.open("wb") as file:
        np.savez(file, value=np.full(3, value))
    return path.read_bytes()


def test_a_file_of_another_program_is_compared_by_its_bytes(tmp_path):
    for place, content in enumerate(
        (
            [b"text 1", b"text 2"],
            [archive_of_numpy(tmp_path / "a.npz", value) for value in (1, 2)],
            [pickle.dumps(Decimal(value)) for value in (1, 2)],
        )
    ):
        sides = [{**MODEL, "extra.bin": each} for each in content]
        assert compared(tmp_path / f"{place} same", sides[0], sides[0]).word == "identical"
        (text,) = compared(tmp_path / f"{place}", *sides).unread
        assert text.startswith("extra.bin has other bytes (")


@pytest.mark.parametrize(
    "files", [["foreign.bin"], ["foreign.bin", "other.pt"], ["model.safetensors"], ["pytorch_model.bin"]]
)
def test_a_model_that_is_not_read_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "z.safetensors").write_bytes(b"")
    if "foreign.bin" in files:
        (tmp_path / "z.safetensors").unlink()
    with pytest.raises(Trouble, match=rf"{files[0]} is no checkpoint that parity reads"):
        read_checkpoint(str(tmp_path))


def test_a_link_to_a_folder_is_not_passed_over(tmp_path):
    write(tmp_path / "a" / "model.safetensors", ONE)
    (tmp_path / "below").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "below")
    side = read_checkpoint(str(tmp_path / "a"))
    assert compare_checkpoints(side, side, tolerance=EXACT).word == "undecided"


def test_two_files_of_a_folder_with_one_name_are_refused(tmp_path):
    clash = {"model.safetensors": {"optimizer.w": torch.ones(1)}, "optimizer.pt": ONE}
    with pytest.raises(Trouble, match=r"has two files with 'optimizer.w'"):
        compared(tmp_path, clash, clash)


@pytest.mark.parametrize(
    "shard", [{"w": torch.ones(1), "v": torch.ones(1)}, {"w": torch.ones(1), "k": 1}], ids=["tensor", "value"]
)
def test_what_an_index_does_not_name_is_compared(tmp_path, shard):
    index = {"pytorch_model.bin.index.json": {"weight_map": {"w": "m-1.bin"}}}
    planted = {name: each if name == "w" else each + 1 for name, each in shard.items()}
    found = compared(tmp_path, {**index, "m-1.bin": shard}, {**index, "m-1.bin": planted})
    assert [each.name for each in found.differences] == [[*shard][1]]


@pytest.mark.parametrize(
    "content", [{1: torch.ones(1), "1": torch.zeros(1)}, {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}]
)
def test_keys_that_come_to_one_name_are_refused(tmp_path, content):
    with pytest.raises(Trouble, match=r"has two entries whose names come to '(1|a\.b)'"):
        compared(tmp_path, {"a.pt": content}, {"a.pt": content})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({**ONE, "state": {}}, ONE),
        ({**ONE, "state": [torch.ones(1)]}, {**ONE, "state": {"0": torch.ones(1)}}),
        ({"ema.w": torch.ones(1)}, {"w": torch.ones(1)}),
        (
            {"a": torch.tensor([1 + 2j]), "b": torch.tensor([1 + 2j]).conj()},
            {"a": torch.tensor([1 + 2j])},
        ),
    ],
    ids=["empty", "list", "prefix", "conjugate"],
)
def test_structures_that_are_not_the_same_differ(tmp_path, one, two):
    assert compared(tmp_path, {"a.pt": one}, {"a.pt": two}).word == "differ"


@pytest.mark.parametrize("key", [0, True, None, 1.0, b"k", (0, 1)])
def test_a_key_is_told_from_its_text(tmp_path, key):
    x = torch.ones(1)
    for place, (one, two) in enumerate(
        (({key: x}, {str(key): x}), ({"s": {key: x, "1": x}}, {"s": {str(key): x, "1": x}}))
    ):
        found = compared(tmp_path / f"{place}", {"a.pt": one}, {"a.pt": two})
        assert found.word == "differ" and [each.kind for each in found.differences] == ["value"]
        assert compared(tmp_path / f"same {place}", {"a.pt": one}, {"a.pt": one}).word == "identical"


def test_a_key_without_a_name_of_its_own_is_refused(tmp_path):
    torch.save({torch.ones(2000): torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(Trouble, match=r"has a Tensor as a key. Save the tensors under texts or numbers."):
        read_checkpoint(str(tmp_path / "a.pt"))


def test_a_conjugate_view_is_not_tied(tmp_path):
    x = torch.tensor([1 + 2j])
    assert compared(tmp_path, {"a.pt": {"a": x, "b": x.conj()}}, {"a.pt": {"a": x}}).word == "differ"


@pytest.mark.parametrize(
    ("name", "one", "two", "tolerance"),
    [
        ("w", torch.tensor([2**62, 1]), torch.tensor([2**62 + 200, 1]), Tolerance(0, 1e-9)),
        ("w", torch.tensor([2**53]), torch.tensor([2**53 + 1]), Tolerance(1, 0)),
        ("w", torch.tensor([True]), torch.tensor([False]), Tolerance(0, 1)),
        ("w", torch.tensor([1.0]).to(torch.float8_e8m0fnu), torch.tensor([2.0]).to(torch.float8_e8m0fnu), Tolerance(1)),
        ("w", torch.tensor([1.0]), torch.tensor([torch.nan]), Tolerance(1e308, 1e308)),
        ("rng_state", torch.tensor([200]).to(torch.uint8), torch.tensor([201]).to(torch.uint8), Tolerance(0.01)),
    ],
)
def test_a_tolerance_is_about_numbers(tmp_path, name, one, two, tolerance):
    assert compared(tmp_path, {"a.pt": {name: one}}, {"a.pt": {name: two}}, tolerance=tolerance).word == "differ"


def safetensors(path, header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return str(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = [
    {"w": {**ENTRY, **change}}
    for change in (
        *({"data_offsets": each} for each in ([0], 5, None, ["a", "b"], [0.0, 8.0])),
        *({"shape": each} for each in ([None], ["a"], [-2, -1], [2.0])),
        *({"dtype": each} for each in (["F32"], None, 5)),
    )
]


@pytest.mark.parametrize(
    "header",
    [
        *BROKEN,
        *({"w": ENTRY, "__metadata__": each} for each in ([1], None, {"a": 1})),
        b'{"w": [' + b"[" * 200_000 + b"]" * 200_001 + b"}",
        b'{"w": 1}[]',
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_that_is_not_right_is_named(tmp_path, header):
    with pytest.raises(Trouble, match=r"a.safetensors is damaged: it"):
        read_checkpoint(safetensors(tmp_path / "a.safetensors", header))


def test_a_name_that_stands_twice_is_refused(tmp_path):
    header = b'{"w": %b, "w": %b}' % ((json.dumps(ENTRY).encode(),) * 2)
    with pytest.raises(Trouble, match="it has 'w' twice"):
        read_checkpoint(safetensors(tmp_path / "a.safetensors", header))
    (tmp_path / "a.index.json").write_text('{"weight_map": {"w": "a", "w": "b"}}')
    with pytest.raises(Trouble, match="it has 'w' twice"):
        read_checkpoint(str(tmp_path / "a.index.json"))


def test_other_byte_counts_of_a_dtype_that_is_not_known_differ(tmp_path):
    sides = [
        read_checkpoint(
            safetensors(
                tmp_path / f"{size}.safetensors",
                {"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, size]}},
                bytes(size),
            )
        )
        for size in (0, 4)
    ]
    assert compare_checkpoints(*sides, tolerance=Tolerance(0, 1)).word == "differ"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(3, device="meta"),
        torch.zeros(1).expand(10**13),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ],
    ids=["meta", "expanded", "nested"],
)
def test_tensors_that_have_no_bytes_of_their_own_are_refused(tmp_path, tensor):
    torch.save({"w": tensor}, tmp_path / "a.pt")
    with pytest.raises(Trouble, match="Save it as a plain one"):
        read_checkpoint(str(tmp_path / "a.pt"))


def test_old_files_that_end_anywhere_are_named(tmp_path):
    torch.save(ONE, tmp_path / "whole.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(20, len(whole)):
        (tmp_path / "a.pt").write_bytes(whole[:size])
        with pytest.raises(Trouble, match=r"a\.pt "):
            read_checkpoint(str(tmp_path / "a.pt"))


def test_files_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    shared = {"x": 1.0}
    for _ in range(12):
        shared = {"a": shared, "b": shared}
    torch.save(shared, tmp_path / "shared.pt")
    monkeypatch.setattr("parity.checkpoints.torch_file._MOST_LEAVES", 1000)
    with pytest.raises(Trouble, match=r"has more than 1,000 tensors and values"):
        read_checkpoint(str(tmp_path / "shared.pt"))
    monkeypatch.setattr("parity.checkpoints.torch_file._LARGEST_INFLATED", 1000)
    with zipfile.ZipFile(tmp_path / "large.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large/data.pkl", bytes(1_000_000))
    with pytest.raises(Trouble, match=r"would become 1,000,000 bytes when it is decompressed"):
        read_checkpoint(str(tmp_path / "large.pt"))


@pytest.mark.parametrize("form", ["text", "json", "markdown", "junit"])
def test_every_format_says_that_it_is_undecided(tmp_path, form, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for side, loss in (("a", 1.5), ("b", 99.5)):
        write(tmp_path / side / "model.safetensors", ONE)
        write(tmp_path / side / "config.json", {"loss": loss})
    assert report.main(["a", "b", "--format", form]) == 3
    out = " ".join(capsys.readouterr().out.replace("`", "").split())
    assert "undecided" in out and "config.json has other bytes (compare it on its own)" in out

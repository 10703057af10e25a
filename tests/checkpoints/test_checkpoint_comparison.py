"""Checkpoints made by the libraries themselves; faults are planted in them and found, by name and in figures."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parity.checkpoints import figures as figures_module
from parity.checkpoints.comparing import compare_checkpoints
from parity.checkpoints.dtypes import DTYPES, dtype_of
from parity.checkpoints.reading import is_checkpoint, read_checkpoint
from parity.checkpoints.tensor import StoredTensor
from parity.ground.errors import Trouble
from parity.plan.tolerance import EXACT, Tolerance


def tensors():
    """Tensors of a small model, in the order of their names."""
    generator = torch.Generator().manual_seed(0)
    return {
        "embed.weight": torch.randn(50, 8, generator=generator),
        "layers.0.bias": torch.randn(8, generator=generator),
        "layers.0.weight": torch.randn(8, 8, generator=generator),
        "layers.1.weight": torch.randn(8, 8, generator=generator),
        "steps": torch.tensor(7),
    }


def beside(value):
    return torch.nextafter(value, torch.tensor(torch.inf))


@pytest.fixture
def compare(tmp_path):
    """Saves two state dicts, as safetensors or with torch.save, and compares them."""

    def run(baseline, candidate, *, pickled=(False, False), tolerance=EXACT):
        paths = []
        for name, content, as_pickle in zip("ab", (baseline, candidate), pickled, strict=True):
            paths.append(tmp_path / f"{name}{'.pt' if as_pickle else '.safetensors'}")
            (torch.save if as_pickle else save_file)(content, paths[-1])
        return compare_checkpoints(*(read_checkpoint(str(path)) for path in paths), tolerance=tolerance)

    return run


def only(found):
    assert len(found.differences) == 1
    return found.differences[0]


@pytest.mark.parametrize("pickled", [(False, False), (True, True), (False, True)])
def test_equal_checkpoints_of_either_kind_are_identical(compare, pickled):
    found = compare(tensors(), tensors(), pickled=pickled)
    assert (found.word, found.exit_status, found.equal, found.equal_bytes) == (
        "identical",
        0,
        5,
        4 * (400 + 8 + 128) + 8,
    )


@pytest.mark.parametrize("pickled", [(False, False), (True, True)])
def test_one_ulp_is_found_where_it_is(compare, pickled):
    planted = tensors()
    planted["layers.0.weight"][3, 5] = beside(planted["layers.0.weight"][3, 5])
    found = only(compare(tensors(), planted, pickled=pickled))
    numbers = found.figures
    assert (found.name, numbers.different, numbers.ulp, numbers.first_at) == ("layers.0.weight", 1, 1, 3 * 8 + 5)
    assert numbers.histogram == (1, 0, 0, 0, 0, 0) and 0 < numbers.relative < 1e-7
    expected = np.linalg.norm(tensors()["layers.0.weight"].double().numpy())
    assert numbers.norm == pytest.approx(expected, rel=1e-12)


def test_one_bit_among_many_elements_is_found_in_every_block(monkeypatch):
    monkeypatch.setattr(figures_module, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(figures_module, "_BLOCK", 16)
    bits = np.random.default_rng(0).integers(0, 2**31, 101).astype(np.uint32)
    bits &= np.uint32(0x7F7FFFFF)  # finite
    for place in range(101):
        planted = bits.copy()
        planted[place] ^= 1
        mine, other = (
            StoredTensor("float32", (101,), lambda each=each: each.view(np.uint8)) for each in (bits, planted)
        )
        assert not figures_module.equal(mine.read(), other.read())
        found = figures_module.figures(mine, other, rtol=0, atol=0)
        assert (found.different, found.first_at, found.largest_at, found.ulp) == (1, place, place, 1)
    assert figures_module.equal(bits.view(np.uint8), bits.copy().view(np.uint8))


@pytest.mark.parametrize("dense", [False, True])
def test_figures_are_those_of_float64(dense):
    rng = np.random.default_rng(1)
    mine = rng.standard_normal(1000).astype(np.float32)
    other = np.where(rng.random(1000) < (0.9 if dense else 0.1), mine * np.float32(1.001), mine).astype(np.float32)
    left, right = (StoredTensor("float32", (1000,), lambda each=each: each.view(np.uint8)) for each in (mine, other))
    found = figures_module.figures(left, right, rtol=1e-4, atol=0)
    x, y = mine.astype(np.float64), other.astype(np.float64)
    assert found.relative == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-12)
    assert found.candidate_norm == pytest.approx(np.linalg.norm(y), rel=1e-12)
    assert found.largest_absolute == np.abs(y - x).max() and found.largest_relative == (np.abs(y - x) / np.abs(x)).max()
    assert (found.different, found.violations) == (
        np.count_nonzero(x != y),
        np.count_nonzero(np.abs(y - x) > 1e-4 * abs(x)),
    )
    steps = np.abs(mine.view(np.int32).astype(np.int64) - other.view(np.int32))
    assert found.ulp == steps.max() and sum(found.histogram) == found.different


def test_swapped_tensors_name_each_other(compare):
    planted = tensors()
    planted["layers.0.weight"], planted["layers.1.weight"] = planted["layers.1.weight"], planted["layers.0.weight"]
    found = compare(tensors(), planted)
    assert [(each.name, each.same_as) for each in found.differences] == [
        ("layers.0.weight", "layers.1.weight"),
        ("layers.1.weight", "layers.0.weight"),
    ]


def test_a_flipped_sign_and_a_factor_are_named(compare):
    planted = tensors()
    planted["embed.weight"] *= -1
    planted["layers.0.weight"] *= 2
    flipped, doubled = compare(tensors(), planted).differences
    assert flipped.figures.factor == pytest.approx(-1) and flipped.figures.signs == 400
    assert doubled.figures.factor == pytest.approx(2)
    planted["layers.0.weight"] = tensors()["layers.0.weight"] + 0.5
    assert compare(tensors(), planted).differences[1].figures.factor is None


def test_nan_zero_and_infinity_are_told_apart(compare):
    one, other = (torch.zeros(6), torch.zeros(6))
    one[:5] = torch.tensor([0.0, 1.0, torch.nan, torch.inf, torch.nan])
    other[:5] = torch.tensor([-0.0, torch.nan, 1.0, -torch.inf, torch.nan])
    other.view(torch.int32)[4] ^= 1
    found = only(compare({"x": one}, {"x": other}, tolerance=Tolerance(1e9, 1e9)))
    numbers = found.figures
    assert (found.word, numbers.different, numbers.zeros, numbers.payloads, numbers.not_finite) == (
        "differ",
        5,
        1,
        1,
        3,
    )
    same = compare({"x": one}, {"x": one.clone()})
    assert (same.word, same.not_numbers) == ("identical", ("x",))


def test_missing_and_extra_names_and_other_shapes_differ(compare):
    planted = tensors()
    planted["new"] = planted.pop("layers.0.bias")
    planted["layers.1.weight"] = planted["layers.1.weight"].reshape(4, 16)
    found = compare(tensors(), planted)
    assert [(each.name, each.kind, each.same_as) for each in found.differences] == [
        ("layers.0.bias", "only baseline", "new"),
        ("layers.1.weight", "shape", None),
        ("new", "only candidate", None),
    ]
    assert found.exit_status == 1


def test_a_tensor_that_was_rounded_to_bfloat16_is_recognised(compare):
    rounded = {name: each.bfloat16() if each.is_floating_point() else each for name, each in tensors().items()}
    found = compare(tensors(), rounded)
    assert len(found.differences) == 4 and all(each.figures.narrowed for each in found.differences)
    assert compare(tensors(), rounded, tolerance=Tolerance(2**-8)).word == "within"
    rounded["embed.weight"][0, 0] *= 1.01
    assert not compare(tensors(), rounded).differences[0].figures.narrowed
    widened = {name: each.float() if each.is_floating_point() else each for name, each in rounded.items()}
    assert all(each.figures.different == 0 for each in compare(rounded, widened).differences)


@pytest.mark.parametrize("beginning", ["module.", "state_dict.", "state_dict.model.", "model_state_dict.", "net."])
def test_names_of_a_wrapped_model_are_aligned(compare, beginning):
    wrapped = {f"{beginning}{name}": each for name, each in tensors().items()}
    found = compare(tensors(), wrapped)
    assert (found.word, found.renamed) == ("identical", beginning)


def test_tied_tensors_that_are_stored_once_are_no_difference(compare):
    tied = tensors()
    tied["lm_head.weight"] = tied["embed.weight"]
    found = compare(tied, tensors(), pickled=(True, False))
    assert (only(found).tied_to, found.word) == ("embed.weight", "within")
    untied = {**tensors(), "lm_head.weight": tensors()["embed.weight"]}
    assert only(compare(untied, tensors(), pickled=(True, False))).word == "differ"


def test_optimizer_generators_and_settings_are_compared(compare):
    def content(lr, seed):
        model = torch.nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.fill_(0.5), model.bias.fill_(0.25)
        # As torch.optim.Adam has it; a step of one would import torch._dynamo, for seconds.
        moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 4), "exp_avg_sq": torch.ones(3, 4) * seed}
        group = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "params": [0]}
        optimizer = {"state": {0: moments}, "param_groups": [group]}
        rng = torch.Generator().manual_seed(seed).get_state()
        python, array = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()
        states = {"rng": rng, "python": python, "numpy": array, "epoch": 3, "none": None}
        return {"model": model.state_dict(), "optimizer": optimizer, **states}

    assert compare(content(1e-3, 0), content(1e-3, 0), pickled=(True, True)).word == "identical"
    found = compare(content(1e-3, 0), content(1e-3, 1), pickled=(True, True))
    assert [each.name for each in found.differences if each.name.startswith("optimizer")] == [
        "optimizer.state.0.exp_avg_sq"
    ]
    assert {each.name.partition(".")[0] for each in found.differences} == {"rng", "python", "numpy", "optimizer"}
    found = compare(content(1e-3, 0), content(2e-3, 0), pickled=(True, True))
    assert (only(found).name, only(found).candidate.value) == ("optimizer.param_groups.0.lr", "0.002")


def test_empty_tensors_and_unusual_dtypes(compare):
    content = {
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    content["small"] = torch.tensor([0.5, 1.0]).to(torch.float8_e4m3fn)
    content["complex"] = torch.tensor([1 + 2j, 3 + 4j])
    assert compare(content, {name: each.clone() for name, each in content.items()}).word == "identical"
    planted = {name: each.clone() for name, each in content.items()}
    planted["complex"][1] = 3 + 5j
    planted["flags"][0] = False
    planted["small"] = torch.tensor([0.5, 1.125]).to(torch.float8_e4m3fn)
    found = {each.name: each.figures for each in compare(content, planted).differences}
    assert {name: each.different for name, each in found.items()} == {"flags": 1, "small": 1, "complex": 1}
    assert found["small"].ulp == 1


@pytest.mark.parametrize(
    "name", [name for name, each in DTYPES.items() if each.kind == "float" and "complex" not in name]
)
def test_the_numbers_of_all_bits_are_those_of_torch(name):
    dtype = getattr(torch, name)
    count = 2 ** min(16, 8 * dtype_of(name).size)
    bits = np.arange(count).astype(f"<u{dtype_of(name).size}")
    if dtype_of(name).size > 2:
        bits <<= 8 * dtype_of(name).size - 16
    expected = torch.from_numpy(bits.view(np.uint8).copy()).view(dtype).double().numpy()
    np.testing.assert_array_equal(dtype_of(name).numbers(bits), expected)
    np.testing.assert_array_equal(dtype_of(name).is_nan(bits), np.isnan(expected))


def shards(folder, content):
    """Two shards and their index, as transformers saves them."""
    names = [*content]
    parts = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, part in parts.items():
        save_file({name: content[name] for name in part}, folder / file)
    weights = {name: file for file, part in parts.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}))
    return index


def test_shards_are_read_as_one_checkpoint(tmp_path):
    index = shards(tmp_path, tensors())
    save_file(tensors(), tmp_path.parent / "whole.safetensors")
    whole = read_checkpoint(str(tmp_path.parent / "whole.safetensors"))
    for path in (index, tmp_path):
        assert is_checkpoint(path)
        assert compare_checkpoints(whole, read_checkpoint(str(path)), tolerance=EXACT).word == "identical"
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        Trouble, match=r"names the shard 'model-00002-of-00002.safetensors', which is missing. Copy all"
    ):
        read_checkpoint(str(index))


def test_a_folder_of_the_trainer_has_the_states_beside_the_model(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    torch.save({"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}, tmp_path / "optimizer.pt")
    torch.save(
        {"numpy": np.random.RandomState(0).get_state(), "cpu": torch.get_rng_state()}, tmp_path / "rng_state.pth"
    )
    (tmp_path / "training_args.bin").write_bytes(b"PK\x03\x04")
    found = read_checkpoint(str(tmp_path))
    assert "optimizer.state.0.exp_avg" in found.tensors and "rng_state.numpy.1" in found.tensors
    assert found.values["optimizer.param_groups.0.lr"] == 0.1
    assert found.unread["training_args.bin"].why == "loading it would run code"


class Planted:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self):
        return (exec, ("import builtins; builtins.planted = True",))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    import builtins

    torch.save({"weight": torch.ones(2), "extra": Planted()}, tmp_path / "evil.pt")
    with pytest.raises(
        Trouble, match=r"evil.pt would run code when it is loaded: it holds objects of builtins.exec\. "
    ):
        read_checkpoint(str(tmp_path / "evil.pt"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(Trouble, match=r"it holds objects of .*Linear.*Save a state_dict"):
        read_checkpoint(str(tmp_path / "model.pt"))
    assert not hasattr(builtins, "planted")


def test_old_files_of_torch_save_are_read(tmp_path):
    torch.save(tensors(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    save_file(tensors(), tmp_path / "new.safetensors")
    sides = [read_checkpoint(str(tmp_path / name)) for name in ("old.bin", "new.safetensors")]
    assert compare_checkpoints(*sides, tolerance=EXACT).word == "identical"


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(tensors(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(Trouble, match=r"a.safetensors is damaged: tensor '.*' lies beyond the end of the file"):
        read_checkpoint(str(path))
    path.write_bytes(whole[:8] + b"{" + b"x" * (len(whole) - 9))
    with pytest.raises(Trouble, match="is damaged: its header is not what a safetensors file has"):
        read_checkpoint(str(path))
    torch.save(tensors(), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-400])
    with pytest.raises(Trouble, match=r"a.pt cannot be loaded by torch: "):
        read_checkpoint(str(tmp_path / "a.pt"))
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(Trouble, match=r"pickle.pt is no file of torch.save that holds tensors and plain values only"):
        read_checkpoint(str(tmp_path / "pickle.pt"))
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(Trouble, match=r"empty.pt is empty. A checkpoint is a safetensors file, "):
        read_checkpoint(str(tmp_path / "empty.pt"))


def test_a_distributed_checkpoint_says_how_to_convert_it(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"\x80\x04")
    with pytest.raises(Trouble, match=r"torch.distributed.checkpoint.format_utils dcp_to_torch "):
        read_checkpoint(str(tmp_path))

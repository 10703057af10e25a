"""The benchmark of a fleet finds the devices that it has planted, in a fleet of a few."""

from conftest import command


def test_the_odd_devices_of_a_small_fleet_are_found():
    ended = command("-m", "benchmarks.fleet", "--devices", "24", "--steps", "6")
    assert (ended.status, ended.stderr) == (0, "")
    *_, row = ended.stdout.splitlines()
    assert row.startswith("| 24 | 6 | ") and row.endswith(" MB | cuda@n0#3, cuda@n1#4, cuda@n2#5 |")

"""Threads are the physical cores that we may use, and no more."""

from __future__ import annotations

import os

import pytest

from runtime.engine import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine of folders: CPUs allowed, hyper-thread siblings, files of the cgroup."""

    def make(allowed, siblings=(), cgroup=(), own_group="0::/"):
        monkeypatch.setattr(threads, "CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr(threads, "CPU_TOPOLOGY", tmp_path / "cpu")
        monkeypatch.setattr(threads, "PROC_CGROUP", tmp_path / "self_cgroup")
        write(tmp_path / "self_cgroup", own_group)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed), raising=False)
        for group in siblings:
            for cpu in group:
                write(tmp_path / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list", ",".join(map(str, group)))
        for name, text in dict(cgroup).items():
            write(tmp_path / "cgroup" / name, text)

    return make


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


PAIRS = [(0, 4), (1, 5), (2, 6), (3, 7)]


@pytest.mark.parametrize(
    ("allowed", "siblings", "cgroup", "expected"),
    [
        (range(8), (), {}, 8),  # nothing is known of the topology
        (range(8), PAIRS, {}, 4),
        ([0, 4], PAIRS, {}, 1),
        ([0, 1, 4], PAIRS, {}, 2),
        (range(8), PAIRS, {"cpu.max": "max 100000"}, 4),
        (range(8), PAIRS, {"cpu.max": "200000 100000"}, 2),
        (range(8), PAIRS, {"cpu.max": "250000 100000"}, 2),
        (range(8), PAIRS, {"cpu.max": "50000 100000"}, 1),
        (range(8), PAIRS, {"cpu.max": "1600000 100000"}, 4),
        (range(8), PAIRS, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (range(8), PAIRS, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (range(8), PAIRS, {"cpu.max": "nonsense"}, 4),
        (range(8), PAIRS, {"cpu.max": ""}, 4),
        ([3], (), {"cpu.max": "900000 100000"}, 1),
    ],
)
def test_threads_are_the_least_of_affinity_cores_and_quota(allowed, siblings, cgroup, expected, machine):
    machine(allowed, siblings, cgroup)
    assert threads.default_threads() == expected


@pytest.mark.parametrize(
    ("own_group", "cgroup", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/a/b", {"cpu.max": "200000 100000"}, 2),  # a container that sees its own group as the root
        ("0::/../other", {"cpu.max": "200000 100000"}, 2),
        ("12:cpu:/x\n0::/a", {"a/cpu.max": "100000 0"}, 8),
        ("", {"cpu.max": "100000 100000"}, 1),
    ],
)
def test_the_least_quota_of_the_groups_around_us_counts(own_group, cgroup, expected, machine):
    machine(range(8), (), cgroup, own_group)
    assert threads.default_threads() == expected


def test_a_system_without_affinity_counts_its_cpus(machine, monkeypatch):
    machine(range(8))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert threads.default_threads() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.default_threads() == 1


def test_this_machine_has_at_least_one():
    assert 1 <= threads.default_threads() <= (os.cpu_count() or 1)

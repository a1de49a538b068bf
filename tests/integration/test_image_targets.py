"""Disks of guests that come into images, which the target makes itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import Mode
from storage.errors import QemuRefusal
from tests.support.dom0 import (
    BLOCK,
    MIB,
    QUIET,
    Dom0,
    allocated,
    digest,
    image,
    overwrite,
    problems,
    sent,
    the_problem,
    unique,
)
from tests.support.journals import query
from tests.support.qemu import content, make_image, only_with_qemu
from tests.support.served import QEMU_NAMES, SIZE, Serve, gone, held, quit_qemu, seen, serve_again
from tests.support.volumes import run
from xenmoved.jobs.report import JobState, Phase
from xenmoved.sandbox.harness import wait_until

pytestmark = [pytest.mark.long, only_with_qemu]

Hosts = tuple[Dom0, Dom0]


def info(path: Path, kind: str = "qcow2") -> str:
    return run("qemu-img", "info", "-f", QEMU_NAMES[kind], path)


def whole(path: Path, kind: str = "qcow2") -> bytes:
    """Return the content of an image that stands alone, and is in order."""
    if kind == "qcow2":
        run("qemu-img", "check", "-q", "-f", kind, path)
    assert "backing file" not in info(path, kind)
    assert path.stat().st_mode & 0o777 == 0o600
    return content(path, QEMU_NAMES[kind])


def tools(host: Dom0) -> list[int]:
    """Return the processes that serve images to a daemon."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if words.startswith(b"qemu-nbd\0") and os.fsencode(host.folder) in words:
                found.append(int(folder.name))
    return found


def disk_of(host: Dom0, name: str) -> tuple[str, str]:
    """Return the format and the path of the one disk that a guest has."""
    domain = host.domain(name)
    assert domain is not None
    (disk,) = domain.config["disks"]
    return disk["format"], disk["pdev_path"]


def spec_in(host: Dom0, name: str) -> str:
    (line,) = [
        one
        for one in (host.guest_configs / f"{name}.cfg").read_text().splitlines()
        if one.startswith("disk")
    ]
    return line


def booted(host: Dom0, *, spec: str = "file:{},xvda,w") -> tuple[str, Path]:
    """Start a guest with a raw disk of a sparse file."""
    name = unique("web")
    disk = image(host.images / name, 16, data=2, start=3)
    host.boot(name, [disk], specs=[spec.format(disk)], extra=QUIET)
    return name, disk


def off(host: Dom0, disk: Path, kind: str, spec: str = "{},{},xvda,w") -> str:
    """Configure a guest that is off, with this disk."""
    name = disk.name.partition(".")[0]
    text = spec.format(disk, kind)
    (host.guest_configs / f"{name}.cfg").write_text(
        f"name = '{name}'\nmemory = 2\ndisk = ['{text}']\n"
    )
    return name


@pytest.mark.parametrize("spec", ["file:{},xvda,w", pytest.param("format=raw,vdev=xvda,target={}")])
def test_a_pool_makes_images(hosts: Hosts, spec: str) -> None:
    """And the way back is into the raw volume, by differences."""
    a, b = hosts
    name, disk = booted(a, spec=spec)
    plan = a.plan(name, pool="qcow2")
    assert not plan.problems
    assert plan.volumes[0].target == f"qcow2:{name}.qcow2"
    assert "will be qcow2" in next(one.text for one in plan.warnings if one.code == "converted")
    a.migrate(name, pool="qcow2")
    there = b.pools["qcow2"] / f"{name}.qcow2"
    assert whole(there) == disk.read_bytes()
    assert allocated(there) < 4 * MIB
    assert disk_of(b, name) == ("qcow2", str(there))
    assert "qcow2" in spec_in(b, name)
    assert str(there) in spec_in(b, name)
    assert tools(b) == []
    b.assert_runs(name)
    # The way back, of content that its QEMU reads.
    emulator = serve_again(b, name, there, "qcow2")
    emulator.write("hd0", 9 * MIB, 4096, fill=4)
    back = b.migrate(name, "host-a", mode=Mode.LIVE, pool="images")
    assert [(one.target, one.fresh) for one in back.volumes] == [(f"images:{name}", False)]
    assert sent(back) == BLOCK
    assert disk.read_bytes() == seen(emulator, "qcow2")
    assert disk_of(a, name) == ("raw", str(disk))


@pytest.mark.parametrize(
    ("kind", "cluster"),
    [("qcow2", 4096), pytest.param("vhd", None, marks=pytest.mark.thorough)],
)
def test_a_name_chooses_an_image(
    hosts: Hosts, serve: Serve, kind: str, cluster: int | None
) -> None:
    """With the clusters of the source, where it has any."""
    a, b = hosts
    guest, disk, emulator = serve("qcow2", "-o", f"cluster_size={cluster or 65536}")
    wish = f"new-{guest.name}.{kind}"
    job = held(a, guest, Mode.LIVE, volumes={disk.name: wish})
    emulator.write("hd0", 9 * MIB + 512, 102400, fill=2)
    emulator.io("hd0", f"write -z {3 * MIB} {1 * MIB}")
    a.ctl("cutover", guest.name)
    report = a.finish(job.job)
    assert report.state is JobState.DONE, report.problem
    there = b.images / wish
    assert disk_of(b, guest.name) == (kind, str(there))
    assert f"format={kind}" in spec_in(b, guest.name)
    if cluster is not None:
        assert f"cluster_size: {cluster}" in info(there)
    assert whole(there, kind) == seen(emulator, "qcow2")
    assert allocated(there) < 8 * MIB
    b.assert_runs(guest.name)


def test_a_name_that_ends_with_raw_is_raw_in_any_pool(hosts: Hosts) -> None:
    a, b = hosts
    name, disk = booted(a)
    a.migrate(name, pool="qcow2", volumes={name: f"{name}.raw"})
    there = b.pools["qcow2"] / f"{name}.raw"
    assert there.read_bytes() == disk.read_bytes()
    assert disk_of(b, name) == ("raw", str(there))


def test_an_image_goes_to_a_new_file_of_a_folder(hosts: Hosts) -> None:
    a, b = hosts
    name, _ = booted(a)
    there = b.images / f"{name}.qcow2"
    there.write_bytes(b"somebody's")
    for overwriting in (False, True):
        options: dict[str, Any] = {"volumes": {name: there.name}, "overwrite": overwriting}
        found = the_problem(a.try_migrate(name, **options), "volume-exists")
        assert "--volume" in found.hint
    found = problems(a.try_migrate(name, pool="devices", volumes={name: "disk.qcow2"}))
    assert "has no files" in next(one.text for one in found if one.code == "pool")
    assert there.read_bytes() == b"somebody's"
    assert tools(b) == []


def test_a_target_without_room_for_it_is_told(hosts: Hosts) -> None:
    a, b = hosts
    name = unique("web")
    disk = image(a.pools["thin"] / name, 4, data=1)
    os.truncate(disk, (0xFF000000 + 1) * 512)
    a.boot(name, [disk], extra=QUIET)
    codes = {one.code for one in problems(a.try_migrate(name, volumes={name: f"{name}.vhd"}))}
    assert codes == {"volume-too-large"}
    codes = {one.code for one in problems(a.try_migrate(name, pool="qcow2"))}
    assert codes == {"pool-full"}
    assert b.pools["qcow2"].exists()


@pytest.mark.parametrize(
    ("kind", "wish", "becomes"),
    [
        ("raw", "{}.qcow2", "qcow2"),
        ("qcow2", "{}.vhd", "vhd"),
        pytest.param("qcow2", "{}.raw", "raw", marks=pytest.mark.thorough),
        pytest.param("vhd", "{}.qcow2", "qcow2", marks=pytest.mark.thorough),
    ],
)
def test_a_guest_that_is_off_is_converted(hosts: Hosts, kind: str, wish: str, becomes: str) -> None:
    """And comes back into what it left, by differences."""
    a, b = hosts
    name = unique("web")
    disk = make_image(a.images / f"{name}.{kind}", QEMU_NAMES[kind], SIZE)
    run("qemu-io", "-f", QEMU_NAMES[kind], "-c", f"write -P 5 {MIB} {MIB}", disk)
    off(a, disk, kind)
    before = content(disk, QEMU_NAMES[kind])
    there = b.images / wish.format(name)
    plan = a.plan(name, mode=Mode.COLD, volumes={disk.name: there.name})
    assert not plan.problems
    assert "converted" in [one.code for one in plan.warnings]
    a.migrate(name, mode=Mode.COLD, volumes={disk.name: there.name})
    arrived = whole(there, becomes) if becomes != "raw" else there.read_bytes()
    assert arrived == before
    assert f"{there},{becomes},xvda,w" in spec_in(b, name)
    assert tools(a) == tools(b) == []
    run("qemu-io", "-f", QEMU_NAMES[becomes], "-c", f"write -P 6 {8 * MIB} {BLOCK}", there)
    back = b.migrate(name, "host-a", mode=Mode.COLD, volumes={there.name: disk.name})
    assert [(one.target, one.fresh) for one in back.volumes] == [(f"images:{disk.name}", False)]
    assert sent(back) == BLOCK
    assert content(disk, QEMU_NAMES[kind]) == content(there, QEMU_NAMES[becomes])
    assert f"{disk},{kind},xvda,w" in spec_in(a, name)


def test_a_pool_converts_raw_disks_of_guests_that_are_off_and_leaves_images(hosts: Hosts) -> None:
    a, b = hosts
    plain = image(a.images / unique("web"), 4, data=1)
    name = off(a, plain, "raw")
    a.migrate(name, mode=Mode.COLD, pool="qcow2")
    assert whole(b.pools["qcow2"] / f"{name}.qcow2") == plain.read_bytes()
    other = make_image(a.images / f"{unique('web')}.vhd", "vpc", SIZE)
    name = off(a, other, "vhd")
    a.migrate(name, mode=Mode.COLD, pool="qcow2")
    assert digest(b.pools["qcow2"] / other.name) == digest(other)


def on_its_way(
    a: Dom0, b: Dom0, serve: Serve, *, back: bool
) -> tuple[Any, Path, Callable[[], None], Dom0, Dom0]:
    """Have a guest with an image all but moved: from a new image, or back into the one it left."""
    guest, disk, emulator = serve("qcow2")
    if not back:
        held(a, guest, Mode.LIVE, volumes={disk.name: disk.name})
        return guest, b.images / disk.name, lambda: assert_untouched(emulator), a, b
    a.migrate(guest.name, mode=Mode.SAVE)
    gone(emulator)
    overwrite(b.images / guest.name, [3])
    held(b, guest, Mode.SAVE, peer="host-a")
    return guest, disk, lambda: None, b, a


def assert_untouched(emulator: Any) -> None:
    emulator.write("hd0", 0, 4096)
    wait_until(lambda: not emulator.left(), "all that was added to QEMU is removed")


def written_of(host: Dom0, image_file: Path) -> list[tuple[Any, ...]]:
    return query(host, "SELECT written FROM owners WHERE name=?", image_file.name)


@pytest.mark.sampled
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("who", ["source", "target", "tool"])
def test_whoever_is_killed_the_guest_runs_on_and_nothing_is_left(
    hosts: Hosts, serve: Serve, who: str, back: bool
) -> None:
    """An image that was half filled on the way back is not known, and not used."""
    a, b = hosts
    guest, there, untouched, source, target = on_its_way(a, b, serve, back=back)
    (tool,) = tools(target)
    if who == "tool":
        os.kill(tool, signal.SIGKILL)
        source.ctl("cutover", guest.name)
        report = source.finish(source.last_of(guest.name).job)
        assert report.state is JobState.FAILED
        assert report.problem is not None
        assert there.name in report.problem.text
    else:
        host = source if who == "source" else target
        host.stop(signal.SIGKILL)
        if who == "target":
            wait_until(lambda: not tools(target), "the tool ends with its daemon")
        host.start()
    wait_until(lambda: not tools(target), "the tool ends")
    source.assert_runs(guest.name)
    assert target.domain(guest.name) is None
    untouched()
    if not back:
        wait_until(lambda: not there.exists(), "the image is removed")
        return
    if who == "source":  # what the target has is known: it saw the end
        return
    assert written_of(target, there) == [(None,)]
    target.settle()
    source.settle()
    plan = source.plan(guest.name, target.name)
    assert [one.target for one in plan.volumes] == [f"images:{guest.name}"]


@pytest.mark.thorough
def test_what_broke_off_is_gone_on_with(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, there, _, source, target = on_its_way(a, b, serve, back=True)
    source.stop(signal.SIGKILL)
    wait_until(lambda: not tools(target), "the tool ends")
    source.start()
    wait_until(lambda: written_of(target, there) != [(None,)], "it is noted")
    source.settle()
    report = source.migrate(guest.name, target.name)
    assert [(one.target, one.fresh) for one in report.volumes] == [(f"images:{there.name}", False)]
    assert sent(report) == 0
    assert content(there, "qcow2") == (b.images / guest.name).read_bytes()


def test_a_connection_to_qemu_that_breaks_ends_the_job(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, disk, emulator = serve("qcow2")
    held(a, guest, Mode.LIVE, volumes={disk.name: disk.name})
    for export in emulator.execute("query-block-exports"):
        with suppress(QemuRefusal):  # those of what was written come and go
            emulator.execute("block-export-del", id=export["id"], mode="hard")
    emulator.write("hd0", 9 * MIB, 4096)
    a.ctl("cutover", guest.name)
    report = a.finish(a.last_of(guest.name).job)
    assert report.state is JobState.FAILED
    a.assert_runs(guest.name)
    assert emulator.left() == []
    assert tools(b) == []
    assert not (b.images / disk.name).exists()


@pytest.mark.slow
def test_a_tool_that_freezes_ends_the_job_in_time(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, disk, emulator = serve("qcow2")
    held(a, guest, Mode.LIVE, volumes={disk.name: disk.name})
    (tool,) = tools(b)
    os.kill(tool, signal.SIGSTOP)
    emulator.write("hd0", 9 * MIB, 4096)
    a.ctl("cutover", guest.name)
    report = a.finish(a.last_of(guest.name).job)
    assert report.state is JobState.FAILED
    assert report.problem is not None
    assert "did not answer in time" in report.problem.text
    a.assert_runs(guest.name)
    wait_until(lambda: not tools(b), "the tool is ended", 60)
    wait_until(lambda: not (b.images / disk.name).exists(), "the image is removed", 60)
    assert emulator.left() == []
    quit_qemu(emulator)


def test_who_else_opens_the_image_meanwhile_is_seen(hosts: Hosts, serve: Serve) -> None:
    a, b = hosts
    guest, disk, _ = serve("qcow2")
    job = held(a, guest, Mode.LIVE, volumes={disk.name: disk.name})
    (b.images / disk.name).open("r+b").close()
    a.ctl("cutover", guest.name)
    report = a.finish(job.job)
    assert report.state is JobState.FAILED
    assert report.problem is not None
    assert "open for writing in another program" in report.problem.text
    a.assert_runs(guest.name)
    assert report.phase is not Phase.COMMIT

"""One command at a time: on a folder and at an address, between threads, processes and machines that are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from object_storage import BUCKET, object_storage, server_program
from places import ROOT
from small_disk import SmallDisk, on_small_disks, wait_until

from mmcore.errors import UsageError
from mmcore.training.run_log import read_rows
from rayjobs import predict, train
from rayjobs.preparing.datasets import alone_at
from rayjobs.storage import lease as module
from rayjobs.storage.lease import EXPIRES_S, Lease, LeaseLostError, holding, lease_of_file, lease_of_folder, place_at
from rayjobs.storage.object_store import connect

HOLDER = """
import sys, time
from rayjobs.storage.lease import holding
with holding(sys.argv[1], "it"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def location(tmp_path: Path) -> str:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    return lease_of_folder(str(folder))


def claims(location: str) -> list[Path]:
    return sorted(Path(location).glob("*.json"))


def of_another_machine(location: str, age_s: float = 0.0) -> Path:
    """Leaves the claim of a command on another machine, renewed so long ago."""
    with holding(location, "it"):
        (path,) = claims(location)
        claim = json.loads(path.read_text()) | {
            "machine": "another",
            "host": "node-7",
            "pid": 4242,
            "command": "tune x",
        }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(claim))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_it_is_held_and_given_back(location: str) -> None:
    with holding(location, "it"):
        (path,) = claims(location)
        claim = json.loads(path.read_text())
        assert (claim["pid"], claim["held"]) == (os.getpid(), True)
        with pytest.raises(UsageError, match=rf"^it is in use by .* \(process {os.getpid()} on .*, since 20"):
            Lease(place_at(location), "it").acquire()
        assert claims(location) == [path]
    assert claims(location) == []
    with holding(location, "it"):
        pass


def one_of_many_gets_it(location: str, number: int) -> None:
    barrier = threading.Barrier(number)
    held: list[Lease] = []
    refused: list[Lease] = []

    def come() -> None:
        lease = Lease(place_at(location), "it")
        barrier.wait()
        try:
            lease.acquire()
        except UsageError:
            refused.append(lease)
        else:
            held.append(lease)

    threads = [threading.Thread(target=come) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, number - 1)
    held[0].release()


def test_of_many_that_come_at_once_one_gets_it(location: str) -> None:
    for _ in range(10):
        one_of_many_gets_it(location, 8)
        assert claims(location) == []


def test_a_killed_process_of_this_machine_holds_nothing(location: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, location], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"process {process.pid} on"):
            Lease(place_at(location), "it").acquire()
    finally:
        process.kill()
        process.wait()
    assert len(claims(location)) == 1
    with holding(location, "it"):
        assert len(claims(location)) == 1


def test_another_machines_holds_until_it_expires(location: str) -> None:
    path = of_another_machine(location, age_s=EXPIRES_S - 20)
    with pytest.raises(UsageError) as caught:
        Lease(place_at(location), "it").acquire()
    message = str(caught.value)
    assert "it is in use by tune x (process 4242 on node-7, since 20" in message
    assert "seen 40 s ago" in message or "seen 41 s ago" in message
    assert "it is free 60 s after it was seen last" in message
    os.utime(path, (time.time() - EXPIRES_S - 5,) * 2)
    with holding(location, "it"):
        assert not path.exists()


def test_a_claim_that_cannot_be_read_counts_until_it_expires(location: str) -> None:
    path = of_another_machine(location)
    path.write_text("[]")
    with pytest.raises(UsageError, match="in use by another release"):
        Lease(place_at(location), "it").acquire()
    os.utime(path, (time.time() - EXPIRES_S - 5,) * 2)
    with holding(location, "it"):
        pass


def test_a_sign_of_life_keeps_it(location: str) -> None:
    lease = Lease(place_at(location), "it")
    lease.acquire()
    (path,) = claims(location)
    os.utime(path, (time.time() - 50,) * 2)
    assert lease.renew()
    assert time.time() - path.stat().st_mtime < 5
    lease.release()
    assert not lease.renew()  # it was taken away


def test_who_stood_still_has_lost_it_to_another_and_to_nobody_else(location: str) -> None:
    lease = Lease(place_at(location), "it")
    lease.acquire()
    lease._renewed -= EXPIRES_S + 1
    assert lease.renew()
    of_another = of_another_machine_beside(location)
    assert lease.renew()  # in time: the other one must go
    lease._renewed -= EXPIRES_S + 1
    assert not lease.renew()
    of_another.unlink()


def of_another_machine_beside(location: str) -> Path:
    (own,) = claims(location)
    path = own.with_name("99991231T000000-other.json")
    path.write_text(json.dumps(json.loads(own.read_text()) | {"machine": "another"}))
    return path


def test_a_block_that_lost_it_ends_as_by_ctrl_c_with_a_message(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.05)
    # As every verb does: a process that was started in the background, as pytest's own are, ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = []

    def work() -> None:
        with holding(location, "it"):
            try:
                claims(location)[0].unlink()
                time.sleep(20)
            except KeyboardInterrupt:
                interrupted.append(True)
                raise

    try:
        with pytest.raises(LeaseLostError, match="it was taken over by another command"):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted


def signs_of_life_on_bad_disks(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 2**20)
    (disk.path / "mine").mkdir()
    lease = Lease(place_at(lease_of_folder(str(disk.path / "mine"))), "it")
    lease.acquire()
    disk.fill()
    assert lease.renew()
    disk.free()
    disk.take_away()
    assert lease.renew()  # nobody else can have taken it: its disk is away
    disk.bring_back()
    disk.make_read_only()
    assert module._renewed(lease)
    disk.make_writable()
    assert lease.renew()


def test_a_full_or_absent_disk_takes_it_from_nobody(tmp_path: Path) -> None:
    on_small_disks(signs_of_life_on_bad_disks, tmp_path)


@pytest.mark.skipif(server_program() is None, reason="no moto_server: `make test` makes an environment that has it")
def test_on_object_storage_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_storage(tmp_path) as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        connect.cache_clear()
        location = lease_of_folder(f"s3://{BUCKET}/prefix/mine")
        place = place_at(location)
        with holding(location, "it"):
            ((name, content),) = storage.read_all().items()
            with pytest.raises(UsageError, match="it is in use by"):
                Lease(place, "it").acquire()
            first = place.ages()
            time.sleep(1.1)  # times there are whole seconds
            assert place.renew(Path(name).name, content)
            assert place.ages()[Path(name).name] > first[Path(name).name]
        assert storage.read_all() == {}
        assert not place.renew(Path(name).name, content)
        assert storage.read_all() == {}
        for _ in range(3):
            one_of_many_gets_it(location, 4)
        place.write("20200101T000000-other.json", json.dumps(json.loads(content) | {"machine": "another"}).encode())
        with pytest.raises(UsageError, match="it is in use by"):
            Lease(place, "it").acquire()
        time.sleep(2.1)
        late = Lease(place, "it", expires_s=1)
        late.acquire()
        late.release()
        assert storage.read_all() == {}
    connect.cache_clear()


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])  # type: ignore[attr-defined]


def test_a_second_train_is_refused_and_goes_on_when_the_first_was_killed(tmp_path: Path) -> None:
    arguments = ["--method", "joint", "--max-epochs", "8", "--data-dir", str(tmp_path / "data"), "--output",
                 str(tmp_path / "results"), "--name", "run"]  # fmt: skip
    first = subprocess.Popen([sys.executable, "-m", "rayjobs.train", *arguments], cwd=ROOT, stderr=subprocess.PIPE)
    run_dir = tmp_path / "results" / "run" / "seed-0"
    try:
        wait_until(lambda: bool(read_rows(run_dir)) or first.poll() is not None, "the first epoch")
        first.send_signal(signal.SIGSTOP)  # so that it cannot end meanwhile
        second = run(train, *arguments, "--resume")
        assert second.exit_code == 2
        assert "run is in use by python -m rayjobs.train --method joint" in second.stderr.replace("\n", " ")
        assert f"(process {first.pid} on" in second.stderr
    finally:
        first.kill()
        first.wait()
    epochs = len(read_rows(run_dir))
    config = json.loads((run_dir / "config.json").read_text())
    assert epochs < config["trainer"]["max_epochs"]
    third = run(train, *arguments, "--resume", "--json")
    assert third.exit_code == 0, third.output
    assert not (tmp_path / "results" / "run" / ".lease").exists()


def test_a_second_prepare_waits_and_says_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "digits"
    ended = threading.Event()

    def first() -> None:
        with holding(lease_of_file(target), target):
            ended.wait(1.0)

    thread = threading.Thread(target=first)
    thread.start()
    wait_until(lambda: bool(claims(lease_of_file(target))), "the first")
    with alone_at(target):
        assert not thread.is_alive() or ended.wait(0.5)
    thread.join()
    assert f"{target} is in use by" in caplog.text
    assert "waiting for it" in caplog.text


def test_two_predictions_do_not_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcore.predictor.read_state", lambda path: {})
    out = tmp_path / "p.parquet"
    with holding(lease_of_file(out), out):
        refused = run(predict, "--checkpoint", tmp_path, "--data", tmp_path, "--out", out)
    assert refused.exit_code == 2
    assert "p.parquet is in use by" in refused.stderr.replace("\n", "")

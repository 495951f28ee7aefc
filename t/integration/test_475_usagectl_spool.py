# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""usagectl spool on directories as a dead child, a full disk, a power cut or a
stranger may leave them. Files are made from docs/journal.md, and what is read
of them is held against a second reader, made from that page as well."""
import csv
import ctypes
import fcntl
import io
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time

import pytest

import spool_reader
from processes import REPO, new_dir
from spool_files import DELIVERED, NOW, ORG, SENT, SpoolFiles

USAGECTL = os.environ.get("USAGECTL", str(REPO / "usagectl"))
OTHER = "99999999-5566-4788-99aa-bbccddeeff00"


@pytest.fixture
def tmp_path():
    return new_dir("spool")


@pytest.fixture
def files(tmp_path):
    return SpoolFiles(tmp_path)


def ctl(*args, **kw):
    kw.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run([USAGECTL, "spool", *map(str, args)],
                          stderr=subprocess.PIPE, timeout=60, **kw)
    done.stderr = done.stderr.decode()
    if done.stdout is not None:
        done.stdout = done.stdout.decode()
    assert done.returncode in (0, 1, 2), done.stderr
    return done


def ls(directory, status=0):
    done = ctl("ls", directory, "--format", "json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def dump(directory, *args, status=0):
    done = ctl("dump", directory, *args)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def verify(directory):
    """Its findings; and its exit status is right."""
    done = ctl("verify", directory)
    found = done.stdout.splitlines()
    assert done.returncode == (1 if found else 0)
    assert f": {len(found)} faults\n" in done.stderr
    return found


def usual(files):
    """An account and slots in all states, of which three wait."""
    slots = files.first("/v1/charge", number=5, phase=SENT)
    slots += files.first("/" + "x" * 300, ref=len(slots) + 1, complete=False)
    slots += files.first("/é\"€\\", ref=len(slots) + 1, method="PROPFIND",
                         number=2, partition=7, phase=SENT, in_file=True,
                         status=500, billable=False)
    slots += files.first("/done", ref=len(slots) + 1, state=0, number=4,
                         phase=DELIVERED)
    files.account(lanes={0: (5, 3, 0), 7: (2, 0, 1)}, lost=4,
                  losses=[(0, 497222, 3), (1, 497222, 1, OTHER, 7, 1, 1)])
    return files.segment(slots)


def damage(path, at, data=None):
    """Turn over a byte, or write some."""
    with open(path, "r+b") as f:
        f.seek(at)
        old = f.read(1)
        f.seek(at)
        f.write(data if data is not None else bytes([old[0] ^ 0xff]))


def slot_at(n):
    return 4096 + 192 * (n - 1)


# --- wrong use ---------------------------------------------------------------

@pytest.mark.parametrize("args, says", [
    (["ls"], "DIR is missing"),
    (["dump"], "DIR|FILE is missing"),
    (["verify"], "DIR is missing"),
    (["ls", "a", "b"], "an argument too many"),
    (["ls", "--all", "a"], "no option --all"),
    (["verify", "--format", "json", "a"], "no option --format"),
    (["dump", "--all=1", "a"], "--all takes no value"),
    (["look", "a"], "no such command"),
    ([], "usagectl spool ls DIR"),
])
def test_wrong_use_is_told(args, says):
    done = ctl(*args)
    assert done.returncode == 2 and says in done.stderr
    assert done.stdout == ""


def test_unknown_format_is_wrong_use(tmp_path):
    done = ctl("ls", tmp_path, "--format", "xml")
    assert done.returncode == 2
    assert "--format must be table, json or csv" in done.stderr


@pytest.mark.parametrize("verb", ["ls", "dump", "verify"])
def test_help_is_there(verb):
    done = ctl(verb, "--help")
    assert done.returncode == 0 and f"usagectl spool {verb} DIR" in done.stdout


@pytest.mark.parametrize("verb", ["ls", "dump", "verify"])
def test_directory_that_is_not_there_is_named(verb, tmp_path):
    done = ctl(verb, tmp_path / "none")
    assert done.returncode == 1 and done.stdout == ""
    assert f"usagectl spool {verb}: {tmp_path}/none can't be read: " \
           "No such file" in done.stderr


@pytest.mark.parametrize("verb", ["ls", "verify"])
def test_file_is_no_directory(verb, files):
    done = ctl(verb, usual(files))
    assert done.returncode == 1 and "Not a directory" in done.stderr


def without_privileges():
    """Not even root may read all, then (capabilities(7))."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


@pytest.mark.parametrize("verb", ["ls", "dump", "verify"])
def test_directory_that_may_not_be_read_is_named(verb, tmp_path):
    (tmp_path / "d").mkdir(mode=0)
    done = ctl(verb, tmp_path / "d", preexec_fn=without_privileges)
    assert done.returncode == 1 and "Permission denied" in done.stderr


@pytest.mark.parametrize("verb", ["ls", "dump"])
def test_output_that_cannot_be_written_is_told(verb, files):
    usual(files)
    with open("/dev/full", "wb") as full:
        done = ctl(verb, files.dir, stdout=full)
    assert done.returncode == 1 and "can't be written" in done.stderr


# --- what is good ------------------------------------------------------------

def test_empty_directory_is_good(tmp_path):
    assert ls(tmp_path) == [] and dump(tmp_path) == [] == verify(tmp_path)
    (tmp_path / "httpd.lock").touch()
    (tmp_path / f"{'ab' * 16}.stream.tmp").touch()  # being made
    assert ls(tmp_path) == [] and dump(tmp_path) == [] == verify(tmp_path)


def test_dump_is_what_a_second_reader_reads(files):
    usual(files)
    lines = dump(files.dir)
    assert lines == spool_reader.dump(files.dir)
    assert [line["state"] for line in lines] == ["complete", "admitted",
                                                 "complete"]
    assert [line["slot"] for line in lines] == [1, 2, 5]
    assert lines[1]["event"]["endpoint"] == "/" + "x" * 300
    assert lines[1]["event"]["status_code"] == 0
    everything = dump(files.dir, "--all")
    assert everything == spool_reader.dump(files.dir, all=True)
    assert [line["state"] for line in everything][3] == "delivered"


def test_dump_of_one_file_finds_text_in_the_others(files):
    long = files.first("/" + "y" * 300, ref=64)
    empty = [bytes(192)] * 63
    files.account()
    first = files.segment(empty + long[:1], n=1, first=1)
    files.segment(long[1:], n=2, first=65)
    [line] = dump(first)
    assert line["event"]["endpoint"] == "/" + "y" * 300
    assert dump(files.dir) == [line] == spool_reader.dump(files.dir)
    assert verify(files.dir) == []
    copy = files.write("a copy", first.read_bytes())
    assert dump(copy) == [{**line, "file": "a copy"}]


def test_dump_of_an_account_is_wrong_use(files):
    done = ctl("dump", files.account())
    assert done.returncode == 2 and "usagectl spool ls shows it" in done.stderr


def test_ls_adds_up_and_tells_losses(files):
    usual(files)
    [row] = ls(files.dir)
    assert row["id"] == files.id and row["topic"] == "usage-events"
    assert (row["host"], row["pid"], row["state"]) == ("gateway-1", 4711,
                                                       "open")
    assert row["held_by"] is None and row["note"] == "nobody holds it"
    assert (row["files"], row["slots"]) == (2, 64)
    assert row["bytes"] == sum(p.stat().st_size for p in files.dir.iterdir())
    # 5 given in partition 0, of which one waits; 2 in 7: one waits, one lost
    assert (row["waiting"], row["delivered"], row["lost"]) == (3, 4, 4)
    assert row["admitted"] == 3 + 4 + 4
    assert row["record"]["partitions"] == {
        "0": {"sent": 5, "delivered": 4}, "7": {"sent": 2, "delivered": 0}}
    assert [(x["cause"], x["count"]) for x in row["losses"]] == [
        ("overflow", 3), ("rejected", 1)]
    assert row["losses"][1]["sequences"] == {"7": [[1, 1]]}
    assert row["watermark"] == spool_reader.time_text(NOW)


def test_ls_has_three_formats(files):
    usual(files)
    [row] = csv.DictReader(io.StringIO(
        ctl("ls", files.dir, "--format=csv").stdout))
    assert row["id"] == files.id and row["admitted"] == "11"
    table = ctl("ls", files.dir).stdout.splitlines()
    assert table[0].split()[:2] == ["STREAM", "TOPIC"] and table[2] == ""
    assert table[3].split() == ["STREAM", "HOUR", "ORGANIZATION", "CAUSE",
                                "LOST"]
    assert table[4].split() == [files.id, "2026-09-21T14:00:00Z", ORG,
                                "overflow", "3"]


def test_ls_says_who_holds_a_stream(files):
    usual(files)
    script = ("import fcntl, sys, time\n"
              "f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX)\n"
              "print('', flush=True); sys.stdin.read()")
    holder = subprocess.Popen(
        [sys.executable, "-c", script, files.dir / f"{files.id}.stream"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        [row] = ls(files.dir)
        assert row["held_by"] == holder.pid and row["note"] is None
        assert verify(files.dir) == []
        # and the lock is its own still
        with open(files.dir / f"{files.id}.stream", "r+b") as f, \
                pytest.raises(BlockingIOError):
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        holder.communicate()


def test_streams_of_another_boot_and_unclean_ones_are_told(tmp_path):
    before = SpoolFiles(tmp_path, boot=b"b" * 16)
    before.account(lanes={0: (1, 1, 0)})
    # the account is older than the slots: no fault, after a power cut
    before.segment(before.first("/a", number=900, phase=SENT))
    unclean = SpoolFiles(tmp_path, stream=b"u" * 16)
    unclean.account(state=3)
    rows = {row["id"]: row for row in ls(tmp_path)}
    assert rows[before.id]["note"] == "another boot, nobody holds it"
    assert rows[before.id]["waiting"] == 1
    assert rows[unclean.id]["state"] == "unclean"
    assert verify(tmp_path) == []


def test_nothing_is_written(files):
    usual(files)
    (files.dir / "x.tmp").write_text("old")
    os.utime(files.dir / "x.tmp", (1, 1))

    def all_of():
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns,
                         p.stat().st_ctime_ns)
                for p in files.dir.iterdir()}
    before, was = all_of(), files.dir.stat().st_mtime_ns
    for verb in ("ls", "dump", "verify"):
        ctl(verb, files.dir)
    assert all_of() == before and files.dir.stat().st_mtime_ns == was


# --- what is damaged ---------------------------------------------------------

@pytest.mark.parametrize("at, which", [(100, "first"), (4096 + 100, "second")])
def test_one_copy_of_an_identity_will_do(files, at, which):
    usual(files)
    path = files.dir / f"{files.id}.stream"
    damage(path, at)
    assert ls(files.dir)[0]["admitted"] == 11
    assert verify(files.dir) == [
        f"{path.name}: the {which} copy of its identity is damaged"]


def test_account_without_identity_is_damaged(files):
    usual(files)
    path = files.dir / f"{files.id}.stream"
    damage(path, 100)
    damage(path, 4096 + 2000)
    [row] = ls(files.dir)
    assert (row["state"], row["topic"]) == ("damaged", None)
    assert row["waiting"] == 3 and row["record"] is None
    assert verify(files.dir) == [
        f"{path.name}: both copies of its identity are damaged"]


@pytest.mark.parametrize("at, which", [(30, "first"), (2048 + 30, "second")])
def test_one_copy_of_a_head_will_do(files, at, which):
    path = usual(files)
    before = dump(files.dir)
    damage(path, at)
    assert dump(files.dir) == before == spool_reader.dump(files.dir)
    assert verify(files.dir) == [
        f"{path.name}: the {which} copy of its head is damaged"]


def test_segment_without_a_head_is_told(files):
    path = usual(files)
    damage(path, 30)
    damage(path, 2048 + 30)
    assert dump(files.dir, status=1) == []
    assert ls(files.dir)[0]["note"] == "nobody holds it, 1 damaged segments"
    assert verify(files.dir) == [
        f"{path.name}: both copies of its head are damaged"]


def test_segment_without_an_account_is_a_row_and_a_fault(files):
    path = files.segment(files.first("/a"))
    [row] = ls(files.dir)
    assert (row["state"], row["note"], row["waiting"]) == (
        "orphaned", "no account", 1)
    assert verify(files.dir) == [f"{path.name}: its stream has no account"]


def test_torn_slots_are_told_and_those_behind_are_read(files):
    path = usual(files)
    damage(path, slot_at(1) + 30)  # the request's id
    damage(path, slot_at(4) + 20)  # the end of a text
    lines = dump(files.dir)
    assert lines == spool_reader.dump(files.dir)
    assert [(line["slot"], line["state"]) for line in lines] == [
        (1, "torn"), (2, "torn"), (5, "complete")]
    assert lines[0]["event"] is None and "organization_id" not in lines[0]
    assert lines[1]["event"] is None and lines[1]["organization_id"] == ORG
    [row] = ls(files.dir)
    assert row["waiting"] == 3 and row["torn"] == 2
    assert verify(files.dir) == [
        f"{path.name}: slot 1 is torn",
        f"{path.name}: slot 2 is torn: the rest of its text is not behind "
        "its link"]


def test_completion_that_is_lost_leaves_an_interrupted_request(files):
    path = usual(files)
    damage(path, slot_at(1) + 10, (201).to_bytes(2, sys.byteorder))
    [line, *_] = dump(files.dir)
    assert line["state"] == "admitted" and line["sent"]
    assert (line["event"]["status_code"], line["event"]["billable"]) == (
        0, False)
    assert verify(files.dir) == []


def test_faults_of_numbers_are_found(files):
    slots = [files.first("/a", number=5, phase=SENT),
             files.first("/b", number=5, phase=SENT),
             files.first("/c", number=5, partition=1, phase=SENT),
             files.first("/d", number=8, partition=1, phase=SENT),
             files.first("/e", number=1, partition=4096, phase=SENT),
             files.first("/f", number=5, state=0, phase=DELIVERED)]
    files.account(lanes={0: (5, 4, 0), 1: (6, 5, 0)})
    path = files.segment([slot for one in slots for slot in one])
    assert verify(files.dir) == [
        f"{path.name}: slot 5 was sent to partition 4096",
        f"{path.name}: slot 2 has number 5 of partition 0, as slot 1 of "
        f"{path.name} has",
        f"{path.name}: slot 4 has number 8 of partition 1, of which the "
        "account has given 6"]


def test_files_that_do_not_belong_together_are_found(files):
    files.account(stream=b"q" * 16)
    one = files.segment(files.first("/a"), n=1)
    two = files.segment(files.first("/b"), n=2, first=64)
    three = files.segment(files.first("/c"), n=3, first=128, target=b"t" * 16)
    assert verify(files.dir) == [
        f"{files.id}.stream: it is another stream than its name says",
        f"{three.name}: its events go elsewhere than those of its stream",
        f"{two.name}: its slots have the refs of those of {one.name}"]


def test_holes_are_found(files):
    usual(files)
    hole = files.dir / f"{files.id}.0002.slots"
    with open(hole, "wb") as f:
        data = files.segment_bytes([bytes(192)] * 6400, first=65)
        f.write(data[:4096])
        f.truncate(len(data))
    [found] = verify(files.dir)
    assert found.startswith(f"{hole.name}: it has holes: ")


def test_strange_files_are_found(files):
    usual(files)
    old = files.dir / f"{'ab' * 16}.stream.tmp"
    old.touch()
    os.utime(old, (time.time() - 120,) * 2)
    (files.dir / "notes.txt").touch()
    (files.dir / "a\nb\x1b[31m").touch()
    (files.dir / f"{'AB' * 16}.stream").touch()
    (files.dir / f"{'cd' * 16}.stream").mkdir()
    (files.dir / f"{'ce' * 16}.stream").symlink_to(f"{files.id}.stream")
    os.mkfifo(files.dir / f"{'cf' * 16}.0001.slots")
    none = "it is none of a spool's files"
    assert sorted(verify(files.dir)) == sorted([
        f"{old.name}: it was never finished; the next child that starts "
        "removes it",
        f"notes.txt: {none}", f"a?b?[31m: {none}",
        f"{'AB' * 16}.stream: {none}", f"{'cd' * 16}.stream: {none}",
        f"{'ce' * 16}.stream: {none}", f"{'cf' * 16}.0001.slots: {none}"])
    assert len(ls(files.dir)) == 1
    assert len(dump(files.dir)) == 3


@pytest.mark.parametrize("kind", ["fifo", "dir", "link"])
def test_dump_opens_no_file_of_another_kind(files, kind):
    path = files.dir / "x.slots"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(usual(files))
    else:
        path = files.dir / "none" / "x.slots"
    done = ctl("dump", path)
    assert done.returncode == 1 and "can't be read" in done.stderr


def test_a_file_cut_anywhere_is_read_as_far_as_it_goes(files):
    path = usual(files)
    account = files.dir / f"{files.id}.stream"
    whole = {p: p.read_bytes() for p in (path, account)}
    for p, data in whole.items():
        for size in {0, 1, 7, 95, 96, 2047, 2144, 4095, 4096, 4097, 4288,
                     4300, 4864, 6752, 8192, 8264, 12288, len(data) - 1}:
            p.write_bytes(data[:size])
            status = 1 if p == path and size < 96 else 0
            assert dump(files.dir, status=status) == \
                spool_reader.dump(files.dir)
            assert len(ls(files.dir)) == 1
            assert any(f.startswith(p.name) for f in verify(files.dir))
        p.write_bytes(data)


def test_garbage_is_never_an_event(files):
    rng = random.Random(7)
    usual(files)
    events = [line["event"] for line in dump(files.dir, "--all")]
    for i in range(20):
        stream = rng.randbytes(16).hex()
        data = rng.randbytes(rng.choice([0, 100, 5000, 20000]))
        (files.dir / f"{stream}.stream").write_bytes(data)
        (files.dir / f"{stream}.0001.slots").write_bytes(data)
    rows = ls(files.dir)
    assert len(rows) == 21
    assert {row["state"] for row in rows} == {"open", "damaged"}
    assert [line["event"] for line in dump(files.dir, "--all", status=1)] \
        == events
    assert len(verify(files.dir)) >= 40


def test_damage_anywhere_makes_no_other_event(files):
    """Two readers agree on it, too."""
    rng = random.Random(8)
    path = usual(files)
    whole = path.read_bytes()
    good = {line["slot"]: line for line in dump(files.dir, "--all")}
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 50])):
            at = 4096 + rng.randrange(192 * 7)
            n = rng.choice([1, 1, 4, 64, 512])
            data[at:at + n] = rng.choice([bytes(n), rng.randbytes(n)])
        path.write_bytes(data[:len(whole)])
        lines = dump(files.dir, "--all")
        assert lines == spool_reader.dump(files.dir, all=True)
        for line in lines:
            event = line["event"]
            if event and event["status_code"]:
                assert event == good[line["slot"]]["event"]
            elif event:
                assert event["organization_id"] == ORG


def test_files_that_come_and_go_are_no_fault(tmp_path):
    """Beside a living httpd: streams end, segments are renamed, others come."""
    stop = threading.Event()
    made = []
    for i in range(8):
        files = SpoolFiles(tmp_path, stream=bytes([i]) * 16)
        made.append((files, files.account_bytes(), files.segment_bytes(
            files.first("/a") + files.first("/" + "x" * 200, ref=2))))

    def live():
        n = 0
        while not stop.is_set():
            files, account, segment = made[n % len(made)]
            names = [f"{files.id}.stream", f"{files.id}.0001.slots",
                     f"{files.id}.0002.slots"]
            for name, data in zip(names, (account, segment)):
                files.write(name + ".tmp", data)
                os.rename(tmp_path / (name + ".tmp"), tmp_path / name)
            os.rename(tmp_path / names[1], tmp_path / names[2])
            os.unlink(tmp_path / names[2])
            os.unlink(tmp_path / names[0])
            n += 1
    thread = threading.Thread(target=live)
    thread.start()
    try:
        for _ in range(40):
            for verb in ("ls", "dump", "verify"):
                done = ctl(verb, tmp_path)
                assert done.returncode == 0, done.stdout + done.stderr
    finally:
        stop.set()
        thread.join()
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


def test_a_file_that_may_not_be_read_is_named_and_the_rest_is_told(files):
    path = usual(files)
    extra = files.segment(files.first("/b"), n=2, first=65)
    extra.chmod(0)
    done = ctl("dump", files.dir, preexec_fn=without_privileges)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3
    assert f"{extra.name} can't be read: Permission denied" in done.stderr
    done = ctl("ls", files.dir, preexec_fn=without_privileges)
    assert done.returncode == 1 and files.id in done.stdout
    done = ctl("verify", files.dir, preexec_fn=without_privileges)
    assert done.returncode == 1
    assert f"{extra.name}: it can't be read: Permission" in done.stdout
    assert path.name not in done.stdout

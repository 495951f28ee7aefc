# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Spools that are full, small, read-only, gone, foreign, damaged: no child
dies, what has no room is counted or refused, and all goes on by itself when the
directory is well again."""
import collections
import os
import shutil
import subprocess
import time

import pytest

from harness import poll
from kafka_helpers import (Load, caught_up, lines, lost_by_organization, parse)
from processes import need, tool
from spool_helpers import (check_metrics, check_sums, emptied, give_away,
                           kill_tree, lost_in_ledger, make_spool, read_events,
                           size_of, spool_ls, with_spool)

FAULTS = bool(os.environ.get("UE_FAULTS"))
#: Many slots an event.
LONG = "/" + "x" * 1900


@pytest.fixture
def disks():
    """Makes a directory a file system, by default one in memory; taken away at
    the end."""
    mounted = []

    def mount(path, options, kind="tmpfs", what="ue-test"):
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", kind, "-o", options, str(what),
                               str(path)], capture_output=True, text=True)
        need(done.returncode == 0, f"mount: {done.stderr}")
        mounted.append(path)
        path.chmod(0o700)
        return give_away(path)
    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", "-l", str(path)])


def remount(path, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)


@pytest.fixture
def spooled(kafka_far, gateway):
    """spooled(**kw): a gateway with a spool that is still to be made."""
    def make(**kw):
        topic = kafka_far.topic()
        gw = gateway(**with_spool(kafka_far, topic, **kw))
        gw.topic, gw.spool = topic, gw.dir / "spool"
        return gw
    return make


def check_losses(gw, kafka, load):
    """Of each organization, what was answered is in Kafka or a loss, by all
    accounts: the clients', usage-status', the ledger's."""
    gw.settled(30)
    status = gw.status()
    stored = read_events(kafka, gw.topic, [load],
                         lost=sum(lost_by_organization(status).values()))
    assert set(gw.lost(status["metrics"])) <= {"overflow"}
    there = {s.event["request_id"] for s in stored}
    missing = collections.Counter({
        org: sum(i not in there for i in ids)
        for org, ids in load.ids.items()})
    assert +missing == lost_by_organization(status)
    m = check_metrics(gw, stored, lost=missing.total())
    gw.stop()
    _, losses = check_sums(kafka, gw.topic, stored, lost=missing.total())
    assert lost_in_ledger(losses) == +missing
    return missing.total(), m


def overfill(gw, kafka, load):
    """Drop more than there is room for; it goes on when Kafka is back."""
    gw.start()
    with load:
        load.wait(100)
        caught_up(gw)
        kafka.proxy("stall")
        poll(lambda: gw.lost().get("overflow", 0) > 500 or load.wrong, 40,
             every=0.1, what="events are dropped")
        children = gw.children()
        kafka.proxy("pass")
        caught_up(gw)
        before = sum(gw.lost().values())
        load.run(1)
    assert sum(gw.lost().values()) == before, "there is room again"
    assert gw.children() == children, "a child died"


def test_a_full_disk(spooled, disks, kafka_far):
    gw = spooled(children=2)
    disks(gw.spool, "size=8m")
    load = Load(gw, rate=1500, pad=lambda n: LONG)
    overfill(gw, kafka_far, load)
    lost, _ = check_losses(gw, kafka_far, load)
    assert lost > 500
    said = lines(gw, "UE0601")
    assert said and len(said) <= 4 and str(gw.spool) in said[0]
    assert "No space left on device" in said[0]


def test_max(spooled, kafka_far):
    gw = spooled(children=1, most="2m")
    make_spool(gw)
    load = Load(gw, pad=lambda n: LONG)
    overfill(gw, kafka_far, load)
    assert size_of(gw.spool, ".slots") <= 2 << 20
    lost, m = check_losses(gw, kafka_far, load)
    assert lost > 500 and m["usage_spool_max_bytes"] == 2 << 20
    assert "UE0601" in gw.error_log()


@pytest.mark.parametrize("where", ["disk", "max"])
def test_refuse(spooled, disks, kafka_far, backend, where):
    """Nothing is asked of the backend that could not be recorded."""
    gw = spooled(children=1, most="2m" if where == "max" else None,
                 conf=f"UsageOverflow refuse\nProxyPass /local/any/ "
                      f"{backend.url}/any/\n")
    if where == "max":
        make_spool(gw)
    else:
        disks(gw.spool, "size=3m")
    load = Load(gw, pad=lambda n: LONG, may_refuse=True)
    gw.start()
    with load:
        load.wait(100)
        kafka_far.proxy("stall")
        poll(lambda: load.refused.total() > 500, 40, what="503")
        kafka_far.proxy("pass")
        caught_up(gw)
        refused = load.refused.total()
        load.run(1)
        assert load.refused.total() == refused, "there is room again"
    caught_up(gw)
    stored = read_events(kafka_far, gw.topic, [load])
    m = check_metrics(gw, stored)
    assert m["usage_requests_total"]["unavailable"] == load.refused.total()
    asked = [r["id"] for r in backend.requests()]
    assert sorted(asked) == sorted(s.event["request_id"] for s in stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)


# --- read-only, gone ----------------------------------------------------------

def nothing_lost(gw, load):
    """Is nothing lost for a second?"""
    before = sum(gw.lost().values())
    load.run(1)
    return sum(gw.lost().values()) == before


def test_read_only_at_the_start(spooled, disks, kafka_far):
    """httpd starts, says it, and records without slots; as soon as it may
    write, it does."""
    gw = spooled(children=2)
    disks(gw.spool, "size=16m")
    remount(gw.spool, "ro")
    load = Load(gw)
    assert gw.configtest()[0] == 0
    gw.start()
    assert "Read-only file system" in gw.wait_log("UE0007")[0]
    with load:
        load.run(1)
        assert gw.wait_log("UE0601")
        assert gw.lost()["overflow"] > 50
        remount(gw.spool, "rw")
        poll(lambda: nothing_lost(gw, load), 10, what="all have slots")
    lost, m = check_losses(gw, kafka_far, load)
    assert lost < load.answered() - 200


def test_read_only_while_it_runs(spooled, disks, kafka_far):
    """Another, read-only directory comes to lie over the spool: what there are
    slots for goes on, more there are not; beneath, nothing is hurt."""
    gw = spooled(children=2)
    disks(gw.spool, "size=8m")
    load = Load(gw)
    gw.start()
    with load:
        load.run(0.5)
        cover = disks(gw.spool, "size=1m")
        remount(cover, "ro")
        load.run(2)
        subprocess.run(["umount", "-l", str(cover)], check=True)
        load.run(2)
    caught_up(gw)
    stored = read_events(kafka_far, gw.topic, [load])
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)
    assert "UE0605" not in gw.error_log()


@pytest.fixture
def real_disk(disks, tmp_path):
    """Makes a directory an ext4 of its own."""
    def mount(path):
        image = tmp_path / "image"
        with open(image, "wb") as f:
            f.truncate(32 << 20)
        subprocess.run([tool("mkfs.ext4"), "-q", image], check=True)
        return disks(path, "loop", "ext4", image)
    return mount


def disk_errors(spooled, real_disk, kafka_far):
    """The kernel finds the file system damaged, and makes it read-only under
    our feet: slots are memory still, and nothing is lost while children live.
    """
    gw = spooled(children=2)
    real_disk(gw.spool)
    load = Load(gw)
    gw.start()
    children = gw.children()
    with load:
        load.run(1)
        remount(gw.spool, "abort")
        load.run(3)
    caught_up(gw)
    assert gw.children() == children
    assert "Read-only file system" in lines(gw, "UE0604")[0]
    stored = read_events(kafka_far, gw.topic, [load])
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)


if FAULTS:  # needs loop devices
    def test_a_disk_with_errors(spooled, real_disk, kafka_far):
        disk_errors(spooled, real_disk, kafka_far)


def test_removed_while_it_runs(spooled, kafka_far):
    """What is in slots goes on; a new directory is taken up, and what waits
    there at the end is sent at the next start."""
    gw = spooled(children=2, conf="UsageKafkaDrainTimeout 500ms\n")
    make_spool(gw)
    load = Load(gw, rate=1000, pad=lambda n: LONG)
    gw.start()
    with load:
        load.run(0.5)
        shutil.rmtree(gw.spool)
        load.run(1)
        caught_up(gw)
        children = gw.children()
        kafka_far.proxy("stall")
        load.wait(3000)
        assert "UE0601" in gw.error_log(), "it can't grow"
        make_spool(gw)
        load.run(1.5)
        kafka_far.proxy("pass")
        caught_up(gw)
        load.run(0.5)
    assert gw.children() == children
    check_losses(gw, kafka_far, load)


def test_what_configtest_says_of_a_directory(spooled):
    gw = spooled()
    rc, output = gw.configtest()
    assert rc and "UsageSpool" in output and str(gw.spool) in output
    assert "mode 0700" in output
    gw.spool.write_text("")
    rc, output = gw.configtest()
    assert rc and "is no directory" in output and str(gw.spool) in output
    gw.spool.unlink()
    need(os.geteuid() == 0, "httpd's children are of another user only as root")
    gw.spool.mkdir(mode=0o700)
    rc, output = gw.configtest()
    assert rc and str(gw.spool) in output and "chown" in output
    assert "www-data" in output
    give_away(gw.spool)
    assert gw.configtest()[0] == 0
    assert list(gw.spool.iterdir()) == [], "configtest leaves nothing behind"


def test_missing_at_the_start(spooled):
    gw = spooled()
    with pytest.raises(AssertionError, match="did not start"):
        gw.start()
    assert "UsageSpool" in gw.error_log() + gw.logs()


# --- not ours -----------------------------------------------------------------

def test_the_directory_of_another_httpd(spooled, kafka_far, gateway):
    gw = spooled(children=2)
    make_spool(gw)
    load = Load(gw)
    gw.start()
    second = gateway(**with_spool(kafka_far, gw.topic, children=2))
    second.server_conf = second.server_conf.replace("{dir}/spool",
                                                    str(gw.spool))
    with load:
        load.run(0.5)
        assert second.configtest()[0] == 0, "configtest may run beside httpd"
        with pytest.raises(AssertionError, match="did not start"):
            second.start()
        log = second.error_log() + second.logs()
        assert "UE0006" in log and str(gw.proc.pid) in log, log
        load.run(0.5)
        gw.graceful()
        load.wait(200)
    caught_up(gw)
    stored = read_events(kafka_far, gw.topic, [load])
    check_metrics(gw, stored)
    gw.stop()
    second.start()  # now it is free
    second.stop()
    check_sums(kafka_far, gw.topic, stored)


def rubbish(spool, streams):
    """Files of a killed httpd, and what may become of such. Returns those that
    must be left as they are."""
    def put(name, data, size=None):
        path = spool / name
        path.write_bytes(data)
        if size:
            os.truncate(path, size)
        give_away(path)
        return path

    stream = (spool / f"{streams[0]}.stream").read_bytes()
    slots = (spool / f"{streams[0]}.0001.slots").read_bytes()
    noise = os.urandom(300_000)
    kept = [put("README", b"what is this"),
            put("0" * 32 + ".stream", noise),
            put("1" * 32 + ".stream", b""),
            put("2" * 32 + ".stream", b"", len(stream)),
            put("3" * 32 + ".stream", stream[:100]),
            put("4" * 32 + ".0001.slots", noise),
            put("5" * 32 + ".0001.slots", slots[:100]),
            put("x" * 32 + ".stream", stream)]
    (spool / ("6" * 32 + ".stream")).mkdir()
    (spool / ("7" * 32 + ".stream")).symlink_to("/etc/passwd")
    os.mkfifo(spool / ("8" * 32 + ".stream"))
    # Of a good stream, segments that are noise, empty, holes.
    kept += [put(f"{streams[1]}.0002.slots", noise),
             put(f"{streams[1]}.0003.slots", b""),
             put(f"{streams[1]}.0004.slots", b"", len(slots))]
    return kept


def test_rubbish(spooled, kafka_far):
    """It is left where it is, and said; what is good is sent."""
    gw = spooled(children=3)
    make_spool(gw)
    load = Load(gw)
    gw.start()
    with load:
        load.run(0.5)
        caught_up(gw)
        # A stream with a damaged segment is unclean, and gives new numbers:
        # nothing of it may be on its way.
        kafka_far.proxy("refuse")
        load.run(1)
        kill_tree(gw)
    kept = rubbish(gw.spool, [s["id"] for s in spool_ls(gw.spool)])
    before = {p: p.read_bytes() for p in kept}
    gw.start()
    kafka_far.proxy("pass")
    after = Load(gw, keys=load.keys)
    with after:
        after.run(2)
    caught_up(gw)
    stored = read_events(kafka_far, gw.topic, [load, after])
    assert len(stored) > 300
    for path, data in before.items():
        assert path.exists() and path.read_bytes() == data, path
    text = "".join(lines(gw, "UE0605"))
    assert "damaged" in text and len(lines(gw, "UE0605")) < 20
    gw.stop()
    assert (gw.spool / ("7" * 32 + ".stream")).is_symlink()


def test_cut_files(spooled, kafka_far):
    """Segments and accounts that are too short: the rest of them is sent, and
    nobody dies by SIGBUS. Their streams are unclean; what was in the piece that
    is gone, nobody knows."""
    gw = spooled(children=2)
    make_spool(gw)
    load = Load(gw)
    kafka_far.proxy("stall")
    gw.start()
    with load:
        load.run(1)
        kill_tree(gw)
    first, second = [s["id"] for s in spool_ls(gw.spool)]
    left = {s["id"]: s["waiting"] for s in spool_ls(gw.spool)}
    assert left[first] > 50 and left[second] > 50
    # The slots in use are the first ones; of one stream half of them remain,
    # of the other one its slots, but not all of its account.
    os.truncate(gw.spool / f"{first}.0001.slots",
                4096 + 192 * (left[first] // 2) + 100)
    os.truncate(gw.spool / f"{second}.stream", 9000)
    gw.start()
    kafka_far.proxy("pass")
    caught_up(gw)
    stored = parse(kafka_far.read(gw.topic))
    ids = [s.event["request_id"] for s in stored]
    assert len(set(ids)) == len(ids)
    assert left[second] + left[first] // 2 - 2 <= len(ids) \
        <= left[second] + left[first] // 2 + 2
    assert len(lines(gw, "UE0606")) == 2
    gw.stop()


# --- after an outage ----------------------------------------------------------

def test_the_backlog_drains_beside_live_events(spooled, kafka_far):
    gw = spooled()
    make_spool(gw)
    load = Load(gw, rate=500)
    gw.start()

    def rate(until, what):
        """Answers a second while something goes on."""
        begin, n = time.monotonic(), load.answered()
        poll(until, 30, every=0.1, what=what)
        return (load.answered() - n) / (time.monotonic() - begin)

    def fresh_ones_arrive():
        m = gw.metrics()
        return m["usage_events_waiting"] < 500
    with load:
        load.run(1)
        kafka_far.proxy("stall")
        load.run(0.5)
        away = time.monotonic() + 5
        during = rate(lambda: time.monotonic() > away, "the outage")
        backlog = gw.metrics()["usage_events_waiting"]
        kafka_far.proxy("pass")
        back = rate(fresh_ones_arrive, "the backlog is gone")
    print(f"{backlog} waited; answers a second: {during:.0f} in the outage, "
          f"{back:.0f} while they were sent")
    assert backlog > 2000 and min(during, back) > 400
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka_far, gw.topic, [load])
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka_far, gw.topic, stored)

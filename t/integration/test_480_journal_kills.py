# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Children killed at full load, with a spool: what was answered is an event,
what was open is an interrupted one, each under one number, and the ledger says
the same as Kafka.

make test-faults kills more of them.
"""
import os

import pytest

from kafka_helpers import Load, caught_up, lines
from spool_helpers import (HELD_CONF, Held, check_metrics, check_sums, emptied,
                           interrupted, kill, make_spool, read_events,
                           with_spool)

FAULTS = bool(os.environ.get("UE_FAULTS"))
#: How often children are killed, and how many processes there are.
KILLS = {"event": (50 if FAULTS else 10, 4), "worker": (20 if FAULTS else 3, 3),
         "prefork": (20 if FAULTS else 4, 20)}


@pytest.fixture
def killed(kafka, gateway, odd, mpm):
    """A gateway that is ready for kills: (gateway, load, open requests)."""
    topic = kafka.topic()
    gw = gateway(mpm=mpm, **with_spool(
        kafka, topic, children=KILLS[mpm][1], backend=odd, conf=HELD_CONF))
    gw.topic, gw.spool = topic, make_spool(gw)
    small = mpm == "prefork"
    load = Load(gw, organizations=6 if small else 20, rate=None, connection=50)
    held = Held(gw, gw.add_key()[0], each=2 if small else 4)
    return gw.start(), load, held


def finish(gw, odd, kafka, load, held):
    """What is open at the end comes to its end, and all is counted."""
    odd.stop()
    caught_up(gw)
    emptied(gw.spool)
    stored = read_events(kafka, gw.topic, [load], held)
    check_metrics(gw, stored)
    gw.stop()
    check_sums(kafka, gw.topic, stored)
    return stored


def test_kills_at_full_load(killed, kafka, odd, mpm):
    gw, load, held = killed
    kills = KILLS[mpm][0]
    with load, held:
        load.run(1)  # open ones are old enough to be known
        for kind in held.PATHS:
            kill(gw, dead=[held.child(kind)])
            load.run(0.5)
        for n in range(kills - 3):
            kill(gw, 2 if n % 4 == 3 else 1)
            load.wait(300)
            load.run(0.3)
        load.wait(300)
    stored = finish(gw, odd, kafka, load, held)
    dead = kills + (kills - 3) // 4
    print(f"{dead} killed, {load.answered()} answers, {len(held.cut)} open, "
          f"{interrupted(stored)} interrupted")
    assert len(lines(gw, "UE0602")) >= dead
    assert set(held.cut.values()) == set(held.PATHS), held.cut
    assert "UE0605" not in gw.error_log() and "UE0601" not in gw.error_log()

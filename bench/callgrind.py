# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Instructions a request costs httpd's process, counted by callgrind. What a
run costs beside its requests is left out by measuring two of them with
different numbers of requests: the difference, divided by the difference in
requests."""
import collections
import pathlib
import re

FEW, MANY = 500, 2000
# From request to event: key, decision, request id, slot; completion, queue.
HOT_PATH = ("ue_hook_post_read_request", "ue_hook_log_transaction")
KINDS = ("request", "worker", "librdkafka", "keys")
# Flavours whose events can be counted.
COUNTED = ("usage", "limit", "kafka", "spool", "database")


def totals(pattern):
    """Instructions by kind of thread."""
    found = collections.Counter()
    for path in pathlib.Path(pattern.parent).glob(pattern.name + "*"):
        text = path.read_text(errors="replace")
        hit = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
        kind = "request"
        if re.search(r"^c?fn=.*\bue_producer_work\b", text, re.M):
            kind = "worker"
        elif re.search(r"^c?fn=.*\b(watch_stores|keep_synced|watch_cluster|"
                       r"ue_producer_keep_spool)\b", text, re.M):
            kind = "watch"
        elif re.search(r"^c?fn=.*\bPQconsumeInput\b", text, re.M):
            kind = "keys"  # the thread of the connection to PostgreSQL
        elif re.search(r"^c?ob=.*/librdkafka\.so", text, re.M):
            kind = "librdkafka"  # its own threads
        found[kind] += int(hit.group(1)) if hit else 0
        path.unlink()
    return found


def measure(bench, flavour, requests, functions=()):
    out = bench.dir / f"callgrind-{flavour}-{requests}"
    with bench.start(flavour, one_process=True, before=[
            "valgrind", "--tool=callgrind", "--separate-threads=yes",
            f"--callgrind-out-file={out}",
            *(f"--toggle-collect={f}" for f in functions)]) as (port, _):
        bench.settled()
        bench.load(port, requests, 1)
    if flavour in COUNTED and bench.stored != requests:
        raise SystemExit(f"bench: {bench.stored} events of {requests}")
    return totals(out)


def slope(bench, flavour, functions=()):
    """Instructions a request, by kind of thread."""
    few = measure(bench, flavour, FEW, functions)
    many = measure(bench, flavour, MANY, functions)
    return {kind: (many[kind] - few[kind]) / (MANY - FEW) for kind in KINDS}


def hot(bench, flavour):
    """The same of the request threads, from key to queue."""
    found = slope(bench, flavour, HOT_PATH)["request"]
    if found < 100:
        raise SystemExit("bench: the functions of the hot path were not met")
    return found

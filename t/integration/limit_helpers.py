# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""What the tests of rate limits share: what an answer says of its limits, and
whether a number of requests was within a rate.

    [org] = limits(answer)              # a Limit each; [] where none is told
    assert org == Limit("org", 100, 1, 49, 1)
    seconds = is_over(answer, "org")    # our 429, byte for byte
    with gw.conn(source="127.0.0.2") as c: …    # as another client

A rate of /h whose bucket has room for all of a test is the way to see what was
charged: nothing comes back while it runs.
"""
import collections
import re

from trap_helpers import is_problem, our_id

LOCAL = "/local/hello.txt"
FIELDS = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit",
          "X-RateLimit-Remaining", "X-RateLimit-Reset")

#: by, so many requests, in so many seconds, left, seconds until it is full
Limit = collections.namedtuple("Limit", "by count window left reset")

DETAILS = {
    "key": "The API key is over its rate limit. Try again later, as "
           "Retry-After says.",
    "org": "The organization is over its rate limit. Try again later, as "
           "Retry-After says.",
    "ip": "This address is over its rate limit. Try again later, as "
          "Retry-After says."}


def items(text, names):
    """A list of draft-ietf-httpapi-ratelimit-headers as we write it."""
    found = []
    for item in text.split(", "):
        m = re.fullmatch(r'"(key|org|ip)";%s=(0|[1-9]\d*);%s=(0|[1-9]\d*)'
                         % names, item)
        assert m, text
        found.append((m[1], int(m[2]), int(m[3])))
    return found


def limits(answer):
    """What an answer says of its limits: each field once, or none of them."""
    values = [answer.header(name) for name in FIELDS]
    if values == [None] * len(FIELDS):
        return []
    assert None not in values, answer
    policy, left = items(values[0], ("q", "w")), items(values[1], ("r", "t"))
    assert [p[0] for p in policy] == [x[0] for x in left], answer
    told = [Limit(*p, *x[1:]) for p, x in zip(policy, left)]
    least = min(told, key=lambda limit: limit.left)  # the first of several
    assert values[2:] == [str(least.count), str(least.left),
                          str(least.reset)], answer
    return told


def left(answer):
    """What is left of the only limit."""
    [limit] = limits(answer)
    return limit.left


def is_over(answer, by, head=False):
    """Is it our answer to who is over a limit? Returns Retry-After."""
    if head:
        assert (answer.status, answer.body) == (429, b""), answer
    else:
        is_problem(answer, 429, "rate-limit")
        assert answer.body.decode() == (
            '{"type":"urn:usage-events:problem:rate-limit",'
            '"title":"Too many requests","status":429,'
            f'"detail":"{DETAILS[by]}",'
            f'"instance":"urn:uuid:{our_id(answer)}"}}')
        assert answer.header("Content-Length") == str(len(answer.body))
    assert answer.header("Content-Type") == "application/problem+json"
    assert answer.header("Cache-Control") == "no-store"
    assert answer.header("WWW-Authenticate") is None
    retry = answer.header("Retry-After")
    assert re.fullmatch(r"[1-9]\d*", retry or ""), answer
    told = limits(answer)
    assert [x for x in told if x.by == by and x.left == 0], told
    return int(retry)


def counted(gw):
    """Decisions that were made, without the zeros and what is exempt."""
    total = gw.metrics()["usage_requests_total"]
    return {k: n for k, n in total.items() if n and k != "exempt"}


def over(gw):
    """Requests over a limit, by whose it is, without the zeros."""
    return {k: n for k, n in gw.metrics()["usage_limit_over_total"].items()
            if n}


# --- rates --------------------------------------------------------------------

#: Of each request: when it began, how long it took, and what came of it.
LOG = ('CustomLog {dir}/all.log "%{usec}t %D %s" '
       '"expr=%{REQUEST_URI} == \'/local/hello.txt\'"\n')


def logged(gw):
    """Requests for LOCAL, in the order in which they began: (begin, end,
    status). In between a request was let in, or wasn't."""
    lines = (gw.dir / "all.log").read_text().rpartition("\n")[0].split("\n")
    rows = [[int(x) for x in line.split()] for line in lines]
    return sorted((begin / 1e6, (begin + took) / 1e6, status)
                  for begin, took, status in rows)


def never_over(seen, rate, burst):
    """In no window of time were more let in than burst and the rate allow:
    those that began and ended within it were let in within it."""
    spans = [(begin, end) for begin, end, status in seen if status == 200]
    step = max(1, len(spans) // 200)
    for i in range(0, len(spans), step):
        start = spans[i][0]
        for n, end in enumerate(sorted(end for _, end in spans[i:]), 1):
            most = burst + rate * (end - start)
            assert n <= most, f"{n} in {end - start} s, of {most}"


def exactly(seen, rate, burst):
    """How many of these an exact GCRA, which knows no children, lets in."""
    let_in, tat = 0, 0
    for begin, _, _ in seen:
        if max(tat, begin) + 1 / rate <= begin + burst / rate + 1e-9:
            tat = max(tat, begin) + 1 / rate
            let_in += 1
    return let_in

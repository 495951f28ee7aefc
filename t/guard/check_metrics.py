# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docs/metrics.md against the table of numbers in src/metrics.c and the names
that src/metrics.h and src/status.c add to it."""
import re

TABLE = "src/metrics.c"
OTHERS = ("src/metrics.h", "src/status.c")
PAGE = "docs/metrics.md"
TYPES = {"UE_COUNTER": "counter", "UE_GAUGE": "gauge",
         "UE_GAUGE_MAX": "gauge",
         "UE_GAUGE_HIGHEST": "gauge"}


def defines(code):
    """Object-like macros of one line, as the table uses them."""
    return dict(re.findall(r"^#define (\w+) +((?:\"|UE_).*)$", code, re.M))


def expand(code, macros):
    return re.sub(r"\b[A-Z_]+\b",
                  lambda m: macros.get(m.group(), m.group()), code)


def rows(code):
    """(name, type, label, value) of every row of the table."""
    found = re.search(r"ue_metric_info\[UE_METRICS\] = \{(.*?)^\};", code,
                      re.M | re.S)
    if not found:
        return []
    text = expand(found.group(1), defines(code))
    return re.findall(
        r'\] = \{\s*"(\w+)",\s*(\w+),\s*(?:NULL|"([\w-]*)"),'
        r'\s*(?:NULL|"([\w-]*)"),', text)


def described(page):
    """(name, type, label, value) of every row of the page's tables."""
    found = []
    for name, kind, labels in re.findall(
            r"^\| `(usage_\w+)` \| (\w+) \| (.*?) \|", page, re.M):
        label = re.match(r"`(\w+)`: (.*)", labels)
        if not label:
            found.append((name, kind, "", ""))
            continue
        for value in re.findall(r"`([\w-]+)`", label.group(2)):
            found.append((name, kind, label.group(1), value))
    return found


def check(tree):
    code = tree.read(TABLE)
    page = described(tree.read(PAGE))
    table = [(name, TYPES.get(kind, kind), label, value)
             for name, kind, label, value in rows(code)]
    enum = re.findall(r"^\s+UE_M_\w+,", tree.read("src/metrics.h"), re.M)
    faults = []
    if len(table) != len(enum):
        faults.append(f"{TABLE}: {len(table)} rows read for {len(enum)} "
                      "numbers")
    names = {row[0] for row in table}
    more = set()
    for path in OTHERS:
        for literal in re.findall(r'"([^"\n]*)"', tree.read(path)):
            more |= set(re.findall(r"\busage_[a-z_]+[a-z]\b", literal))
    more.discard("usage_events")  # the module's own name
    for row in sorted(set(table) - set(page)):
        faults.append(f"{PAGE} lacks {row}")
    for row in sorted(set(page) - set(table)):
        if row[0] in names or row[0] not in more:
            faults.append(f"no code has {row}, which {PAGE} describes")
    for name in sorted(more - {row[0] for row in page}):
        faults.append(f"{PAGE} lacks {name}")
    for row in sorted({r for r in page if page.count(r) > 1}):
        faults.append(f"{PAGE} describes {row} twice")
    for name, kind, _, _ in table:
        if (kind == "counter") != name.endswith("_total"):
            faults.append(f"{TABLE}: {name}: _total is for counters")
    return faults


GOOD = {
    TABLE: '''
#define LOST "usage_events_lost_total", UE_COUNTER, "cause"
#define LOST_HELP "Lost events."

const ue_metric_info_t ue_metric_info[UE_METRICS] = {
    [UE_M_EVENTS_ADMITTED] = {"usage_events_admitted_total", UE_COUNTER, NULL,
                              NULL,
                              "Requests let "
                              "through."},
    [UE_M_LOST_A] = {LOST, "overflow", LOST_HELP},
    [UE_M_LOST_B] = {LOST, "torn", LOST_HELP},
};
''',
    "src/metrics.h": '''
typedef enum {
    UE_M_EVENTS_ADMITTED,
    UE_M_LOST_A,
    UE_M_LOST_B, /* last */
    UE_METRICS
} ue_metric_t;
#define UE_LATENCY_NAME "usage_events_delivery_seconds"
''',
    "src/status.c": 'gauge(r, "usage_events_waiting", "Help", 1);\n',
    PAGE: '''
| name | type | labels | meaning |
|---|---|---|---|
| `usage_events_admitted_total` | counter | | Requests. |
| `usage_events_delivery_seconds` | histogram | `le` | Latency. |
| `usage_events_lost_total` | counter | `cause`: `overflow`, `torn` | Lost. |
| `usage_events_waiting` | gauge | | Waiting. |
'''.replace("| |", "|  |")}

MUTATIONS = [
    (TABLE, '"overflow"', '"full"', "'full'"),
    (TABLE, '"overflow"', '"full"', "'overflow'"),
    (TABLE, "UE_COUNTER, NULL", "UE_GAUGE, NULL", "_total is for"),
    (TABLE, "UE_COUNTER, NULL", "UE_GAUGE, NULL", "'gauge'"),
    (TABLE, "usage_events_admitted_total", "usage_admitted_total",
     "lacks ('usage_admitted_total'"),
    (TABLE, '    [UE_M_LOST_B] = {LOST, "torn", LOST_HELP},\n', "",
     "2 rows read for 3"),
    ("src/metrics.h", "usage_events_delivery_seconds", "usage_delivery",
     "lacks usage_delivery"),
    ("src/status.c", "usage_events_waiting", "usage_waiting",
     "no code has ('usage_events_waiting'"),
    ("src/status.c", "usage_events_waiting", "usage_waiting",
     "lacks usage_waiting"),
    (PAGE, "`overflow`, ", "", "'overflow'"),
    (PAGE, "_admitted_total` | counter", "_admitted_total` | gauge",
     "'gauge'"),
    (PAGE, "usage_events_waiting", "usage_events_lost_total",
     "lacks usage_events_waiting"),
]

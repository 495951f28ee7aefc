# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docs/journal.md's offsets against the structs in src/journal.c."""
import re

CODE = "src/journal.c"
PAGE = "docs/journal.md"
STRUCTS = {"first_t": "A first slot", "further_t": "A further slot"}
SIZES = {"uint8_t": 1, "char": 1, "uint16_t": 2, "uint32_t": 4, "int64_t": 8,
         "uint64_t": 8, "ue_uuid_t": 16}
ALIGNED = {"ue_uuid_t": 1}


def constants(code):
    return {name: int(value) for name, value in
            re.findall(r"^#define (\w+) (\d+)\b", code, re.M)}


def fields(code, name):
    """(offset, size, name) of a struct's fields, laid out as C does."""
    found = re.search(r"typedef struct \{([^{}]*)\} " + name + ";", code)
    if not found:
        return []
    body = re.sub(r"/\*.*?\*/", "", found.group(1), flags=re.S)
    offset = 0
    result = []
    for kind, field, _, count in re.findall(
            r"^\s+(?:_Atomic )?(\w+) (\w+)(\[(\w+)\])?;", body, re.M):
        size = SIZES[kind]
        align = ALIGNED.get(kind, size)
        offset += -offset % align
        if count:
            size *= int(constants(code).get(count, count))
        result.append((offset, size, field))
        offset += size
    return result


def described(page, title):
    part = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|",
                      part.group(1) if part else "", re.M)
    return [(int(offset), int(size), name) for offset, size, name in rows]


def check(tree):
    faults = []
    for name, title in STRUCTS.items():
        code = fields(tree.read(CODE), name)
        page = described(tree.read(PAGE), title)
        if not code:
            faults.append(f"{CODE}: no {name} found")
        faults += [f"{PAGE}: {title} lacks offset {o}, {s} bytes, {f}"
                   for o, s, f in code if (o, s, f) not in page]
        faults += [f"{PAGE}: {title}: offset {o}, {s} bytes, {f}: not so in "
                   f"{CODE}" for o, s, f in page if (o, s, f) not in code]
    return faults


GOOD = {
    CODE: '''#define TEXT 96 /* of a first slot */
typedef struct {
    uint32_t generation; /* how often; taken */
    _Atomic uint8_t state;
    uint16_t status_code;
    ue_uuid_t request_id;
    uint32_t check[3];
    char text[TEXT];
} first_t;

typedef struct {
    uint32_t generation;
    char text[176];
} further_t;
''',
    PAGE: '''# Slots
## A first slot
| offset | bytes | field | meaning |
| 0 | 4 | `generation` | x |
| 4 | 1 | `state` | x |
| 6 | 2 | `status_code` | x |
| 8 | 16 | `request_id` | x |
| 24 | 12 | `check` | x |
| 36 | 96 | `text` | x |

## A further slot
| 0 | 4 | `generation` | x |
| 4 | 176 | `text` | x |
'''}

MUTATIONS = [
    (CODE, "uint16_t status_code", "uint32_t status_code", "lacks offset 8, 4"),
    (CODE, "TEXT 96", "TEXT 100", "lacks offset 36, 100"),
    (CODE, "request_id", "id", "lacks offset 8, 16 bytes, id"),
    (CODE, "} further_t", "} another_t", "no further_t"),
    (PAGE, "| 6 | 2 |", "| 8 | 2 |", "not so in"),
    (PAGE, "| 4 | 176 | `text` | x |\n", "", "lacks offset 4, 176"),
]

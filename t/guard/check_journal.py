# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""docs/journal.md's offsets, sizes and states against the structs of slots,
accounts and segments."""
import re

PAGE = "docs/journal.md"
HEADERS = ("src/uuid.h", "src/slot.h", "src/ledger.h", "src/spool.h")
# struct: the page's heading for it
STRUCTS = {"ue_first_t": "A first slot", "ue_further_t": "A further slot",
           "ue_account_t": "An account", "ue_identity_t": "Identity",
           "ue_target_t": "Target", "ue_lane_count_t": "A partition",
           "ue_loss_row_t": "A row of losses",
           "ue_segment_head_t": "A segment's head"}
STATES = "States"
SIZES = {"uint8_t": 1, "char": 1, "uint16_t": 2, "uint32_t": 4, "int32_t": 4,
         "int64_t": 8, "uint64_t": 8}


def strip(code):
    return re.sub(r"/\*.*?\*/", "", code, flags=re.S)


class Layout:
    """Where C puts the members of structs."""

    def __init__(self, code):
        self.constants = dict(re.findall(r"^#define (\w+) (\d+)[ \t]*$", code,
                                         re.M))
        self.bodies = {name: body for body, name in re.findall(
            r"typedef struct \{([^{}]*)\} (\w+);", code)}

    def number(self, text):
        """An array's length: a sum of numbers, constants and sizeof()."""
        text = re.sub(r"sizeof\((\w+)\)",
                      lambda m: str(self.size_align(m.group(1))[0]), text)
        text = re.sub(r"[A-Za-z_]\w*",
                      lambda m: self.constants[m.group()], text)
        return eval(text, {})

    def size_align(self, kind):
        if kind in SIZES:
            return SIZES[kind], SIZES[kind]
        found = self.fields(kind)
        align = max(a for _, _, _, a in found)
        end = found[-1][0] + found[-1][1]
        return end + -end % align, align

    def fields(self, name):
        """(offset, size, name, alignment) of each member."""
        offset = 0
        result = []
        for kind, names in re.findall(
                r"^\s+(?:_Atomic )?(\w+) ([^;]+);", self.bodies[name], re.M):
            for declared in names.split(","):
                field, _, count = declared.strip().partition("[")
                size, align = self.size_align(kind)
                offset += -offset % align
                if count:
                    size *= self.number(count.rstrip("]"))
                result.append((offset, size, field, align))
                offset += size
        return result


def section(page, title):
    part = re.search(rf"^##+ {title}\n(.*?)(?=^##|\Z)", page, re.M | re.S)
    return part.group(1) if part else ""


def described(page, title):
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|",
                      section(page, title), re.M)
    return [(int(offset), int(size), name) for offset, size, name in rows]


def check_struct(layout, page, name, title):
    code = [(o, s, f) for o, s, f, _ in layout.fields(name)
            if not f.startswith("pad")]
    rows = described(page, title)
    faults = [f"{PAGE}: {title} lacks offset {o}, {s} bytes, {f}"
              for o, s, f in code if (o, s, f) not in rows]
    faults += [f"{PAGE}: {title}: offset {o}, {s} bytes, {f}: not so in "
               f"{name}" for o, s, f in rows if (o, s, f) not in code]
    size = layout.size_align(name)[0]
    if f"{size:,} bytes" not in section(page, title):
        faults.append(f"{PAGE}: {title} doesn't say that it has {size:,} "
                      f"bytes")
    return faults


def check_states(code, page):
    found = re.search(r"typedef enum \{([^{}]*)\} ue_slot_state_t;", code)
    names = re.findall(r"UE_SLOT_(\w+)", found.group(1) if found else "")
    states = [(i, name.lower()) for i, name in enumerate(names)
              if name != "STATES"]
    rows = [(int(i), name) for i, name in re.findall(
        r"^\| (\d+) \| (\w+) \|", section(page, STATES), re.M)]
    return [] if states and states == rows else [
        f"{PAGE}: states are {rows}, {states} in the code"]


def check(tree):
    code = strip("\n".join(tree.read(path) for path in HEADERS))
    page = tree.read(PAGE)
    layout = Layout(code)
    faults = []
    for name, title in STRUCTS.items():
        if name not in layout.bodies:
            faults.append(f"no {name} found")
        elif all(kind in layout.bodies or kind in SIZES for kind in re.findall(
                r"^\s+(?:_Atomic )?(\w+) ", layout.bodies[name], re.M)):
            faults += check_struct(layout, page, name, title)
        else:
            faults.append(f"{name} has a member of an unknown type")
    return faults + check_states(code, page)


GOOD = {
    "src/uuid.h": "typedef struct {\n    uint8_t b[16];\n} ue_uuid_t;\n",
    "src/slot.h": '''#define TEXT 96 /* of a first slot */
typedef enum { UE_SLOT_FREE, UE_SLOT_ADMITTED, UE_SLOT_STATES
} ue_slot_state_t;
typedef struct {
    uint32_t generation; /* how often; taken */
    _Atomic uint8_t state;
    uint16_t status_code;
    ue_uuid_t request_id;
    uint32_t check[3];
    char text[TEXT];
} ue_first_t;

typedef struct {
    uint32_t generation;
    char text[176];
} ue_further_t;
''',
    "src/ledger.h": '''#define LANES 3 /**< as many */
typedef struct {
    char topic[8];
} ue_target_t;

typedef struct {
    uint32_t size; /**< of the whole; in
                        bytes */
    uint32_t lanes_max, loss_rows;
    ue_target_t target;
    uint32_t check;
} ue_identity_t;

typedef struct {
    _Atomic uint64_t sent;
    _Atomic uint64_t delivered;
} ue_lane_count_t;

typedef struct {
    uint32_t state;
    uint64_t count;
} ue_loss_row_t;

typedef struct {
    ue_identity_t identity;
    char pad[4096 - sizeof(ue_identity_t)];
    _Atomic int64_t updated;
    char pad_numbers[64 - 8];
    ue_lane_count_t lane[LANES];
    ue_loss_row_t losses[2];
} ue_account_t;
''',
    "src/spool.h": '''typedef struct {
    char magic[8];
    ue_uuid_t maker;
    int64_t made;
} ue_segment_head_t;
''',
    PAGE: '''# Slots
## An account
4,240 bytes.
| 0 | 24 | `identity` | x |
| 4096 | 8 | `updated` | x |
| 4160 | 48 | `lane` | x |
| 4208 | 32 | `losses` | x |
### Identity
24 bytes.
| 0 | 4 | `size` | x |
| 4 | 4 | `lanes_max` | x |
| 8 | 4 | `loss_rows` | x |
| 12 | 8 | `target` | x |
| 20 | 4 | `check` | x |
### Target
8 bytes.
| 0 | 8 | `topic` | x |
### A partition
16 bytes.
| 0 | 8 | `sent` | x |
| 8 | 8 | `delivered` | x |
### A row of losses
16 bytes.
| 0 | 4 | `state` | x |
| 8 | 8 | `count` | x |
### A segment's head
32 bytes.
| 0 | 8 | `magic` | x |
| 8 | 16 | `maker` | x |
| 24 | 8 | `made` | x |
## A first slot
132 bytes.
| offset | bytes | field | meaning |
| 0 | 4 | `generation` | x |
| 4 | 1 | `state` | x |
| 6 | 2 | `status_code` | x |
| 8 | 16 | `request_id` | x |
| 24 | 12 | `check` | x |
| 36 | 96 | `text` | x |

## A further slot
180 bytes.
| 0 | 4 | `generation` | x |
| 4 | 176 | `text` | x |
## States
| 0 | free | |
| 1 | admitted | x |
'''}

MUTATIONS = [
    ("src/slot.h", "uint16_t status_code", "uint32_t status_code",
     "lacks offset 8, 4"),
    ("src/slot.h", "TEXT 96", "TEXT 100", "lacks offset 36, 100"),
    ("src/slot.h", "request_id", "id", "lacks offset 8, 16 bytes, id"),
    ("src/slot.h", "} ue_further_t", "} another_t", "no ue_further_t"),
    ("src/slot.h", "FREE, UE_SLOT_ADMITTED", "ADMITTED, UE_SLOT_FREE",
     "states are"),
    ("src/slot.h", "    uint16_t status", "    odd_t status", "unknown type"),
    ("src/ledger.h", "LANES 3", "LANES 4", "lacks offset 4160, 64"),
    ("src/ledger.h", "lanes_max, loss_rows", "loss_rows, lanes_max",
     "lacks offset 4, 4 bytes, loss_rows"),
    ("src/ledger.h", "char topic[8]", "char topic[12]",
     "lacks offset 0, 12 bytes, topic"),
    ("src/ledger.h", "char topic[8]", "char topic[12]",
     "Identity lacks offset 12, 12"),
    ("src/ledger.h", "64 - 8", "72 - 8", "lacks offset 4168, 48"),
    ("src/spool.h", "int64_t made", "int32_t made", "lacks offset 24, 4"),
    ("src/uuid.h", "b[16]", "b[8]", "lacks offset 8, 8 bytes, maker"),
    (PAGE, "| 6 | 2 |", "| 8 | 2 |", "not so in"),
    (PAGE, "| 4 | 176 | `text` | x |\n", "", "lacks offset 4, 176"),
    (PAGE, "4,240 bytes", "4,241 bytes", "doesn't say that it has 4,240"),
    (PAGE, "| 1 | admitted |", "| 1 | listed |", "states are"),
    (PAGE, "| 24 | 8 | `made` | x |\n", "", "A segment's head lacks"),
]

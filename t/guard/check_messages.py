# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Log numbers: each used at one place, and explained with its level in
docs/messages.md."""
import re

PAGE = "docs/messages.md"
SOURCES = ("mod_usage_events.c", "src/*.c", "src/*.h")
LEVELS = {"CRIT": "critical", "ERR": "error", "WARNING": "warning",
          "NOTICE": "notice", "INFO": "info", "DEBUG": "debug",
          "TRACE": "trace"}


def strip_comments(code):
    return re.sub(r"/\*.*?\*/", "", code, flags=re.S)


def uses(tree):
    """(number, path, level) of every numbered line in the code."""
    found = []
    for path in tree.files(*SOURCES):
        code = strip_comments(tree.read(path))
        for m in re.finditer(r'"UE(\d{4})', code):
            before = code[max(0, m.start() - 300):m.start()]
            level = re.findall(r"\b(?:UE_LOG|APLOG)_"
                               r"(CRIT|ERR|WARNING|NOTICE|INFO|DEBUG|TRACE)",
                               before)
            found.append((m.group(1), path,
                          LEVELS[level[-1]] if level else None))
    return found


def check(tree):
    used = uses(tree)
    page = re.findall(r"^\| UE(\d{4}) \| ([\w]+) \| (.+) \| (.+) \|$",
                      tree.read(PAGE), re.M)
    faults = []
    if not used:
        faults.append("no numbered line found in the code")
    places = {}
    for number, path, _ in used:
        places.setdefault(number, []).append(path)
    for number, where in sorted(places.items()):
        if len(where) > 1:
            faults.append(f"UE{number} is used in {' and '.join(where)}")
    numbers = [row[0] for row in page]
    for number in sorted(set(places) - set(numbers)):
        faults.append(f"{PAGE} lacks UE{number}")
    for number in sorted(set(numbers) - set(places)):
        faults.append(f"no code uses UE{number}, which {PAGE} explains")
    if numbers != sorted(set(numbers)):
        faults.append(f"{PAGE}: numbers are not in order, each once")
    levels = {number: level for number, level, _, _ in page}
    for number, path, level in used:
        if level and levels.get(number, level) != level:
            faults.append(f"{PAGE}: UE{number} is {levels[number]}, "
                          f"{path} says {level}")
    return faults


GOOD = {
    "mod_usage_events.c": "",
    "src/a.c": 'ue_log(UE_LOG_WARNING, rv,\n    "UE0101: key file: %s", why);\n'
               '/* "UE0999" was another */\n',
    "src/b.c": 'ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s,\n'
               '             "UE0501: answered");\n',
    PAGE: "| number | level | meaning | what to do |\n|---|---|---|---|\n"
          "| UE0101 | warning | Refused. | Mend it. |\n"
          "| UE0501 | notice | Answered. | Nothing. |\n",
}

MUTATIONS = [
    ("src/b.c", "UE0501", "UE0101", "UE0101 is used in src/a.c and src/b.c"),
    ("src/b.c", "UE0501", "UE0502", "lacks UE0502"),
    ("src/b.c", "UE0501", "UE0502", "no code uses UE0501"),
    ("src/b.c", "APLOG_NOTICE", "APLOG_ERR", "src/b.c says error"),
    (PAGE, "| UE0501 | notice | Answered. | Nothing. |\n", "", "lacks UE0501"),
    (PAGE, "| UE0101 | warning", "| UE0101 | info", "is info"),
    (PAGE, "UE0501", "UE0100", "not in order"),
]

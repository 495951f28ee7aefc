# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Words that don't belong into what is published: somebody's own paths, notes
of things not done. GUARD_WORDS may hold one more pattern."""
import os
import re

# In two pieces each, so that this file passes.
PATTERNS = [
    r"(?<![\w.$}/])/ho" + r"me/\w",
    r"(?<![\w.$}/])/Us" + r"ers/\w",
    r"(?<![\w.$}/])/ro" + r"ot/",
    r"(?<![\w.$}/])/wo" + r"rk/",
    r"\.\./sha" + r"red\b",
    r"\bTO" + r"DO\b",
    r"\bFIX" + r"ME\b",
    r"\bX" + r"XX\b",
    "<<<<" + "<<<|>>>>" + ">>>",
]


def check(tree):
    patterns = list(PATTERNS)
    if os.environ.get("GUARD_WORDS"):
        patterns.append(os.environ["GUARD_WORDS"])
    word = re.compile("|".join(f"(?:{p})" for p in patterns))
    faults = []
    for path in tree.files("*"):
        try:
            text = tree.read(path)
        except UnicodeDecodeError:
            continue
        for i, line in enumerate(text.split("\n"), 1):
            found = word.search(line)
            if found:
                faults.append(f"{path}:{i}: {found.group()}")
    return faults


GOOD = {"README.md": "Look into /var/www or ~/x, and at httpd's TODOS.\n"}

MUTATIONS = [
    ("README.md", "/var/www", "/ho" + "me/me", "README.md:1: /ho" + "me/m"),
    ("README.md", "/var/www", "/wo" + "rk/main", "/wo" + "rk/"),
    ("README.md", "/var/www", "/ro" + "ot/x", "/ro" + "ot/"),
    ("README.md", "~/x", "../sha" + "red/x", "sha" + "red"),
    ("README.md", "TODOS", "TO" + "DO", "TO" + "DO"),
    ("README.md", "TODOS", "FIX" + "ME", "FIX" + "ME"),
]

# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Sizes and shape: files, functions, lines, line ends, the licence line."""
import ast
import re

LICENCE = ("Licence: MIT, see LICENSE. © 2026 mod_usage_events "
           "contributors.")
FILE_MAX = 1000
FUNCTION_MAX = 80
LINE_MAX = 80
C = ("*.c", "*.h")
SCRIPTS = ("*.py", "*.sh", "bench/*", "scripts/*", "t/*.mk", "Makefile",
           ".ci/run")


def c_functions(text):
    """(name, lines) of the functions of a C file in our style, where a
    function's braces stand alone in the first column."""
    found = []
    start = None
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line == "{":
            start = i
        elif line == "}" and start is not None:
            head = " ".join(lines[max(0, start - 6):start])
            name = re.findall(r"(\w+)\(", head.rsplit(";", 1)[-1])
            found.append((name[0] if name else "?", i - start - 1))
            start = None
    return found


def py_functions(text):
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append((node.name, node.end_lineno - node.lineno))
    return found


def is_generated(text):
    """Nobody reads what a program wrote."""
    return "\n/* Made by " in text[:300] or "\n# Made by " in text[:300]


def is_script(path, text):
    return path.endswith((".py", ".sh", ".mk")) or path == "Makefile" or \
        text.startswith("#!")


def check_text(path, text):
    faults = []
    lines = text.split("\n")
    if len(lines) - 1 > FILE_MAX:
        faults.append(f"{path} has {len(lines) - 1} lines")
    if text and not text.endswith("\n"):
        faults.append(f"{path} does not end in a line feed")
    for i, line in enumerate(lines, 1):
        if line != line.rstrip():
            faults.append(f"{path}:{i}: space at the end")
        if "\t" in line and not path.endswith((".mk", "Makefile")):
            faults.append(f"{path}:{i}: tab")
        if len(line) > LINE_MAX and "://" not in line \
                and not path.endswith((".mk", "Makefile")):
            faults.append(f"{path}:{i}: {len(line)} characters")
    return faults


def check(tree):
    faults = []
    for path in tree.files(*C):
        text = tree.read(path)
        if not text.startswith(f"/* {LICENCE} */\n"):
            faults.append(f"{path} has no licence line")
        if is_generated(text):
            continue
        faults += check_text(path, text)
        faults += [f"{path}: {name} has {n} lines"
                   for name, n in c_functions(text) if n > FUNCTION_MAX]
    for path in tree.files(*SCRIPTS):
        text = tree.read(path)
        if not is_script(path, text):
            continue
        first = text.split("\n")[:2]
        if f"# {LICENCE}" not in first:
            faults.append(f"{path} has no licence line")
        faults += check_text(path, text)
        if path.endswith(".py"):
            faults += [f"{path}: {name} has {n} lines"
                       for name, n in py_functions(text) if n > FUNCTION_MAX]
    return faults


GOOD = {
    "src/a.c": f"/* {LICENCE} */\n#include <x.h>\n\n"
               "int first(void)\n{\n    return 1;\n}\n\n"
               "static int second(int a,\n                  int b)\n{\n"
               "    return a;\n}\n",
    "src/made.h": f"/* {LICENCE} */\n/* Made by a.py */\n" + "x" * 99 + "\n",
    "t/a.py": f"# {LICENCE}\ndef third():\n    return 1\n",
    "scripts/b": f"#!/bin/sh\n# {LICENCE}\nexit 0\n",
}

MUTATIONS = [
    ("src/a.c", "Licence", "License", "src/a.c has no licence"),
    ("src/made.h", "/* Made", "/* Wrought", "99 characters"),
    ("t/a.py", "Licence", "License", "t/a.py has no licence"),
    ("scripts/b", "Licence", "License", "scripts/b has no licence"),
    ("src/a.c", "return a;\n", "return a;\n" + "    a++;\n" * 80,
     "second has 81 lines"),
    ("t/a.py", "return 1\n", "x = 1\n" + "    x += 1\n" * 80,
     "third has 81 lines"),
    ("src/a.c", "#include <x.h>\n", "\n" * 1000, "src/a.c has"),
    ("src/a.c", "return 1;", "return 1; ", "space at the end"),
    ("src/a.c", "    return 1;", "\treturn 1;", "tab"),
    ("src/a.c", "return 1;", "return 1" + " + 1" * 20 + ";", "characters"),
    ("scripts/b", "exit 0\n", "exit 0", "line feed"),
]

# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""What the guards share.

A guard holds two things against each other that nothing else keeps together:
code and its documentation, a rule and the files that must follow it. Each is a
module with check(tree), which returns the faults it found as sentences, and a
self-test: a small GOOD tree without fault, and MUTATIONS of it that must be
noticed. A guard that can't fail guards nothing, so the self-test always runs
before the check.
"""
import fnmatch
import importlib
import os
import sys

# What building and testing leave behind.
SKIPPED = {".git", "build", ".libs", "__pycache__", ".pytest_cache", ".venv"}


class Tree:
    """The project's files."""

    def __init__(self, root):
        self.root = root

    def files(self, *patterns):
        found = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(f for f in folders if f not in SKIPPED)
            for name in sorted(names):
                path = os.path.relpath(os.path.join(folder, name), self.root)
                if any(fnmatch.fnmatch(path, p) for p in patterns):
                    found.append(path)
        return found

    def has(self, path):
        return os.path.exists(os.path.join(self.root, path))

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as f:
            return f.read()

    def read_if_there(self, path):
        return self.read(path) if self.has(path) else ""


class Sketch(Tree):
    """A tree in memory, for self-tests."""

    def __init__(self, texts):
        super().__init__(None)
        self.texts = texts

    def files(self, *patterns):
        return sorted(path for path in self.texts
                      if any(fnmatch.fnmatch(path, p) for p in patterns))

    def has(self, path):
        return path in self.texts

    def read(self, path):
        return self.texts[path]


def self_test(guard):
    """Does the guard pass what is right, and notice each fault?"""
    wrong = []
    faults = guard.check(Sketch(dict(guard.GOOD)))
    if faults:
        wrong.append(f"finds fault with what is right: {faults}")
    for path, old, new, expected in guard.MUTATIONS:
        texts = dict(guard.GOOD)
        if old not in texts.get(path, ""):
            wrong.append(f"mutation of {path}: {old!r} is not in it")
            continue
        texts[path] = texts[path].replace(old, new, 1)
        faults = guard.check(Sketch(texts))
        if not any(expected in fault for fault in faults):
            wrong.append(f"{old!r} -> {new!r} in {path}: "
                         f"no {expected!r} in {faults}")
    return wrong


def run(names, root):
    """Run guards by name. Returns how many complained."""
    failed = tested = 0
    for name in names:
        guard = importlib.import_module(name)
        faults = [f"self-test: {w}" for w in self_test(guard)]
        tested += 1 + len(guard.MUTATIONS)
        try:
            faults += guard.check(Tree(root))
        except FileNotFoundError as e:
            faults.append(f"{os.path.relpath(e.filename, root)} is missing")
        for fault in faults:
            print(f"{name}: {fault}")
        failed += bool(faults)
    print(f"guard: {len(names)} guards, {tested} self-tests, "
          f"{failed} guards failed")
    return failed


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    names = sys.argv[1:] or sorted(
        name[:-3] for name in os.listdir(here)
        if name.startswith("check_") and name.endswith(".py"))
    return 1 if run(names, os.path.join(here, "..", "..")) else 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())

# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Wrong use of usagectl's commands on both stores, its help and its manual."""
import re
import shutil
import subprocess

import pytest

from usagectl_stores import (ATTRIBUTES, KINDS, NOBODY, OTHER, REPO, STORES,
                             new_store)


@pytest.fixture(params=STORES)
def store(request):
    return new_store(request)


# --- wrong use ---------------------------------------------------------------

#: Each command with what it needs, and no more.
COMMANDS = {
    "plan create": ["gold"], "plan list": [], "plan show": ["gold"],
    "plan set": ["gold", "--rate", "1/s"], "plan delete": ["gold"],
    "org create": ["--id", NOBODY, "--name", "x"], "org list": [],
    "org show": [OTHER], "org set": [OTHER, "--name", "x"],
    "key create": ["--org", OTHER], "key list": [], "key show": [NOBODY],
    "key set": [NOBODY, "--name", "x"], "key revoke": [NOBODY],
    "key rotate": [NOBODY], "key changes": [],
}
#: Each option, with a value that is wrong, and what is said of it. The switches
#: among them have none.
BAD = {
    "--store": ("x", "a key store is named file:PATH"),
    "--org": ("acme", "--org must be a UUID"),
    "--id": ("acme", "--id must be a UUID"),
    "--name": ("a\nb", "--name must be UTF-8"),
    "--org-name": ("\t", "--org-name must be UTF-8"),
    "--env": ("prod", "--env must be live or test"),
    "--expires": ("tomorrow", "--expires must be a time with a zone"),
    "--plan": ("a plan", "--plan must be a plan's name"),
    "--rate": ("100", "--rate must be like 100/s"),
    "--quota": ("5/week", "--quota must be like 1000/hour"),
    "--network": ("192.0.2.0/33", "networks: "),
    "--path": ("v1", "paths: "),
    "--method": ("GET POST", "methods: "),
    "--grace": ("1w", "--grace must be a time with a unit"),
    "--secret": ("", "--secret needs a value: FILE"),
    "--group": ("", "--group needs a value: GROUP"),
    "--limit": ("0", "--limit must be a number from 1 to 999999999"),
    "--format": ("xml", "--format must be table, json or csv"),
}
SWITCHES = ["--billable", "--not-billable", "--no-plan", "--no-rate",
            "--no-quota", "--no-networks", "--no-paths", "--no-methods",
            "--no-expires"]
SEVERAL = ["--network", "--path", "--method"]


def help_of(store, command):
    return store.ok(*command.split(), "--help").stdout


def options_of(store, command):
    return re.findall(r"^  (--[a-z-]+)", help_of(store, command), re.M)


def without(args, option):
    """Arguments without an option and its value."""
    if option in args:
        at = args.index(option)
        return args[:at] + args[at + 2:]
    return args


@pytest.fixture
def filled(store):
    store.create(org=OTHER)
    before = store.everything()
    yield store
    assert store.everything() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_use_of_options(filled, command):
    given = COMMANDS[command]
    options = options_of(filled, command)
    assert "--store" in options
    for option in options:
        if option in SWITCHES:
            filled.wrong(*command.split(), *given, f"{option}=yes",
                           says=f"{option} takes no value")
            filled.wrong(*command.split(), *given, option, option,
                         says=f"{option} is there twice")
            continue
        value, says = BAD[option]
        rest = without(given, option)
        filled.wrong(*command.split(), *rest, option, value, says=says)
        filled.wrong(*command.split(), *rest, option,
                       says=f"{option} needs a value")
        if option not in SEVERAL:
            filled.wrong(*command.split(), *rest, option, "x", option, "x",
                           says=f"{option} is there twice")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_options_that_are_taken(filled, command):
    """And no others are."""
    options = options_of(filled, command)
    for option in [*BAD, *SWITCHES, "--frob"]:
        if option not in options:
            filled.wrong(*command.split(), *COMMANDS[command], option,
                           says=f"there is no option {option}")
    text = help_of(filled, command)
    assert text.startswith(f"usagectl {command}")
    assert all(len(line) <= 80 for line in text.splitlines()), text


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_use_of_operands(filled, command):
    given = COMMANDS[command]
    filled.wrong(*command.split(), *given, "extra", "extra",
                   says="an argument too many")
    if given and not given[0].startswith("--"):
        what = "NAME" if command.startswith("plan") else "ID"
        filled.wrong(*command.split(), *given[1:],
                       says=f"{what} is missing")
        # somebody took a key for its id
        key = "sk_live_" + "a" * 36
        done = filled.wrong(*command.split(), key, *given[1:],
                            says="there is a key among the arguments")
        assert key not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_in_the_wrong_place_is_not_repeated(filled, command):
    """Nor stored, nor looked for as a file."""
    given = COMMANDS[command]
    key = "sk_live_" + "a" * 36
    wrong = [[*without(given, option), option, value]
             for option in options_of(filled, command)
             if option not in SWITCHES
             for value in (key, f"file:{key}", f"file:/x/{key}.json")]
    wrong += [[*given, f"--name=sk_test_{'0' * 36}"], [*given, f"--{key}"],
              [*given, key], ["--", key]]
    for args in wrong:
        done = filled.wrong(*command.split(), *args,
                            says="there is a key among the arguments")
        assert "a" * 36 not in done.stderr and "0" * 36 not in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_set_needs_something_to_set(filled, kind):
    name = COMMANDS[f"{kind} set"][0]
    filled.wrong(kind, "set", name, says="nothing to set")


@pytest.mark.parametrize("kind", KINDS)
def test_set_does_not_both_give_and_take(filled, kind):
    name = COMMANDS[f"{kind} set"][0]
    for attribute, (options, _, no) in ATTRIBUTES.items():
        filled.wrong(kind, "set", name, no, *options,
                     says=f"{attribute} can't be set and taken away")
    filled.wrong(kind, "set", name, "--billable", "--not-billable",
                   says="not both")


NAMES = ["", "-x", ".x", "a b", "a/b", "é", "x" * 65, "sk_live_" + "a" * 36]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_plans(filled, name):
    done = filled.wrong("plan", "create", "--", name,
                        says="there is a key" if name[:3] == "sk_" else "NAME")
    assert not name or f" {name}" not in done.stderr


def test_names_of_plans_that_are_right(store):
    names = ["a", "0", "A.b_c-9", "x" * 64]
    for name in names:
        store.ok("plan", "create", name, "--rate", "1/s")
    assert sorted(store.plans()) == sorted(names)


# --- the manual --------------------------------------------------------------

def test_the_manual_is_what_groff_takes_it_for():
    if not shutil.which("groff"):
        pytest.skip("no groff")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", REPO / "docs/usagectl.1"],
        capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert done.stderr == ""
    assert "usagectl key rotate" in re.sub(r"\x1b\[\d*m|.\x08", "", done.stdout)

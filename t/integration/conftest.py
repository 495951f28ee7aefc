# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Fixtures and rules of the integration tests; harness.py says how to use
them."""
import os
import shutil
import tempfile
from pathlib import Path

import pytest

import harness
import processes
from broker import (kafka, kafka_broker, kafka_cluster,  # noqa: F401
                    kafka_far, kafka_far_broker, kafka_own)
from postgres import postgres, postgres_own, postgres_server  # noqa: F401
from pg_helpers import keys  # noqa: F401


def pytest_addoption(parser):
    parser.addoption("--mpm", action="append", choices=harness.MPMS,
                     help="only with this MPM; may be repeated")
    parser.addoption("--keep", action="store_true",
                     help="keep the directories of all runs")


def is_worker(config):
    return hasattr(config, "workerinput")


def pytest_configure(config):
    config.addinivalue_line("markers", "mpms(name, …): the MPMs of a test")
    if not is_worker(config):  # pytest-xdist's workers inherit it
        base = tempfile.mkdtemp(prefix="ue-test-",
                                dir=os.environ.get("UE_TEST_TMP"))
        os.environ["UE_TEST_BASE"] = base
        processes.base_dir()
        config.ue_base, config.ue_found = Path(base), []


def pytest_generate_tests(metafunc):
    if "mpm" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("mpms")
        wanted = metafunc.config.getoption("--mpm") or harness.MPMS
        metafunc.parametrize("mpm", [m for m in (mark.args if mark
                                                 else harness.MPMS)
                                     if m in wanted])


# --- no key anywhere ---------------------------------------------------------

def pytest_sessionfinish(session):
    """The search for keys in all that the whole suite wrote."""
    config = session.config
    if is_worker(config) or not hasattr(config, "ue_base"):
        return
    config.ue_found = processes.find_secrets(config.ue_base)
    if session.testscollected > 100 and not processes.registered(
            config.ue_base):
        config.ue_found = ["no key was registered, so none was searched for"]
    if config.ue_found and session.exitstatus in (0, 5):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    failed = session.testsfailed or config.ue_found
    config.ue_kept = bool(failed or config.getoption("--keep"))


def pytest_terminal_summary(terminalreporter, config):
    if getattr(config, "ue_found", None):
        terminalreporter.section("keys in the files of the suite", red=True)
        for line in config.ue_found:
            terminalreporter.line(line)
    elif hasattr(config, "ue_base"):
        n = len(processes.registered(config.ue_base))
        terminalreporter.line(f"{n} keys searched for in all files: none found")
    if getattr(config, "ue_kept", False):
        terminalreporter.line(f"runs are kept in {config.ue_base}")


def pytest_unconfigure(config):
    if hasattr(config, "ue_base") and not getattr(config, "ue_kept", True):
        shutil.rmtree(config.ue_base, ignore_errors=True)


# --- servers -----------------------------------------------------------------

@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in getattr(item, "ue_servers", []):
            report.sections.append((f"logs of {server.dir.name}",
                                    server.logs()))


class Servers:
    """Starts servers for one test and ends them after it, the last first."""

    def __init__(self, request):
        self.node, self.list = request.node, []
        self.node.ue_servers = self.list

    def add(self, server):
        self.list.append(server)
        return server

    def end(self):
        wrong = []
        for server in reversed(self.list):
            try:
                server.stop()
            except AssertionError as e:
                wrong.append(str(e))
        assert not wrong, "\n".join(wrong)


@pytest.fixture
def servers(request):
    """servers.add(server) has it stopped at the test's end."""
    all_ = Servers(request)
    yield all_
    all_.end()


@pytest.fixture
def backend(servers):
    """nginx, started."""
    return servers.add(harness.Nginx()).start()


@pytest.fixture
def odd(servers):
    """The backend that misbehaves, started."""
    return servers.add(harness.Odd()).start()


@pytest.fixture
def gateway(request, servers):
    """Make a Gateway; start() it yourself."""
    def make(**kw):
        if "backend" not in kw:
            kw["backend"] = request.getfixturevalue("backend")
        name = "gateway-" + request.node.name
        return servers.add(harness.Gateway(name, **kw))
    return make

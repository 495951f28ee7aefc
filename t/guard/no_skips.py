# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""A pytest plugin: in CI a skipped test is a failed run.

A service that is missing may skip a test for somebody who works on something
else. In CI nothing is missing, so what skips there is a hole. Tests that are
expected to fail count as holes too.
"""
import os

import pytest


def holes(stats):
    return [report for kind in ("skipped", "xfailed", "xpassed")
            for report in stats.get(kind, [])]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    if holes(reporter.stats) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    found = holes(terminalreporter.stats)
    if found and os.environ.get("CI"):
        terminalreporter.section("skipped in CI", "!")
        for report in found:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr}")

# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""UsageSpool: what configtest says of wrong values and directories, and what
two servers may say of one directory. test_482_journal_dirs.py has the rest."""
import os
import subprocess

import pytest

from processes import need
from spool_helpers import give_away, make_spool

KAFKA = "UsageKafkaBrokers localhost:9092\n"


@pytest.fixture
def gw(gateway):
    gw = gateway(backend=None, children=1)
    gw.spool = make_spool(gw)

    def refused(lines, vhost=None):
        gw.server_conf, gw.vhost_conf = lines, vhost
        rc, output = gw.configtest()
        assert rc != 0, f"{lines} was taken"
        assert "UsageSpool" in output and "core dumped" not in output, output
        return output

    def taken(lines, vhost=None):
        gw.server_conf, gw.vhost_conf = lines, vhost
        rc, output = gw.configtest()
        assert rc == 0, output
    gw.refused, gw.taken = refused, taken
    return gw


@pytest.mark.parametrize("most", [
    "max=0", "max=5", "max=1x", "max=300g", "max=", "max=m", "max=1k", "max=0m",
    "max=-1g", "max=1.5g", "max=1gb", "max=1G", "max=201g", "max=204801m",
    "max=999999999999g", "max=" + "9" * 40 + "m", "min=1m", "1g", "Max=1g",
    '"max=1g "'])
def test_wrong_sizes(gw, most):
    output = gw.refused(f"UsageSpool {{dir}}/spool {most}\n")
    assert "max=1m to max=200g" in output and "max=1g" in output, output
    assert "httpd.conf" in output


@pytest.mark.parametrize("most", ["", "max=1m", "max=1024m", "max=200g",
                                  "max=204800m", "max=01g"])
def test_right_sizes(gw, most):
    gw.taken(f"UsageSpool {{dir}}/spool {most}\n")


def test_how_many_arguments(gw):
    for arguments in ("", "{dir}/spool max=1g max=1g", "{dir}/spool a b c"):
        output = gw.refused(f"UsageSpool {arguments}\n")
        assert "takes" in output
    gw.refused('UsageSpool ""\n')


def test_directories(gw):
    output = gw.refused("UsageSpool {dir}/none\n")
    assert f"there is no directory {gw.dir}/none" in output
    assert "make it" in output and "0700" in output
    for path in (gw.keyfile, "/dev/null"):
        output = gw.refused(f"UsageSpool {path}\n")
        assert f"{path} is no directory" in output
    assert "there is no directory" in gw.refused("UsageSpool /dev/null/x\n")
    (gw.dir / "to-spool").symlink_to(gw.spool)
    gw.taken("UsageSpool {dir}/to-spool\n")
    (gw.dir / "dangling").symlink_to(gw.dir / "none")
    assert "there is no directory" in gw.refused("UsageSpool {dir}/dangling\n")


def test_a_relative_path_is_below_the_server_root(gw):
    gw.taken("UsageSpool spool\n")
    assert f"{gw.dir}/none" in gw.refused("UsageSpool none\n")


@pytest.mark.parametrize("owner, mode", [("root", 0o700), ("root", 0o755),
                                         ("www-data", 0o500),
                                         ("www-data", 0o300)])
def test_rights(gw, owner, mode):
    need(os.geteuid() == 0, "httpd's children are of another user only as root")
    if owner == "root":
        os.chown(gw.spool, 0, 0)
    gw.spool.chmod(mode)
    output = gw.refused("UsageSpool {dir}/spool\n")
    assert str(gw.spool) in output and "www-data" in output
    assert "chown" in output


def test_a_directory_of_a_group(gw):
    need(os.geteuid() == 0, "httpd's children are of another user only as root")
    os.chown(gw.spool, 0, gw.spool.stat().st_gid)
    gw.spool.chmod(0o770)
    gw.taken("UsageSpool {dir}/spool\n")


def test_a_directory_that_nobody_gets_to(gw):
    need(os.geteuid() == 0, "httpd's children are of another user only as root")
    closed = gw.dir / "closed"
    closed.mkdir(mode=0o700)
    give_away(closed / "spool", make=True)
    output = gw.refused("UsageSpool {dir}/closed/spool\n")
    assert "www-data" in output


def test_a_directory_of_everybody(gw):
    gw.spool.chmod(0o777)
    output = gw.refused("UsageSpool {dir}/spool\n")
    assert f"chmod 700 {gw.spool}" in output


def test_a_read_only_disk_passes(gw):
    """It may get better, and children say so when they find none."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=755",
                           "ue-test", str(gw.spool)],
                          capture_output=True, text=True)
    need(done.returncode == 0, f"mount: {done.stderr}")
    try:
        gw.taken("UsageSpool {dir}/spool\n")
    finally:
        subprocess.run(["umount", str(gw.spool)], check=True)


# --- virtual hosts ------------------------------------------------------------

def test_two_servers_and_one_directory(gw):
    other = "UsageEventFile {dir}/other.jsonl\n"
    gw.taken("UsageSpool {dir}/spool\n", other)  # inherited
    gw.taken("UsageSpool {dir}/spool\n", other + "UsageSpool {dir}/spool\n")
    gw.taken("UsageSpool {dir}/spool max=1024m\n",
             other + "UsageSpool {dir}/spool max=1g\n")
    output = gw.refused("UsageSpool {dir}/spool max=1g\n",
                        other + "UsageSpool {dir}/spool max=2g\n")
    assert str(gw.spool) in output and "max=" in output
    assert "named twice" in output
    make_spool(gw, "second")
    gw.taken("UsageSpool {dir}/spool max=1g\n",
             other + "UsageSpool {dir}/second max=2g\n")


def test_one_file_with_and_without_a_spool(gw):
    output = gw.refused("", "UsageSpool {dir}/spool\n")
    assert "UsageEventFile" in output


def test_in_a_virtual_host_alone(gw):
    gw.taken("", "UsageSpool {dir}/spool\nUsageEventFile {dir}/2.jsonl\n")
    output = gw.refused("", "UsageSpool {dir}/spool max=5\n")
    assert "httpd.conf" in output
    output = gw.refused("", "UsageSpool {dir}/none\n"
                            "UsageEventFile {dir}/2.jsonl\n")
    assert f"{gw.dir}/none" in output


def test_the_same_directory_spelled_in_two_ways(gw):
    """It is one directory, and one bound."""
    other = "UsageEventFile {dir}/other.jsonl\n"
    for spelled in ("{dir}/spool/", "{dir}//spool", "{dir}/htdocs/../spool",
                    "spool"):
        gw.taken("UsageSpool {dir}/spool max=1g\n",
                 f"{other}UsageSpool {spelled} max=1g\n")
        output = gw.refused("UsageSpool {dir}/spool max=1g\n",
                            f"{other}UsageSpool {spelled} max=2g\n")
        assert "named twice" in output, spelled


def test_slots_are_for_those_without(gw):
    """UsageJournalSlots beside UsageSpool says nothing, and is no mistake."""
    gw.taken("UsageSpool {dir}/spool\nUsageJournalSlots 64\n"
             "UsageKafkaBufferSize 64\n")


def test_configtest_leaves_nothing_in_it(gw):
    gw.taken(KAFKA + "UsageSpool {dir}/spool\n")
    assert list(gw.spool.iterdir()) == []

# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""The way to PostgreSQL as libpq has it: TLS that is checked, passwords that
stay out of the configuration, a role that can do nothing else; and keys that
were made to do harm.

That no log, answer or status page shows a key or a password is looked at when
the whole suite has ended: each is registered (processes.register_secret).
"""
import re

import pytest

from harness import Gateway, poll, secret_file
from pg_helpers import Everywhere, Keys, local, pgpass
from postgres import Postgres
from trap_helpers import is_problem


@pytest.fixture(scope="module")
def tls_server():
    server = Postgres("postgres-tls", tls=True)
    try:
        yield server.start()
    finally:
        server.stop("immediate")


@pytest.fixture
def tls_keys(tls_server, servers):
    return Keys(servers.add(tls_server.new_database()))


def on(keys, gateway, url, **env):
    """A gateway that is told where its keys are, started."""
    gw = gateway(**keys.to(children=2))
    gw.env.update(env)
    if url is None:
        del gw.env["DATABASE_URL"]
    else:
        gw.env["DATABASE_URL"] = url
    return gw.start()


def serves(gw, keys, n=2):
    [key] = keys.insert(1)
    with Everywhere(gw) as all_:
        assert all_.until(key, 200) < 3
    keys.wait_connections(n)
    return key


def is_kept_out(gw, keys):
    """No child gets in, and nobody is let in."""
    [key] = keys.insert(1)
    for _ in range(4):
        a = local(gw, key)
        assert a.status == 503 and a.header("Retry-After") == "1"
    is_problem(a, 503, "unavailable")
    assert keys.connections() == 0


# --- TLS ---------------------------------------------------------------------

def secured(keys, ca, host="localhost"):
    """The certificate is localhost's; the server is at 127.0.0.1 by whatever
    name."""
    return keys.url(host=host, hostaddr="127.0.0.1", sslmode="verify-full",
                    sslrootcert=f"{keys.db.server.certs}/{ca}")


@pytest.fixture
def readable(tls_server):
    """httpd's children are somebody else."""
    tls_server.certs.chmod(0o755)


def test_tls_with_the_right_ca(tls_keys, gateway, readable):
    gw = on(tls_keys, gateway, secured(tls_keys, "ca.pem"))
    serves(gw, tls_keys)
    assert tls_keys.sql(
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING "
        "(pid) WHERE usename = 'gateway'") == "t"


@pytest.mark.parametrize("ca, host, why", [
    ("other-ca.pem", "localhost", "certificate verify failed"),
    ("ca.pem", "db.example.com", "does not match host name"),
    ("missing.pem", "localhost", "does not exist")])
def test_tls_that_does_not_verify(tls_keys, gateway, readable, ca, host, why):
    gw = on(tls_keys, gateway, secured(tls_keys, ca, host))
    is_kept_out(gw, tls_keys)
    poll(lambda: why in gw.error_log(), 10, what=why)


def test_tls_where_the_server_takes_nothing_else(tls_keys, gateway):
    gw = on(tls_keys, gateway, tls_keys.url(sslmode="disable"))
    is_kept_out(gw, tls_keys)
    poll(lambda: "no encryption" in gw.error_log(), 10)


def test_tls_with_an_expired_certificate(postgres_own, tls_server, gateway,
                                         readable):
    server = postgres_own(tls=True, certs=tls_server.certs, cert="expired")
    keys = Keys(server.new_database())
    gw = on(keys, gateway, secured(keys, "ca.pem"))
    is_kept_out(gw, keys)
    poll(lambda: "expired" in gw.error_log(), 10)


# --- where passwords come from -----------------------------------------------

def test_a_password_file(keys, gateway):
    """With the URL in the configuration, where it may be read by anybody."""
    server = keys.db.server
    path = pgpass(f"127.0.0.1:{server.port}:{keys.db}:gateway:"
                  f"{server.passwords['gateway']}")
    gw = gateway(**keys.to(children=2))
    gw.usage = {"UsageKeyStore": keys.url(password=False)}
    del gw.env["DATABASE_URL"]
    gw.env["PGPASSFILE"] = str(path)
    gw.start()
    assert f"UsageKeyStore {keys.url(password=False)}" \
        in gw.conf_file.read_text()
    serves(gw, keys)


def test_a_service(keys, gateway):
    """And the URL says nothing at all."""
    server, path = keys.db.server, secret_file("pg_service.conf")
    path.write_text(f"""[keys]
host=127.0.0.1
port={server.port}
dbname={keys.db}
user=gateway
password={server.passwords['gateway']}
sslmode=disable
""")
    gw = on(keys, gateway, "postgresql://", PGSERVICE="keys",
            PGSERVICEFILE=str(path))
    serves(gw, keys)


def test_the_environment(keys, gateway):
    gw = on(keys, gateway, "postgresql://?sslmode=disable",
            **keys.db.env("gateway"))
    serves(gw, keys)


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_password_that_is_not_right(keys, gateway, password):
    gw = on(keys, gateway, keys.url(password=password or False),
            PGPASSFILE="/nonexistent")
    is_kept_out(gw, keys)
    [line] = gw.wait_log("UE0110")
    assert "password" in line
    assert keys.db.server.passwords["gateway"] not in gw.error_log()


def test_an_application_name_of_ones_own(keys, gateway):
    gw = on(keys, gateway, keys.url())
    serves(gw, keys)
    assert names(keys) == {"mod_usage_events"}
    gw.stop()
    keys.wait_connections(0)
    gw = on(keys, gateway, keys.url(application_name="edge-1"))
    serves(gw, keys)
    assert names(keys) == {"edge-1"}


def names(keys):
    return set(keys.sql("SELECT application_name FROM pg_stat_activity WHERE "
                        "usename = 'gateway'").splitlines())


# --- what the gateway may do, and does ---------------------------------------

def test_the_role_is_enough_and_no_more(keys, gateway):
    gw = on(keys, gateway, keys.url())
    mark = keys.db.mark()
    serves(gw, keys)
    local(gw, "unknown-key-of-another-form")
    for what in ("api_keys", "organizations", "plans", "api_key_changes",
                 "usage_schema_version"):
        done = keys.db.psql(f"SELECT * FROM {what}", "gateway", check=False)
        assert done.returncode and "permission denied" in done.stderr, what
    for sql in ("UPDATE usage_gateway_keys SET revoked = false",
                "DELETE FROM usage_gateway_keys",
                "INSERT INTO api_keys DEFAULT VALUES",
                "CREATE TABLE mine (n int)"):
        done = keys.db.psql(sql, "gateway", check=False)
        assert done.returncode and re.search("permission denied|cannot",
                                             done.stderr), sql
    # All that a gateway says: it listens, and looks keys up by parameters.
    own = [sql for sql in keys.db.queries(since=mark, user="gateway")
           if "WHERE hash = ANY" in sql or "LISTEN" in sql]
    listen = "SET statement_timeout = 5000; LISTEN usage_keys"
    assert {listen, 1} == {
        sql if "$1" not in sql else sql.count("$") for sql in own}


HOSTILE = [
    "'", "''", "x' OR '1'='1", "'; DROP TABLE api_keys; --", "\\", "\\'",
    "{", "}", "{a,b}", '"', '{"a"}', '","', "\\x27", "$1", "$$", "%s", "%n%n",
    "NULL", "{NULL}", "E'\\x00'", "a" * 256, "sha256:" + "0" * 64, "*",
    "\xff\xfe", "\xc3\x28", "é", "--", "/*", "1;NOTIFY,usage_keys", "${jndi}"]


def test_keys_that_were_made_to_do_harm(keys, gateway):
    gw = on(keys, gateway, keys.url())
    [key] = keys.insert(1)
    with Everywhere(gw) as all_:
        all_.until(key, 200)
    before = keys.sql("SELECT count(*) FROM api_keys; "
                      "SELECT count(*) FROM api_key_changes")
    mark = keys.db.mark()
    for text in HOSTILE:
        for size in ("", "-padding-so-that-it-is-long"):
            a = gw.get("/local/hello.txt", headers=[
                ("X-API-Key", text.replace(" ", "+") + size)])
            assert a.status == 401, (text, a)
            is_problem(a, 401, "bad-key")
    for text in ("' OR 1=1", "a b"):
        a = gw.get("/local/hello.txt", headers=[("X-API-Key", text)])
        assert a.status == 401, (text, a)
    for sql in keys.db.queries(since=mark, user="gateway"):
        assert "DROP" not in sql and "OR 1=1" not in sql, sql
    assert keys.sql("SELECT count(*) FROM api_keys; "
                    "SELECT count(*) FROM api_key_changes") == before
    assert local(gw, key).status == 200
    # the log of a server that others ask, too
    with open(keys.db.server.log, "rb") as log:
        log.seek(mark)
        errors = [line for line in log
                  if f"@{keys.db} ERROR:".encode() in line]
    assert not errors


def test_no_password_in_what_the_gateway_tells(keys, gateway):
    """Not where it says what its store is, either."""
    gw = on(keys, gateway, keys.url())
    serves(gw, keys)
    password = keys.db.server.passwords["gateway"]
    for form in ("json", "html", "prometheus"):
        page = gw.get(f"/usage-status?format={form}").body.decode()
        assert password not in page
    assert password not in gw.error_log()
    for pid in [gw.proc.pid, *gw.children()]:
        with open(f"/proc/{pid}/cmdline") as f:
            assert password not in f.read()


def test_a_broken_url_is_not_shown(keys):
    """configtest names the directive, and nothing of what may be a secret."""
    password = keys.db.server.passwords["gateway"]
    for bad in (f"postgresql://gateway:{password}@127.0.0.1/x?nonsense=1",
                f"postgresql://gateway:{password}%zz@127.0.0.1/x",
                f"postgresql://gateway:{password}@[127.0.0.1/x"):
        gw = Gateway("gateway-broken-url", key_store=bad)
        status, said = gw.configtest()
        assert status != 0 and "UsageKeyStore" in said, said
        assert password not in said

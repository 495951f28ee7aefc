# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""Where a key may be used, and by what secret it is known: networks, paths and
methods of plan, organization and key, before a real nginx that says how it
reads each path; hashes under UsageKeySecret."""
import hashlib
import hmac
import socket

import pytest

from clients.http1 import Closed
from harness import ORG, ORG2, free_port, make_key, poll
from processes import register_secret
from trap_helpers import is_problem

DETAILS = {"networks": "from this address", "paths": "on this path",
           "methods": "with this method"}


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


def refused(answer, by):
    problem = is_problem(answer, 403, "not-allowed")
    assert DETAILS[by] in problem["detail"], problem
    for name, other in DETAILS.items():
        assert name == by or other not in problem["detail"], problem


def set_org(gw, org=ORG, plans=None, **change):
    def edit(doc):
        if plans is not None:
            doc["plans"] = plans
        for o in doc["organizations"]:
            if o["id"] == org:
                o.update(change)
    gw.edit_keys(edit)


# --- networks -----------------------------------------------------------------

def test_networks(gateway, backend):
    gw = gateway(children=1)
    here = gw.add_key(networks=["192.0.2.0/24", "127.0.0.0/8"])[0]
    just_here = gw.add_key(networks=["127.0.0.1"])[0]
    elsewhere = gw.add_key(networks=["127.0.0.0/32", "2001:db8::/32",
                                     "::1", "::/0"])[0]
    gw.start()
    for _ in range(2):  # looked up, and from the cache
        assert gw.get("/x", key=here).status == 200
        assert gw.get("/x", key=just_here).status == 200
        refused(gw.get("/x", key=elsewhere), "networks")
    metrics = gw.settled()
    assert metrics["usage_requests_total"]["not-allowed"] == 2
    assert metrics["usage_requests_total"]["allowed"] == 4
    # Turned away: not recorded, and the backend never saw it.
    assert len(gw.wait_events(4)) == 4
    assert len(backend.wait_requests(4)) == 4


@needs_ipv6
def test_networks_of_ipv6(gateway):
    port, both = free_port(), free_port()
    gw = gateway(children=1,
                 server_conf=f"Listen [::1]:{port}\nListen [::]:{both}")
    six = gw.add_key(networks=["::1"])[0]
    four = gw.add_key(networks=["127.0.0.0/8"])[0]
    gw.start()

    def get(key, host, at):
        with gw.conn() as c:
            c.sock.close()
            c.sock = socket.create_connection((host, at), timeout=20)
            return c.request("GET", "/x", [("Authorization", f"Bearer {key}")])
    assert get(six, "::1", port).status == 200
    refused(get(four, "::1", port), "networks")
    # An IPv4 client on an IPv6 socket is an IPv4 client.
    assert get(four, "127.0.0.1", both).status == 200
    refused(get(six, "127.0.0.1", both), "networks")


def test_networks_behind_mod_remoteip(gateway):
    gw = gateway(children=1, modules=["remoteip"], server_conf="""
RemoteIPHeader X-Forwarded-For
RemoteIPInternalProxy 127.0.0.1""")
    key = gw.add_key(networks=["192.0.2.0/24", "2001:db8::/32"])[0]
    gw.start()

    def get(*clients):
        return gw.get("/x", key=key, headers=[
            ("X-Forwarded-For", x) for x in clients])
    assert get("192.0.2.7").status == 200
    assert get("2001:db8::7").status == 200
    refused(get("198.51.100.7"), "networks")
    refused(get("2001:db9::7"), "networks")
    refused(gw.get("/x", key=key), "networks")
    # Only the last hop is believed.
    refused(get("192.0.2.7", "198.51.100.7"), "networks")


def test_without_mod_remoteip_a_header_is_nothing(gateway):
    gw = gateway(children=1)
    key = gw.add_key(networks=["192.0.2.0/24"])[0]
    gw.start()
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        refused(gw.get("/x", key=key, headers=[(name, "192.0.2.7")]),
                "networks")


# --- methods ------------------------------------------------------------------

def test_methods(gateway):
    gw = gateway(children=1)
    reads = gw.add_key(methods=["GET", "PROPFIND"])[0]
    heads = gw.add_key(methods=["HEAD"])[0]
    gw.start()
    for method in ("GET", "HEAD", "PROPFIND"):
        assert gw.request(method, "/x", key=reads).status == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "get", "MKCOL"):
        refused(gw.request(method, "/x", key=reads), "methods")
    assert gw.request("HEAD", "/x", key=heads).status == 200
    refused(gw.get("/x", key=heads), "methods")
    # HEAD of what is refused has the status, and no body.
    a = gw.request("HEAD", "/x", key=gw.add_key(methods=["POST"])[0])
    assert a.status in (401, 403) and a.body == b""


# --- paths --------------------------------------------------------------------

#: Below /v1/, however one reads them.
INSIDE = ["/v1/", "/v1/a", "/v1/a/b?x=/../../admin", "/v1//a", "/v1/./a",
          "/v1/b/../a", "/admin/../v1/a", "/v1/%61", "/%76%31/a",
          "/v1/a%20b", "/v1/%C3%BC", "/v1/a;p=1", "http://gateway.test/v1/a",
          "/v1/a/..", "/v1/..a"]

#: Some server reads each of these as being elsewhere, or none reads it at all.
NASTY = [
    "/", "/v1", "/v10/a", "/V1/a", "/admin", "/v1/..", "/v1/../",
    "/v1/../admin",
    "/v1/./../admin", "/v1/a/../../admin", "/v1//../admin", "/v1//..//admin",
    "/v1/%2e%2e/admin", "/v1/%2E%2E/admin", "/v1/.%2e/admin", "/v1/%2e./admin",
    "/v1/%2e%2e", "/v1/%2e%2e/", "/v1/..%2fadmin", "/v1/..%2Fadmin",
    "/v1/%2e%2e%2fadmin", "/v1%2f..%2fadmin", "/v1/..%5cadmin",
    "/v1/..\\admin", "/v1\\..\\admin", "/v1/..;/admin", "/v1/..;x=1/admin",
    "/v1/..%3b/admin", "/v1/%2e%2e;/admin", "/v1/;/../../admin",
    "/v1/..%00/admin", "/v1/a%00/../../admin", "/v1/..%0d%0a/admin",
    "/v1/%252e%252e/admin", "/v1/%252e%252e%252fadmin", "/v1/%25%32%65./admin",
    "/v1/%c0%ae%c0%ae/admin", "/v1/%c0%ae./admin", "/v1/..%c0%af/admin",
    "/v1/%e0%80%ae%e0%80%ae/admin", "/v1/%u002e%u002e/admin",
    "/v1/%uff0e%uff0e/admin", "/v1/\xc0\xae\xc0\xae/admin",
    "/v1/%ef%bc%8e%ef%bc%8e/admin", "/v1/%e2%80%a5/admin", "/v1/.../admin",
    "/v1/..%20/admin", "/v1/..%09/admin", "/v1/.%00./admin", "//admin",
    "//admin/v1/", "///admin", "//v1/../admin", "//v1/admin", "/.//admin",
    "/../admin", "/../v1/a", "/v1/../../v1/a", "/%2e%2e/admin",
    "http://gateway.test/admin", "http://gateway.test/v1/../admin",
    "http://gateway.test", "http://gateway.test//admin/v1/",
    "http://gateway.test?/v1/", "http:/admin", "/admin?/v1/", "/admin;/v1/",
    "/admin%3f/v1/", "/admin%23/v1/", "/admin/%2e%2e%2fv1/a", "/v1/a#/../x",
    "/v1/%", "/v1/%2", "/v1/%zz/../../admin", "/v1/%%32e%%32e/admin", "*",
    "v1/a", "../v1/a", "./v1/a", "\\v1\\a",
]


def ask(gw, method, target, key):
    """The answer's status, or None where the connection just ended."""
    try:
        return gw.request(method, target, key=key).status
    except (Closed, ConnectionError):
        return None


@pytest.mark.parametrize("how", ["plain", "nocanon", "encoded slashes"])
def test_no_spelling_leaves_the_allowed_paths(gateway, backend, how):
    """Whatever is sent with a key for /v1/: no backend is asked for a path that
    is elsewhere, in its own reading."""
    conf = {"plain": "",
            "nocanon": f"ProxyPass / {backend.url}/ nocanon",
            "encoded slashes": "AllowEncodedSlashes On\nMergeSlashes Off"}
    gw = gateway(children=1, server_conf=conf[how],
                 backend=None if how == "nocanon" else backend)
    key = gw.add_key(paths=["/v1/"])[0]
    free = gw.add_key()[0]
    gw.start()
    inside = [x for x in INSIDE if ask(gw, "GET", x, key) == 200]
    assert len(inside) == len(INSIDE), set(INSIDE) - set(inside)
    for target in NASTY:
        for method in ("GET", "OPTIONS"):
            status = ask(gw, method, target, key)
            assert status in (None, 400, 403, 404), (target, status)
    for n in (8000, 9000):  # longer than httpd takes, or than is normalized
        ask(gw, "GET", "/v1/" + "a/../" * (n // 5) + "../admin", key)
    last = gw.get("/last", key=free)
    poll(lambda: any(r["uri"] == "/last" for r in backend.requests()))
    assert last.status == 200
    seen = [r["path"] for r in backend.requests() if r["uri"] != "/last"]
    assert len(seen) >= len(INSIDE)
    outside = [p for p in seen if not p.startswith("/v1/")]
    assert not outside, outside


def test_paths_of_any_length(gateway, backend):
    gw = gateway(children=1, server_conf="LimitRequestLine 40000")
    key = gw.add_key(paths=["/v1/", "/exact"])[0]
    gw.start()
    assert gw.get("/v1/" + "a" * 30000, key=key).status == 200
    assert gw.get("/./v1/" + "a" * 8000, key=key).status == 200
    refused(gw.get("/./v1/" + "a" * 30000, key=key), "paths")
    refused(gw.get("/v1/../admin/" + "a" * 30000, key=key), "paths")
    assert gw.get("/exact?x=1", key=key).status == 200
    refused(gw.get("/exact/", key=key), "paths")
    refused(gw.get("/exac", key=key), "paths")


# --- plan, organization and key -----------------------------------------------

def test_plan_organization_and_key_all_count(gateway):
    gw = gateway(children=1)
    plain = gw.add_key()[0]
    own = gw.add_key(plan="writer")[0]
    tight = gw.add_key(paths=["/v1/a"])[0]
    other = gw.add_key(org=ORG2)[0]
    set_org(gw, plan="reader", paths=["/v1/"],
            plans={"reader": {"methods": ["GET"]},
                   "writer": {"methods": ["PUT"], "billable": False}})
    gw.start()
    assert gw.get("/v1/b", key=plain).status == 200
    refused(gw.get("/v2/b", key=plain), "paths")
    refused(gw.request("PUT", "/v1/b", key=plain), "methods")
    assert gw.request("PUT", "/v1/b", key=own).status == 200
    refused(gw.get("/v1/b", key=own), "methods")
    assert gw.get("/v1/a", key=tight).status == 200
    refused(gw.get("/v1/b", key=tight), "paths")
    assert gw.request("DELETE", "/any", key=other).status == 200
    # The plan's word on billing counts, too.
    billable = {e["endpoint"] + e["method"]: e["billable"]
                for e in gw.wait_events(4)}
    assert billable == {"/v1/bGET": True, "/v1/bPUT": False, "/v1/aGET": True,
                        "/anyDELETE": True}


def test_revoked_and_expired_come_first(gateway):
    gw = gateway(children=1)
    revoked = gw.add_key(paths=["/v1/"], revoked="2020-01-01T00:00:00Z")[0]
    expired = gw.add_key(paths=["/v1/"], expires="2020-01-01T00:00:00Z")[0]
    gw.start()
    is_problem(gw.get("/x", key=revoked), 401, "bad-key")
    is_problem(gw.get("/x", key=expired), 403, "expired-key")


def test_a_changed_list_is_taken_up(gateway):
    gw = gateway(children=2)
    key = gw.add_key(paths=["/v1/"])[0]
    gw.start()
    refused(gw.get("/v2/x", key=key), "paths")
    gw.edit_keys(lambda doc: doc["organizations"][0]["keys"][0].update(
        paths=["/v2/"]))
    poll(lambda: all(gw.get("/v2/x", key=key).status == 200
                     for _ in range(8)), 5)
    refused(gw.get("/v1/x", key=key), "paths")


# --- UsageKeySecret -----------------------------------------------------------

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def secret_gw(gateway):
    gw = gateway(children=2, server_conf="UsageKeySecret file:{dir}/secret")
    gw.secret_file = gw.dir / "secret"

    def put(secret):
        register_secret(secret.decode())
        new = gw.dir / "secret.new"
        new.write_bytes(secret + b"\n")
        new.chmod(0o600)
        new.rename(gw.secret_file)

    def add(secret, org=ORG):
        key = make_key()
        gw.add_key(key, org=org)
        digest = hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()

        def rehash(doc):
            for o in doc["organizations"]:
                for k in o["keys"]:
                    if k["hash"] == gw.hash_of(key):
                        k["hash"] = f"hmac-sha256:{digest}"
        gw.edit_keys(rehash)
        return key
    gw.put_secret, gw.add_hmac = put, add
    put(SECRET)
    yield gw
    # It is no key, and its own file is where it may stand.
    gw.secret_file.unlink(missing_ok=True)


def test_keys_under_a_secret(secret_gw):
    gw = secret_gw
    new, plain = gw.add_hmac(SECRET), gw.add_key()[0]
    foreign = gw.add_hmac(b"x" * 32)
    gw.start()
    for _ in range(6):
        assert gw.get("/x", key=new).status == 200
        assert gw.get("/x", key=plain).status == 200
        is_problem(gw.get("/x", key=foreign), 401, "bad-key")
    assert SECRET.decode() not in gw.error_log()
    gw.wait_events(12)


def test_a_changed_secret_counts_from_a_graceful_restart_on(secret_gw):
    gw = secret_gw
    other = b"another secret, of 32 bytes or so"
    old, new = gw.add_hmac(SECRET), gw.add_hmac(other)
    gw.start()
    assert gw.get("/x", key=old).status == 200
    gw.put_secret(other)
    is_problem(gw.get("/x", key=new), 401, "bad-key")
    gw.graceful()
    poll(lambda: all(gw.get("/x", key=new).status == 200 for _ in range(8)), 5)
    is_problem(gw.get("/x", key=old), 401, "bad-key")


def test_hashes_under_a_secret_need_one(secret_gw):
    gw = secret_gw
    gw.add_hmac(SECRET)
    gw.server_conf = ""
    rc, output = gw.configtest()
    assert rc and "UsageKeySecret" in output and str(gw.keyfile) in output
    with pytest.raises(AssertionError, match="did not start"):
        gw.start()


def test_a_secret_that_all_can_read_is_refused(secret_gw):
    gw = secret_gw
    gw.secret_file.chmod(0o644)
    rc, output = gw.configtest()
    assert rc and "UsageKeySecret" in output and "0640" in output
    gw.secret_file.write_bytes(b"short")
    gw.secret_file.chmod(0o600)
    rc, output = gw.configtest()
    assert rc and "32 to 4096 bytes" in output and "short" not in output

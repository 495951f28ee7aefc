# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
"""mod_cache and two customers: an answer to one is never given to another,
nothing of it is stored, and no Expires is added to keep it from being."""
import pytest

from harness import ORG, ORG2
from trap_helpers import EVIL, TrapFcgi, TrapHttp, http2, is_problem, our_id

CACHE = """
CacheRoot {dir}/cache
CacheEnable disk /
CacheQuickHandler %s
CacheIgnoreNoLastMod On
CacheIgnoreCacheControl On
CacheStorePrivate On
"""


@pytest.fixture(params=["On", "Off"])
def quick(request):
    return request.param


@pytest.fixture
def make(gateway, servers, quick):
    def make(more="", trap=TrapHttp, modules=(), **kw):
        backend = servers.add(trap()).start()
        gw = gateway(backend=backend, children=1, modules=[
            "cache", "cache_disk", *modules],
            server_conf=CACHE % quick + more + (
                "UsageExempt /cached-free\n" if kw.get("module", True) else ""),
            **kw)
        (gw.dir / "cache").mkdir()
        (gw.dir / "cache").chmod(0o777)
        gw.trap = backend
        return gw
    return make


def stored(gw):
    return [p for p in (gw.dir / "cache").rglob("*") if p.is_file()]


def test_bare_httpd_would_mix_customers_up(make):
    """The trap is one: what follows would fail without the module."""
    gw = make(module=False)
    gw.start()
    for org in (ORG, ORG2):
        a = gw.get("/cached", headers=[("X-Organization-Id", org),
                                       ("X-API-Key", "x")])
        assert a.body == f"for {ORG}\n".encode()
    assert len(gw.trap.seen) == 1 and stored(gw)


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_each_customer_gets_their_own(make, header):
    gw = make()
    one, two = gw.add_key(org=ORG), gw.add_key(org=ORG2)
    gw.start()
    ids = set()
    for key, _, org in (one, two, one, two):
        value = f"Bearer {key}" if header == "Authorization" else key
        a = gw.get("/cached", headers=[(header, value)])
        assert a.body == f"for {org}\n".encode()
        assert a.header("Expires") is None and a.header("Age") is None
        assert a.header("Cache-Control") == "public, max-age=600"
        ids.add(our_id(a))
    assert len(gw.trap.seen) == 4 and len(ids) == 4
    assert stored(gw) == []
    gw.wait_events(4)


def test_where_no_key_is_required_only_keyless_answers_are_stored(make):
    """What a backend lets everybody have, everybody may have from the cache;
    what it said to a customer, nobody."""
    gw = make("UsageKeyRequired Off\n")
    key, _, org = gw.add_key()
    gw.start()
    for _ in range(2):
        assert gw.get("/cached").body == b"for \n"
    assert len(gw.trap.seen) == 1 and stored(gw)  # the cache is at work
    before = stored(gw)
    a = gw.get("/cached?mine", key=key)
    assert a.body == f"for {org}\n".encode()
    assert stored(gw) == before
    assert gw.get("/cached?mine").body == b"for \n"
    for bad in (("X-API-Key", "sk_test_wrong"),
                ("Authorization", "Bearer sk_test_wrong")):
        is_problem(gw.get("/cached", headers=[bad]), 401, "bad-key")
    # Recorded even where the cache could answer.
    assert our_id(gw.get("/cached", key=key))
    gw.wait_events(2)


def test_exempt_answers_are_cached_and_carry_a_new_id_each(make):
    gw = make()
    gw.start()
    first = gw.get("/cached-free")
    second = gw.get("/cached-free", headers=[("X-Request-Id", EVIL)])
    assert len(gw.trap.seen) == 1
    assert our_id(first) != our_id(second)
    is_problem(gw.get("/cached"), 401, "no-key")


def test_without_a_key_there_is_no_answer_from_the_cache(make):
    gw = make()
    key, _, org = gw.add_key()
    gw.start()
    gw.get("/cached", key=key)
    for target in ("/cached", "/cached?x"):
        is_problem(gw.get(target), 401, "no-key")
    is_problem(gw.get("/cached", headers=[("If-None-Match", '"same"')]),
               401, "no-key")
    assert stored(gw) == []


def test_a_401_is_not_stored(make):
    gw = make()
    key, _, org = gw.add_key()
    gw.start()
    is_problem(gw.get("/cached"), 401, "no-key")
    assert stored(gw) == []
    assert gw.get("/cached", key=key).status == 200


def test_conditional_requests_reach_the_backend(make):
    gw = make()
    key, _, org = gw.add_key()
    gw.start()
    for _ in range(2):
        gw.get("/cached", key=key, headers=[("If-None-Match", '"same"')])
        assert gw.trap.seen[-1].values("If-None-Match") == ['"same"']
    assert len(gw.trap.seen) == 2


def test_internal_redirects_are_not_stored_either(make):
    """They rename what was put into the environment."""
    gw = make("""
ProxyErrorOverride On
ErrorDocument 404 /cached/sorry
""")
    one, two = gw.add_key(org=ORG), gw.add_key(org=ORG2)
    gw.start()
    for key, _, org in (one, two):
        a = gw.get("/status/404", key=key)
        assert (a.status, a.body) == (404, f"for {org}\n".encode())
        assert a.header("Expires") is None
    assert [s.target for s in gw.trap.seen] == [
        "/status/404", "/cached/sorry"] * 2
    assert stored(gw) == []
    gw.wait_events(2)


def test_local_files_and_http2(make):
    gw = make("""
Protocols h2c http/1.1
<Location /local>
    Header set Cache-Control "public, max-age=600"
</Location>
""", modules=["http2"])
    key, _, _ = gw.add_key()
    gw.start()
    for _ in range(2):
        assert gw.get("/local/hello.txt", key=key).body == b"hello\n"
    with http2(gw) as client:
        a = client.request("GET", "/cached",
                           [("authorization", f"Bearer {key}")])
        assert a.status == 200
    assert stored(gw) == []


def test_fcgi_answers_are_not_stored(make):
    gw = make(trap=TrapFcgi, modules=["proxy_fcgi"])
    key, _, _ = gw.add_key()
    gw.start()
    for _ in range(2):
        assert gw.get("/cached", key=key).status == 200
    assert len(gw.trap.seen) == 2 and stored(gw) == []

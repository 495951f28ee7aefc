/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
/*
 * A block is its own length in two bytes, then lists; all numbers are
 * big-endian and unaligned. A list is a kind, the bytes that follow in two, and
 * entries:
 *
 *   networks  family (4 or 6), bits of the prefix, 4 or 16 bytes of address
 *   paths     length in two bytes, the path
 *   methods   length in one byte, the name
 *
 * Each list of plan, organization and key stands for itself, since each must
 * let a request in; those of one kind stand together.
 */
#include "access.h"

#include <arpa/inet.h>
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "endpoint.h"

enum { LIST_NETWORKS = 1, LIST_PATHS, LIST_METHODS };

#define HEAD 2      /* bytes of a block's length */
#define LIST_HEAD 3 /* bytes before a list's entries */
#define SHOWN "%.100s"

static const struct {
    const char *name;
    int kind;
} kinds[] = {{"networks", LIST_NETWORKS},
             {"paths", LIST_PATHS},
             {"methods", LIST_METHODS}};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void put16(uint8_t *to, size_t n)
{
    to[0] = (uint8_t)(n >> 8);
    to[1] = (uint8_t)n;
}

static size_t get16(const uint8_t *from)
{
    return (size_t)from[0] << 8 | from[1];
}

/* Networks ------------------------------------------------------------- */

/* A network, as a block holds it. */
typedef struct {
    uint8_t family; /* 4 or 6 */
    uint8_t bits;
    uint8_t address[16];
} network_t;

static size_t address_bytes(const network_t *network)
{
    return network->family == 4 ? 4 : 16;
}

static const char *format_network(const network_t *network, apr_pool_t *p)
{
    char text[INET6_ADDRSTRLEN];

    inet_ntop(network->family == 4 ? AF_INET : AF_INET6, network->address, text,
              sizeof(text));
    return apr_psprintf(p, "%s/%u", text, network->bits);
}

/* Clear the bits behind the prefix. @return whether one was set */
static int clear_host_bits(network_t *network)
{
    size_t bytes = address_bytes(network);
    int was_set = 0;

    for (size_t i = network->bits / 8; i < bytes; i++) {
        uint8_t keep =
            i == network->bits / 8u
                ? (uint8_t)(0xff00 >> (network->bits % 8)) /* the high ones */
                : 0;

        was_set |= network->address[i] & (uint8_t)~keep;
        network->address[i] &= keep;
    }
    return was_set != 0;
}

/* Read "24" of "192.0.2.0/24", without a sign, spaces or leading zeros. */
static int read_bits(const char *s, unsigned most, uint8_t *bits)
{
    unsigned n = 0;
    size_t i;

    for (i = 0; apr_isdigit(s[i]) && i < 3; i++) {
        n = n * 10 + (unsigned)(s[i] - '0');
    }
    *bits = (uint8_t)n;
    return i > 0 && !s[i] && n <= most && (i == 1 || s[0] != '0');
}

static const char *read_network(network_t *network, const char *entry,
                                apr_pool_t *p)
{
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff};
    const char *slash = strchr(entry, '/');
    char address[INET6_ADDRSTRLEN] = "";
    size_t n = slash ? (size_t)(slash - entry) : strlen(entry);
    unsigned most;

    memset(network, 0, sizeof(*network));
    if (n < sizeof(address)) {
        memcpy(address, entry, n);
    }
    network->family = strchr(address, ':') ? 6 : 4;
    most = network->family == 4 ? 32 : 128;
    network->bits = (uint8_t)most;
    if (inet_pton(network->family == 4 ? AF_INET : AF_INET6, address,
                  network->address)
            != 1
        || (slash && !read_bits(slash + 1, most, &network->bits))) {
        return apr_psprintf(p,
                            "\"" SHOWN "\" is no network, such as "
                            "192.0.2.0/24 or 2001:db8::/32, and no address",
                            entry);
    }
    if (network->family == 6 && network->bits >= 96
        && !memcmp(network->address, mapped, sizeof(mapped))) {
        network->family = 4;
        network->bits = (uint8_t)(network->bits - 96);
        memmove(network->address, network->address + 12, 4);
        clear_host_bits(network);
        return apr_psprintf(p, "\"" SHOWN "\" names IPv4 addresses: write %s",
                            entry, format_network(network, p));
    }
    if (clear_host_bits(network)) {
        return apr_psprintf(p,
                            "\"" SHOWN "\" has bits set behind its prefix: "
                            "write %s, or the address alone",
                            entry, format_network(network, p));
    }
    return NULL;
}

static int is_within(const uint8_t *address, const uint8_t *network,
                     unsigned bits)
{
    unsigned rest = bits % 8;

    return memcmp(address, network, bits / 8) == 0
           && (rest == 0
               || (address[bits / 8] ^ network[bits / 8]) >> (8 - rest) == 0);
}

/* The client's address; family 0 where it has none. */
static void client_address(const apr_sockaddr_t *client, network_t *address)
{
    address->family = 0;
    if (client && client->family == APR_INET) {
        address->family = 4;
        memcpy(address->address, &client->sa.sin.sin_addr, 4);
    }
#if APR_HAVE_IPV6
    else if (client && client->family == APR_INET6) {
        const struct in6_addr *in6 = &client->sa.sin6.sin6_addr;
        int is_mapped = IN6_IS_ADDR_V4MAPPED(in6);

        address->family = is_mapped ? 4 : 6;
        memcpy(address->address, in6->s6_addr + (is_mapped ? 12 : 0),
               is_mapped ? 4 : 16);
    }
#endif
}

static int networks_admit(const uint8_t *p, const uint8_t *end,
                          const apr_sockaddr_t *client)
{
    network_t address;

    client_address(client, &address);
    while (end - p >= 2) {
        size_t bytes = p[0] == 4 ? 4 : 16;

        if ((size_t)(end - p) < 2 + bytes || p[1] > bytes * 8) {
            return 0;
        }
        if (p[0] == address.family && is_within(address.address, p + 2, p[1])) {
            return 1;
        }
        p += 2 + bytes;
    }
    return 0;
}

/* Paths ---------------------------------------------------------------- */

static const char *check_path(const char *entry, apr_pool_t *p)
{
    size_t len = strlen(entry);

    if (len > UE_ENDPOINT_MAX) {
        return apr_psprintf(p, "\"" SHOWN "...\" is longer than %d bytes",
                            entry, UE_ENDPOINT_MAX);
    }
    if (!ue_path_is_plain(entry, len)) {
        return apr_psprintf(p,
                            "\"" SHOWN "\" is no path such as /v1/charge, and "
                            "no prefix that ends in a slash such as /v1/, "
                            "written as a server reads it (no \"..\", \"//\" "
                            "or needless escapes)",
                            entry);
    }
    return NULL;
}

/* Which path to judge by: the request's own, if every server reads it so. */
static const char *path_asked(const ue_asked_t *asked, char *room, size_t *len)
{
    if (ue_path_is_plain(asked->path, asked->path_len)) {
        *len = asked->path_len;
        return asked->path;
    }
    *len = ue_path_normalize(room, asked->path, asked->path_len);
    return room;
}

static int paths_admit(const uint8_t *p, const uint8_t *end, const char *path,
                       size_t len)
{
    while (end - p >= 2) {
        size_t n = get16(p);

        p += 2;
        if (n == 0 || (size_t)(end - p) < n) {
            return 0;
        }
        if (n <= len && memcmp(path, p, n) == 0
            && (n == len || p[n - 1] == '/')) {
            return 1;
        }
        p += n;
    }
    return 0;
}

/* Methods -------------------------------------------------------------- */

static int is_token(const char *s)
{
    const char *c = s;

    while (apr_isalnum(*c) || (*c && strchr("!#$%&'*+-.^_`|~", *c))) {
        c++;
    }
    return c > s && !*c;
}

static const char *check_method(const char *entry, apr_pool_t *p)
{
    static const char *const usual[] = {"GET",     "HEAD",  "POST",
                                        "PUT",     "PATCH", "DELETE",
                                        "OPTIONS", "TRACE", "CONNECT"};

    if (!is_token(entry) || strlen(entry) > UE_METHOD_MAX) {
        return apr_psprintf(
            p, "\"" SHOWN "\" is no method, such as GET or POST", entry);
    }
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
        /* A client that sends "get" exists only by mistake; a list with it
         * would let nobody in. */
        if (!strcasecmp(entry, usual[i]) && strcmp(entry, usual[i])) {
            return apr_psprintf(p,
                                "\"" SHOWN "\" is not %s, since methods are "
                                "told apart by case: write %s",
                                entry, usual[i], usual[i]);
        }
    }
    return NULL;
}

static int methods_admit(const uint8_t *p, const uint8_t *end,
                         const char *method)
{
    size_t len = strlen(method);
    int is_head = !strcmp(method, "HEAD");

    while (p < end) {
        size_t n = *p++;

        if (n == 0 || (size_t)(end - p) < n) {
            return 0;
        }
        if ((n == len && memcmp(p, method, n) == 0)
            || (is_head && n == 3 && memcmp(p, "GET", 3) == 0)) {
            return 1;
        }
        p += n;
    }
    return 0;
}

/* Compiling ------------------------------------------------------------ */

/* A block that is being written. */
typedef struct {
    uint8_t *at;
    uint8_t *end;
    apr_pool_t *p;
} writer_t;

static int has_room(const writer_t *w, size_t n)
{
    return (size_t)(w->end - w->at) >= n;
}

static apr_status_t write_bytes(writer_t *w, const void *bytes, size_t n)
{
    if (!has_room(w, n)) {
        return APR_ENOSPC;
    }
    memcpy(w->at, bytes, n);
    w->at += n;
    return APR_SUCCESS;
}

static apr_status_t write_text(writer_t *w, const char *text, size_t width)
{
    size_t n = strlen(text);
    uint8_t head[2];

    put16(head, n);
    if (!has_room(w, width + n)) {
        return APR_ENOSPC;
    }
    write_bytes(w, head + 2 - width, width);
    return write_bytes(w, text, n);
}

static apr_status_t write_entry(writer_t *w, int kind, const char *entry)
{
    network_t network;

    switch (kind) {
    case LIST_NETWORKS:
        read_network(&network, entry, w->p);
        return write_bytes(w, &network, 2 + address_bytes(&network));
    case LIST_PATHS:
        return write_text(w, entry, 2);
    default:
        return write_text(w, entry, 1);
    }
}

static apr_status_t write_list(writer_t *w, size_t which,
                               const char *const *entries, const char **why)
{
    uint8_t head[LIST_HEAD] = {(uint8_t)kinds[which].kind};
    uint8_t *start = w->at;
    apr_status_t rv;

    if (!entries || !*entries) {
        return APR_SUCCESS;
    }
    rv = write_bytes(w, head, sizeof(head));
    for (; *entries && rv == APR_SUCCESS; entries++) {
        const char *fault = ue_access_check(kinds[which].name, *entries, w->p);

        if (fault) {
            *why = apr_psprintf(w->p, "%s: %s", kinds[which].name, fault);
            return APR_EINVAL;
        }
        rv = write_entry(w, kinds[which].kind, *entries);
    }
    if (rv == APR_SUCCESS) {
        put16(start + 1, (size_t)(w->at - start) - LIST_HEAD);
    }
    return rv;
}

static const char *const *list_of(const ue_access_lists_t *lists, int kind)
{
    return kind == LIST_NETWORKS ? lists->networks
           : kind == LIST_PATHS  ? lists->paths
                                 : lists->methods;
}

apr_status_t ue_access_compile(const ue_access_lists_t *lists, size_t count,
                               uint8_t to[UE_ACCESS_MAX], size_t *len,
                               const char **why, apr_pool_t *p)
{
    writer_t w = {to + HEAD, to + UE_ACCESS_MAX, p};
    apr_status_t rv = APR_SUCCESS;

    *len = 0;
    for (size_t k = 0; k < KINDS; k++) {
        for (size_t i = 0; i < count && rv == APR_SUCCESS; i++) {
            rv = write_list(&w, k, list_of(&lists[i], kinds[k].kind), why);
        }
    }
    if (rv == APR_ENOSPC) {
        *why = apr_psprintf(p,
                            "networks, paths and methods of key, organization "
                            "and plan together take more than %d bytes",
                            UE_ACCESS_MAX);
    }
    if (rv == APR_SUCCESS && w.at > to + HEAD) {
        *len = (size_t)(w.at - to);
        put16(to, *len);
    }
    return rv;
}

const char *ue_access_check(const char *kind, const char *entry, apr_pool_t *p)
{
    network_t network;

    if (!strcmp(kind, "networks")) {
        return read_network(&network, entry, p);
    }
    return !strcmp(kind, "paths") ? check_path(entry, p)
                                  : check_method(entry, p);
}

/* Judging -------------------------------------------------------------- */

/* What is wrong by a list of this kind, if it doesn't let a request in. A kind
 * that we don't know lets nobody in. */
static ue_access_t judge_list(int kind, const uint8_t *p, const uint8_t *end,
                              const ue_asked_t *asked)
{
    char room[UE_PATH_MAX];
    const char *path;
    size_t len;

    switch (kind) {
    case LIST_PATHS:
        path = path_asked(asked, room, &len);
        return paths_admit(p, end, path, len) ? UE_ACCESS_GRANTED
                                              : UE_ACCESS_PATH;
    case LIST_METHODS:
        return methods_admit(p, end, asked->method) ? UE_ACCESS_GRANTED
                                                    : UE_ACCESS_METHOD;
    default:
        return kind == LIST_NETWORKS && networks_admit(p, end, asked->client)
                   ? UE_ACCESS_GRANTED
                   : UE_ACCESS_NETWORK;
    }
}

ue_access_t ue_access_judge(const uint8_t *block, size_t len,
                            const ue_asked_t *asked)
{
    const uint8_t *end = block + len;
    const uint8_t *p = block + HEAD;

    if (len == 0) {
        return UE_ACCESS_GRANTED;
    }
    if (len <= HEAD || get16(block) != len) {
        return UE_ACCESS_NETWORK;
    }
    while (p < end) {
        ue_access_t result;
        size_t n;

        if (end - p < LIST_HEAD
            || (n = get16(p + 1)) > (size_t)(end - p) - LIST_HEAD) {
            return UE_ACCESS_NETWORK;
        }
        result = judge_list(p[0], p + LIST_HEAD, p + LIST_HEAD + n, asked);
        if (result != UE_ACCESS_GRANTED) {
            return result;
        }
        p += LIST_HEAD + n;
    }
    return UE_ACCESS_GRANTED;
}

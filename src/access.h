/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_ACCESS_H
#define UE_ACCESS_H

/**
 * Where a key may be used: from which networks, on which paths, by which
 * methods.
 *
 * A plan, an organization and a key may each have such lists. What is empty or
 * missing restricts nothing; of several that are there, all must let a request
 * in. The lists of the three are compiled once, when a key is read, into one
 * block of bytes without pointers, which can lie in any memory and be copied
 * anywhere. Judging a request by it allocates nothing.
 *
 *   networks  IPv4 and IPv6, "192.0.2.0/24", "2001:db8::/32", or an address. An
 *             IPv4 client that comes over an IPv6 socket (::ffff:192.0.2.1) is
 *             an IPv4 client. The address is the one that mod_remoteip leaves.
 *   paths     "/v1/charge", or a prefix that ends in a slash, as of
 *             UsageExempt. They are compared with the path as a backend would
 *             read it: dot segments resolved, empty segments merged, escapes of
 *             unreserved characters decoded. A path that can be read in more
 *             than one way even then is below none.
 *   methods   names, upper and lower case told apart; GET stands for HEAD, too.
 *
 * All functions are pure; any thread may call them.
 */
#include <stddef.h>
#include <stdint.h>

#include <apr_errno.h>
#include <apr_network_io.h>
#include <apr_pools.h>

/** The most that the lists of one key may take, compiled, in bytes. */
#define UE_ACCESS_MAX 4096

/** What about a request is judged. */
typedef struct {
    const apr_sockaddr_t *client;
    const char *method;
    const char *path; /**< as it came: ue_endpoint_path() */
    size_t path_len;
} ue_asked_t;

typedef enum {
    UE_ACCESS_GRANTED,
    UE_ACCESS_NETWORK, /**< the client's address is in none of the networks */
    UE_ACCESS_PATH,
    UE_ACCESS_METHOD
} ue_access_t;

/** A list while it is compiled: of one plan, organization or key. */
typedef struct {
    const char *const *networks; /**< each ends with NULL; NULL: none */
    const char *const *paths;
    const char *const *methods;
} ue_access_lists_t;

/**
 * Compile lists.
 * @param lists what plan, organization and key have
 * @param count how many of these
 * @param to    receives the block, at most UE_ACCESS_MAX bytes
 * @param len   receives its length; 0 where nothing is restricted
 * @param why   receives, on error, a sentence such as
 *              "networks: \"192.0.2.0/33\" is no network, such as …"
 * @param p     where the sentence lives
 * @return      APR_EINVAL for what can't be read, APR_ENOSPC for too much
 */
apr_status_t ue_access_compile(const ue_access_lists_t *lists, size_t count,
                               uint8_t to[UE_ACCESS_MAX], size_t *len,
                               const char **why, apr_pool_t *p);

/**
 * Judge a request. A block that is not whole (which only a fault of ours could
 * make) grants nothing.
 * @param block what ue_access_compile() made; len 0 grants all
 */
ue_access_t ue_access_judge(const uint8_t *block, size_t len,
                            const ue_asked_t *asked);

/** Check one entry as ue_access_compile() would, for who takes them in. kind is
 * "networks", "paths" or "methods". @return NULL or a sentence */
const char *ue_access_check(const char *kind, const char *entry, apr_pool_t *p);

#endif /* UE_ACCESS_H */

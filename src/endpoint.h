/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_ENDPOINT_H
#define UE_ENDPOINT_H

/**
 * The path of a request target: as it is billed, and as it is exempted.
 *
 * Billed is the path as it came on the wire: no query string, no scheme and
 * host of an absolute target, and made valid UTF-8, because it goes into JSON
 * and into a database. Exempted is only a path that no server on the way can
 * read as another: /docs/../v1/charge reaches the backend as /v1/charge, so a
 * path that normalization would change is never exempt. Where a key is kept to
 * some paths (access.h), it is the normalized path that counts.
 *
 * All functions are pure; any thread may call them.
 */
#include <stddef.h>

#include <apr_errno.h>

#define UE_ENDPOINT_MAX 2048 /**< bytes of an endpoint in an event */
#define UE_METHOD_MAX 64     /**< bytes of a method in an event */

/** The longest path that is normalized, in bytes; httpd takes request lines of
 * 8,190 unless LimitRequestLine says otherwise. */
#define UE_PATH_MAX 8192

/**
 * Find the path in a request target (RFC 9112 section 3.2).
 * @param target origin form, absolute form, authority form or asterisk
 * @param len    receives the path's bytes
 * @return       where in target the path begins; "/" where there is none
 */
const char *ue_endpoint_path(const char *target, size_t *len);

/**
 * Copy text as valid UTF-8: each maximal ill-formed part becomes U+FFFD, as
 * Python's errors="replace" has it (Unicode 15, table 3-8). What would be
 * longer than max is cut to the longest prefix of whole characters of at most
 * max - 3 bytes, and U+2026 is put behind it.
 * @param to  at least max bytes; no NUL is written
 * @return    bytes written
 */
size_t ue_utf8_clean(char *to, size_t max, const char *from, size_t len);

/**
 * Would every server on the way read this path as it stands? It begins with a
 * slash; no segment is empty, but for the last, or begins with a parameter, and
 * one that begins with dots goes on with a letter or the like (not "..", not
 * "..;x", not "..%20"). It has no escape of an unreserved character, of a
 * slash, a backslash, a percent sign or a control character, no raw one of
 * these, nor a raw space, "?" or "#"; escapes are whole, what they and raw
 * bytes spell is UTF-8, and no character of it is known to be taken for a dot
 * or a slash somewhere.
 */
int ue_path_is_plain(const char *path, size_t len);

/**
 * The path as a backend would read it (RFC 3986 section 6.2.2): escapes of
 * unreserved characters decoded, empty segments merged, dot segments resolved.
 * There is none where servers would not agree on it, whatever came out of it:
 * not for a path that leaves the root; one with two slashes at its beginning,
 * which some take for a host; one with both empty and ".." segments, for these
 * take away more or less; nor where any segment, also one that a ".." takes
 * away, is not plain in the sense of ue_path_is_plain(). A path longer than
 * UE_PATH_MAX has none either.
 * @param to receives it, plain, not NUL-terminated: UE_PATH_MAX bytes
 * @return   its bytes; 0: there is none
 */
size_t ue_path_normalize(char *to, const char *path, size_t len);

/**
 * Does a path match an exemption: the same, or below one ending in a slash?
 * A path that is not plain matches none.
 */
int ue_path_is_exempt(const char *path, size_t len, const char *const *exempt,
                      size_t count);

#endif /* UE_ENDPOINT_H */

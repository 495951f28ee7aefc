/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_CRC32C_H
#define UE_CRC32C_H

/**
 * CRC-32C (Castagnoli; RFC 3720, appendix B.4), by the processor's own
 * instruction where it has one. Any thread may call it.
 */
#include <stddef.h>
#include <stdint.h>

/**
 * @param crc of what came before, 0 at the beginning
 * @return    of that and data together
 */
uint32_t ue_crc32c(uint32_t crc, const void *data, size_t len);

/** The same without the processor's help, for tests. */
uint32_t ue_crc32c_table(uint32_t crc, const void *data, size_t len);

#endif /* UE_CRC32C_H */

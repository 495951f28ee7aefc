/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_VERSION_H
#define UE_VERSION_H

#define UE_VERSION "0.1.0"

#endif /* UE_VERSION_H */

/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#include "gcra.h"

/* period * 62.5, which has no fraction: periods are whole seconds */
static uint64_t ticks(apr_interval_time_t period)
{
    return (uint64_t)period * 1000 / UE_GCRA_TICK;
}

void ue_gcra_prepare(ue_gcra_t *gcra, const ue_rate_t *rate)
{
    uint64_t most;

    gcra->emission = (ticks(rate->period) + rate->count - 1) / rate->count;
    most = UE_GCRA_MOST / gcra->emission;
    gcra->tolerance =
        gcra->emission * (rate->burst < most ? rate->burst : most);
}

static void describe(const ue_gcra_t *gcra, uint64_t full,
                     ue_gcra_state_t *state)
{
    uint64_t room = gcra->tolerance > full ? gcra->tolerance - full : 0;

    state->remaining = (uint32_t)(room / gcra->emission);
    state->wait =
        room >= gcra->emission ? 0 : full + gcra->emission - gcra->tolerance;
    state->full = full;
}

uint64_t ue_gcra_take(const ue_gcra_t *gcra, uint64_t tat, uint64_t now,
                      ue_gcra_state_t *state)
{
    uint64_t full = ue_gcra_ahead(tat, now);

    state->is_let_in = full + gcra->emission <= gcra->tolerance;
    if (state->is_let_in) {
        full += gcra->emission;
        tat = (now + full) & UE_GCRA_MASK;
    }
    describe(gcra, full, state);
    return tat;
}

void ue_gcra_look(const ue_gcra_t *gcra, uint64_t tat, uint64_t now,
                  ue_gcra_state_t *state)
{
    uint64_t full = ue_gcra_ahead(tat, now);

    state->is_let_in = full + gcra->emission <= gcra->tolerance;
    describe(gcra, full, state);
}

uint64_t ue_gcra_convert(const ue_gcra_t *from, const ue_gcra_t *to,
                         uint64_t tat, uint64_t now)
{
    uint64_t is = ue_gcra_ahead(tat, now);
    unsigned __int128 same = (unsigned __int128)is * to->emission;

    /* Rounded up: nobody gains by a conversion. */
    same = (same + from->emission - 1) / from->emission;
    return (now + (same < UE_GCRA_MOST ? (uint64_t)same : UE_GCRA_MOST))
           & UE_GCRA_MASK;
}

uint64_t ue_gcra_mend(uint64_t tat, uint64_t now, uint64_t longest)
{
    return ue_gcra_ahead(tat, now) > longest ? (now + longest) & UE_GCRA_MASK
                                             : tat;
}

/* Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors. */
#ifndef UE_UNIT_SPOOL_IMAGE_H
#define UE_UNIT_SPOOL_IMAGE_H

/**
 * What a dead process has left, in memory: to be written again as often as a
 * test wants, damaged in another way each time, under another stream's name.
 */
#include "unit_spool_book.h"

#include "crc32c.h"

#define SEGMENTS_MAX 512

typedef struct {
    size_t size;
    char *bytes;
} image_file_t;

typedef struct {
    image_file_t account;
    image_file_t segment[SEGMENTS_MAX];
    unsigned segments;
} image_t;

static inline void load_file(image_file_t *file, const char *name, size_t size)
{
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", spool_dir, name);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    file->size = size;
    file->bytes = malloc(size);
    assert_non_null(file->bytes);
    assert_int_equal(read(fd, file->bytes, size), size);
    close(fd);
}

/** Load the only stream that there is. */
static inline void take_image(image_t *image)
{
    const apr_array_header_t *entries = list_spool();

    memset(image, 0, sizeof(*image));
    for (int i = 0; i < entries->nelts; i++) {
        const ue_spool_entry_t *entry =
            &APR_ARRAY_IDX(entries, i, ue_spool_entry_t);

        assert_true(image->segments < SEGMENTS_MAX);
        load_file(entry->is_segment ? &image->segment[image->segments++]
                                    : &image->account,
                  entry->name, (size_t)entry->size);
    }
    assert_non_null(image->account.bytes);
}

static inline void copy_file(image_file_t *to, const image_file_t *from)
{
    to->size = from->size;
    to->bytes = malloc(from->size);
    assert_non_null(to->bytes);
    memcpy(to->bytes, from->bytes, from->size);
}

static inline void copy_image(image_t *to, const image_t *from)
{
    memset(to, 0, sizeof(*to));
    copy_file(&to->account, &from->account);
    to->segments = from->segments;
    for (unsigned i = 0; i < from->segments; i++) {
        copy_file(&to->segment[i], &from->segment[i]);
    }
}

static inline void free_image(image_t *image)
{
    free(image->account.bytes);
    for (unsigned i = 0; i < image->segments; i++) {
        free(image->segment[i].bytes);
    }
}

/** Make it another stream's. @param boot NULL: as it was */
static inline void rename_image(image_t *image, const ue_stream_t *id,
                                const ue_stream_t *boot)
{
    ue_account_t *account = (ue_account_t *)(void *)image->account.bytes;
    ue_identity_t identity = account->identity;

    identity.stream = *id;
    if (boot) {
        identity.boot = *boot;
    }
    ue_ledger_identify(account, &identity);
    for (unsigned i = 0; i < image->segments; i++) {
        char *bytes = image->segment[i].bytes;
        ue_segment_head_t head;

        memcpy(&head, bytes, sizeof(head));
        head.maker = *id;
        head.check = ue_crc32c(0, &head, offsetof(ue_segment_head_t, check));
        memcpy(bytes, &head, sizeof(head));
        memcpy(bytes + UE_SEGMENT_AGAIN, &head, sizeof(head));
    }
}

static inline void write_file(const image_file_t *file, const char *name)
{
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", spool_dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file->bytes, file->size), file->size);
    close(fd);
}

static inline void write_image(const image_t *image, const ue_stream_t *id)
{
    char hex[UE_STREAM_HEX + 1], name[100];

    ue_stream_format(id, hex);
    for (unsigned i = 0; i < image->segments; i++) {
        snprintf(name, sizeof(name), "%s.%04u.slots", hex, i + 1);
        write_file(&image->segment[i], name);
    }
    snprintf(name, sizeof(name), "%s.stream", hex);
    write_file(&image->account, name);
}

/* ---- what is in it ---- */

/** Where the slot behind a link lies. @return its segment; -1: nowhere */
static inline int find_slot(const image_t *image, ue_slot_ref_t link,
                            size_t *offset)
{
    for (unsigned i = 0; i < image->segments; i++) {
        ue_segment_head_t head;

        memcpy(&head, image->segment[i].bytes, sizeof(head));
        if (link >= head.first && link - head.first < head.slots) {
            *offset =
                UE_SEGMENT_HEAD + (size_t)(link - head.first) * UE_SLOT_SIZE;
            return (int)i;
        }
    }
    return -1;
}

/** An event that a slot proves: called for each. @param at as find_slot() */
typedef void slot_fn(void *baton, const image_t *image, const ue_first_t *slot,
                     ue_slot_proof_t proof, ue_slot_ref_t ref);

static inline void each_slot(const image_t *image, slot_fn *fn, void *baton)
{
    for (unsigned i = 0; i < image->segments; i++) {
        ue_segment_head_t head;

        memcpy(&head, image->segment[i].bytes, sizeof(head));
        for (uint32_t n = 0; n < head.slots; n++) {
            ue_first_t slot;
            ue_slot_proof_t proof;

            memcpy(&slot,
                   image->segment[i].bytes + UE_SEGMENT_HEAD
                       + (size_t)n * UE_SLOT_SIZE,
                   sizeof(slot));
            proof = ue_slot_prove(&slot, head.salt);
            if (proof.proof == UE_PROOF_ADMITTED
                || proof.proof == UE_PROOF_COMPLETE) {
                fn(baton, image, &slot, proof, head.first + n);
            }
        }
    }
}

static inline uint32_t place_of(const ue_first_t *slot)
{
    uint32_t place;

    memcpy(&place, slot->request_id.b, sizeof(place));
    return place;
}

/* ---- a process that leaves it ---- */

/** Admit an event. @return its slot */
static inline ue_slot_ref_t put_event(ue_producer_t *p, uint32_t *place)
{
    char text[TEXT_ROOM];
    ue_admission_t a;
    ue_slot_ref_t ref;
    ue_event_t e;

    *place = atomic_fetch_add(&book->event_count, 1);
    book->said[*place].began = apr_time_now() + apr_time_from_sec(60);
    e = event_at(*place, text);
    a = admission_of(&e);
    atomic_store(&book->said[*place].meant, 1);
    if (ue_producer_admit(p, &a, UE_OVERFLOW_REFUSE, &ref) != APR_SUCCESS) {
        return 0;
    }
    atomic_store(&book->said[*place].admitted, 1);
    return ref;
}

static inline void finish_event(ue_producer_t *p, uint32_t place,
                                ue_slot_ref_t ref)
{
    char text[TEXT_ROOM];
    ue_event_t e = event_at(place, text);
    ue_completion_t c = completion_of(&e);

    if (ue_producer_record(p, ref, &c, UE_OVERFLOW_REFUSE) == APR_SUCCESS) {
        atomic_store(&book->said[place].complete, 1);
    }
}

/** Put some on record, of which each so-manyth stays open. */
static inline void put_events(ue_producer_t *p, unsigned count, unsigned open)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t place;
        ue_slot_ref_t ref = put_event(p, &place);

        if (ref && (!open || i % open)) {
            finish_event(p, place, ref);
        }
    }
}

/** Wait until there are slots, or nothing waits. */
static inline void await_slots(ue_producer_t *p)
{
    while (!ue_producer_has_room(p)) {
        apr_sleep(500);
    }
}

static inline void await_settled(ue_producer_t *p)
{
    while (atomic_load(&p->settled) < atomic_load(&p->recorded)) {
        apr_sleep(500);
    }
}

/* ---- copies ---- */

/** Forget what was stored, not what was meant. */
static inline void forget_stored(void)
{
    memset((void *)book->stored, 0, book->stored_count * sizeof(stored_t));
    memset((void *)book->notes, 0, book->note_count * sizeof(noted_t));
    book->stored_count = 0;
    book->note_count = 0;
}

static inline void name_of(char *path, size_t size, const ue_stream_t *id,
                           const char *end)
{
    char hex[UE_STREAM_HEX + 1];

    snprintf(path, size, "%s/%s%s", spool_dir, ue_stream_format(id, hex), end);
}

/** Have all that can be taken over be taken over. */
static inline void adopt_copies(unsigned copies)
{
    apr_time_t until = ue_monotonic() + apr_time_from_sec(60);
    pid_t pid;
    unsigned left = copies;

    atomic_store(&book->stop, 0);
    pid = start_adopter(&spool_config, WITH_TOPIC, 1);
    while (left && ue_monotonic() < until) {
        apr_sleep(1000);
        for (unsigned n = left = 0; n < copies; n++) {
            ue_stream_t id;
            char path[300];

            memset(&id, (int)(n + 1), sizeof(id));
            name_of(path, sizeof(path), &id, ".stream");
            left += access(path, F_OK) == 0;
        }
    }
    assert_int_equal(left, 0);
    atomic_store(&book->stop, 1);
    assert_int_equal(ended(pid), 0);
}

static inline void check_unclean(unsigned copies, const char *state)
{
    for (unsigned n = 0; n < copies; n++) {
        char key[UE_STREAM_HEX + 1];
        const noted_t *note;
        ue_stream_t id;

        memset(&id, (int)(n + 1), sizeof(id));
        note = last_note(ue_stream_format(&id, key));
        assert_non_null(note);
        if (!strstr(note->json, state)) {
            fail_msg("not %s: %s", state, note->json);
        }
    }
}

#endif /* UE_UNIT_SPOOL_IMAGE_H */

// A C door to libsentencepiece: load a model from memory, encode text to ids and back. No C++ exception leaves it.
#ifndef HEARTH_CSENTENCEPIECE_H
#define HEARTH_CSENTENCEPIECE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A loaded model. Encoding only reads it, so several threads may encode with one model at a time.
typedef struct hearth_sentencepiece hearth_sentencepiece;

// Loads a serialized model. Returns NULL on failure and writes a NUL-terminated reason of at most
// `reason_capacity` bytes to `reason`.
hearth_sentencepiece *hearth_sentencepiece_load(
    const void *bytes, size_t count, char *reason, size_t reason_capacity);

// Frees a model; NULL is allowed.
void hearth_sentencepiece_free(hearth_sentencepiece *model);

// Number of pieces; ids are 0 to this less 1.
int32_t hearth_sentencepiece_piece_count(const hearth_sentencepiece *model);

// The id of a piece by its exact UTF-8 text, or -1 when the model does not have it.
int32_t hearth_sentencepiece_id(const hearth_sentencepiece *model, const char *piece, size_t count);

// Encodes UTF-8 text. Writes at most `capacity` ids and returns how many the text has, or -1 on failure.
int64_t hearth_sentencepiece_encode(
    const hearth_sentencepiece *model, const char *text, size_t count, int32_t *ids, size_t capacity);

// Decodes ids, each of which must be a piece's, to UTF-8 text. Writes at most `capacity` bytes and returns how many the
// text has, or -1 on failure.
int64_t hearth_sentencepiece_decode(
    const hearth_sentencepiece *model, const int32_t *ids, size_t count, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif

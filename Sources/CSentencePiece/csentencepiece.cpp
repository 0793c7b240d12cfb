#include "csentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

struct hearth_sentencepiece {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

void write_reason(const char *text, char *reason, size_t capacity) {
  if (capacity == 0) return;
  const size_t count = std::min(std::strlen(text), capacity - 1);
  std::memcpy(reason, text, count);
  reason[count] = '\0';
}

}  // namespace

hearth_sentencepiece *hearth_sentencepiece_load(
    const void *bytes, size_t count, char *reason, size_t reason_capacity) {
  try {
    auto model = std::make_unique<hearth_sentencepiece>();
    const auto status = model->processor.LoadFromSerializedProto(
        absl::string_view(static_cast<const char *>(bytes), count));
    if (!status.ok()) {
      write_reason(status.ToString().c_str(), reason, reason_capacity);
      return nullptr;
    }
    return model.release();
  } catch (const std::exception &error) {
    write_reason(error.what(), reason, reason_capacity);
  } catch (...) {
    write_reason("an unknown C++ exception", reason, reason_capacity);
  }
  return nullptr;
}

void hearth_sentencepiece_free(hearth_sentencepiece *model) { delete model; }

int32_t hearth_sentencepiece_piece_count(const hearth_sentencepiece *model) {
  return model->processor.GetPieceSize();
}

int32_t hearth_sentencepiece_id(const hearth_sentencepiece *model, const char *piece, size_t count) {
  try {
    const absl::string_view text(piece, count);
    const int id = model->processor.PieceToId(text);
    return model->processor.IdToPiece(id) == text ? id : -1;
  } catch (...) {
    return -1;
  }
}

int64_t hearth_sentencepiece_encode(
    const hearth_sentencepiece *model, const char *text, size_t count, int32_t *ids, size_t capacity) {
  try {
    std::vector<int> encoded;
    if (!model->processor.Encode(absl::string_view(text, count), &encoded).ok()) return -1;
    const size_t written = std::min(encoded.size(), capacity);
    std::copy(encoded.begin(), encoded.begin() + static_cast<std::ptrdiff_t>(written), ids);
    return static_cast<int64_t>(encoded.size());
  } catch (...) {
    return -1;
  }
}

int64_t hearth_sentencepiece_decode(
    const hearth_sentencepiece *model, const int32_t *ids, size_t count, char *text, size_t capacity) {
  try {
    const std::vector<int> pieces(ids, ids + count);
    std::string decoded;
    if (!model->processor.Decode(pieces, &decoded).ok()) return -1;
    std::memcpy(text, decoded.data(), std::min(decoded.size(), capacity));
    return static_cast<int64_t>(decoded.size());
  } catch (...) {
    return -1;
  }
}

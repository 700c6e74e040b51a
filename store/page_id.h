// page_id.h — the name of a page's content: XXH3-128 of its 4096 bytes under the
// store's own random secret. The zero page has a fixed id and never a body.
#ifndef INCR_CKPT_STORE_PAGE_ID_H_
#define INCR_CKPT_STORE_PAGE_ID_H_

#include <compare>
#include <cstdint>
#include <string>
#include <utility>

namespace incr {

struct PageId {
  uint64_t high = 0;
  uint64_t low = 0;
  constexpr auto operator<=>(const PageId&) const = default;
  constexpr bool is_zero_page() const { return high == 0 && low == 0; }
  template <typename H>
  friend H AbslHashValue(H h, const PageId& id) {
    return H::combine(std::move(h), id.low);  // Already a hash.
  }
};

// All bits zero. A body that hashes to this is given high = 1 instead.
inline constexpr PageId kZeroPageId{};

class PageHasher {
 public:
  // `secret`: at least XXH3_SECRET_SIZE_MIN (136) random bytes.
  explicit PageHasher(std::string secret);
  // `page`: kPageSize bytes. Does not look for the zero page.
  PageId Hash(const uint8_t* page) const;
  static bool IsZeroPage(const uint8_t* page);

 private:
  std::string secret_;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_PAGE_ID_H_

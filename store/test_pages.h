// test_pages.h — for the store's tests: directories that go away, and pages with a known content.
#ifndef INCR_CKPT_STORE_TEST_PAGES_H_
#define INCR_CKPT_STORE_TEST_PAGES_H_

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/page_range.h"
#include "base/status.h"
#include "store/store.h"

namespace incr {

class TempDirectory {
 public:
  // Below `base` if that is a directory.
  explicit TempDirectory(const std::string& base = "") {
    const char* usual = std::getenv("TEST_TMPDIR");
    path_ = std::filesystem::is_directory(base) ? base : usual != nullptr ? usual : "/tmp";
    path_ += "/storeXXXXXX";
    INCR_CHECK(::mkdtemp(path_.data()) != nullptr);
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

using PageBytes = std::array<uint8_t, kPageSize>;

// The same `seed`, the same page. 0: the zero page. One in four does not compress.
inline PageBytes MakePage(uint64_t seed) {
  PageBytes page{};
  if (seed == 0) return page;
  uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
  const size_t noise = seed % 4 == 0 ? kPageSize : 64 + seed % 1900;
  for (size_t i = 0; i + 8 <= noise; i += 8) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    std::memcpy(page.data() + i, &x, 8);
  }
  std::memcpy(page.data() + 8, &seed, 8);
  return page;
}

// What a store should hold of one epoch: (space, page) -> seed of its content.
using ModelTable = std::map<std::pair<uint32_t, uint64_t>, uint64_t>;

// "" if epoch `epoch` of `job` is `model`, byte for byte; otherwise what differs.
inline std::string Difference(const StoreReader& store, const std::string& job, uint64_t epoch,
                              const ModelTable& model) {
  absl::StatusOr<PageTable> table = store.LoadPageTable(job, epoch);
  if (!table.ok()) return table.status().ToString();
  if (table->size() != model.size()) {
    return "table of " + std::to_string(table->size()) + " pages, not " +
           std::to_string(model.size());
  }
  std::vector<PageId> ids;
  auto expected = model.begin();
  for (const PageTableEntry& entry : *table) {
    if (std::pair(entry.space, entry.page) != expected->first) return "another page in the table";
    ids.push_back(entry.id);
    ++expected;
  }
  std::vector<uint64_t> seeds;
  for (const auto& [place, seed] : model) seeds.push_back(seed);
  std::string wrong;
  std::vector<int> given(ids.size());
  absl::Status read = store.ReadPages(ids, [&](size_t i, const uint8_t* page) {
    ++given[i];
    if (MakePage(seeds[i]) != *reinterpret_cast<const PageBytes*>(page)) wrong = "wrong bytes";
    return absl::OkStatus();
  });
  if (!read.ok()) return read.ToString();
  for (int n : given) {
    if (n != 1) return "a page was given " + std::to_string(n) + " times";
  }
  return wrong;
}

}  // namespace incr

#endif  // INCR_CKPT_STORE_TEST_PAGES_H_

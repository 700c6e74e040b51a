// LZ4 alone on all cores: the pages whose bodies have to be stored, compressed one by one, and nothing else. No hash, no
// zero test, no look-up, no copy: it is told which pages those are.
#include <algorithm>
#include <atomic>
#include <memory>

#include "benchmarks/store_speed/contender.h"
#include "store/lz4_page.h"

namespace incr::store_speed {
namespace {

class Lz4Alone : public Contender {
 public:
  absl::Status Write(const EpochPages& epoch) override {
    constexpr size_t kBlock = 64;
    std::atomic<size_t> next{0};
    std::atomic<uint64_t> bytes{0};
    OnAllCores([&](unsigned) {
      uint8_t body[kMaxCompressedPage];
      uint64_t sum = 0;
      for (size_t first; (first = next.fetch_add(kBlock)) < epoch.fresh.size();) {
        for (size_t i = first; i < std::min(first + kBlock, epoch.fresh.size()); ++i) {
          const size_t size = CompressPage(epoch.fresh[i], body);
          sum += size == 0 ? kPageSize : size;
        }
      }
      bytes += sum;
    });
    if (bytes != epoch.payload) return absl::InternalError("LZ4 alone: not the bytes that the workload has");
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Contender> NewLz4Alone() { return std::make_unique<Lz4Alone>(); }

}  // namespace incr::store_speed

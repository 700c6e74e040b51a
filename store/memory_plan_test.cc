// The limit as numbers, and as memory: a store's process in a child of its own, measured by the kernel.
#include "store/memory_plan.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

constexpr uint64_t kMiB = 1u << 20;

TEST(MemoryPlanTest, ThePartsFitTheLimit) {
  for (const uint64_t limit : {64 * kMiB, 100 * kMiB, 512 * kMiB, 64 * 1024 * kMiB}) {
    const auto plan = PlanMemory(limit);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const uint64_t ids = plan->max_known_pages / 7 * 8 * 17 * 3 / 2;  // while they grow
    EXPECT_LE(plan->buffer_bytes + plan->cache_bytes + plan->write_buffer_bytes + ids + 16 * kMiB,
              limit);
    EXPECT_GE(plan->buffer_bytes, 8 * kMiB);
    EXPECT_GE(plan->max_known_pages, limit / 400) << "a good part of it is for ids";
  }
  EXPECT_TRUE(absl::IsInvalidArgument(PlanMemory(63 * kMiB).status()));
}

TEST(MemoryPlanTest, KnownPagesDoubleWithinTheirShare) {
  for (const uint64_t bytes : {1000ull, 100'000ull, 18'000'000ull, 1ull << 32}) {
    const uint64_t slots = KnownPagesWithin(bytes) / 7 * 8;
    EXPECT_LE(17 * (slots + slots / 2), bytes);
    EXPECT_GT(17 * 3 * slots, bytes) << "the next size would not fit";
  }
}

// Bytes of "VmHWM" or "VmRSS".
uint64_t Status(const std::string& name) {
  std::ifstream in("/proc/self/status");
  std::string line;
  while (std::getline(in, line)) {
    if (line.compare(0, name.size(), name) == 0) {
      return std::stoull(line.substr(name.size() + 1)) * 1024;
    }
  }
  return 0;
}

// Epochs of their own, all of new content: as many ids as there are pages, as many bytes as fit.
absl::Status WriteMuch(const std::string& path, const StoreOptions& options, int epochs) {
  INCR_ASSIGN_OR_RETURN(auto store, Store::Open(path, options));
  std::vector<uint8_t> pages(256 * kPageSize);
  uint64_t content = 0;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    INCR_ASSIGN_OR_RETURN(auto writer, store->BeginEpoch("job", 0));
    for (uint64_t first = 0; first < 32768; first += 256) {
      for (uint64_t i = 0; i < 256; ++i) {
        ++content;
        std::memcpy(pages.data() + i * kPageSize, &content, sizeof content);
      }
      INCR_RETURN_IF_ERROR(writer->AddPages(0, {first, 256}, pages.data()));
    }
    INCR_RETURN_IF_ERROR(writer->Commit({}, "image").status());
  }
  return absl::OkStatus();
}

// How far the peak of a process that writes so rises, in MiB; 255: it failed.
int PeakOf(const std::string& path, const StoreOptions& options, int epochs) {
  const pid_t child = ::fork();
  if (child == 0) {
    const uint64_t before = Status("VmRSS:");
    const absl::Status status = WriteMuch(path, options, epochs);
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    ::_exit(status.ok() ? std::min<uint64_t>((Status("VmHWM:") - before) / kMiB, 254) : 255);
  }
  int result = 0;
  ::waitpid(child, &result, 0);
  return WIFEXITED(result) ? WEXITSTATUS(result) : 255;
}

TEST(MemoryLimitTest, HoldsWhereTheDefaultsWouldNot) {
  TempDirectory directory;
  StoreOptions options;
  options.create_if_missing = true;
  constexpr int kEpochs = 40;  // 1,310,720 pages: more ids than 64 MiB have room for
  const int unlimited = PeakOf(directory / "unlimited", options, kEpochs);
  ASSERT_TRUE(LimitMemory(64 * kMiB, &options).ok());
  const int limited = PeakOf(directory / "limited", options, kEpochs);
  // Beside the limit: an epoch's results and table (32,768 pages, some 100 bytes each) and the libraries' own.
  constexpr int kBeside = 16;
  EXPECT_LE(limited, 64 + kBeside);
  EXPECT_GT(unlimited, 64 + kBeside) << "this test could not fail";
  RecordProperty("limited_mib", limited);
  std::printf("peak: %d MiB, limited to 64: %d MiB\n", unlimited, limited);
}

}  // namespace
}  // namespace incr

// gc over many epochs: its memory must not grow with their number. By default 1,500 epochs of 64 MiB;
// `--large` does 10,000 of 1 GiB and prints what it took.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "base/clock.h"
#include "base/file.h"
#include "store/store.h"
#include "store/test_pages.h"

namespace incr {
namespace {

bool large = false;

// Highest resident size since Reset(), in bytes.
uint64_t PeakBytes() {
  const std::string status = ReadWholeFile("/proc/self/status").value_or("");
  const size_t at = status.find("VmHWM:");
  return at == std::string::npos ? 0 : std::strtoull(status.c_str() + at + 6, nullptr, 10) << 10;
}
void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

TEST(GcScaleTest, MemoryDoesNotGrowWithTheNumberOfEpochs) {
  const uint64_t pages = large ? 262'144 : 16'384, epochs = large ? 10'000 : 1'500;
  TempDirectory directory;
  StoreOptions options;
  options.create_if_missing = true;
  auto opened = Store::Open(directory / "store", options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  Store& store = **opened;
  ModelTable model;
  for (uint64_t epoch = 1; epoch <= epochs; ++epoch) {
    auto writer = store.BeginEpoch("job", epoch - 1);
    ASSERT_TRUE(writer.ok());
    for (uint64_t i = 0; i < (epoch == 1 ? pages : 10); ++i) {
      const uint64_t page = epoch == 1 ? i : (epoch * 7919 + i * 104729) % pages;
      model[{0, page}] = epoch * 1'000'000 + i * 4 + 1;
      ASSERT_TRUE((*writer)->AddPages(0, {page, 1}, MakePage(model[{0, page}]).data()).ok());
    }
    pb::EpochRecord record;
    record.set_time_us(static_cast<int64_t>(epoch) * 60'000'000);
    ASSERT_TRUE((*writer)->Commit(record, "image").ok());
  }
  GcOptions gc;
  gc.policy.keep_last = 20;
  gc.policy.keep_hourly = 24;
  for (const bool dry_run : {true, false}) {
    gc.dry_run = dry_run;
    ResetPeak();
    const uint64_t before = PeakBytes();
    const Stopwatch time;
    auto collected = store.CollectGarbage(gc);
    ASSERT_TRUE(collected.ok()) << collected.status();
    const uint64_t grown = PeakBytes() - before;
    std::printf("%s: %llu epochs, %.2f s, %llu MiB more at the peak\n", dry_run ? "plan" : "gc",
                static_cast<unsigned long long>(epochs), time.elapsed_us() / 1e6,
                static_cast<unsigned long long>(grown >> 20));
    // A few page tables of 32 bytes a page, the filter, RocksDB's buffers.
    EXPECT_LT(grown, pages * 32 * 8 + (96u << 20));
    EXPECT_GT(collected->epochs_kept, 20);
    EXPECT_EQ(collected->epochs_kept + collected->epochs_dropped, epochs);
  }
  EXPECT_EQ(Difference(store, "job", epochs, model), "");
}

}  // namespace
}  // namespace incr

int main(int argc, char** argv) {
  incr::large = argc == 2 && std::string(argv[1]) == "--large";
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

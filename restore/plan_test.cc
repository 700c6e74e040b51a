#include "restore/plan.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include "restore/test_image.h"

namespace incr {
namespace {

constexpr PageId kBody{1, 2};

PageTable TableOf(std::vector<std::pair<uint64_t, PageId>> pages) {
  PageTable table;
  for (const auto& [address, id] : pages) table.push_back({0, address / 4096, id});
  return table;
}

RestorePlan PlanOf(const pb::Image& image, const PageTable& table) {
  EXPECT_TRUE(ValidateImage(image).ok()) << ValidateImage(image);
  auto plan = PlanRestore(image, image.processes(0), table);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *std::move(plan);
}

const PlannedMap& MapAt(const RestorePlan& plan, uint64_t address) {
  for (const PlannedMap& map : plan.maps) {
    if (map.range.start == address) return map;
  }
  ADD_FAILURE() << "nothing is mapped at " << address;
  return plan.maps[0];
}

TEST(RestorePlan, NothingEverLandsOnAnotherMapping) {
  const pb::Image image = TestImage();
  const RestorePlan plan = PlanOf(image, {});
  EXPECT_EQ(plan.maps.size(), 6u);
  for (const PlannedMap& map : plan.maps) {
    EXPECT_EQ(map.flags & MAP_FIXED_NOREPLACE, MAP_FIXED_NOREPLACE);
    EXPECT_EQ(map.flags & MAP_FIXED, 0);
  }
  EXPECT_EQ(plan.vdso, (AddressRange{0xa02000, 0xa04000}));
  ASSERT_EQ(plan.vvars.size(), 1u);
}

TEST(RestorePlan, OneObjectMappedTwiceIsSharedAgain) {
  const pb::Image image = TestImage();
  const RestorePlan plan = PlanOf(image, TableOf({{0x701000, kBody}, {0x800000, kBody}}));
  const PlannedMap& first = MapAt(plan, 0x700000);
  const PlannedMap& second = MapAt(plan, 0x800000);
  EXPECT_EQ(first.source, second.source);
  EXPECT_EQ(second.offset, 0x1000u);
  EXPECT_EQ(plan.sources[first.source].size, 0x2000u);
  EXPECT_EQ(first.flags & MAP_SHARED, MAP_SHARED);
  EXPECT_EQ(plan.object_pages.offsets, (std::vector<uint64_t>{0x1000, 0x1000}));
}

TEST(RestorePlan, PagesBehindAProtectionGetInAndTheProtectionComesBack) {
  const pb::Image image = TestImage();
  const RestorePlan plan = PlanOf(image, TableOf({{0x401000, kBody}, {0x600000, kBody}}));
  EXPECT_EQ(plan.private_pages.offsets, (std::vector<uint64_t>{0x401000, 0x600000}));
  EXPECT_NE(MapAt(plan, 0x400000).prot & PROT_WRITE, 0);
  EXPECT_NE(MapAt(plan, 0x600000).prot & PROT_WRITE, 0);
  ASSERT_EQ(plan.protects.size(), 2u);
  EXPECT_EQ(plan.protects[0].prot, PROT_READ | PROT_EXEC);
  EXPECT_EQ(plan.protects[1].prot, PROT_NONE);
}

TEST(RestorePlan, AProtectedMappingWithoutPagesIsNeverWritable) {
  const RestorePlan plan = PlanOf(TestImage(), {});
  EXPECT_EQ(MapAt(plan, 0x400000).prot, PROT_READ | PROT_EXEC);
  EXPECT_TRUE(plan.protects.empty());
}

TEST(RestorePlan, AZeroPageOverAFileIsWrittenAndOverFreshMemoryIsNot) {
  const RestorePlan plan = PlanOf(
      TestImage(),
      TableOf({{0x401000, kZeroPageId}, {0x500000, kZeroPageId}, {0x700000, kZeroPageId},
               {0x900000, kZeroPageId}}));
  EXPECT_EQ(plan.private_pages.offsets, (std::vector<uint64_t>{0x401000}));
  EXPECT_EQ(plan.object_pages.size(), 0u);
  EXPECT_EQ(plan.file_pages.offsets, (std::vector<uint64_t>{0}));
}

// A shared writable mapping is saved whole: a page that the table lacks was a hole at the epoch.
TEST(RestorePlan, HolesOfASharedWritableFileAreEmptiedAndNobodyElses) {
  pb::Image image = TestImage();
  image.mutable_processes(0)->mutable_mappings(5)->mutable_file()->set_size(0x1800);
  RestorePlan plan = PlanOf(image, TableOf({{0x900000, kBody}}));
  ASSERT_EQ(plan.file_holes.size(), 1u);
  EXPECT_EQ(plan.file_holes[0].offset, 0x1000u);
  EXPECT_EQ(plan.file_holes[0].size, 0x800u);  // To the file's end, not the mapping's.
  image.mutable_processes(0)->mutable_mappings(5)->set_prot(PROT_READ);
  EXPECT_TRUE(PlanOf(image, {}).file_holes.empty());
}

TEST(RestorePlan, PagesOfAReadOnlySharedFileAreNeverWrittenBack) {
  pb::Image image = TestImage();
  image.mutable_processes(0)->mutable_mappings(5)->set_may_write(false);
  image.mutable_processes(0)->mutable_mappings(5)->set_prot(PROT_READ);
  const RestorePlan plan = PlanOf(image, TableOf({{0x900000, kBody}}));
  EXPECT_EQ(plan.file_pages.size(), 0u);
  EXPECT_FALSE(plan.sources[MapAt(plan, 0x900000).source].writable);
}

TEST(RestorePlan, APrivateFileMustBeUnchangedASharedOneNeedNot) {
  const RestorePlan plan = PlanOf(TestImage(), {});
  EXPECT_TRUE(plan.sources[MapAt(plan, 0x400000).source].must_be_same);
  EXPECT_FALSE(plan.sources[MapAt(plan, 0x900000).source].must_be_same);
}

TEST(RestorePlan, PagesWithoutAMappingAreCountedAndLeftOut) {
  PageTable table = TableOf({{0x300000, kBody}, {0x402000, kBody}, {0x500000, kBody},
                             {0x504000, kBody}, {0xa00000, kBody}});
  table.push_back({0, ~uint64_t{0} / 4096 + 0x500, kBody});  // times 4096 it would wrap
  table.push_back({0, (uint64_t{1} << 52) + 0x500, kBody});  // wraps onto a mapping
  table.push_back({7, 0x500, kBody});                        // of another process
  const RestorePlan plan = PlanOf(TestImage(), table);
  EXPECT_EQ(plan.private_pages.offsets, (std::vector<uint64_t>{0x500000}));
  EXPECT_EQ(plan.pages_without_mapping, 5u);
}

TEST(RestorePlan, NamesLocksAndAdviceComeAfterTheMapping) {
  pb::Image image = TestImage();
  pb::Mapping* mapping = image.mutable_processes(0)->mutable_mappings(1);
  mapping->set_name("[anon:arena [1]]");
  mapping->set_locked(true);
  mapping->add_advice(MADV_DONTDUMP);
  const RestorePlan plan = PlanOf(image, {});
  ASSERT_EQ(plan.names.size(), 1u);
  EXPECT_EQ(plan.names[0].name, "arena [1]");
  EXPECT_EQ(plan.locks, (std::vector<AddressRange>{{0x500000, 0x504000}}));
  ASSERT_EQ(plan.advice.size(), 1u);
  EXPECT_EQ(plan.advice[0].advice, MADV_DONTDUMP);
}

TEST(FreeRange, TouchesNothingAndKeepsItsDistance) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<AddressRange> taken;
    for (int i = 0; i < 20; ++i) {
      const uint64_t start = (random() % kTaskSize) & ~uint64_t{4095};
      taken.push_back({start, std::min<uint64_t>(kTaskSize, start + (random() % (1ull << 44)))});
    }
    const uint64_t size = 4096 << (random() % 30);
    auto found = FindFreeRange(taken, size);
    if (!found.ok()) continue;
    EXPECT_EQ(found->size(), size);
    EXPECT_LE(found->end, kTaskSize);
    for (const AddressRange& range : taken) {
      EXPECT_TRUE(found->end <= range.start || found->start >= range.end);
    }
  }
}

TEST(FreeRange, SaysSoWhereThereIsNone) {
  EXPECT_FALSE(FindFreeRange({{0x1000, kTaskSize}}, 4096).ok());
  EXPECT_TRUE(FindFreeRange({}, 4096).ok());
}

TEST(Complement, IsWhatIsLeft) {
  EXPECT_EQ(Complement({{0x5000, 0x6000}, {0x1000, 0x2000}, {0x2000, 0x3000}}),
            (std::vector<AddressRange>{{0, 0x1000}, {0x3000, 0x5000}, {0x6000, kTaskSize}}));
  EXPECT_EQ(Complement({{0, kTaskSize}}).size(), 0u);
}

// ---- Hostile images ----

TEST(ImageCheck, AcceptsAWholeImage) {
  auto image = ParseImage(TestImage().SerializeAsString());
  EXPECT_TRUE(image.ok()) << image.status();
}

TEST(ImageCheck, NamesWhatIsWrong) {
  const auto refused = [](auto change, const char* word) {
    pb::Image image = TestImage();
    change(image, *image.mutable_processes(0));
    const absl::Status status = ValidateImage(image);
    EXPECT_FALSE(status.ok()) << "not refused: " << word;
    EXPECT_NE(status.message().find(word), absl::string_view::npos) << status;
  };
  refused([](auto& image, auto&) { image.set_version(2); }, "version 2");
  refused([](auto& image, auto&) { image.clear_processes(); }, "no process");
  refused([](auto&, auto& p) { p.mutable_mappings(1)->set_start(0x500001); }, "500001");
  refused([](auto&, auto& p) { p.mutable_mappings(1)->set_end(0x500000); }, "500000");
  refused([](auto&, auto& p) { p.mutable_mappings(1)->set_start(0x401000); }, "overlaps");
  refused([](auto&, auto& p) { p.mutable_mappings()->SwapElements(0, 1); }, "overlaps");
  refused([](auto&, auto& p) { p.mutable_mappings(0)->set_start(0); }, "null page");
  refused([](auto&, auto& p) { p.mutable_mappings(8)->set_kind(pb::Mapping::ANONYMOUS); },
          "outside of user space");
  refused([](auto&, auto& p) { p.mutable_mappings(3)->set_memory_object(9); }, "object 9");
  refused([](auto&, auto& p) { p.mutable_mappings(0)->mutable_file()->set_path("bin/x"); }, "path");
  refused([](auto&, auto& p) { p.mutable_mappings(1)->set_prot(8); }, "protection 8");
  refused([](auto&, auto& p) { p.mutable_threads(1)->set_tid(71); }, "71 twice");
  refused([](auto&, auto& p) { p.mutable_threads(0)->set_tid(70); }, "leader");
  refused([](auto&, auto& p) { p.mutable_threads(1)->set_registers("short"); }, "5 bytes");
  refused([](auto&, auto& p) { p.mutable_threads(1)->set_xstate(""); }, "extended state");
  refused([](auto&, auto& p) { p.mutable_threads(1)->set_pending_signals(0, "x"); }, "1 bytes");
  refused([](auto&, auto& p) { p.mutable_descriptors(0)->set_open_file(4); }, "open file 4");
  refused([](auto&, auto& p) { p.mutable_layout()->set_brk(0x501000); }, "layout");
  refused([](auto&, auto& p) { p.mutable_limits(0)->set_resource(99); }, "99");
  refused([](auto&, auto& p) { p.mutable_signal_actions(0)->set_signal(65); }, "65");
  refused([](auto& image, auto&) { image.mutable_memory_objects(0)->set_size(0); }, "object 1");
}

// Whatever bytes a store holds: a Status or a plan whose ranges are sane, never a crash.
TEST(ImageCheck, MutatedImagesAreRefusedOrHarmless) {
  const char* rounds_text = std::getenv("INCR_CKPT_FUZZ_ROUNDS");
  const int rounds = rounds_text != nullptr ? std::atoi(rounds_text) : 30000;
  const std::string whole = TestImage().SerializeAsString();
  const PageTable table = TableOf({{0x401000, kBody}, {0x500000, kBody}, {0x701000, kBody}});
  std::mt19937_64 random(2);
  int accepted = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string bytes = whole;
    for (int i = 1 + random() % 4; i > 0; --i) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0: bytes[at] ^= 1 << (random() % 8); break;
        case 1: bytes[at] = static_cast<char>(random()); break;
        case 2: bytes.erase(at, random() % 16); break;
        default: bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 64)); break;
      }
      if (bytes.empty()) bytes = "x";
    }
    auto image = ParseImage(bytes);
    if (!image.ok()) continue;
    ++accepted;
    for (const pb::Process& process : image->processes()) {
      auto plan = PlanRestore(*image, process, table);
      if (!plan.ok()) continue;
      uint64_t end = 0;
      for (const PlannedMap& map : plan->maps) {
        ASSERT_GE(map.range.start, end);
        ASSERT_LT(map.range.start, map.range.end);
        ASSERT_LE(map.range.end, kTaskSize);
        ASSERT_LT(map.source, static_cast<int>(plan->sources.size()));
        end = map.range.end;
      }
    }
  }
  EXPECT_GT(accepted, 0);  // Else nothing behind the parser was tried.
}

}  // namespace
}  // namespace incr

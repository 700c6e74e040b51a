#include "tracker/content_view.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace incr {
namespace {

MemoryMap Map(const char* text) {
  auto map = ParseMaps(text);
  EXPECT_TRUE(map.ok()) << map.status();
  return *map;
}

TEST(ContentViewTest, SpansBridgeGapsButNeverAMappingThatIsNotOurs) {
  const MemoryMap map = Map(
      "00010000-00012000 rw-p 00000000 00:00 0\n"
      "00020000-00021000 r-xp 00000000 fe:00 7 /bin/x\n"
      "00030000-00031000 rw-s 00000000 00:01 8 /dev/zero (deleted)\n"
      "00040000-00041000 rw-p 00000000 00:00 0\n"
      "00050000-00051000 r--p 00000000 00:00 0 [vvar]\n"
      "00051000-00052000 r-xp 00000000 00:00 0 [vdso]\n"
      "00060000-00061000 ---p 00000000 00:00 0\n");
  EXPECT_EQ(PrivateSpans(map),
            (std::vector<PageRange>{{0x10, 0x11}, {0x40, 1}, {0x60, 1}}));
  const std::vector<ScanSpan> scans = ScanSpans(map);
  ASSERT_EQ(scans.size(), 4u);
  EXPECT_EQ(scans[0].pages, (PageRange{0x10, 2}));
  EXPECT_EQ(scans[1].pages, (PageRange{0x20, 1}));
  EXPECT_TRUE(!scans[0].files && scans[1].files && !scans[2].files);
  EXPECT_EQ(PrivateFilePages(map).runs(), (std::vector<PageRange>{{0x20, 1}}));
  EXPECT_TRUE(PrivateSpans({}).empty());
}

TEST(CutSpansTest, PartsCoverTheSpansAndCutNoHugePage) {
  constexpr uint64_t kHuge = 512;
  PageSet populated;
  for (PageRange run : {PageRange{100, 50'000}, PageRange{60'000, 7}, PageRange{80'990, 40'000}}) {
    populated.Add(run);
  }
  MemoryMap map;
  for (const PageRange& run : {PageRange{100, 20'000}, PageRange{20'100, 30'000},
                               PageRange{60'000, uint64_t{1} << 32}}) {
    MemoryMapping& mapping = map.emplace_back();
    mapping.start = run.first * kPageSize;
    mapping.end = run.end() * kPageSize;
    mapping.inode = run.first == 20'100 ? 71 : 0;  // hugetlbfs shows as a file
  }
  const std::vector<ScanSpan> spans = {{{0, 55'000}, false}, {{60'000, uint64_t{1} << 32}, true}};
  for (const uint64_t most : {uint64_t{1}, uint64_t{700}, uint64_t{4000}, uint64_t{1'000'000}}) {
    const std::vector<ScanSpan> parts = CutSpans(spans, map, populated, most);
    EXPECT_GE(parts.size(), 2 + 60'000 / std::max(most + kHuge, 2 * kHuge) * (most < 50'000));
    auto part = parts.begin();
    for (const ScanSpan& span : spans) {
      for (uint64_t at = span.pages.first; at < span.pages.end(); ++part) {
        ASSERT_NE(part, parts.end());
        ASSERT_EQ(part->pages.first, at);
        EXPECT_EQ(part->files, span.files);
        at = part->pages.end();
        if (at == span.pages.end()) continue;
        EXPECT_TRUE(at % kHuge == 0 || at == 50'100) << at;
        EXPECT_FALSE(at > 20'100 && at < 50'100) << at;
        PageSet here;
        here.Add(part->pages);
        if (at != 50'100) EXPECT_LE(populated.Intersect(here).page_count(), most + kHuge);
      }
    }
    EXPECT_EQ(part, parts.end());
  }
}

}  // namespace
}  // namespace incr

#include "tracker/content_view.h"

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

}  // namespace
}  // namespace incr

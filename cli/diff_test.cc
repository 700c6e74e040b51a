#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "cli/diff_bytes.h"
#include "cli/diff_image.h"

namespace incr {
namespace {

using Kind = PageChangeKind;

pb::Mapping* AddMapping(EpochSide* side, uint64_t start, uint64_t end, int prot,
                        const std::string& name = "") {
  pb::Mapping* mapping = side->image.mutable_processes(0)->add_mappings();
  mapping->set_start(start);
  mapping->set_end(end);
  mapping->set_prot(prot);
  mapping->set_kind(pb::Mapping::ANONYMOUS);
  mapping->set_name(name);
  return mapping;
}

pb::Mapping* AddFile(EpochSide* side, uint64_t start, uint64_t end, int prot, uint64_t offset) {
  pb::Mapping* mapping = AddMapping(side, start, end, prot);
  mapping->set_kind(pb::Mapping::PRIVATE_FILE);
  mapping->mutable_file()->set_path("/lib/x.so");
  mapping->set_offset(offset);
  return mapping;
}

EpochSide NewSide(uint64_t epoch) {
  EpochSide side;
  side.record.set_job("web");
  side.record.set_epoch(epoch);
  side.image.add_processes();
  return side;
}

// Their changes as "came 0x1000-0x2000".
std::vector<std::string> MappingChanges(const EpochSide& before, const EpochSide& after,
                                        const PageChanges& changes = {}) {
  std::vector<std::string> lines;
  const pb::DiffReply reply = DescribeDiff(before, after, changes);
  for (const pb::DiffMapping& row : reply.mappings()) {
    lines.push_back(row.change() + " " + row.start() + "-" + row.end());
  }
  return lines;
}

using Lines = std::vector<std::string>;
constexpr int kRw = PROT_READ | PROT_WRITE;

TEST(DiffTest, PagesCountWithTheMappingTheyLieIn) {
  EpochSide before = NewSide(3), after = NewSide(4);
  AddMapping(&before, 0x10000, 0x14000, kRw, "[heap]");
  AddMapping(&before, 0x50000, 0x52000, kRw);
  AddMapping(&after, 0x10000, 0x16000, kRw, "[heap]");
  AddFile(&after, 0x20000, 0x21000, PROT_READ, 0)->set_file_space(1u << 24);
  const pb::DiffReply reply =
      DescribeDiff(before, after,
                   {{0, Kind::kChanged, 0x10}, {0, Kind::kChanged, 0x13}, {0, Kind::kAdded, 0x14},
                    {0, Kind::kGone, 0x50}, {1u << 24, Kind::kAdded, 7}, {1u << 24, Kind::kAdded, 9}});
  EXPECT_EQ(reply.before(), 3);
  EXPECT_EQ(reply.after(), 4);
  EXPECT_EQ(reply.pages_changed(), 2);
  EXPECT_EQ(reply.pages_added(), 3);
  EXPECT_EQ(reply.pages_gone(), 1);
  EXPECT_EQ(reply.bytes_changed(), 8192);
  ASSERT_EQ(reply.regions_size(), 3);
  const pb::DiffRegion& heap = reply.regions(0);
  EXPECT_EQ(heap.name(), "[heap]");
  EXPECT_EQ(heap.start() + heap.end(), "0x100000x16000");
  EXPECT_EQ(heap.pages_changed(), 2);
  EXPECT_EQ(heap.pages_added(), 1);
  EXPECT_EQ(heap.bytes_added(), 4096);
  EXPECT_FALSE(heap.only_before());
  EXPECT_EQ(reply.regions(1).pages_gone(), 1);
  EXPECT_TRUE(reply.regions(1).only_before());
  EXPECT_EQ(reply.regions(2).kind(), "file-pages");
  EXPECT_EQ(reply.regions(2).name(), "/lib/x.so");
  EXPECT_EQ(reply.regions(2).start() + reply.regions(2).end(), "0x70000xa000");
}

TEST(DiffTest, MappingsThatCameWentOrChangedProtection) {
  EpochSide before = NewSide(1), after = NewSide(2);
  AddMapping(&before, 0x10000, 0x14000, kRw, "[heap]");
  AddFile(&before, 0x20000, 0x28000, PROT_READ, 0x1000);
  AddMapping(&before, 0x50000, 0x52000, kRw);
  AddMapping(&after, 0x10000, 0x16000, kRw, "[heap]");
  // The same mapping, split by mprotect.
  AddFile(&after, 0x20000, 0x22000, PROT_READ, 0x1000);
  AddFile(&after, 0x22000, 0x24000, kRw, 0x3000);
  AddFile(&after, 0x24000, 0x28000, PROT_READ, 0x5000);
  AddMapping(&after, 0x60000, 0x61000, kRw);
  EXPECT_EQ(MappingChanges(before, after),
            Lines({"came 0x14000-0x16000", "protection 0x22000-0x24000", "went 0x50000-0x52000",
                   "came 0x60000-0x61000"}));
  EXPECT_EQ(MappingChanges(before, before), Lines());
  const std::string text = FormatDiff(DescribeDiff(before, after, {}));
  EXPECT_NE(text.find("0x22000-0x24000 r--p -> rw-p private-file /lib/x.so"), std::string::npos)
      << text;
}

TEST(DiffTest, AnotherFileAtTheSameAddressWentAndCame) {
  EpochSide before = NewSide(1), after = NewSide(2);
  AddFile(&before, 0x20000, 0x28000, PROT_READ, 0);
  AddFile(&after, 0x20000, 0x28000, PROT_READ, 0x1000);
  EXPECT_EQ(MappingChanges(before, after),
            Lines({"went 0x20000-0x28000", "came 0x20000-0x28000"}));
}

TEST(DiffTest, MovedOnlyWithItsPages) {
  EpochSide before = NewSide(1), after = NewSide(2);
  AddMapping(&before, 0x20000, 0x28000, kRw);
  AddMapping(&after, 0x70000, 0x78000, kRw);
  const PageChanges moved = {{0, Kind::kGone, 0x21}, {0, Kind::kGone, 0x25}, {0, Kind::kAdded, 0x71},
                             {0, Kind::kAdded, 0x75}};
  EXPECT_EQ(MappingChanges(before, after, moved), Lines({"moved 0x70000-0x78000"}));
  EXPECT_EQ(DescribeDiff(before, after, moved).mappings(0).start_before(), "0x20000");
  // Unmapped, and another of that size mapped.
  const Lines both = {"went 0x20000-0x28000", "came 0x70000-0x78000"};
  EXPECT_EQ(MappingChanges(before, after), both);
  PageChanges other = moved;
  other[3].page = 0x76;
  EXPECT_EQ(MappingChanges(before, after, other), both);
}

TEST(DiffTest, ThreadsAndFilesInOneLineEach) {
  EpochSide before = NewSide(1), after = NewSide(2);
  pb::Process* old_process = before.image.mutable_processes(0);
  pb::Process* new_process = after.image.mutable_processes(0);
  for (uint32_t tid : {71, 72}) old_process->add_threads()->set_tid(tid);
  for (uint32_t tid : {71, 73}) new_process->add_threads()->set_tid(tid);
  const auto open = [](EpochSide* side, uint32_t fd, const std::string& path) {
    pb::OpenFile* file = side->image.add_open_files();
    file->set_id(fd);
    file->set_kind(pb::OpenFile::REGULAR);
    file->mutable_file()->set_path(path);
    pb::FileDescriptor* descriptor = side->image.mutable_processes(0)->add_descriptors();
    descriptor->set_fd(fd);
    descriptor->set_open_file(fd);
  };
  open(&before, 3, "/a");
  open(&before, 4, "/b");
  open(&after, 3, "/a");
  open(&after, 4, "/c");
  open(&after, 9, "/d");
  const std::string text = FormatDiff(DescribeDiff(before, after, {}));
  for (const char* line :
       {"thread went: 72", "thread came: 73", "file went: fd 4 regular /b\n",
        "file came: fd 4 regular /c\n", "file came: fd 9 regular /d\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
  EXPECT_EQ(text.find("/a"), std::string::npos) << text;
}

TEST(DiffBytesTest, Ranges) {
  EpochSide before = NewSide(1), after = NewSide(2);
  AddMapping(&before, 0x10000, 0x14000, kRw, "[heap]");
  AddMapping(&after, 0x10000, 0x16000, kRw, "[heap]");
  const auto parse = [&](const char* text) { return ParseRanges(text, before, after); };
  using Ranges = std::vector<AddressRange>;
  EXPECT_EQ(*parse("0x1000-0x1010"), Ranges({{0x1000, 0x1010}}));
  EXPECT_EQ(*parse("1000-1010"), Ranges({{0x1000, 0x1010}}));
  EXPECT_EQ(*parse("0x1000+16"), Ranges({{0x1000, 0x1010}}));
  EXPECT_EQ(*parse("0x1000+0x16"), Ranges({{0x1000, 0x1016}}));
  EXPECT_EQ(*parse("[heap]"), Ranges({{0x10000, 0x16000}}));
  for (const char* wrong : {"", "0x1000", "10-10", "20-10", "10+0", "10+x", "x-y", "[stack]", "1-2-3"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(parse(wrong).status())) << wrong;
  }
}

TEST(DiffBytesTest, OnlyLinesThatDifferAndNotTooMany) {
  std::vector<uint8_t> old_page(kPageSize), new_page(kPageSize);
  std::strcpy(reinterpret_cast<char*>(&old_page[16]), "old!");
  new_page[8] = 0xff;
  std::strcpy(reinterpret_cast<char*>(&new_page[16]), "new!");
  new_page[4095] = 1;
  const auto run = [&](std::vector<AddressRange> ranges, uint64_t max_lines) {
    ByteLines lines(std::move(ranges), max_lines);
    lines.Add(1, {old_page.data(), ""}, {new_page.data(), ""});
    return std::move(lines).Take();
  };
  const pb::DiffBytes all = run({{0x0, 0x10000}}, 9);
  EXPECT_EQ(all.bytes_different(), 5);
  ASSERT_EQ(all.lines_size(), 3);
  EXPECT_EQ(all.lines(0).address(), "0x1008");
  EXPECT_EQ(all.lines(0).bytes_before(), "0000000000000000");
  EXPECT_EQ(all.lines(0).bytes_after(), "ff00000000000000");
  EXPECT_EQ(all.lines(2).address(), "0x1ff8");
  const pb::DiffBytes two = run({{0x0, 0x10000}}, 2);
  EXPECT_EQ(two.lines_size(), 2);
  EXPECT_EQ(two.lines_left_out(), 1);
  EXPECT_EQ(two.bytes_different(), 5) << "counted though not shown";
  const pb::DiffBytes clipped = run({{0x1011, 0x1012}}, 9);
  EXPECT_EQ(clipped.bytes_different(), 1);
  ASSERT_EQ(clipped.lines_size(), 1);
  EXPECT_EQ(clipped.lines(0).address(), "0x1011");
  EXPECT_EQ(clipped.lines(0).bytes_after(), "65");
}

TEST(DiffBytesTest, WhatAPageHeld) {
  EpochSide side = NewSide(1);
  AddMapping(&side, 0x10000, 0x14000, kRw);
  AddFile(&side, 0x20000, 0x22000, PROT_READ, 0x5000);
  AddFile(&side, 0x30000, 0x32000, PROT_READ, 0x5000)->set_file_space(1u << 24);
  AddMapping(&side, 0x40000, 0x44000, kRw)->set_excluded(true);
  const PageTable table = {{0, 0x10, {1, 2}}, {1u << 24, 6, {3, 4}}};
  const auto source = [&](uint64_t page) { return SourceOf(side.image.processes(0), table, page); };
  EXPECT_EQ(source(0x10).id, PageId({1, 2}));
  EXPECT_EQ(source(0x11).id, kZeroPageId);
  EXPECT_STREQ(source(0x20).why, "the file's");
  EXPECT_EQ(source(0x31).id, PageId({3, 4}));
  EXPECT_STREQ(source(0x40).why, "not saved");
  EXPECT_STREQ(source(0x90).why, "not mapped");
}

}  // namespace
}  // namespace incr

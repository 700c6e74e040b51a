#include "process/memory_map.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <string>

#include "absl/strings/match.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace incr {
namespace {

std::string Recorded(const std::string& name) {
  auto text = ReadWholeFile("testdata/proc/" + name);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

const MemoryMapping& At(const MemoryMap& map, uint64_t start) {
  for (const MemoryMapping& m : map) {
    if (m.start == start) return m;
  }
  ADD_FAILURE() << "nothing mapped at " << std::hex << start;
  return map.front();
}

TEST(MemoryMapTest, EveryFieldOfALineIsRead) {
  auto map = ParseMaps(
      "7fcfc17ba000-7fcfc17bd000 rwxs 0000a000 fe:1a 39700                      /a b/c\n");
  ASSERT_TRUE(map.ok()) << map.status();
  ASSERT_EQ(map->size(), 1u);
  const MemoryMapping& m = map->front();
  EXPECT_EQ(m.start, 0x7fcfc17ba000u);
  EXPECT_EQ(m.end, 0x7fcfc17bd000u);
  EXPECT_EQ(m.prot, static_cast<uint32_t>(PROT_READ | PROT_WRITE | PROT_EXEC));
  EXPECT_TRUE(m.shared);
  EXPECT_EQ(m.offset, 0xa000u);
  EXPECT_EQ(m.dev_major, 0xfeu);
  EXPECT_EQ(m.dev_minor, 0x1au);
  EXPECT_EQ(m.inode, 39700u);
  EXPECT_EQ(m.name, "/a b/c");
  EXPECT_EQ(m.pages(), (PageRange{0x7fcfc17ba, 3}));
}

TEST(MemoryMapTest, NamesAreUnescapedAndMayBeMissing) {
  auto map = ParseMaps(Recorded("odd_maps.txt"));
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->size(), 37u);
  EXPECT_EQ(At(*map, 0x100000000).name, "");
  // The file's second "\012" was a backslash and three digits: the kernel's escape is
  // ambiguous, which is why files are opened through map_files.
  EXPECT_EQ(At(*map, 0x100060000).name, "/srv/data/new\nline \n tail");
  EXPECT_EQ(At(*map, 0x100070000).name, "/srv/data/gone (deleted)");
  EXPECT_EQ(At(*map, 0x100080000).name, "/memfd:mem fd (deleted)");
  EXPECT_EQ(At(*map, 0x1000a0000).name, "[anon:my name]");
  EXPECT_EQ(map->back().name, "[vsyscall]");
  EXPECT_TRUE(ParseMaps("1000-2000 rw-p 00000000 00:00 0").ok());  // No blank at the end.
}

TEST(MemoryMapTest, SmapsGiveTheSameMappingsAndTheirFlags) {
  auto maps = ParseMaps(Recorded("odd_maps.txt"));
  auto smaps = ParseSmaps(Recorded("odd_smaps.txt"));
  ASSERT_TRUE(maps.ok() && smaps.ok()) << smaps.status();
  ASSERT_EQ(maps->size(), smaps->size());
  for (size_t i = 0; i < maps->size(); ++i) {
    MemoryMapping without_flags = smaps->at(i);
    EXPECT_TRUE(without_flags.has_vm_flags);
    without_flags.has_vm_flags = false;
    without_flags.vm_flags.clear();
    EXPECT_EQ(without_flags, maps->at(i)) << i;
  }
  EXPECT_TRUE(At(*smaps, 0x1000f0000).HasFlag("gd"));
  EXPECT_FALSE(At(*smaps, 0x100000000).HasFlag("gd"));
  EXPECT_FALSE(At(*smaps, 0x100000000).HasFlag("r"));
}

TEST(MemoryMapTest, ClassSaysHowBytesGetIntoAnEpoch) {
  const std::map<uint64_t, MappingClass> expected = {
      {0x100000000, MappingClass::kPrivateAnonymous},
      {0x100010000, MappingClass::kSharedWritable},    // shared anonymous
      {0x100020000, MappingClass::kSharedWritable},    // shared file, rw
      {0x100030000, MappingClass::kPrivateFile},
      {0x100050000, MappingClass::kSharedReadOnly},    // of a read-only descriptor
      {0x100080000, MappingClass::kSharedWritable},    // memfd
      {0x100090000, MappingClass::kSharedWritable},    // SysV
      {0x1000a0000, MappingClass::kPrivateAnonymous},  // [anon:my name]
      {0x1000b0000, MappingClass::kSharedWritable},    // [anon_shmem:...]
      {0x1000c0000, MappingClass::kPrivateAnonymous},  // /dev/zero, private
      {0x1000e0000, MappingClass::kPrivateAnonymous},  // PROT_NONE
      {0x558da425f000, MappingClass::kPrivateAnonymous},
      {0x7fcfc1996000, MappingClass::kKernelOwned},
      {0x7fcfc199a000, MappingClass::kKernelOwned},
      {0x7fcfc199c000, MappingClass::kKernelOwned},
      {0x7ffea18a3000, MappingClass::kPrivateAnonymous},
      {0xffffffffff600000, MappingClass::kKernelOwned},
  };
  for (const char* text : {"odd_maps.txt", "odd_smaps.txt"}) {
    auto map = ParseSmaps(Recorded(text));
    ASSERT_TRUE(map.ok()) << map.status();
    for (const auto& [start, mapping_class] : expected) {
      EXPECT_EQ(ClassifyMapping(At(*map, start)), mapping_class) << text << std::hex << start;
    }
  }
}

TEST(MemoryMapTest, AReadableSharedFileIsWritableIfItsFlagsSayItMayBecomeSo) {
  auto maps = ParseMaps(Recorded("odd_maps.txt"));
  auto smaps = ParseSmaps(Recorded("odd_smaps.txt"));
  ASSERT_TRUE(maps.ok() && smaps.ok());
  EXPECT_EQ(ClassifyMapping(At(*maps, 0x100040000)), MappingClass::kSharedReadOnly);
  EXPECT_EQ(ClassifyMapping(At(*smaps, 0x100040000)), MappingClass::kSharedWritable);
}

TEST(MemoryMapTest, UnsupportedMappingsAreNamed) {
  auto map = ParseSmaps(Recorded("odd_smaps.txt"));
  ASSERT_TRUE(map.ok()) << map.status();
  const std::map<uint64_t, std::string> unsupported = {
      {0x100070000, "a deleted file"},   {0x100080000, "memfd"},
      {0x100090000, "System V"},         {0x7fcfc17ba000, "io_uring"},
      {0x7fcfc1988000, "asynchronous"},
  };
  for (const MemoryMapping& m : *map) {
    const absl::Status status = CheckMappingSupported(m);
    const auto expected = unsupported.find(m.start);
    if (expected == unsupported.end()) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_TRUE(absl::StrContains(status.message(), expected->second)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), m.name)) << status;
  }
}

TEST(MemoryMapTest, DevicesAreUnsupportedButDevShmIsAFile) {
  MemoryMapping m;
  m.start = 0x1000;
  m.end = 0x2000;
  m.shared = true;
  m.inode = 7;
  m.name = "/dev/dri/card0";
  EXPECT_FALSE(CheckMappingSupported(m).ok());
  m.name = "/dev/shm/segment";
  EXPECT_TRUE(CheckMappingSupported(m).ok());
  m.has_vm_flags = true;
  m.vm_flags = "rd wr sh mr mw me ms pf io dc de dd";
  EXPECT_FALSE(CheckMappingSupported(m).ok());
  m.vm_flags = "rd wr sh mr mw me ms de ht";
  EXPECT_FALSE(CheckMappingSupported(m).ok());
}

TEST(MemoryMapTest, TheMiddleOfTheWidestGapIsBelowTheKernelsOwn) {
  const auto map = ParseMaps(
      "1000-2000 r--p 00000000 00:00 0 \n"
      "5000-6000 r--p 00000000 00:00 0 \n"
      "f000-10000 r--p 00000000 00:00 0 \n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(MiddleOfWidestGap(*map), 0xa000u);
  EXPECT_EQ(MiddleOfWidestGap({}), 0u);
}

TEST(MemoryMapTest, BadLinesAreErrorsThatShowTheLine) {
  for (const char* line :
       {"x", "1000-2000", "1000-2000 rw-p", "1000-2000 rw-q 0 00:00 0", "2000-1000 rw-p 0 00:00 0 ",
        "1001-2000 rw-p 0 00:00 0 ", "1000-2000 rw-p 0 zz:00 0 ", "1000-2000 rw-p 0 00:00 x ",
        "1000-2000 rw-p 0 100000000:00 0 ", "11112222333344445-2000 rw-p 0 00:00 0 ",
        "-2000 rw-p 0 00:00 0 ", "+1000-2000 rw-p 0 00:00 0 "}) {
    EXPECT_EQ(ParseMaps(line).status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_FALSE(ParseSmaps(line).ok()) << line;
  }
  EXPECT_FALSE(ParseSmaps("VmFlags: rd\n").ok());
}

TEST(MemoryMapTest, OverlapsLeaveTheLaterLine) {
  auto map = ParseMaps(
      "1000-2000 rw-p 0 00:00 0\n2000-5000 rw-p 0 00:00 0\n3000-7000 r--p 0 00:00 0\n");
  ASSERT_TRUE(map.ok());
  ASSERT_EQ(map->size(), 2u);
  EXPECT_EQ(map->back().start, 0x3000u);
}

TEST(MemoryMapTest, OwnMapsAreReadAndTheSharedObjectBehindOneIsOpened) {
  auto self = ProcessHandle::Open(getpid());
  ASSERT_TRUE(self.ok()) << self.status();
  void* shared = mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  static_cast<char*>(shared)[kPageSize] = 'x';
  auto map = ReadSmaps(*self);
  ASSERT_TRUE(map.ok()) << map.status();
  ASSERT_TRUE(ReadMaps(*self).ok());
  const MemoryMapping& m = At(*map, reinterpret_cast<uint64_t>(shared));
  EXPECT_EQ(ClassifyMapping(m), MappingClass::kSharedWritable);
  auto object = OpenMappedObject(*self, m);
  ASSERT_TRUE(object.ok()) << object.status();
  EXPECT_EQ(lseek(object->get(), 0, SEEK_DATA), static_cast<off_t>(kPageSize));
  char byte = 0;
  ASSERT_TRUE(PreadExactly(object->get(), &byte, 1, kPageSize, "object").ok());
  EXPECT_EQ(byte, 'x');
  munmap(shared, 2 * kPageSize);
}

TEST(MemoryMapTest, SmapsBelowAnAddressAreTheSameMappingsAndNoOthers) {
  auto self = ProcessHandle::Open(getpid());
  ASSERT_TRUE(self.ok()) << self.status();
  // Longer than any one read, and marked: an address in the middle of it.
  constexpr size_t kMappings = 200;
  char* at = static_cast<char*>(
      mmap(nullptr, 2 * kMappings * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t i = 0; i < kMappings; ++i) mprotect(at + 2 * i * kPageSize, kPageSize, PROT_READ);
  madvise(at, kPageSize, MADV_DONTDUMP);
  auto all = ReadSmaps(*self);
  ASSERT_TRUE(all.ok()) << all.status();
  for (uint64_t limit : {reinterpret_cast<uint64_t>(at) + kPageSize,
                         reinterpret_cast<uint64_t>(at) + kMappings * kPageSize, uint64_t{1},
                         UINT64_MAX}) {
    auto below = ReadSmapsBelow(*self, limit);
    ASSERT_TRUE(below.ok()) << below.status();
    size_t expected = 0;
    while (expected < all->size() && (*all)[expected].start < limit) ++expected;
    ASSERT_EQ(below->size(), expected);
    // (Not compared as a whole: what we allocate meanwhile may grow the heap.)
    EXPECT_TRUE(expected == 0 || below->back().start == (*all)[expected - 1].start);
  }
  EXPECT_TRUE(At(*ReadSmapsBelow(*self, reinterpret_cast<uint64_t>(at) + 1),
                 reinterpret_cast<uint64_t>(at)).HasFlag("dd"));
  munmap(at, 2 * kMappings * kPageSize);
}

}  // namespace
}  // namespace incr

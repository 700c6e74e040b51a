#include "cli/show_image.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/user.h>

#include "absl/strings/match.h"
#include "cli/epoch_rows.h"
#include "cli/fakes.h"
#include "cli/json.h"
#include "cli/text_table.h"

namespace incr {
namespace {

pb::Image SmallImage() {
  pb::Image image;
  pb::Process* process = image.add_processes();
  process->set_pid(71);
  process->set_comm("server");
  process->set_command_line("server --port 80");
  pb::Mapping* heap = process->add_mappings();
  heap->set_start(0x10000);
  heap->set_end(0x14000);
  heap->set_prot(PROT_READ | PROT_WRITE);
  heap->set_kind(pb::Mapping::ANONYMOUS);
  heap->set_name("[heap]");
  pb::Mapping* library = process->add_mappings();
  library->set_start(0x20000);
  library->set_end(0x21000);
  library->set_prot(PROT_READ | PROT_EXEC);
  library->set_kind(pb::Mapping::PRIVATE_FILE);
  library->mutable_file()->set_path("/lib/libc.so.6");
  pb::Thread* thread = process->add_threads();
  thread->set_tid(71);
  user_regs_struct registers{};
  registers.rip = 0x401234;
  registers.rsp = 0x7ffe0000;
  thread->set_registers(&registers, sizeof registers);
  pb::FileDescriptor* descriptor = process->add_descriptors();
  descriptor->set_fd(3);
  descriptor->set_open_file(1);
  pb::OpenFile* file = image.add_open_files();
  file->set_id(1);
  file->set_kind(pb::OpenFile::LISTENING_SOCKET);
  file->set_flags(2);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(80);
  file->mutable_socket()->set_local_address(&address, sizeof address);
  return image;
}

pb::EpochRecord SmallRecord() {
  pb::EpochRecord record;
  record.set_job("web");
  record.set_epoch(3);
  record.set_parent(2);
  record.set_pid(71);
  return record;
}

TEST(ShowImageTest, MappingsThreadsAndFiles) {
  const PageTable table = {{0, 0x0f}, {0, 0x10}, {0, 0x13}, {0, 0x14}, {0, 0x20}, {1, 0x11}};
  const pb::ShowReply reply = DescribeEpoch(SmallRecord(), SmallImage(), table);
  ASSERT_EQ(reply.mappings_size(), 2);
  EXPECT_EQ(reply.mappings(0).start(), "0x10000");
  EXPECT_EQ(reply.mappings(0).access(), "rw-p");
  EXPECT_EQ(reply.mappings(0).kind(), "anonymous");
  EXPECT_EQ(reply.mappings(0).name(), "[heap]");
  EXPECT_EQ(reply.mappings(0).pages(), 2u);
  EXPECT_EQ(reply.mappings(1).access(), "r-xp");
  EXPECT_EQ(reply.mappings(1).kind(), "private-file");
  EXPECT_EQ(reply.mappings(1).name(), "/lib/libc.so.6");
  EXPECT_EQ(reply.mappings(1).pages(), 1u);
  ASSERT_EQ(reply.threads_size(), 1);
  EXPECT_EQ(reply.threads(0).instruction_pointer(), "0x401234");
  ASSERT_EQ(reply.files_size(), 1);
  EXPECT_EQ(reply.files(0).kind(), "listening-socket");
  EXPECT_EQ(reply.files(0).name(), "0.0.0.0:80");
  EXPECT_EQ(reply.files(0).flags(), "rw");
  const std::string text = FormatShow(reply);
  for (const char* part :
       {"epoch 3 of job web", "server --port 80", "[heap]", "listening-socket"}) {
    EXPECT_TRUE(absl::StrContains(text, part)) << text;
  }
}

TEST(ShowImageTest, SavedPagesOfAFileAreCountedForEachOfItsMappings) {
  pb::Image image = SmallImage();
  pb::Mapping* library = image.mutable_processes(0)->mutable_mappings(1);
  library->set_offset(0x1000);
  library->set_file_space(9);
  const PageTable table = {{0, 0x20}, {9, 0}, {9, 1}, {9, 2}};
  const pb::ShowReply reply = DescribeEpoch(SmallRecord(), image, table);
  EXPECT_EQ(reply.mappings(1).pages(), 1u);
  EXPECT_EQ(reply.mappings(1).file_pages(), 1u);
  EXPECT_EQ(reply.mappings(0).file_pages(), 0u);
}

TEST(ShowImageTest, MemoryThatWasLeftOutIsListed) {
  pb::Image image = SmallImage();
  EXPECT_EQ(FormatShow(DescribeEpoch(SmallRecord(), image, {})).find("DONTDUMP"), std::string::npos);
  pb::Mapping* heap = image.mutable_processes(0)->mutable_mappings(0);
  heap->set_excluded(true);
  heap->set_excluded_pages(3);
  const pb::ShowReply reply = DescribeEpoch(SmallRecord(), image, {});
  EXPECT_TRUE(reply.mappings(0).excluded());
  EXPECT_EQ(reply.mappings(0).excluded_bytes(), 3 * kPageSize);
  EXPECT_FALSE(reply.mappings(1).excluded());
  EXPECT_EQ(reply.excluded_bytes(), 3 * kPageSize);
  EXPECT_TRUE(absl::StrContains(FormatShow(reply),
                                "not saved, marked MADV_DONTDUMP: 12.0 KiB in 0x10000-0x14000 (12.0 KiB)\n"))
      << FormatShow(reply);
}

TEST(ShowImageTest, AHostileImageIsShownNotObeyed) {
  pb::Image image = SmallImage();
  pb::Process* process = image.mutable_processes(0);
  process->mutable_mappings(0)->set_end(0);
  process->mutable_mappings(0)->set_kind(static_cast<pb::Mapping::Kind>(99));
  process->mutable_threads(0)->set_registers("short");
  process->mutable_descriptors(0)->set_open_file(7);
  process->mutable_command_line()->assign("\xff\x1b[2J");
  image.mutable_open_files(0)->mutable_socket()->set_local_address(std::string(500, '\1'));
  image.mutable_open_files(0)->set_position(UINT64_MAX);
  const pb::ShowReply reply = DescribeEpoch(SmallRecord(), image, {});
  EXPECT_EQ(reply.files(0).kind(), "unknown");
  EXPECT_EQ(reply.mappings(0).kind(), "unknown");
  EXPECT_FALSE(absl::StrContains(FormatShow(reply), "\x1b"));
  EXPECT_FALSE(ToPrettyJson(reply).empty());
  EXPECT_EQ(DescribeEpoch(SmallRecord(), pb::Image(), {}).mappings_size(), 0);
}

TEST(EpochRowsTest, OneJobNeedsNoName) {
  FakeStore store;
  EXPECT_TRUE(absl::IsNotFound(ChooseJob(store, "").status()));
  store.Add("web", 1, 71);
  EXPECT_EQ(*ChooseJob(store, ""), "web");
  store.Add("db", 1, 72);
  const absl::Status several = ChooseJob(store, "").status();
  EXPECT_TRUE(absl::IsInvalidArgument(several));
  EXPECT_TRUE(absl::StrContains(several.message(), "db, web")) << several;
  EXPECT_EQ(*ChooseJob(store, "db"), "db");
  EXPECT_TRUE(absl::IsNotFound(ChooseJob(store, "cache").status()));
  EXPECT_EQ(ListEpochRows(store, "")->epochs_size(), 2);
  EXPECT_EQ(ListEpochRows(store, "db")->epochs_size(), 1);
}

TEST(EpochRowsTest, EpochsByNumberAndLatest) {
  FakeStore store;
  store.Add("web", 1, 71);
  store.Add("web", 4, 71);
  EXPECT_EQ(ChooseEpoch(store, "web", "latest")->epoch(), 4u);
  EXPECT_EQ(ChooseEpoch(store, "web", "1")->epoch(), 1u);
  EXPECT_TRUE(absl::IsNotFound(ChooseEpoch(store, "web", "2").status()));
  for (const char* nonsense : {"", "0", "-1", "x", "1x", "99999999999999999999"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ChooseEpoch(store, "web", nonsense).status())) << nonsense;
  }
}

TEST(TextTableTest, ColumnsLineUp) {
  TextTable table({"A", ">N"});
  table.Add({"long name", "5"});
  table.Add({"\xc3\xa4", "12345"});
  EXPECT_EQ(table.Format(),
            "A              N\n"
            "long name      5\n"
            "\xc3\xa4          12345\n");
}

TEST(TextTableTest, Units) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(1048575), "1.0 MiB");
  EXPECT_EQ(FormatBytes(5e15), "4547.5 TiB");
  EXPECT_EQ(FormatMicros(640), "640 us");
  EXPECT_EQ(FormatMicros(1250), "1.2 ms");
  EXPECT_EQ(FormatMicros(3.4e6), "3.4 s");
}

}  // namespace
}  // namespace incr

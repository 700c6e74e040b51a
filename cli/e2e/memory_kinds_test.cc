// What is saved of memory is the user's choice: the options, with a program that says what it finds.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

class MemoryKinds : public EndToEnd {
 protected:
  MemoryKinds() {
    library_ = folder_ + "/libanswer.so";
    program_ = folder_ + "/kinds";
    fs::copy_file(fs::absolute("testdata/targets/libkinds_answer.so"), library_);
    fs::copy_file(fs::absolute("testdata/targets/kinds"), program_);
  }

  Program StartKinds() {
    Program program = Program::Start({program_, progress_, library_},
                                     {"/dev/null", folder_ + "/out", folder_ + "/err"});
    EXPECT_TRUE(Await([&] { return Progress() > 3; })) << ReadAll(progress_);
    return program;
  }
  bool Says(const std::string& what) const { return absl::StrContains(ReadAll(progress_), what); }

  std::string program_, library_;
};

TEST_F(MemoryKinds, DontDumpMemoryIsLeftOutListedAndComesBackEmptyAndMarked) {
  Program program = StartKinds();
  ASSERT_TRUE(Says("dontdump=full"));
  const std::string pid = absl::StrCat(program.pid());
  CommandResult started = Ckpt({"start", "--interval", "0", "--job", "job", pid});
  ASSERT_EQ(started.status, 0) << started.err;
  EXPECT_TRUE(absl::StrContains(started.err, "1048576 bytes in 1 mapping are marked MADV_DONTDUMP"))
      << started.err;
  ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
  const auto show = CkptJson<pb::ShowReply>({"show", "--epoch", "2"});
  EXPECT_EQ(show.excluded_bytes(), 1 << 20);
  for (const pb::ShowMapping& mapping : show.mappings()) {
    EXPECT_TRUE(!mapping.excluded() || mapping.pages() == 0) << mapping.ShortDebugString();
  }
  const CommandResult text = Ckpt({"show", "--epoch", "2"});
  EXPECT_TRUE(absl::StrContains(text.out, "not saved, marked MADV_DONTDUMP: 1.0 MiB in 0x")) << text.out;
  program.Kill();

  // Tracked again: marked as before, hence left out as before.
  const pid_t restored = RestoreAndExpectProgress(2, 5, {"--interval", "0"});
  ASSERT_NE(restored, 0);
  EXPECT_TRUE(Says("dontdump=zero")) << ReadAll(progress_);
  ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
  const auto again = CkptJson<pb::ShowReply>({"show", "--epoch", "3"});
  int excluded = 0;
  for (const pb::ShowMapping& mapping : again.mappings()) excluded += mapping.excluded();
  EXPECT_EQ(excluded, 1);
  KillAndReap(restored);
}

TEST_F(MemoryKinds, IncludeDontDumpSavesIt) {
  Program program = StartKinds();
  CommandResult started = Ckpt({"start", "--interval", "0", "--job", "job", "--include-dontdump",
                                absl::StrCat(program.pid())});
  ASSERT_EQ(started.status, 0) << started.err;
  EXPECT_EQ(CkptJson<pb::ShowReply>({"show", "--epoch", "1"}).excluded_bytes(), 0);
  program.Kill();
  const pid_t restored = RestoreAndExpectProgress(1, 5, {"--interval", "0", "--include-dontdump"});
  EXPECT_TRUE(Says("dontdump=full")) << ReadAll(progress_);
  ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
  KillAndReap(restored);
  KillAndReap(RestoreAndExpectProgress(2, 5));
  EXPECT_TRUE(Says("dontdump=full")) << ReadAll(progress_);
}

// As a package manager does it: another file under the name, the old inode gone.
void Upgrade(const std::string& path) {
  const std::string content = ReadAll(path);
  ASSERT_TRUE(WriteFileDurably(path, std::string(content.size(), 'x'), 0755).ok());
}

TEST_F(MemoryKinds, WithSavedFilePagesAnEpochSurvivesItsLibraryAndItsProgram) {
  Program program = StartKinds();
  const pid_t pid = program.pid();
  CommandResult started = Ckpt(
      {"start", "--interval", "0", "--job", "job", "--save-file-pages", absl::StrCat(pid)});
  ASSERT_EQ(started.status, 0) << started.err;
  ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
  ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
  program.Kill();
  // Once: later epochs have them from the first.
  const pb::ListReply list = List();
  EXPECT_GT(list.epochs(0).table_pages(), 4096u + 256u + 300u);
  EXPECT_LT(list.epochs(2).pages_written(), 300u);
  const auto show = CkptJson<pb::ShowReply>({"show", "--epoch", "3"});
  uint32_t of_library = 0;
  for (const pb::ShowMapping& mapping : show.mappings()) {
    if (mapping.name() == library_) of_library += mapping.file_pages();
  }
  EXPECT_GE(of_library, 128 * 1024 / 4096u);

  // All is as it was: mapped as ever.
  CommandResult restored = Ckpt({"restore", "--epoch", "3", "--detach"});
  ASSERT_EQ(restored.status, 0) << restored.err;
  EXPECT_TRUE(absl::StrContains(ReadAll(absl::StrCat("/proc/", pid, "/maps")), library_));
  EXPECT_FALSE(absl::StrContains(restored.err, library_)) << restored.err;
  KillAndReap(pid);

  Upgrade(library_);
  restored = Ckpt({"restore", "--epoch", "2", "--detach"});
  ASSERT_EQ(restored.status, 0) << restored.err;
  EXPECT_TRUE(absl::StrContains(restored.err, library_ + " is not the file it was")) << restored.err;
  EXPECT_FALSE(absl::StrContains(ReadAll(absl::StrCat("/proc/", pid, "/maps")), library_));
  EXPECT_TRUE(absl::StrContains(ReadAll(absl::StrCat("/proc/", pid, "/maps")), program_));
  KillAndReap(pid);
  KillAndReap(RestoreAndExpectProgress(3, 10));

  fs::remove(library_);
  KillAndReap(RestoreAndExpectProgress(1, 10));
  // The program too; tracked again, and restored from that epoch.
  Upgrade(program_);
  EXPECT_EQ(RestoreAndExpectProgress(3, 10, {"--interval", "0", "--save-file-pages"}), pid);
  ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
  KillAndReap(pid);
  EXPECT_EQ(List().epochs(3).parent(), 3u);
  fs::remove(program_);
  KillAndReap(RestoreAndExpectProgress(4, 10));
}

TEST_F(MemoryKinds, WithoutSavedFilePagesAnUpgradedLibraryIsRefusedByName) {
  Program program = StartKinds();
  const std::string pid = absl::StrCat(program.pid());
  CommandResult started = Ckpt({"start", "--interval", "0", "--job", "job", pid});
  ASSERT_EQ(started.status, 0) << started.err;
  Upgrade(library_);
  const CommandResult checkpoint = Ckpt({"checkpoint", "job"});
  EXPECT_EQ(checkpoint.status, 4);
  EXPECT_TRUE(absl::StrContains(checkpoint.err, library_)) << checkpoint.err;
  program.Kill();
  for (const bool missing : {false, true}) {
    if (missing) fs::remove(library_);
    const CommandResult restored = Ckpt({"restore", "--epoch", "1", "--detach"});
    EXPECT_EQ(restored.status, 4);
    EXPECT_TRUE(absl::StrContains(restored.err, library_)) << restored.err;
  }
}

TEST_F(MemoryKinds, WithSavedFilePagesTrackingGoesOnWhenAFileIsReplacedUnderTheProgram) {
  Program program = StartKinds();
  CommandResult started = Ckpt({"start", "--interval", "0", "--job", "job", "--save-file-pages",
                                absl::StrCat(program.pid())});
  ASSERT_EQ(started.status, 0) << started.err;
  for (const std::string& path : {library_, program_}) {
    Upgrade(path);
    const CommandResult checkpoint = Ckpt({"checkpoint", "job"});
    ASSERT_EQ(checkpoint.status, 0) << checkpoint.err;
  }
  program.Kill();
  for (const int epoch : {1, 2, 3}) KillAndReap(RestoreAndExpectProgress(epoch, 10));
}

// Of the program's huge memory, what is mapped by huge pages, in KiB.
int64_t HugeKib(const std::string& progress) {
  const size_t at = progress.find("huge=");
  return at == std::string::npos ? -1 : atoll(progress.c_str() + at + 5);
}

TEST_F(MemoryKinds, HugePagesThatTrackingSplitAreCountedAndMendedOnRequest) {
  constexpr int64_t kAllKib = 16 * 1024;
  Program program = StartKinds();
  if (HugeKib(ReadAll(progress_)) != kAllKib) {
    GTEST_SKIP() << "this machine gives no huge pages: " << ReadAll(progress_);
  }
  const auto track = [&](const std::vector<std::string>& options) {
    std::vector<std::string> start = {"start", "--interval", "0.05", "--job", "job",
                                      absl::StrCat(program.pid())};
    start.insert(start.end(), options.begin(), options.end());
    const CommandResult started = Ckpt(start);
    ASSERT_EQ(started.status, 0) << started.err;
    ASSERT_TRUE(Await([&] { return HugeKib(ReadAll(progress_)) < kAllKib; })) << ReadAll(progress_);
    ASSERT_TRUE(Await([&] { return Status().jobs(0).huge_pages_split() == 8; }));
    EXPECT_EQ(Status().jobs(0).huge_pages(), 8u);
    const CommandResult status = Ckpt({"status"});
    EXPECT_TRUE(absl::StrContains(status.out, "job: 8 of 8 huge pages were split")) << status.out;
  };
  const auto await_whole = [&](const std::string& when) {
    EXPECT_TRUE(Await([&] { return HugeKib(ReadAll(progress_)) == kAllKib; }))
        << when << ": " << ReadAll(progress_);
    ExpectProgress(10, when);
  };

  track({});
  pb::StopReply reply = CkptJson<pb::StopReply>({"stop", "job"});
  ASSERT_EQ(reply.jobs_size(), 1);
  EXPECT_EQ(reply.jobs(0).huge_pages_split(), 8u);
  EXPECT_EQ(reply.jobs(0).huge_pages_collapsed(), 0u);
  EXPECT_LT(HugeKib(ReadAll(progress_)), kAllKib);

  program.Kill();

  program = StartKinds();
  track({});
  const CommandResult stopped = Ckpt({"stop", "--collapse-on-stop", "job"});
  ASSERT_EQ(stopped.status, 0) << stopped.err;
  EXPECT_EQ(stopped.out,
            "stopped job\njob: 8 of 8 huge pages were split while it was tracked, 8 are whole again\n");
  await_whole("after stop --collapse-on-stop");

  track({"--collapse-on-stop"});
  reply = CkptJson<pb::StopReply>({"stop", "job"});
  EXPECT_EQ(reply.jobs(0).huge_pages_collapsed(), 8u);
  await_whole("after a stop of what was started with --collapse-on-stop");
}

}  // namespace
}  // namespace incr::e2e

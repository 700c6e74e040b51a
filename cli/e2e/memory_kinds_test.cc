// What is saved of memory is the user's choice: the options, with a program that says what it finds.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
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
    if (mapping.excluded()) EXPECT_EQ(mapping.pages(), 0u);
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

}  // namespace
}  // namespace incr::e2e

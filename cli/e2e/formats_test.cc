// docs/formats.md is exact enough to write a reader from: testdata/readers/read_store.py is one, and it has to see
// in a store what it sees in the same epochs' export file, also after gc has moved and recompressed things.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

class Formats : public EndToEnd {
 protected:
  // Of each epoch: its number, and what stands behind its parent, which differs between a store and an export.
  std::vector<std::string> Read(const std::vector<std::string>& what) {
    std::vector<std::string> arguments = {"/usr/bin/python3", fs::absolute("testdata/readers/read_store.py")};
    arguments.insert(arguments.end(), what.begin(), what.end());
    const std::string base = absl::StrCat(folder_, "/read-", ++reads_);
    Program reader = Program::Start(arguments, {"/dev/null", base + ".out", base + ".err"});
    EXPECT_EQ(reader.Wait(120), 0) << ReadAll(base + ".err");
    std::vector<std::string> epochs;
    const std::string text = ReadAll(base + ".out");
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      std::vector<std::string> fields = absl::StrSplit(line, ' ');
      EXPECT_EQ(fields.size(), 5u) << line;
      fields.erase(fields.begin() + 1);
      epochs.push_back(absl::StrJoin(fields, " "));
    }
    return epochs;
  }

 private:
  int reads_ = 0;
};

TEST_F(Formats, AReaderWrittenFromTheDocumentReadsStoresAndExportFiles) {
  Program program = Program::Start(
      {"/usr/bin/python3", fs::absolute("testdata/targets/computation.py"), progress_, "100000"},
      {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return Progress() > 10; }));
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "job", absl::StrCat(program.pid())}).status, 0);
  std::vector<std::string> to_export = {"export", "-o", folder_ + "/exported", "--epoch", "1"};
  for (int epoch = 2; epoch <= 6; ++epoch) {
    ASSERT_EQ(Ckpt({"checkpoint", "job"}).status, 0);
    to_export.insert(to_export.end(), {"--epoch", absl::StrCat(epoch)});
  }
  ASSERT_EQ(Ckpt({"stop", "--all"}).status, 0);
  program.Kill();

  const std::vector<std::string> in_store = Read({"store", store_, "job"});
  ASSERT_EQ(in_store.size(), 6u);
  EXPECT_NE(in_store[4], in_store[5]);
  const CommandResult exported = Ckpt(to_export);
  ASSERT_EQ(exported.status, 0) << exported.err;
  EXPECT_EQ(Read({"export", folder_ + "/exported"}), in_store);

  // Now zstd bodies, and a manifest in its other place.
  const CommandResult collected = Ckpt({"gc", "--keep", "3", "--keep-last", "1", "--recompress", "zstd"});
  ASSERT_EQ(collected.status, 0) << collected.err;
  EXPECT_EQ(Read({"store", store_, "job"}), (std::vector<std::string>{in_store[2], in_store[5]}));
}

}  // namespace
}  // namespace incr::e2e

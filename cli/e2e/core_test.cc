// core and dump-memory against what they stand for: a debugger on the live process, and its memory.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/scoped_fd.h"
#include "cli/e2e/harness.h"
#include "gtest/gtest.h"

namespace incr::e2e {
namespace {

namespace fs = std::filesystem;

class Core : public EndToEnd {
 protected:
  // Runs `arguments` to their end. stdout and stderr.
  std::pair<std::string, std::string> Run(const std::vector<std::string>& arguments, int status = 0) {
    const std::string base = absl::StrCat(folder_, "/run-", ++runs_);
    Program program = Program::Start(arguments, {"/dev/null", base + ".out", base + ".err"});
    EXPECT_EQ(program.Wait(120), status) << arguments[0] << ": " << ReadAll(base + ".err");
    return {ReadAll(base + ".out"), ReadAll(base + ".err")};
  }

  // What a debugger says of `what`: frames with arguments and variables, and values asked for.
  std::vector<std::string> Ask(const std::vector<std::string>& what) {
    std::vector<std::string> arguments = {"/usr/bin/gdb", "-q", "-nx", "-batch", "-ex", "set debuginfod enabled off",
                                          "-ex", "set width 0", "-ex", "set print frame-arguments all"};
    arguments.insert(arguments.end(), what.begin(), what.end());
    for (const char* command :
         {"thread apply all backtrace full", "print *list", "print *list->next->next", "print table[77]",
          "print sparse[4096*7*5]@3", "print fraction", "info sharedlibrary", "info auxv",
          "thread apply all print number", "thread apply all info registers",
          "thread apply all print $ymm0.v4_int64", "thread apply all print $ymm15.v4_int64", "print $mxcsr"}) {
      arguments.insert(arguments.end(), {"-ex", command});
    }
    const auto [out, err] = Run(arguments);
    for (const absl::string_view line : absl::StrSplit(err, '\n')) {
      EXPECT_TRUE(!absl::StrContains(line, "warning") || absl::StrContains(line, "index cache")) << line;
    }
    std::vector<std::string> lines = absl::StrSplit(out, '\n');
    // How it came to the process, and a thread's name, which no core has.
    std::erase_if(lines, [](const std::string& line) {
      return line.empty() || line[0] == '[' || absl::StartsWith(line, "Using host") ||
             absl::StartsWith(line, "Core was") || (absl::StartsWith(line, "0x0000") && absl::StrContains(line, " in "));
    });
    for (std::string& line : lines) {
      if (absl::StartsWith(line, "Thread ")) line = line.substr(0, line.find(" (LWP"));
    }
    return lines;
  }

  // From the first thread's heading to the end: before it gdb says where it is.
  static std::vector<std::string> FromFirstThread(std::vector<std::string> lines) {
    const auto first = std::find_if(lines.begin(), lines.end(), [](const std::string& line) {
      return absl::StartsWith(line, "Thread ");
    });
    lines.erase(lines.begin(), first);
    return lines;
  }

 private:
  int runs_ = 0;
};

TEST_F(Core, TheDebuggerSeesWhatItSawOfTheLiveProcess) {
  const std::string binary = fs::absolute("testdata/targets/core_threads");
  Program target = Program::Start({binary}, {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return ReadAll(folder_ + "/out") == "ready\n"; }));
  const std::vector<std::string> live = FromFirstThread(Ask({"-p", absl::StrCat(target.pid())}));
  const std::string text = absl::StrJoin(live, "\n");
  for (const char* seen : {"Leaf (kind=1, text=", "poll (fds=0x0", "\"thread number 3", "$1 = {value = 16",
                           "$3 = 231", "$5 = 0.625", "AT_SYSINFO_EHDR", "libc.so.6"}) {
    EXPECT_TRUE(absl::StrContains(text, seen)) << seen << " is not in:\n" << text;
  }

  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "job", absl::StrCat(target.pid())}).status, 0);
  const auto reply = CkptJson<pb::CoreReply>({"core", "--epoch", "latest", "-o", folder_ + "/core"});
  EXPECT_EQ(reply.threads(), 4u);
  EXPECT_EQ(reply.warnings_size(), 0) << reply.ShortDebugString();
  EXPECT_LT(reply.bytes_written(), 32 << 20) << "zeros take room";
  const std::vector<std::string> core = FromFirstThread(Ask({binary, folder_ + "/core"}));
  EXPECT_EQ(core.size(), live.size());
  for (size_t i = 0; i < std::min(core.size(), live.size()); ++i) EXPECT_EQ(core[i], live[i]) << "line " << i;

  const auto [elf, complaints] = Run({"/usr/bin/readelf", "-a", folder_ + "/core"});
  EXPECT_EQ(complaints, "");
  EXPECT_TRUE(absl::StrContains(elf, "NT_SIGINFO") && absl::StrContains(elf, "NT_FILE")) << elf;

  // A pipe gets the same bytes.
  Run({"/bin/sh", "-c", absl::StrCat(CkptBinary(), " --store ", store_, " core --epoch 1 -o - 2>", folder_,
                                     "/said | cat >", folder_, "/piped")});
  EXPECT_TRUE(ReadAll(folder_ + "/core") == ReadAll(folder_ + "/piped"));
  EXPECT_TRUE(absl::StrContains(ReadAll(folder_ + "/said"), "wrote a core of epoch 1")) << ReadAll(folder_ + "/said");
}

TEST_F(Core, DumpMemoryIsTheMemoryByteForByte) {
  // Without rseq areas: in those the kernel notes the CPU on which a thread goes on after the checkpoint.
  Program target = Program::Start({"/usr/bin/env", "GLIBC_TUNABLES=glibc.pthread.rseq=0",
                                   fs::absolute("testdata/targets/core_threads")},
                                  {"/dev/null", folder_ + "/out", folder_ + "/err"});
  ASSERT_TRUE(Await([&] { return ReadAll(folder_ + "/out") == "ready\n"; }));
  ASSERT_EQ(Ckpt({"start", "--interval", "0", "--job", "job", absl::StrCat(target.pid())}).status, 0);
  auto memory = OpenFile(absl::StrCat("/proc/", target.pid(), "/mem"), O_RDONLY);
  ASSERT_TRUE(memory.ok());
  const std::string file = folder_ + "/dump";
  int compared = 0;
  const std::string maps = ReadAll(absl::StrCat("/proc/", target.pid(), "/maps"));
  for (const absl::string_view line : absl::StrSplit(maps, '\n', absl::SkipEmpty())) {
    uint64_t start = 0, end = 0;
    ASSERT_EQ(sscanf(std::string(line).c_str(), "%" SCNx64 "-%" SCNx64, &start, &end), 2);
    if (absl::StrContains(line, "[v") || absl::StrContains(line, " ---p ")) continue;
    // Not at a page's border.
    start += 100, end -= 57;
    const CommandResult dumped = Ckpt({"dump-memory", "--epoch", "1", "--range",
                                       absl::StrCat(absl::Hex(start), "-", absl::Hex(end)), "-o", file});
    ASSERT_EQ(dumped.status, 0) << line << ": " << dumped.err;
    std::string now(end - start, '\0');
    ASSERT_TRUE(PreadExactly(memory->get(), now.data(), now.size(), start, "mem").ok()) << line;
    EXPECT_TRUE(ReadAll(file) == now) << line;
    ++compared;
  }
  EXPECT_GT(compared, 10);
  const CommandResult heap = Ckpt({"--json", "dump-memory", "--epoch", "1", "--range", "[heap]", "-o", file});
  pb::DumpMemoryReply reply;
  ASSERT_TRUE(ParseJson(heap.out, &reply)) << heap.out << heap.err;
  EXPECT_EQ(reply.bytes(), fs::file_size(file));

  const CommandResult unmapped = Ckpt({"dump-memory", "--epoch", "1", "--range", "1000-2000", "-o", folder_ + "/no"});
  EXPECT_EQ(unmapped.status, 2);
  EXPECT_TRUE(absl::StrContains(unmapped.err, "nothing was mapped at 0x1000")) << unmapped.err;
  const CommandResult nonsense = Ckpt({"dump-memory", "--epoch", "1", "--range", "heap", "-o", folder_ + "/no"});
  EXPECT_EQ(nonsense.status, 2) << nonsense.err;
  EXPECT_FALSE(fs::exists(folder_ + "/no"));
  EXPECT_EQ(Ckpt({"core", "--epoch", "9", "-o", folder_ + "/no"}).status, 3);
}

}  // namespace
}  // namespace incr::e2e

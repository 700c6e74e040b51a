#include "cli/command_line.h"

#include <gtest/gtest.h>

namespace incr {
namespace {

template <typename Args>
Args Parse(const std::vector<std::string>& arguments, CommandLine* whole = nullptr) {
  const CommandLine line = ParseCommandLine(arguments);
  if (whole != nullptr) *whole = line;
  if (const auto* args = std::get_if<Args>(&line.command)) return *args;
  const auto* print = std::get_if<PrintArgs>(&line.command);
  ADD_FAILURE() << (print == nullptr ? "another command" : print->text);
  return {};
}

std::string UsageErrorOf(const std::vector<std::string>& arguments) {
  const PrintArgs print = Parse<PrintArgs>(arguments);
  EXPECT_TRUE(print.is_error) << print.text;
  EXPECT_EQ(print.text.find('\n'), std::string::npos) << print.text;
  return print.text;
}

TEST(CommandLineTest, GlobalOptionsBeforeAndAfterTheCommand) {
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"--store", "/s", "--json", "list"},
           {"list", "--store", "/s", "--json"},
           {"--json", "list", "--store=/s"}}) {
    CommandLine line;
    Parse<ListArgs>(arguments, &line);
    EXPECT_EQ(line.store, "/s");
    EXPECT_TRUE(line.json);
  }
}

TEST(CommandLineTest, Start) {
  const auto args = Parse<StartArgs>({"start", "--interval", "0.5", "--job", "web", "71"});
  EXPECT_EQ(args.pid, 71);
  EXPECT_EQ(args.tracking.interval_s, 0.5);
  EXPECT_EQ(args.tracking.job, "web");
  EXPECT_EQ(Parse<StartArgs>({"start", "71"}).tracking.interval_s, kDefaultIntervalS);
  EXPECT_EQ(Parse<StartArgs>({"start", "71", "--interval", "0"}).tracking.interval_s, 0);
  EXPECT_EQ(Parse<StartArgs>({"start", "--", "71"}).pid, 71);
  EXPECT_EQ(Parse<StartArgs>({"start", "71"}).tracking.precopy_rounds, std::nullopt);
  EXPECT_EQ(Parse<StartArgs>({"start", "--precopy-rounds", "0", "71"}).tracking.precopy_rounds, 0u);
  UsageErrorOf({"start", "--precopy-rounds", "-1", "71"});
  UsageErrorOf({"start"});
  UsageErrorOf({"start", "abc"});
  UsageErrorOf({"start", "-5"});
  UsageErrorOf({"start", "0"});
  UsageErrorOf({"start", "99999999999"});
  UsageErrorOf({"start", "71", "72"});
  UsageErrorOf({"start", "--interval", "x", "71"});
  UsageErrorOf({"start", "--interval", "-1", "71"});
  UsageErrorOf({"start", "--interval=-1", "71"});
  UsageErrorOf({"start", "--interval", "nan", "71"});
  UsageErrorOf({"start", "--interval", "inf", "71"});
  UsageErrorOf({"start", "--interval", "1e9", "71"});
  UsageErrorOf({"start", "--interval", "1e-7", "71"});
  UsageErrorOf({"start", "--tracker", "magic", "71"});
  UsageErrorOf({"start", "--job", "a/b", "71"});
}

TEST(CommandLineTest, WhatFollowsDashesIsTheCommandsOwn) {
  CommandLine line;
  const auto args = Parse<RunArgs>(
      {"run", "--interval", "1", "--", "sh", "-c", "--store x", "--json", "--", "--help"}, &line);
  EXPECT_EQ(args.command,
            (std::vector<std::string>{"sh", "-c", "--store x", "--json", "--", "--help"}));
  EXPECT_EQ(args.tracking.interval_s, 1);
  EXPECT_FALSE(line.json);
  EXPECT_EQ(line.store, "");
}

TEST(CommandLineTest, RunWithoutDashes) {
  EXPECT_EQ(Parse<RunArgs>({"run", "--job", "a", "sleep", "5"}).command,
            (std::vector<std::string>{"sleep", "5"}));
  EXPECT_EQ(Parse<RunArgs>({"run", "--precopy-rounds", "3", "sleep", "5"}).command,
            (std::vector<std::string>{"sleep", "5"}));
  EXPECT_EQ(Parse<RunArgs>({"run", "ls", "-l", "--color"}).command,
            (std::vector<std::string>{"ls", "-l", "--color"}));
  UsageErrorOf({"run"});
  UsageErrorOf({"run", "--"});
  UsageErrorOf({"run", "--intervall", "1", "--", "true"});
}

TEST(CommandLineTest, Stop) {
  EXPECT_EQ(Parse<StopArgs>({"stop", "web"}).target, "web");
  EXPECT_TRUE(Parse<StopArgs>({"stop", "--all"}).all);
  UsageErrorOf({"stop"});
  UsageErrorOf({"stop", "web", "--all"});
}

TEST(CommandLineTest, Restore) {
  const auto plain = Parse<RestoreArgs>({"restore", "--epoch", "latest"});
  EXPECT_EQ(plain.epoch, "latest");
  EXPECT_FALSE(plain.track);
  EXPECT_FALSE(plain.detach);
  const auto tracked = Parse<RestoreArgs>(
      {"restore", "--epoch", "7", "--job", "web", "--detach", "--interval", "0"});
  EXPECT_TRUE(tracked.track);
  EXPECT_TRUE(tracked.detach);
  EXPECT_EQ(tracked.tracking.interval_s, 0);
  EXPECT_EQ(tracked.job, "web");
  UsageErrorOf({"restore"});
}

TEST(CommandLineTest, WhatIsSavedOfMemory) {
  EXPECT_FALSE(Parse<StartArgs>({"start", "71"}).tracking.include_dontdump);
  EXPECT_FALSE(Parse<StartArgs>({"start", "71"}).tracking.save_file_pages);
  EXPECT_TRUE(Parse<StartArgs>({"start", "--save-file-pages", "71"}).tracking.save_file_pages);
  EXPECT_TRUE(Parse<RunArgs>({"run", "--save-file-pages", "true"}).tracking.save_file_pages);
  EXPECT_TRUE(Parse<StartArgs>({"start", "--include-dontdump", "71"}).tracking.include_dontdump);
  EXPECT_TRUE(Parse<RunArgs>({"run", "--include-dontdump", "--", "true"}).tracking.include_dontdump);
  EXPECT_TRUE(Parse<RestoreArgs>({"restore", "--epoch", "1", "--interval", "1", "--include-dontdump"})
                  .tracking.include_dontdump);
  UsageErrorOf({"stop", "--include-dontdump", "web"});
  EXPECT_FALSE(Parse<StopArgs>({"stop", "web"}).collapse_on_stop);
  EXPECT_TRUE(Parse<StopArgs>({"stop", "--collapse-on-stop", "web"}).collapse_on_stop);
  EXPECT_FALSE(Parse<StartArgs>({"start", "71"}).tracking.collapse_on_stop);
  EXPECT_TRUE(Parse<StartArgs>({"start", "71", "--collapse-on-stop"}).tracking.collapse_on_stop);
}

TEST(CommandLineTest, HowTheStoreIsKept) {
  EXPECT_EQ(Parse<StartArgs>({"start", "71"}).tracking.daemon, DaemonSettings());
  const DaemonSettings expected{64u << 20, true};
  EXPECT_EQ(Parse<StartArgs>({"start", "71", "--memory-limit", "64M", "--paranoid"}).tracking.daemon,
            expected);
  const RunArgs run = Parse<RunArgs>({"run", "--memory-limit", "64MiB", "--paranoid", "true"});
  EXPECT_EQ(run.tracking.daemon, expected);
  EXPECT_EQ(run.command, std::vector<std::string>{"true"});
  UsageErrorOf({"start", "71", "--memory-limit", "63M"});
  UsageErrorOf({"start", "71", "--memory-limit", "much"});
  UsageErrorOf({"restore", "--epoch", "1", "--paranoid"});
}

TEST(CommandLineTest, TheOthers) {
  EXPECT_EQ(Parse<CheckpointArgs>({"checkpoint", "71"}).target, "71");
  EXPECT_EQ(Parse<ShowArgs>({"show", "--epoch", "3"}).epoch, "3");
  Parse<StatusArgs>({"status"});
  Parse<DoctorArgs>({"doctor"});
  Parse<VersionArgs>({"--version"});
  UsageErrorOf({});
  UsageErrorOf({"frobnicate"});
  UsageErrorOf({"status", "extra"});
  UsageErrorOf({"--frobnicate", "status"});
  UsageErrorOf({"checkpoint"});
  UsageErrorOf({"show"});
  const DiffArgs diff = Parse<DiffArgs>({"diff", "3", "latest", "--bytes", "[heap]"});
  EXPECT_EQ(diff.before, "3");
  EXPECT_EQ(diff.after, "latest");
  EXPECT_EQ(diff.bytes, "[heap]");
  EXPECT_EQ(diff.max_lines, 64u);
  UsageErrorOf({"diff", "3"});
  UsageErrorOf({"diff", "3", "4", "5"});
  UsageErrorOf({"diff", "3", "4", "--max-lines", "-1"});
  UsageErrorOf({"diff", "3", "4", "--job", "a/b"});
}

TEST(CommandLineTest, HelpTeachesByExample) {
  const PrintArgs root = Parse<PrintArgs>({"--help"});
  EXPECT_FALSE(root.is_error);
  EXPECT_NE(root.text.find("A first session"), std::string::npos);
  for (const char* verb : {"start", "run", "checkpoint", "stop", "status", "list", "show",
                           "diff", "restore", "doctor"}) {
    EXPECT_NE(root.text.find(verb), std::string::npos);
    const std::string help = Parse<PrintArgs>({verb, "--help"}).text;
    EXPECT_NE(help.find("Example"), std::string::npos) << help;
    EXPECT_EQ(Parse<PrintArgs>({"help", verb}).text, help);
  }
  EXPECT_EQ(Parse<PrintArgs>({"help"}).text, root.text);
  UsageErrorOf({"help", "frobnicate"});
}

TEST(CommandLineTest, Gc) {
  const auto args = Parse<GcArgs>({"gc", "--keep-last", "100", "--keep-within", "1h30m",
                                   "--keep-hourly", "24", "--keep-daily", "7", "--keep", "3",
                                   "--keep", "9", "--job", "web", "--dry-run", "--recompress", "zstd"});
  EXPECT_EQ(args.policy.keep_last, 100u);
  EXPECT_EQ(args.policy.keep_within_us, 5'400'000'000);
  EXPECT_EQ(args.policy.keep_hourly, 24u);
  EXPECT_EQ(args.policy.keep_daily, 7u);
  EXPECT_EQ(args.policy.keep, (std::vector<uint64_t>{3, 9}));
  EXPECT_EQ(args.job, "web");
  EXPECT_TRUE(args.dry_run);
  EXPECT_EQ(args.recompress, "zstd");
  // Without a rule it would drop everything but the newest: say which rules there are.
  for (const char* rule : {"--keep-last", "--keep-within", "--keep-hourly", "--keep-daily", "--keep "}) {
    EXPECT_NE(UsageErrorOf({"gc"}).find(rule), std::string::npos) << rule;
  }
  UsageErrorOf({"gc", "--dry-run"});
  UsageErrorOf({"gc", "--keep-last", "0"});
  UsageErrorOf({"gc", "--keep-last", "-1"});
  UsageErrorOf({"gc", "--keep-last", "x"});
  UsageErrorOf({"gc", "--keep-within", "2"});
  UsageErrorOf({"gc", "--keep-within", "0s"});
  EXPECT_NE(UsageErrorOf({"gc", "--keep-within", "2x"}).find("2h"), std::string::npos);
  UsageErrorOf({"gc", "--keep", "latest"});
  UsageErrorOf({"gc", "--keep-last", "1", "--recompress", "gzip"});
  UsageErrorOf({"gc", "--keep-last", "1", "--job", "a/b"});
}

TEST(CommandLineTest, StartAndRunTakeGcRules) {
  EXPECT_TRUE(Parse<StartArgs>({"start", "71"}).tracking.gc.empty());
  EXPECT_EQ(Parse<StartArgs>({"start", "--keep-last", "100", "71"}).tracking.gc.keep_last, 100u);
  const auto run = Parse<RunArgs>({"run", "--keep-within", "2h", "--keep-last", "5", "sleep", "1"});
  EXPECT_EQ(run.tracking.gc.keep_within_us, 7'200'000'000);
  EXPECT_EQ(run.tracking.gc.keep_last, 5u);
  EXPECT_EQ(run.command, (std::vector<std::string>{"sleep", "1"}));
  UsageErrorOf({"start", "--keep-last", "0", "71"});
}

}  // namespace
}  // namespace incr

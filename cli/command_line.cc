#include "cli/command_line.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/help_text.h"
#include "cli/job_name.h"
#include "cli/json.h"
#include "store/gc_policy.h"
#include "store/memory_plan.h"
#include "tracker/write_tracker.h"

namespace incr {
namespace {

PrintArgs UsageError(const std::string& what, const std::string& verb) {
  return {absl::StrCat(CleanText(what), " (see: incr-ckpt help", verb.empty() ? "" : " ", verb,
                       ")"),
          true};
}

std::string TrackerHelp() {
  return absl::StrCat("How writes are noticed: ", absl::StrJoin(TrackerNames(), ", "),
                      " (default: the best that works)");
}

// CLI11's tree of options and the values it fills in. Lives for one parse.
class Parser {
 public:
  Parser() : app_(kRootDescription, "incr-ckpt") {
    app_.footer(kRootFooter);
    app_.fallthrough();
    app_.require_subcommand(0, 1);
    app_.get_formatter()->column_width(26);
    app_.add_option("--store", line_.store, "The store's directory")->type_name("DIR");
    app_.add_flag("--json", line_.json, "Print JSON instead of text for people");
    app_.add_flag("--version", version_, "Print the version");
    AddTrackingCommands();
    AddReadingCommands();
    AddGcCommand();
    AddStoreCommands();
    AddDebuggerCommands();
    CLI::App* help = Add("help", kHelpHelp);
    help->add_option("command", help_verb_, "The command to explain")->type_name("");
  }

  CommandLine Parse(std::vector<std::string> arguments, std::vector<std::string> tail) {
    tail_ = std::move(tail);
    std::reverse(arguments.begin(), arguments.end());  // As CLI11 wants it.
    try {
      app_.parse(arguments);
      line_.command = Result();
    } catch (const CLI::CallForHelp&) {
      line_.command = PrintArgs{Help(Verb())};
    } catch (const CLI::ParseError& error) {
      line_.command = UsageError(error.what(), Verb());
    }
    return line_;
  }

 private:
  CLI::App* Add(const std::string& name, const CommandHelp& help) {
    CLI::App* command = app_.add_subcommand(name, help.summary);
    command->footer(help.footer);
    return command;
  }

  void AddTrackingOptions(CLI::App* command, TrackingArgs* args) {
    command->add_option("--job", args->job, "The job's name (default: COMMAND-PID)")
        ->type_name("NAME");
    command->add_option("--tracker", args->tracker,
                        TrackerHelp())
        ->type_name("NAME");
    command->add_flag("--allow-unsupported", args->allow_unsupported,
                      "Leave out what cannot be saved, with a warning, instead of failing");
    command->add_option("--precopy-rounds", args->precopy_rounds,
                        "At most N rounds of copying before the freeze; 0: all in the freeze")
        ->type_name("N");
    command->add_option("--memory-limit", memory_limit_,
                        "At most SIZE (64M or more) for the store's buffers and caches")
        ->type_name("SIZE");
    command->add_flag("--paranoid", args->daemon.paranoid,
                      "Compare bytes before a page counts as stored already");
    AddMemoryOptions(command, args);
    AddGcRules(command, &args->gc);
  }

  // For `start` and `run` as for `gc` itself.
  void AddGcRules(CLI::App* command, GcPolicy* policy) {
    const CLI::Range positive(1u, UINT32_MAX);
    command->add_option("--keep-last", policy->keep_last, "gc keeps the newest N epochs")
        ->type_name("N")
        ->check(positive);
    command
        ->add_option_function<std::string>(
            "--keep-within",
            [policy](const std::string& text) {
              const absl::StatusOr<int64_t> age = ParseAge(text);
              if (!age.ok()) {
                throw CLI::ValidationError("--keep-within", std::string(age.status().message()));
              }
              policy->keep_within_us = *age;
            },
            "gc keeps epochs less than AGE (90s, 30m, 2h, 7d) older than the newest")
        ->type_name("AGE");
    command->add_option("--keep-hourly", policy->keep_hourly,
                        "gc keeps the newest epoch of each of the last N hours that have any")
        ->type_name("N")
        ->check(positive);
    command->add_option("--keep-daily", policy->keep_daily, "The same by day")
        ->type_name("N")
        ->check(positive);
    command->add_option("--keep", policy->keep, "gc keeps this epoch; may be given again")
        ->type_name("EPOCH")
        ->expected(1)
        ->take_all()
        ->check(positive);
  }

  void AddGcCommand() {
    CLI::App* gc = Add("gc", kGcHelp);
    AddGcRules(gc, &gc_.policy);
    gc->add_option("--job", gc_.job, "Only this job's epochs (default: every job's)")
        ->type_name("NAME");
    gc->add_flag("--dry-run", gc_.dry_run, "Only say what would go and what it would free");
    gc->add_option("--recompress", gc_.recompress,
                   "Compress pages that are moved anyway with zstd: smaller, slower")
        ->type_name("zstd");
  }

  void AddMemoryOptions(CLI::App* command, TrackingArgs* args) {
    command->add_flag("--include-dontdump", args->include_dontdump,
                      "Save memory that the program marked MADV_DONTDUMP too");
    command->add_flag("--save-file-pages", args->save_file_pages,
                      "Save pages of mapped files too: it survives an upgrade of its libraries");
    command->add_flag("--collapse-on-stop", args->collapse_on_stop, kCollapseHelp);
  }

  void AddTrackingCommands() {
    CLI::App* start = Add("start", kStartHelp);
    start->add_option("--interval", start_.tracking.interval_s, kIntervalHelp)->type_name("SEC");
    AddTrackingOptions(start, &start_.tracking);
    start->add_option("pid", start_pid_, "The process to track")->type_name("")->required();

    CLI::App* run = Add("run", kRunHelp);
    run->add_option("--interval", run_.tracking.interval_s, kIntervalHelp)->type_name("SEC");
    AddTrackingOptions(run, &run_.tracking);

    CLI::App* checkpoint = Add("checkpoint", kCheckpointHelp);
    checkpoint->add_option("target", checkpoint_.target, "Its pid or its job's name")
        ->type_name("")
        ->required();

    CLI::App* stop = Add("stop", kStopHelp);
    stop->add_option("target", stop_.target, "Its pid or its job's name")->type_name("");
    stop->add_flag("--all", stop_.all, "Every job of this store");
    stop->add_flag("--collapse-on-stop", stop_.collapse_on_stop, kCollapseHelp);

    CLI::App* restore = Add("restore", kRestoreHelp);
    restore->add_option("--epoch", restore_.epoch, "Its number, or latest")
        ->type_name("N|latest")
        ->required();
    restore->add_option("--job", restore_.job, "Needed if the store has several")
        ->type_name("NAME");
    restore->add_flag("--detach", restore_.detach, "Do not wait for it");
    restore_interval_ = restore->add_option("--interval", restore_.tracking.interval_s,
                                            "Track it again: an epoch every SEC seconds")
                            ->type_name("SEC");
    restore->add_option("--tracker", restore_.tracking.tracker,
                        TrackerHelp())
        ->type_name("NAME");
    restore->add_flag("--allow-unsupported", restore_.tracking.allow_unsupported,
                      "For its next epochs: leave out what cannot be saved");
    AddMemoryOptions(restore, &restore_.tracking);
  }

  void AddReadingCommands() {
    Add("status", kStatusHelp);
    CLI::App* list = Add("list", kListHelp);
    list->add_option("--job", list_.job, "Only this job's epochs")->type_name("NAME");
    CLI::App* show = Add("show", kShowHelp);
    show->add_option("--epoch", show_.epoch, "Its number, or latest")
        ->type_name("N|latest")
        ->required();
    show->add_option("--job", show_.job, "Needed if the store has several")->type_name("NAME");
    CLI::App* diff = Add("diff", kDiffHelp);
    diff->add_option("before", diff_.before, "An epoch's number, or latest")
        ->type_name("")
        ->required();
    diff->add_option("after", diff_.after, "The one to compare it with")->type_name("")->required();
    diff->add_option("--job", diff_.job, "Needed if the store has several")->type_name("NAME");
    diff->add_option("--bytes", diff_.bytes,
                     "Show the bytes that differ in START-END, START+LENGTH or a mapping's name")
        ->type_name("RANGE");
    diff->add_option("--max-lines", diff_.max_lines, "At most N lines of 8 bytes (default 64)")
        ->type_name("N");
    Add("doctor", kDoctorHelp);
  }

  void AddStoreCommands() {
    CLI::App* verify = Add("verify", kVerifyHelp);
    verify->add_option("--epoch", verify_.epoch, "Only this epoch and its pages")->type_name("N|latest");
    verify->add_option("--job", verify_.job, "Only this job's epochs and their pages")->type_name("NAME");
    CLI::App* repair = Add("repair", kRepairHelp);
    repair->add_flag("--dry-run", repair_.dry_run, "Say what would be done, and do nothing");
    CLI::App* exporter = Add("export", kExportHelp);
    exporter->add_option("--epoch", export_.epochs, "Its number, or latest; may be given several times")
        ->type_name("N|latest")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->required();
    exporter->add_option("--job", export_.job, "Needed if the store has several")->type_name("NAME");
    exporter->add_option("-o,--output", export_.file, "The file to write, or - for stdout")
        ->type_name("FILE")
        ->required();
    CLI::App* importer = Add("import", kImportHelp);
    importer->add_option("file", import_.file, "What export wrote, or - for stdin")
        ->type_name("")
        ->required();
    importer->add_option("--job", import_.job, "The job's name here (default: as in the file)")
        ->type_name("NAME");
  }

  void AddDebuggerCommands() {
    CLI::App* core = Add("core", kCoreHelp);
    CLI::App* dump = Add("dump-memory", kDumpMemoryHelp);
    dump->add_option("--range", dump_.range, "What: addresses in hexadecimal, or a mapping's name as show prints it")
        ->type_name("START-END|START+LENGTH|NAME")
        ->required();
    const auto common = [](CLI::App* command, std::string* epoch, std::string* job, std::string* file) {
      command->add_option("--epoch", *epoch, "Its number, or latest")->type_name("N|latest")->required();
      command->add_option("--job", *job, "Needed if the store has several")->type_name("NAME");
      command->add_option("-o,--output", *file, "The file to write, or - for stdout")->type_name("FILE")->required();
    };
    common(core, &core_.epoch, &core_.job, &core_.file);
    common(dump, &dump_.epoch, &dump_.job, &dump_.file);
  }

  std::string Verb() const {
    for (const CLI::App* command : app_.get_subcommands()) return command->get_name();
    return "";
  }

  std::string Help(const std::string& verb) const {
    if (!verb.empty()) return app_.get_subcommand(verb)->help("incr-ckpt");
    // app_.help() would explain the subcommand that was parsed.
    return app_.get_formatter()->make_help(&app_, "incr-ckpt", CLI::AppFormatMode::Normal);
  }

  // Below a millisecond is no interval; the daemon refuses more than three years.
  static bool IsInterval(double seconds) {
    return seconds == 0 || (std::isfinite(seconds) && seconds >= 1e-3 && seconds <= 1e8);
  }

  static bool IsTracker(const std::string& name) {
    const std::vector<std::string> names = TrackerNames();
    return name.empty() || std::find(names.begin(), names.end(), name) != names.end();
  }

  CommandArgs Result() {
    const std::string verb = Verb();
    const TrackingArgs* tracking = verb == "start"     ? &start_.tracking
                                   : verb == "run"     ? &run_.tracking
                                   : verb == "restore" ? &restore_.tracking
                                                       : nullptr;
    if (tracking != nullptr && !IsInterval(tracking->interval_s)) {
      return UsageError("--interval must be 0 (only on request), or seconds from 0.001 to 1e8", verb);
    }
    if (tracking != nullptr && !IsTracker(tracking->tracker)) {
      return UsageError(absl::StrCat("--tracker ", tracking->tracker,
                                     ": there are ", absl::StrJoin(TrackerNames(), ", ")),
                        verb);
    }
    if (!memory_limit_.empty()) {
      const std::optional<uint64_t> size = ParseSize(memory_limit_);
      if (!size || *size < kLeastMemoryLimit) {
        return UsageError(absl::StrCat("--memory-limit ", memory_limit_,
                                       ": must be a size of at least ", kLeastMemoryLimit >> 20,
                                       "M, such as 512M or 2G"),
                          verb);
      }
      (verb == "run" ? run_.tracking : start_.tracking).daemon.memory_limit = *size;
    }
    for (const std::string* job : {&start_.tracking.job, &run_.tracking.job, &list_.job,
                                   &show_.job, &diff_.job, &restore_.job, &gc_.job, &verify_.job,
                                   &export_.job, &import_.job, &core_.job, &dump_.job}) {
      if (job->empty()) continue;
      if (const absl::Status valid = CheckJobName(*job); !valid.ok()) {
        return UsageError(std::string(valid.message()), verb);
      }
    }
    if (verb == "start") return StartResult();
    if (verb == "run") return RunResult();
    if (verb == "checkpoint") return checkpoint_;
    if (verb == "stop") return StopResult();
    if (verb == "status") return StatusArgs{};
    if (verb == "list") return list_;
    if (verb == "show") return show_;
    if (verb == "diff") return diff_;
    if (verb == "restore") {
      restore_.track = restore_interval_->count() > 0;
      return restore_;
    }
    if (verb == "gc") return GcResult();
    if (verb == "doctor") return DoctorArgs{};
    if (verb == "verify") return verify_;
    if (verb == "repair") return repair_;
    if (verb == "export") return export_;
    if (verb == "import") return import_;
    if (verb == "core") return core_;
    if (verb == "dump-memory") return dump_;
    if (version_) return VersionArgs{};
    if (verb == "help") return HelpResult();
    return UsageError("no command given", "");
  }

  CommandArgs HelpResult() {
    for (const CLI::App* command : app_.get_subcommands(nullptr)) {
      if (help_verb_.empty() || command->get_name() == help_verb_) {
        return PrintArgs{Help(help_verb_)};
      }
    }
    return UsageError(absl::StrCat("no command ", help_verb_), "");
  }

  CommandArgs StartResult() {
    const std::optional<pid_t> pid = ParsePid(start_pid_);
    if (!pid) return UsageError(absl::StrCat("\"", start_pid_, "\" is no pid"), "start");
    start_.pid = *pid;
    return start_;
  }

  CommandArgs RunResult() {
    run_.command = tail_;
    if (run_.command.empty()) return UsageError("run what? No command given", "run");
    return run_;
  }

  CommandArgs GcResult() {
    if (gc_.policy.empty()) {
      return UsageError(
          "gc keeps what? Give at least one of --keep-last N, --keep-within AGE, --keep-hourly N, "
          "--keep-daily N, --keep EPOCH",
          "gc");
    }
    if (gc_.recompress.empty() || gc_.recompress == "zstd") return gc_;
    return UsageError(absl::StrCat("--recompress ", gc_.recompress, ": there is zstd"), "gc");
  }

  CommandArgs StopResult() {
    if (stop_.all == stop_.target.empty()) return stop_;
    return UsageError(
        stop_.all ? "either a pid or job, or --all" : "stop what? A pid, a job, or --all", "stop");
  }

  CLI::App app_;
  CommandLine line_;
  std::vector<std::string> tail_;
  bool version_ = false;
  std::string help_verb_, start_pid_, memory_limit_;
  StartArgs start_;
  RunArgs run_;
  CheckpointArgs checkpoint_;
  StopArgs stop_;
  ListArgs list_;
  ShowArgs show_;
  DiffArgs diff_;
  RestoreArgs restore_;
  GcArgs gc_;
  VerifyArgs verify_;
  RepairArgs repair_;
  ExportArgs export_;
  ImportArgs import_;
  CoreArgs core_;
  DumpMemoryArgs dump_;
  CLI::Option* restore_interval_ = nullptr;
};

// Where the command of `run` begins, whatever it looks like: at "--" or at the first word that
// is no option of ours. For other verbs: the end.
size_t EndOfOwnArguments(const std::vector<std::string>& arguments) {
  bool run = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") return run ? i : arguments.size();
    if (argument.size() > 1 && argument[0] == '-') {
      for (const char* takes_value :
           {"--store", "--interval", "--job", "--tracker", "--precopy-rounds", "--memory-limit",
            "--keep-last", "--keep-within", "--keep-hourly", "--keep-daily", "--keep"}) {
        if (argument == takes_value) ++i;
      }
      continue;
    }
    if (run) return i;
    if (argument != "run") return arguments.size();
    run = true;
  }
  return arguments.size();
}

}  // namespace

CommandLine ParseCommandLine(const std::vector<std::string>& arguments) {
  const size_t end = EndOfOwnArguments(arguments);
  const size_t tail = end < arguments.size() && arguments[end] == "--" ? end + 1 : end;
  return Parser().Parse({arguments.begin(), arguments.begin() + end},
                        {arguments.begin() + tail, arguments.end()});
}

}  // namespace incr

#include <sys/utsname.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit_status.h"
#include "cli/json.h"
#include "cli/text_table.h"
#include "process/features.h"
#include "tracker/write_tracker.h"

namespace incr {
namespace {

// Without it a process cannot have its pid back.
constexpr char kNeededForRestore[] = "clone3_set_tid";

std::string Verdict(const pb::DoctorReply& reply) {
  if (reply.ok()) return "processes can be tracked and restored here";
  if (reply.tracker().empty()) return "processes cannot be tracked here";
  std::string why = "no";
  for (const pb::FeatureRow& row : reply.features()) {
    if (row.name() == kNeededForRestore) why = row.detail();
  }
  return absl::StrCat("processes can be tracked here, but not restored: ", why);
}

std::string FormatDoctor(const pb::DoctorReply& reply) {
  std::string text = absl::StrCat("kernel ", reply.kernel_release(), "\n\n");
  TextTable table({"FEATURE", "WORKS", "USED FOR", "SEEN"});
  for (const pb::FeatureRow& row : reply.features()) {
    table.Add({row.name(), row.works() ? "yes" : "no", row.used_for(), row.detail()});
  }
  absl::StrAppend(&text, table.Format(), "\ntracker: ",
                  reply.tracker().empty() ? "none" : reply.tracker());
  if (!reply.tracker_why().empty()) absl::StrAppend(&text, " (", reply.tracker_why(), ")");
  absl::StrAppend(&text, "\n", Verdict(reply), "\n");
  return text;
}

}  // namespace

absl::StatusOr<int> RunDoctor(const CommandContext& context, const DoctorArgs&) {
  pb::DoctorReply reply;
  utsname kernel{};
  if (::uname(&kernel) == 0) reply.set_kernel_release(kernel.release);
  const std::vector<Feature> features = ProbeFeatures();
  for (const Feature& feature : features) {
    pb::FeatureRow* row = reply.add_features();
    row->set_name(CleanText(feature.name));
    row->set_works(feature.works);
    row->set_detail(CleanText(feature.detail));
    row->set_used_for(CleanText(feature.used_for));
  }
  std::string why;
  const absl::StatusOr<std::string> tracker = ChooseTracker("", &why);
  if (tracker.ok()) reply.set_tracker(*tracker);
  reply.set_tracker_why(CleanText(tracker.ok() ? why : tracker.status().message()));
  reply.set_ok(tracker.ok() && FeatureWorks(features, kNeededForRestore));
  INCR_RETURN_IF_ERROR(Print(context, reply, FormatDoctor(reply)));
  return reply.ok() ? kExitOk : kExitFailed;
}

}  // namespace incr

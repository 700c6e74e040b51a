#include "cli/epoch_rows.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "cli/json.h"

namespace incr {
namespace {

uint32_t Count(uint64_t n) {
  return static_cast<uint32_t>(std::min<uint64_t>(n, std::numeric_limits<uint32_t>::max()));
}

}  // namespace

std::string FormatTime(int64_t time_us) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromUnixMicros(time_us),
                          absl::UTCTimeZone());
}

pb::EpochRow ToRow(const pb::EpochRecord& record) {
  const pb::EpochStats& stats = record.stats();
  pb::EpochRow row;
  row.set_job(CleanText(record.job()));
  row.set_epoch(Count(record.epoch()));
  row.set_parent(Count(record.parent()));
  row.set_pid(record.pid());
  row.set_time(FormatTime(record.time_us()));
  row.set_pages_scanned(Count(stats.pages_scanned()));
  row.set_pages_written(Count(stats.pages_written()));
  row.set_pages_gone(Count(stats.pages_gone()));
  row.set_pages_zero(Count(stats.pages_zero()));
  row.set_pages_deduplicated(Count(stats.pages_deduplicated()));
  row.set_pages_stored(Count(stats.pages_stored()));
  row.set_bytes_stored(static_cast<double>(stats.bytes_stored()));
  row.set_frozen_us(static_cast<double>(stats.frozen_us()));
  row.set_total_us(static_cast<double>(stats.total_us()));
  row.set_tracker(CleanText(record.tracker()));
  row.set_table_pages(Count(record.table_pages()));
  row.set_precopy_rounds(stats.precopy_rounds());
  return row;
}

absl::StatusOr<pb::ListReply> ListEpochRows(const StoreReader& store, absl::string_view job) {
  std::vector<std::string> jobs;
  if (job.empty()) {
    jobs = store.ListJobs();
  } else {
    INCR_ASSIGN_OR_RETURN(std::string name, ChooseJob(store, job));
    jobs.push_back(std::move(name));
  }
  std::sort(jobs.begin(), jobs.end());
  pb::ListReply reply;
  for (const std::string& name : jobs) {
    INCR_ASSIGN_OR_RETURN(std::vector<pb::EpochRecord> records, store.ListEpochs(name));
    for (const pb::EpochRecord& record : records) *reply.add_epochs() = ToRow(record);
  }
  return reply;
}

absl::StatusOr<std::string> ChooseJob(const StoreReader& store, absl::string_view job) {
  const std::vector<std::string> jobs = store.ListJobs();
  if (jobs.empty()) return absl::NotFoundError("the store has no epochs yet");
  if (!job.empty()) {
    if (std::find(jobs.begin(), jobs.end(), job) != jobs.end()) return std::string(job);
    return absl::NotFoundError(absl::StrCat("no job ", CleanText(job),
                                            " in this store; there is ",
                                            absl::StrJoin(jobs, ", ")));
  }
  if (jobs.size() == 1) return jobs[0];
  return absl::InvalidArgumentError(
      absl::StrCat("the store has several jobs, choose one with --job: ",
                   absl::StrJoin(jobs, ", ")));
}

absl::StatusOr<pb::EpochRecord> ChooseEpoch(const StoreReader& store, absl::string_view job,
                                            absl::string_view epoch) {
  if (epoch != "latest") {
    uint64_t number = 0;
    if (!absl::SimpleAtoi(epoch, &number) || number == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("epoch ", CleanText(epoch), ": must be a number from 1, or latest"));
    }
    return store.GetEpoch(job, number);
  }
  return store.LatestEpoch(job);
}

}  // namespace incr

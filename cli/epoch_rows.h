// epoch_rows.h — epochs of a store as the rows that `list` and /v1/epochs show, and the
// choice of job and epoch that commands share. Thread-safe.
#ifndef INCR_CKPT_CLI_EPOCH_ROWS_H_
#define INCR_CKPT_CLI_EPOCH_ROWS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/control.pb.h"
#include "proto/epoch.pb.h"
#include "store/store.h"

namespace incr {

pb::EpochRow ToRow(const pb::EpochRecord& record);

// 2026-01-31T12:00:00.123456Z
std::string FormatTime(int64_t time_us);

// By job and epoch number. `job` "": of all jobs.
absl::StatusOr<pb::ListReply> ListEpochRows(const StoreReader& store, absl::string_view job);

// `job`, or if it is empty the only one of the store. kNotFound and kInvalidArgument list the jobs.
absl::StatusOr<std::string> ChooseJob(const StoreReader& store, absl::string_view job);

// `epoch`: "latest" or a number. kNotFound says which epochs there are.
absl::StatusOr<pb::EpochRecord> ChooseEpoch(const StoreReader& store, absl::string_view job,
                                            absl::string_view epoch);

}  // namespace incr

#endif  // INCR_CKPT_CLI_EPOCH_ROWS_H_

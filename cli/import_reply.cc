#include "cli/import_reply.h"

#include "base/clock.h"
#include "base/status.h"
#include "cli/json.h"
#include "store/import.h"

namespace incr {

absl::StatusOr<pb::ImportReply> ImportInto(Store* store, int fd, const pb::ImportRequest& request,
                                           const std::function<void(uint64_t bytes)>& progress,
                                           const std::function<absl::Status(const std::string& job)>& may_take,
                                           const std::function<bool()>& stopped) {
  const Stopwatch time;
  INCR_ASSIGN_OR_RETURN(const ImportResult result,
                        ImportEpochs(store, fd, {request.job(), request.name(), progress, may_take, stopped}));
  pb::ImportReply reply;
  reply.set_job(result.job);
  reply.set_from_job(result.from_job);
  for (const ImportResult::Epoch& epoch : result.epochs) {
    pb::ImportedEpoch* row = reply.add_epochs();
    row->set_epoch(epoch.epoch);
    row->set_parent(epoch.parent);
    row->set_from_epoch(epoch.from_epoch);
  }
  reply.set_pages(result.pages);
  reply.set_pages_stored(result.pages_stored);
  reply.set_pages_deduplicated(result.pages - result.pages_stored);
  reply.set_bytes_read(result.bytes);
  reply.set_elapsed_s(time.elapsed_us() / 1e6);
  return reply;
}

}  // namespace incr

#include "store/import.h"

#include <poll.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/export_format.h"

namespace incr {
namespace {

class StoreSink : public ExportSink {
 public:
  StoreSink(Store* store, const ImportOptions& options) : store_(store), options_(options) {}

  absl::Status Begin(const ExportHeader& header) override {
    result_.from_job = header.job;
    result_.job = options_.job.empty() ? header.job : options_.job;
    if (options_.may_take) INCR_RETURN_IF_ERROR(options_.may_take(result_.job));
    INCR_ASSIGN_OR_RETURN(importer_, store_->BeginImport(result_.job));
    return absl::OkStatus();
  }
  absl::Status AddPages(const uint8_t* pages, size_t count) override {
    result_.pages += count;
    return importer_->AddPages(pages, count);
  }
  absl::Status AddEpoch(pb::EpochRecord record, PageTable table, std::string image) override {
    const uint64_t from = record.epoch();
    INCR_ASSIGN_OR_RETURN(const pb::EpochRecord here,
                          importer_->AddEpoch(std::move(record), std::move(table), image));
    result_.epochs.push_back({here.epoch(), here.parent(), from});
    return absl::OkStatus();
  }
  absl::StatusOr<ImportResult> Commit() {
    INCR_RETURN_IF_ERROR(importer_->Commit());
    result_.pages_stored = importer_->pages_stored();
    return std::move(result_);
  }

 private:
  Store* const store_;
  const ImportOptions& options_;
  ImportResult result_;
  std::unique_ptr<EpochImporter> importer_;
};

absl::Status CheckNotStopped(const ImportOptions& options) {
  if (!options.stopped || !options.stopped()) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat("import of ", options.name, " was stopped; the store is as it was"));
}

// A pipe may give nothing for ever.
absl::Status AwaitInput(int fd, const ImportOptions& options) {
  constexpr int kPauseMs = 100;
  while (options.stopped) {
    INCR_RETURN_IF_ERROR(CheckNotStopped(options));
    struct pollfd input = {fd, POLLIN, 0};
    const int n = ::poll(&input, 1, kPauseMs);
    if (n > 0) break;  // Or the end, or an error: the read will tell.
    if (n < 0 && errno != EINTR) return ErrnoStatus("poll");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImportResult> ImportEpochs(Store* store, int fd, const ImportOptions& options) {
  uint64_t bytes = 0;
  const auto read = [&](char* to, size_t n) -> absl::StatusOr<size_t> {
    INCR_RETURN_IF_ERROR(AwaitInput(fd, options));
    INCR_ASSIGN_OR_RETURN(const size_t got, options.io.ReadSome(fd, to, n, options.name));
    bytes += got;
    if (options.progress) options.progress(bytes);
    return got;
  };
  StoreSink sink(store, options);
  const absl::Status parsed = ParseExport(read, &sink);
  if (absl::IsCancelled(parsed)) return parsed;
  if (!parsed.ok()) return Annotate(parsed, options.name);
  INCR_RETURN_IF_ERROR(CheckNotStopped(options));
  INCR_ASSIGN_OR_RETURN(ImportResult result, sink.Commit());
  result.bytes = bytes;
  return result;
}

}  // namespace incr

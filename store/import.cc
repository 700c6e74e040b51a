#include "store/import.h"

#include <unistd.h>

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

}  // namespace

absl::StatusOr<ImportResult> ImportEpochs(Store* store, int fd, const ImportOptions& options) {
  uint64_t bytes = 0;
  const auto read = [&](char* to, size_t n) -> absl::StatusOr<size_t> {
    ssize_t got;
    do {
      got = ::read(fd, to, n);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return ErrnoStatus("read");
    bytes += got;
    if (options.progress) options.progress(bytes);
    return got;
  };
  StoreSink sink(store, options);
  const absl::Status parsed = ParseExport(read, &sink);
  if (!parsed.ok()) return Annotate(parsed, options.name);
  INCR_ASSIGN_OR_RETURN(ImportResult result, sink.Commit());
  result.bytes = bytes;
  return result;
}

}  // namespace incr

#include "benchmarks/store_speed/report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace incr::store_speed {
namespace {

constexpr double kGiB = 1 << 30;
constexpr double kPagesOfOneGiB = 262'144;
const char* const kNames[] = {kStore, kRocks, kRocksSorted, kRaw, kLz4};

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * values.size()))];
}

double Median(const std::vector<Round>& rounds, const std::function<double(const Round&)>& of) {
  std::vector<double> values;
  for (const Round& round : rounds) values.push_back(of(round));
  return Quantile(std::move(values), 0.5);
}

Speed MedianSpeed(const Workload& workload, const std::vector<Round>& rounds, const char* name, size_t first, size_t end) {
  const auto median = [&](double Speed::*member) {
    return Median(rounds, [&](const Round& r) { return SpeedOf(workload, r.by_name.at(name), first, end).*member; });
  };
  return {median(&Speed::gib_per_s), median(&Speed::cpu_s_per_gib), median(&Speed::written_by_payload)};
}

// Ratios are taken within a round, then the median.
double MedianRatio(const Workload& workload, const std::vector<Round>& rounds, const char* to, size_t first, size_t end) {
  return Median(rounds, [&](const Round& r) {
    return SpeedOf(workload, r.by_name.at(kStore), first, end).gib_per_s /
           SpeedOf(workload, r.by_name.at(to), first, end).gib_per_s;
  });
}

std::vector<Bar> Bars(const Workload& workload, const std::vector<Round>& rounds, const Figures& figures) {
  const size_t end = workload.epochs().size();
  std::vector<Bar> bars;
  if (figures.changed.count(kRocks) != 0) {
    bars.push_back({"changed epochs, times RocksDB", MedianRatio(workload, rounds, kRocks, 1, end), 3});
    bars.push_back({"changed epochs, times RocksDB with sorted files", MedianRatio(workload, rounds, kRocksSorted, 1, end), 3});
  }
  bars.push_back({"first epoch, share of LZ4 alone", MedianRatio(workload, rounds, kLz4, 0, 1), 0.6});
  bars.push_back({"changed epochs, share of LZ4 alone", MedianRatio(workload, rounds, kLz4, 1, end), 0.6});
  bars.push_back({"first epoch, written / payload", figures.first.at(kStore).written_by_payload, 1.08, false});
  bars.push_back({"changed epochs, written / payload", figures.changed.at(kStore).written_by_payload, 1.08, false});
  // Other data change more or less than 5 % of 1 GiB: the time in proportion.
  const double scale = 0.05 * kPagesOfOneGiB / std::max<double>(1, figures.changed_pages);
  bars.push_back({absl::StrFormat("5%% of 1 GiB durable, ms%s", std::abs(scale - 1) < 0.01 ? "" : " (in proportion)"),
                  figures.durable_p50_ms * scale, 60, false});
  bars.push_back({"cold restore of the last epoch, GiB/s", figures.restore_gib_per_s, 2});
  bars.push_back({"a single cold page, p50 us", figures.single_p50_us, 100, false});
  return bars;
}

std::string Table(const Figures& figures) {
  std::string text =
      "| | first epoch, GiB/s | CPU-s a GiB | written / payload | changed, GiB/s | CPU-s a GiB | written / payload |\n"
      "|---|---|---|---|---|---|---|\n";
  for (const char* name : kNames) {
    if (figures.first.count(name) == 0) continue;
    absl::StrAppend(&text, "| ", name, " |");
    for (const Speed& speed : {figures.first.at(name), figures.changed.at(name)}) {
      absl::StrAppendFormat(&text, " %.2f | %.2f | %s |", speed.gib_per_s, speed.cpu_s_per_gib,
                            name == kLz4 ? "-" : absl::StrFormat("%.3f", speed.written_by_payload));
    }
    text += "\n";
  }
  return text;
}

std::string Section(const Figures& f) {
  std::string text = absl::StrFormat(
      "\n## %s\n\nFirst epoch %d MiB: %.0f %% zero, %.0f %% new bodies, which LZ4 makes %.2f of their size; changed epochs %.1f MiB, "
      "%.0f %% of it new bodies (%.2f).\n\n",
      f.workload, f.first_pages / 256, 100.0 * f.first_zero / f.first_pages, 100.0 * f.first_fresh / f.first_pages, f.first_ratio,
      f.changed_pages / 256.0, 100.0 * f.changed_fresh / std::max<uint64_t>(1, f.changed_pages), f.changed_ratio);
  absl::StrAppend(&text, Table(f));
  absl::StrAppendFormat(
      &text,
      "\nA changed epoch durable: p50 %.1f ms, p90 %.1f, at worst %.1f. Cold restore of the last epoch %.2f GiB/s, of the first %.2f (the raw disk read the packs at %.2f "
      "GiB/s: if all that is wanted lay in one piece, %.2f GiB/s of pages); a single cold page p50 %.0f us, p90 %.0f (one block of a pack from the raw disk: p50 %.0f).\n\n| bar | | measured | |\n|---|---|---|---|\n",
      f.durable_p50_ms, f.durable_p90_ms, f.durable_max_ms, f.restore_gib_per_s, f.first_restore_gib_per_s,
      f.raw_read_gib_per_s, f.raw_bound_gib_per_s, f.single_p50_us, f.single_p90_us, f.raw_block_us);
  for (const Bar& bar : f.bars) {
    absl::StrAppendFormat(&text, "| %s | %s %g | %.3g | %s |\n", bar.what, bar.at_least ? ">=" : "<=", bar.bar, bar.value,
                          bar.met() ? "met" : "**missed**");
  }
  return text;
}

std::string JsonSpeed(const Speed& speed) {
  return absl::StrFormat("{\"gib_per_s\": %.3f, \"cpu_s_per_gib\": %.3f, \"written_by_payload\": %.4f}", speed.gib_per_s,
                         speed.cpu_s_per_gib, speed.written_by_payload);
}

std::string JsonFigures(const Figures& f) {
  std::string text = absl::StrFormat("    {\"workload\": \"%s\", \"first_pages\": %d, \"changed_pages\": %d,\n", f.workload,
                                     f.first_pages, f.changed_pages);
  for (const auto& [title, speeds] : {std::pair("first", &f.first), std::pair("changed", &f.changed)}) {
    for (const auto& [name, speed] : *speeds) absl::StrAppend(&text, "     \"", title, ", ", name, "\": ", JsonSpeed(speed), ",\n");
  }
  absl::StrAppendFormat(&text,
                        "     \"durable_p50_ms\": %.2f, \"durable_p90_ms\": %.2f, \"durable_max_ms\": %.2f, \"restore_gib_per_s\": %.3f, \"first_restore_gib_per_s\": %.3f, \"raw_block_us\": %.1f, "
                        "\"raw_read_gib_per_s\": %.3f, \"single_p50_us\": %.1f, \"single_p90_us\": %.1f,\n     \"bars\": [",
                        f.durable_p50_ms, f.durable_p90_ms, f.durable_max_ms, f.restore_gib_per_s, f.first_restore_gib_per_s, f.raw_block_us, f.raw_read_gib_per_s,
                        f.single_p50_us, f.single_p90_us);
  for (const Bar& bar : f.bars) {
    absl::StrAppendFormat(&text, "%s\n      {\"what\": \"%s\", \"value\": %.4f, \"bar\": %g, \"met\": %s}",
                          &bar == &f.bars[0] ? "" : ",", bar.what, bar.value, bar.bar, bar.met() ? "true" : "false");
  }
  return text + "]}";
}

}  // namespace

Speed SpeedOf(const Workload& workload, const Samples& samples, size_t first, size_t end) {
  double seconds = 0, cpu_s = 0, pages = 0, written = 0, payload = 0;
  for (size_t i = first; i < end; ++i) {
    seconds += samples[i].seconds;
    cpu_s += samples[i].cpu_s;
    written += samples[i].written;
    pages += workload.epochs()[i].pages;
    payload += workload.epochs()[i].payload;
  }
  const double gib = pages * kPageSize / kGiB;
  return {gib / seconds, cpu_s / gib, written / std::max(1.0, payload)};
}

Figures Summarize(const Workload& workload, const std::vector<Round>& rounds) {
  const std::vector<EpochPages>& epochs = workload.epochs();
  Figures f;
  f.workload = workload.name();
  f.first_pages = epochs[0].pages;
  f.first_zero = epochs[0].zero;
  f.first_fresh = epochs[0].fresh.size();
  f.first_ratio = epochs[0].payload / std::max(1.0, double(f.first_fresh) * kPageSize);
  uint64_t changed_payload = 0;
  for (size_t i = 1; i < epochs.size(); ++i) {
    f.changed_pages += epochs[i].pages;
    f.changed_fresh += epochs[i].fresh.size();
    changed_payload += epochs[i].payload;
  }
  f.changed_ratio = changed_payload / std::max(1.0, double(f.changed_fresh) * kPageSize);
  f.changed_pages /= epochs.size() - 1;
  f.changed_fresh /= epochs.size() - 1;
  for (const char* name : kNames) {
    if (rounds[0].by_name.count(name) == 0) continue;
    f.first[name] = MedianSpeed(workload, rounds, name, 0, 1);
    f.changed[name] = MedianSpeed(workload, rounds, name, 1, epochs.size());
  }
  std::vector<double> durable_ms;
  for (const Round& round : rounds) {
    const Samples& samples = round.by_name.at(kStore);
    for (size_t i = 1; i < samples.size(); ++i) durable_ms.push_back(samples[i].seconds * 1000);
  }
  f.durable_p50_ms = Quantile(durable_ms, 0.5);
  f.durable_p90_ms = Quantile(durable_ms, 0.9);
  f.durable_max_ms = Quantile(durable_ms, 1);
  const double table_gib = workload.table_pages() * kPageSize / kGiB;
  f.restore_gib_per_s = Median(rounds, [&](const Round& r) { return table_gib / r.restore.seconds; });
  const double first_gib = workload.first_pages() * kPageSize / kGiB;
  f.first_restore_gib_per_s = Median(rounds, [&](const Round& r) { return first_gib / r.restore.first_seconds; });
  f.raw_block_us = Median(rounds, [](const Round& r) { return r.restore.raw_read_us; });
  f.raw_read_gib_per_s = Median(rounds, [&](const Round& r) { return r.restore.raw_disk_bps / kGiB; });
  f.raw_bound_gib_per_s = Median(rounds, [&](const Round& r) {
    return table_gib / (workload.FinalPayload() / r.restore.raw_disk_bps);
  });
  f.single_p50_us = Median(rounds, [](const Round& r) { return Quantile(r.restore.single_us, 0.5); });
  f.single_p90_us = Median(rounds, [](const Round& r) { return Quantile(r.restore.single_us, 0.9); });
  f.bars = Bars(workload, rounds, f);
  return f;
}

std::string Markdown(const std::string& header, const std::vector<Trial>& trials, const std::vector<Figures>& all) {
  std::string text = header;
  if (!trials.empty()) {
    text += "\n## RocksDB's ways\n\nOne trial each, a first epoch and five changed ones of the first data. The store is compared with the fastest, on changed epochs, of the first three, which issue 4 names, and with the last.\n\n"
            "| | first, GiB/s | CPU-s a GiB | changed, GiB/s | CPU-s a GiB | written / payload |\n|---|---|---|---|---|---|\n";
  }
  for (const Trial& trial : trials) {
    absl::StrAppendFormat(&text, "| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", trial.name, trial.first.gib_per_s,
                          trial.first.cpu_s_per_gib, trial.changed.gib_per_s, trial.changed.cpu_s_per_gib,
                          trial.changed.written_by_payload);
  }
  for (const Figures& figures : all) text += Section(figures);
  return text;
}

std::string Json(const std::vector<Trial>& trials, const std::vector<Figures>& all) {
  std::string text = "{\n  \"rocksdb_trials\": [";
  for (const Trial& trial : trials) {
    absl::StrAppendFormat(&text, "%s\n    {\"name\": \"%s\", \"first\": %s, \"changed\": %s}", &trial == &trials[0] ? "" : ",",
                          trial.name, JsonSpeed(trial.first), JsonSpeed(trial.changed));
  }
  text += "],\n  \"workloads\": [\n";
  for (const Figures& figures : all) absl::StrAppend(&text, JsonFigures(figures), &figures == &all.back() ? "\n" : ",\n");
  return text + "  ]\n}\n";
}

}  // namespace incr::store_speed

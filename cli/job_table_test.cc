#include "cli/job_table.h"

#include <gtest/gtest.h>

#include <thread>
#include <utility>

#include "base/clock.h"
#include "cli/fakes.h"
#include "cli/job_name.h"

namespace incr {
namespace {

class JobTableTest : public ::testing::Test {
 protected:
  JobTableTest() {
    world_.AddProcess(71, "redis-server");
    world_.AddProcess(72, "a b/c");
  }
  pb::StartRequest StartOf(uint32_t pid, const std::string& job = "", double interval_s = 0) {
    pb::StartRequest request;
    request.set_pid(pid);
    request.set_job(job);
    request.set_interval_s(interval_s);
    return request;
  }
  absl::StatusOr<pb::EpochReply> Checkpoint(const std::string& target) {
    pb::CheckpointRequest request;
    request.set_target(target);
    return table_.Checkpoint(request);
  }
  absl::StatusOr<pb::StopReply> Stop(const std::string& target) {
    pb::StopRequest request;
    request.set_target(target);
    return table_.Stop(request);
  }
  pb::JobStatus OnlyJob() {
    const pb::StatusReply status = table_.Status();
    return status.jobs_size() == 1 ? status.jobs(0) : pb::JobStatus();
  }

  FakeWorld world_;
  FakeSessionFactory factory_{&world_};
  JobTable table_{&factory_, [](const std::string&) {}};
};

TEST_F(JobTableTest, StartReturnsTheFirstEpoch) {
  const auto reply = table_.Start(StartOf(71));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->job(), "redis-server-71");
  EXPECT_EQ(reply->epoch(), 1u);
  EXPECT_EQ(reply->pid(), 71u);
  EXPECT_EQ(reply->tracker(), "fake");
  EXPECT_EQ(OnlyJob().state(), "tracking");
  EXPECT_EQ(OnlyJob().next_epoch_in_s(), -1);
  EXPECT_EQ(OnlyJob().last_error_ago_s(), -1);
}

TEST_F(JobTableTest, NamesAreMadeOfTheCommandAndThePid) {
  EXPECT_EQ(table_.Start(StartOf(72))->job(), "a_b_c-72");
  EXPECT_EQ(DefaultJobName("", 5), "process-5");
  EXPECT_EQ(DefaultJobName(std::string(100, 'x'), 12).size(), 64u);
  EXPECT_TRUE(CheckJobName(DefaultJobName("\xff\n..", 1)).ok());
}

TEST_F(JobTableTest, BadRequestsAreRefusedByName) {
  for (const char* job : {"a b", "../x", ".", "..", "a\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(table_.Start(StartOf(71, job)).status())) << job;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(table_.Start(StartOf(71, std::string(65, 'a'))).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(table_.Start(StartOf(71, "", -1)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(table_.Start(StartOf(71, "", NAN)).status()));
  pb::StartRequest rounds = StartOf(71);
  rounds.set_precopy_rounds(101);
  EXPECT_TRUE(absl::IsInvalidArgument(table_.Start(rounds).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(table_.Start(StartOf(0)).status()));
  EXPECT_TRUE(absl::IsNotFound(table_.Start(StartOf(99)).status()));
  EXPECT_EQ(table_.Status().jobs_size(), 0);
}

TEST_F(JobTableTest, OnePidAndOneNameIsOneJob) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  const auto same_pid = table_.Start(StartOf(71, "other"));
  EXPECT_TRUE(absl::IsAlreadyExists(same_pid.status()));
  EXPECT_NE(same_pid.status().message().find("job web"), std::string::npos) << same_pid.status();
  const auto same_name = table_.Start(StartOf(72, "web"));
  EXPECT_TRUE(absl::IsAlreadyExists(same_name.status()));
  EXPECT_NE(same_name.status().message().find("71"), std::string::npos) << same_name.status();
  EXPECT_TRUE(table_.Start(StartOf(72, "web2")).ok());
}

TEST_F(JobTableTest, RacingStartsOfOnePidHaveOneWinner) {
  std::vector<std::thread> threads;
  std::atomic<int> winners{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { winners += table_.Start(StartOf(71)).ok(); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
}

TEST_F(JobTableTest, CheckpointByNameAndByPid) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  EXPECT_EQ(Checkpoint("web")->epoch(), 2u);
  EXPECT_EQ(Checkpoint("71")->epoch(), 3u);
  EXPECT_EQ(OnlyJob().last_epoch(), 3u);
  EXPECT_EQ(OnlyJob().epochs_taken(), 3u);
  const auto missing = Checkpoint("72");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_NE(missing.status().message().find("web (pid 71)"), std::string::npos);
}

TEST_F(JobTableTest, ARequestIsAnsweredByAnEpochThatBeganAfterIt) {
  ASSERT_TRUE(table_.Start(StartOf(71)).ok());
  world_.HoldEpochs(true);
  uint32_t first = 0, second = 0;
  std::thread one([&] { first = Checkpoint("71")->epoch(); });
  world_.AwaitEpochsBegun(2);  // `one`'s epoch is on its way:
  std::thread two([&] { second = Checkpoint("71")->epoch(); });
  while (OnlyJob().state() != "checkpointing") std::this_thread::yield();
  ::usleep(50'000);  // `two` must not be answered by it, however long it waits.
  world_.HoldEpochs(false);
  one.join();
  two.join();
  EXPECT_EQ(first, 2u);
  EXPECT_EQ(second, 3u);
}

TEST_F(JobTableTest, EpochsGoOnEveryInterval) {
  const int64_t start_us = MonotonicMicros();
  ASSERT_TRUE(table_.Start(StartOf(71, "", 0.05)).ok());
  world_.AwaitEpochsBegun(6);
  const int64_t took_us = MonotonicMicros() - start_us;
  EXPECT_GE(took_us, 5 * 50'000 - 1000);
  EXPECT_LT(took_us, 5 * 50'000 * 4);
  EXPECT_LE(OnlyJob().next_epoch_in_s(), 0.05);
}

TEST_F(JobTableTest, ASlowEpochDoesNotPileUpOthers) {
  ASSERT_TRUE(table_.Start(StartOf(71, "", 0.02)).ok());
  world_.HoldEpochs(true);
  const int begun = world_.begun();
  world_.AwaitEpochsBegun(begun + 1);
  ::usleep(200'000);  // Ten intervals.
  EXPECT_EQ(world_.begun(), begun + 1);
  world_.HoldEpochs(false);
  ::usleep(50'000);
  // At most 0.1 s of them is made up for.
  EXPECT_LE(world_.begun(), begun + 1 + 5 + 3);
}

TEST_F(JobTableTest, AFailedFirstEpochEndsTheJob) {
  world_.FailEpochs(absl::FailedPreconditionError("fd 9: not supported"));
  const auto reply = table_.Start(StartOf(71));
  EXPECT_EQ(reply.status().message(), "fd 9: not supported");
  EXPECT_EQ(table_.Status().jobs_size(), 0);
  EXPECT_EQ(world_.live_sessions(), 0);
  world_.FailEpochs(absl::OkStatus());
  EXPECT_TRUE(table_.Start(StartOf(71)).ok());  // Its name and pid are free at once.
}

TEST_F(JobTableTest, AFailedLaterEpochIsRememberedAndTriedAgain) {
  ASSERT_TRUE(table_.Start(StartOf(71, "", 0.05)).ok());
  world_.FailEpochs(absl::InternalError("disk on fire"));
  while (OnlyJob().epochs_failed() < 2) ::usleep(1000);
  EXPECT_EQ(OnlyJob().last_error(), "disk on fire");
  EXPECT_GE(OnlyJob().last_error_ago_s(), 0);
  const uint32_t taken = OnlyJob().epochs_taken();
  world_.FailEpochs(absl::OkStatus());
  while (OnlyJob().epochs_taken() == taken) ::usleep(1000);
  EXPECT_EQ(OnlyJob().last_error(), "disk on fire");
}

TEST_F(JobTableTest, AFailedCheckpointIsTheCallersError) {
  ASSERT_TRUE(table_.Start(StartOf(71)).ok());
  world_.FailEpochs(absl::InternalError("disk on fire"));
  EXPECT_EQ(Checkpoint("71").status().message(), "disk on fire");
  world_.FailEpochs(absl::OkStatus());
  EXPECT_TRUE(Checkpoint("71").ok());
}

TEST_F(JobTableTest, TheJobEndsWhenItsProcessExits) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web", 1000)).ok());
  world_.Exit(71);
  while (table_.Status().jobs_size() != 0) ::usleep(1000);
  ASSERT_EQ(table_.Status().ended_jobs_size(), 1);
  EXPECT_EQ(table_.Status().ended_jobs(0).end_reason(), "process 71 has exited");
  EXPECT_EQ(world_.live_sessions(), 0);
}

TEST_F(JobTableTest, ANameIsFreeAsSoonAsItsProcessHasExited) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  // In the middle of an epoch: the job has not noticed yet.
  world_.HoldEpochs(true);
  std::thread caller([&] { EXPECT_FALSE(Checkpoint("web").ok()); });
  world_.AwaitEpochsBegun(2);
  world_.Exit(71);
  std::thread next([&] {
    const auto reply = table_.Start(StartOf(72, "web"));
    EXPECT_TRUE(reply.ok()) << reply.status();
  });
  ::usleep(20'000);
  world_.HoldEpochs(false);
  caller.join();
  next.join();
}

TEST_F(JobTableTest, StopFinishesTheEpochInProgress) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  world_.HoldEpochs(true);
  std::thread caller([&] { EXPECT_TRUE(Checkpoint("web").ok()); });
  world_.AwaitEpochsBegun(2);
  std::thread stopper([&] {
    const auto reply = Stop("web");
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(reply->stopped(0), "web");
    EXPECT_TRUE(reply->daemon_exits());
  });
  ::usleep(20'000);
  world_.HoldEpochs(false);
  caller.join();
  stopper.join();
  EXPECT_EQ(world_.live_sessions(), 0);
}

TEST_F(JobTableTest, StopAllStopsAll) {
  ASSERT_TRUE(table_.Start(StartOf(71)).ok());
  ASSERT_TRUE(table_.Start(StartOf(72)).ok());
  EXPECT_FALSE(Stop("71")->daemon_exits());
  pb::StopRequest all;
  all.set_all(true);
  EXPECT_EQ(table_.Stop(all)->stopped_size(), 1);
  EXPECT_EQ(table_.Stop(all)->stopped_size(), 0);
  EXPECT_TRUE(absl::IsNotFound(Stop("71").status()));
}

TEST_F(JobTableTest, AfterTheLastJobAStartIsSentToAnotherDaemon) {
  ASSERT_TRUE(table_.Start(StartOf(71)).ok());
  ASSERT_TRUE(Stop("71").ok());
  table_.RunUntilIdle(absl::InfiniteDuration(), absl::InfiniteDuration());
  EXPECT_TRUE(absl::IsUnavailable(table_.Start(StartOf(72)).status()));
}

TEST_F(JobTableTest, TheTableClosesAGraceAfterTheLastProcessExited) {
  ASSERT_TRUE(table_.Start(StartOf(71)).ok());
  std::thread exit([&] {
    ::usleep(20'000);
    world_.Exit(71);
  });
  table_.RunUntilIdle(absl::InfiniteDuration(), absl::Milliseconds(50));
  exit.join();
  EXPECT_EQ(world_.live_sessions(), 0);
}

TEST_F(JobTableTest, ShutdownEndsEverything) {
  ASSERT_TRUE(table_.Start(StartOf(71)).ok());
  ASSERT_TRUE(table_.Start(StartOf(72, "", 0.01)).ok());
  std::thread signal([&] { table_.RequestShutdown(); });
  table_.RunUntilIdle(absl::InfiniteDuration(), absl::InfiniteDuration());
  signal.join();
  EXPECT_EQ(world_.live_sessions(), 0);
}

class AdoptTest : public JobTableTest {
 protected:
  AdoptTest() {
    request_.set_pid(71);
    request_.set_job("web");
    request_.set_epoch(12);
    request_.set_holder_pid(::getpid());
    request_.set_holder_uffd(-1);
  }
  pb::AdoptRequest request_;
};

TEST_F(AdoptTest, GoesOnFromTheRestoredEpoch) {
  const auto reply = table_.Adopt(request_, ::getpid());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->epoch(), 12u);
  EXPECT_EQ(world_.begun(), 0);  // It is held stopped: no epoch yet.
  EXPECT_EQ(Checkpoint("web")->epoch(), 13u);
}

TEST_F(AdoptTest, FirstEpochIsAnIntervalAway) {
  request_.set_interval_s(0.05);
  const int64_t start_us = MonotonicMicros();
  ASSERT_TRUE(table_.Adopt(request_, ::getpid()).ok());
  world_.AwaitEpochsBegun(1);
  EXPECT_GE(MonotonicMicros() - start_us, 50'000);
}

TEST_F(AdoptTest, OnlyTheHolderItselfMayAsk) {
  EXPECT_TRUE(absl::IsPermissionDenied(table_.Adopt(request_, ::getpid() + 1).status()));
}

TEST_F(JobTableTest, WhatIsSavedOfMemoryIsTheRequestsChoice) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  EXPECT_FALSE(world_.options().include_dontdump);
  EXPECT_FALSE(world_.options().save_file_pages);
  pb::StartRequest start = StartOf(72);
  start.set_include_dontdump(true);
  start.set_save_file_pages(true);
  ASSERT_TRUE(table_.Start(start).ok());
  EXPECT_TRUE(world_.options().include_dontdump);
  EXPECT_TRUE(world_.options().save_file_pages);
  ASSERT_TRUE(Stop("web").ok());
  pb::AdoptRequest adopt;
  adopt.set_pid(71);
  adopt.set_job("web");
  adopt.set_epoch(1);
  adopt.set_holder_pid(5);
  adopt.set_holder_uffd(-1);
  adopt.set_include_dontdump(true);
  ASSERT_TRUE(table_.Adopt(adopt, 5).ok());
  EXPECT_TRUE(world_.options().include_dontdump);
  EXPECT_FALSE(world_.options().save_file_pages);
}

TEST_F(JobTableTest, HugePagesAreReportedAndMendedIfEitherAskedForIt) {
  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  EXPECT_EQ(OnlyJob().huge_pages(), 8u);
  EXPECT_EQ(OnlyJob().huge_pages_split(), 3u);
  ASSERT_TRUE(table_.Start(StartOf(72, "other")).ok());  // The table closes with its last job.
  auto reply = Stop("web");
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(reply->jobs_size(), 1);
  EXPECT_EQ(reply->jobs(0).job(), "web");
  EXPECT_EQ(reply->jobs(0).huge_pages_split(), 3u);
  EXPECT_EQ(reply->jobs(0).huge_pages_collapsed(), 0u);
  EXPECT_EQ(world_.collapses(), 0);

  ASSERT_TRUE(table_.Start(StartOf(71, "web")).ok());
  pb::StopRequest stop;
  stop.set_target("web");
  stop.set_collapse_on_stop(true);
  reply = table_.Stop(stop);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->jobs(0).huge_pages_collapsed(), 2u);
  EXPECT_EQ(world_.collapses(), 1);

  pb::StartRequest start = StartOf(71, "web");
  start.set_collapse_on_stop(true);
  ASSERT_TRUE(table_.Start(start).ok());
  EXPECT_EQ(Stop("web")->jobs(0).huge_pages_collapsed(), 2u);
  EXPECT_EQ(world_.collapses(), 2);
  const pb::StatusReply status = table_.Status();
  EXPECT_EQ(status.ended_jobs(status.ended_jobs_size() - 1).huge_pages_collapsed(), 2u);
}

}  // namespace
}  // namespace incr

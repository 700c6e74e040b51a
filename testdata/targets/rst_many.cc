// argv[1] threads that sleep, each with a value of its own; after SIGTERM each must still have it.
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>

#include <vector>

#include "rst_common.h"

static thread_local uint64_t own = 0;
static sem_t asleep, awake;

static void* Run(void* argument) {
  own = Mix(reinterpret_cast<uintptr_t>(argument));
  const pid_t tid = syscall(SYS_gettid);
  sem_post(&asleep);
  sem_wait(&awake);
  EXPECT(own == Mix(reinterpret_cast<uintptr_t>(argument)));
  EXPECT(syscall(SYS_gettid) == tid);
  return nullptr;
}

int main(int argc, char** argv) {
  GoOn(SIGTERM);
  std::vector<pthread_t> threads(strtoul(argv[1], nullptr, 10));
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 << 10);
  for (size_t i = 0; i < threads.size(); ++i) {
    EXPECT(pthread_create(&threads[i], &attributes, Run, reinterpret_cast<void*>(i)) == 0);
  }
  for (size_t i = 0; i < threads.size(); ++i) sem_wait(&asleep);
  Say("ready");
  while (!go) SleepMs(5);
  for (size_t i = 0; i < threads.size(); ++i) sem_post(&awake);
  for (pthread_t thread : threads) EXPECT(pthread_join(thread, nullptr) == 0);
  Say("done");
  return 0;
}

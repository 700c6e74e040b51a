// Creator threads that make threads, which do a little and exit, as fast as they can. Every one of
// them must have run to its end. Prints "ready"; at the end of its input "ok <threads>" or "BAD".
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

std::atomic<bool> stopping{false};
std::atomic<long> created{0}, finished{0};

void* Short(void* argument) {
  volatile long sum = 0;
  for (long i = 0; i < 500; ++i) sum = sum + i;
  if (sum == 500 * 499 / 2) ++finished;
  return argument;
}

void Create() {
  while (!stopping) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, Short, nullptr) != 0) continue;
    ++created;
    pthread_join(thread, nullptr);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int creators = argc > 1 ? atoi(argv[1]) : 8;
  std::vector<std::thread> threads;
  for (int i = 0; i < creators; ++i) threads.emplace_back(Create);
  puts("ready");
  fflush(stdout);
  char byte;
  ssize_t n;
  while ((n = read(0, &byte, 1)) > 0) {
  }
  stopping = true;
  for (std::thread& thread : threads) thread.join();
  if (n == 0 && created == finished) {
    printf("ok %ld\n", created.load());
    return 0;
  }
  printf("BAD read %zd, created %ld, finished %ld\n", n, created.load(), finished.load());
  return 1;
}

// Makes an exec of itself again and again, from a thread that is not the leader while others run.
// argv: how many more times. Prints "ready" at first, "ok" at last.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

int main(int argc, char** argv) {
  const bool first = argc > 2 && strcmp(argv[2], "first") == 0;
  const int left = argc > 1 ? atoi(argv[1]) : 100;
  if (first) {
    puts("ready");
    fflush(stdout);
  }
  if (left == 0) {
    puts("ok");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
  }
  for (int i = 0; i < 3; ++i) {
    std::thread([] {
      for (;;) asm volatile("pause");
    }).detach();
  }
  std::thread([&] {
    usleep(300);
    execl("/proc/self/exe", argv[0], std::to_string(left - 1).c_str(), nullptr);
    _exit(3);
  }).join();
}

// N threads in all (argv[1]) that sleep. Prints "ready", ends with its input.
#include <stdio.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

int main(int argc, char** argv) {
  const int count = argc > 1 ? atoi(argv[1]) : 1;
  for (int i = 1; i < count; ++i) {
    std::thread([] {
      for (;;) pause();
    }).detach();
  }
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  _exit(0);
}

// Waits in one pause() for one SIGUSR1.
#include <errno.h>

#include "rst_common.h"

int main() {
  GoOn(SIGUSR1);
  Say("ready");
  EXPECT(pause() == -1 && errno == EINTR && go == 1);
  Say("done");
  return 0;
}

// RtChurn - threads that keep maps, churn the garbage collector, and verify every value.
// Usage: java RtChurn PROGRESS_FILE
//
// Progress as in rt_common.h.
import java.io.File;
import java.io.RandomAccessFile;
import java.util.HashMap;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.atomic.AtomicLongArray;

public class RtChurn {
  static final int THREADS = 4;
  static final AtomicLongArray steps = new AtomicLongArray(THREADS);
  static RandomAccessFile progress;
  static volatile boolean stop = false;

  static synchronized void write(String text) {
    try {
      progress.seek(0);
      progress.write(text.getBytes());
    } catch (Exception e) {
      Runtime.getRuntime().halt(2);
    }
  }

  static void bad(String what) {
    write("BAD " + what + "                    ");
    Runtime.getRuntime().halt(3);
  }

  static long mix(long x) {
    x ^= x >>> 33;
    x *= 0xff51afd7ed558ccdL;
    x ^= x >>> 33;
    x *= 0xc4ceb9fe1a85ec53L;
    return x ^ (x >>> 33);
  }

  static final class Value {
    final long seed;
    final byte[] bytes;

    Value(long seed) {
      this.seed = seed;
      bytes = new byte[64 + (int) Long.remainderUnsigned(mix(seed), 4000)];
      for (int i = 0; i < bytes.length; i++) bytes[i] = (byte) (mix(seed + i / 64) >>> (i % 8));
    }

    boolean right() {
      for (int i = 0; i < bytes.length; i++) {
        if (bytes[i] != (byte) (mix(seed + i / 64) >>> (i % 8))) return false;
      }
      return true;
    }
  }

  static void churn(int who, CyclicBarrier barrier) {
    HashMap<Long, Value> kept = new HashMap<>();
    for (long key = 0; key < 1500; key++) kept.put(key, new Value(key));
    try {
      for (long step = 1; !stop; step++) {
        for (int i = 0; i < 20; i++) {
          long dice = mix(step * 32 + i + who);
          Value value = kept.get(Long.remainderUnsigned(dice, 1500));
          if (value == null || !value.right()) bad("value of thread " + who);
          if ((dice >>> 32) % 4 == 0) {
            kept.put((step / 64 * 8 + (dice & 7)) % 1500, new Value(dice));
          }
        }
        if (kept.size() != 1500) bad("the size of a map");
        steps.set(who, step);
        if (step % 16 == 0) barrier.await();
        Thread.sleep(1);
      }
    } catch (Exception e) {
      if (!stop) bad("exception " + e);
    }
  }

  public static void main(String[] arguments) throws Exception {
    progress = new RandomAccessFile(arguments[0], "rw");
    File end = new File(arguments[0] + ".stop");
    CyclicBarrier barrier = new CyclicBarrier(THREADS);
    Thread[] threads = new Thread[THREADS];
    for (int i = 0; i < THREADS; i++) {
      final int who = i;
      threads[i] = new Thread(() -> churn(who, barrier));
      threads[i].start();
    }
    for (long turn = 0; !end.exists(); turn++) {
      long least = Long.MAX_VALUE;
      for (int i = 0; i < THREADS; i++) least = Math.min(least, steps.get(i));
      write(String.format("%020d", least));
      if (turn % 400 == 399) System.gc();
      Thread.sleep(5);
    }
    stop = true;
    barrier.reset();
    for (Thread thread : threads) {
      while (thread.isAlive()) {
        thread.join(50);
        barrier.reset();
      }
    }
  }
}

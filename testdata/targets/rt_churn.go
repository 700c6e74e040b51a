// rt_churn — goroutines that keep maps, pass work through channels, churn the garbage collector, and
// verify every value. Usage: rt_churn PROGRESS_FILE
//
// Progress as in rt_common.h.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const workers = 8

var progress *os.File

func bad(what string) {
	progress.WriteAt([]byte("BAD "+what+"                    "), 0)
	os.Exit(3)
}

func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ (x >> 33)
}

type value struct {
	seed  uint64
	bytes []byte
	next  *value // a short list, for the collector to follow
}

func fill(seed uint64) *value {
	v := &value{seed: seed, bytes: make([]byte, 64+mix(seed)%4000)}
	for i := range v.bytes {
		v.bytes[i] = byte(mix(seed+uint64(i/64)) >> (i % 8))
	}
	return v
}

func check(v *value, who int) {
	for ; v != nil; v = v.next {
		for i := range v.bytes {
			if v.bytes[i] != byte(mix(v.seed+uint64(i/64))>>(i%8)) {
				bad(fmt.Sprintf("value of goroutine %d", who))
			}
		}
	}
}

func work(who int, in <-chan uint64, out chan<- uint64, step *uint64, done *sync.WaitGroup) {
	defer done.Done()
	kept := map[uint64]*value{}
	for seed := uint64(1); seed <= 600; seed++ {
		kept[seed] = fill(seed)
	}
	for token := range in {
		for i := uint64(0); i < 10; i++ {
			dice := mix(token*16 + i + uint64(who))
			key := 1 + dice%600
			v := kept[key]
			if v == nil {
				bad("a key is missing")
			}
			check(v, who)
			if dice>>32%4 == 0 {
				fresh := fill(dice)
				fresh.next = fill(dice + 1)
				kept[1+(token/64*8+dice%8)%600] = fresh
			}
		}
		if len(kept) != 600 {
			bad("the size of a map")
		}
		atomic.AddUint64(step, 1)
		out <- mix(token)
	}
}

func main() {
	var err error
	progress, err = os.OpenFile(os.Args[1], os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0600)
	if err != nil {
		os.Exit(2)
	}
	var steps [workers]uint64
	var done sync.WaitGroup
	var in [workers]chan uint64
	out := make([]chan uint64, workers)
	for i := 0; i < workers; i++ {
		in[i], out[i] = make(chan uint64), make(chan uint64)
		done.Add(1)
		go work(i, in[i], out[i], &steps[i], &done)
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	for token := uint64(1); ; token++ {
		for i := range in {
			in[i] <- token
		}
		for i := range out {
			if <-out[i] != mix(token) {
				bad("an answer")
			}
		}
		progress.WriteAt([]byte(fmt.Sprintf("%020d", atomic.LoadUint64(&steps[0]))), 0)
		if token%500 == 0 {
			runtime.GC()
		}
		if _, err := os.Stat(os.Args[1] + ".stop"); err == nil {
			break
		}
		<-ticker.C
	}
	for i := range in {
		close(in[i])
	}
	done.Wait()
}

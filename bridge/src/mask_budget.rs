//! A limit on the processor time of one call into a grammar. llguidance counts the items of a row of its parser only
//! once the row is done, and a row of an ambiguous grammar can take minutes; but it looks at a cancellation handle all
//! the time. One thread of the process looks at the calls that are under way and cancels what has used up its budget.
//! Processor time, not time: a busy machine makes no answer fail. A call pays for a lock at its begin and end.
use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use llguidance::CancellationHandle;

use crate::abi::{Failure, Outcome};
use crate::thread;

/// A call ends within its budget and two of these: it is seen after one at the latest, and looked at again after each.
const PERIOD: Duration = Duration::from_millis(10);
/// Periods without a call after which the thread sleeps until there is one.
const IDLE_PERIODS: u32 = 100;

struct Call {
    serial: u64,
    clock: libc::clockid_t, // processor time of the thread that makes the call
    budget_ns: u64,
    first_ns: Option<u64>, // of the clock, when the call was first seen
    handle: CancellationHandle,
}

struct Watch {
    calls: Vec<Call>,
    last_serial: u64,
    started: bool,
    asleep: bool,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { calls: Vec::new(), last_serial: 0, started: false, asleep: false });
static WAKE: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    let read = unsafe { libc::clock_gettime(clock, &mut time) } == 0;
    read.then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn own_clock() -> libc::clockid_t {
    thread_local! {
        static CLOCK: Cell<Option<libc::clockid_t>> = const { Cell::new(None) };
    }
    CLOCK.with(|clock| {
        clock.get().unwrap_or_else(|| {
            let mut id = libc::CLOCK_THREAD_CPUTIME_ID;
            // SAFETY: `id` is writable, and this thread lives.
            unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
            clock.set(Some(id));
            id
        })
    })
}

/// Starts the thread, once in the life of the process. Without it no call has a limit.
pub fn start() -> Outcome<()> {
    let mut watch = lock();
    if !watch.started {
        thread::detach(64 << 10, look)
            .map_err(|e| Failure::exhausted(format!("there is no thread to limit the time of its masks: {e}")))?;
        watch.started = true;
    }
    Ok(())
}

fn look() {
    // Signals are for the program's own threads.
    // SAFETY: `all` is filled before it is used.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
    let mut idle = 0;
    loop {
        std::thread::sleep(PERIOD);
        let mut watch = lock();
        idle = if watch.calls.is_empty() { idle + 1 } else { 0 };
        if idle > IDLE_PERIODS {
            watch.asleep = true;
            while watch.asleep {
                watch = WAKE.wait(watch).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            idle = 0;
        }
        for call in &mut watch.calls {
            // The thread cannot end while its call is in the list.
            let Some(now) = read(call.clock) else { continue };
            if now - *call.first_ns.get_or_insert(now) > call.budget_ns {
                call.handle.cancel();
            }
        }
    }
}

/// Runs `work`, and cancels `handle` once it has taken `budget_ns` of this thread's processor time.
pub fn within<T>(handle: Option<CancellationHandle>, budget_ns: u64, work: impl FnOnce() -> T) -> T {
    struct Done(u64);
    impl Drop for Done {
        fn drop(&mut self) {
            lock().calls.retain(|call| call.serial != self.0);
        }
    }
    let _done = handle.map(|handle| {
        let clock = own_clock();
        let mut watch = lock();
        watch.last_serial += 1;
        let serial = watch.last_serial;
        watch.calls.push(Call { serial, clock, budget_ns, first_ns: None, handle });
        if std::mem::take(&mut watch.asleep) {
            WAKE.notify_one();
        }
        Done(serial)
    });
    work()
}

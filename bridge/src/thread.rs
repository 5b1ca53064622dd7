//! Threads of this crate. Those of Rust's library end the process where there is no memory for their handle, which they
//! take from the system alone; these have none, and that the system gives no thread is an error.
use std::ffi::c_void;

use crate::abi::{self, Code, Failure, Outcome, Stop};

type Body = extern "C" fn(*mut c_void) -> *mut c_void;

fn create(stack_bytes: usize, detached: bool, body: Body, argument: *mut c_void) -> std::io::Result<libc::pthread_t> {
    // SAFETY: `attributes` is set before it is used, and destroyed; `argument` is what `body` expects.
    unsafe {
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error != 0 {
            return Err(std::io::Error::from_raw_os_error(error));
        }
        let mut thread = std::mem::zeroed();
        error = libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack_bytes);
        if error == 0 && detached {
            error = libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        }
        if error == 0 {
            error = libc::pthread_create(&mut thread, attributes.as_ptr(), body, argument);
        }
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        match error {
            0 => Ok(thread),
            _ => Err(std::io::Error::from_raw_os_error(error)),
        }
    }
}

struct Job<T, W> {
    work: Option<W>,
    stop: Stop,
    outcome: Option<Outcome<T>>,
}

extern "C" fn run_job<T, W: FnOnce() -> Outcome<T>>(job: *mut c_void) -> *mut c_void {
    // SAFETY: on_stack() waits for this thread, and does not touch the job meanwhile.
    let job = unsafe { &mut *job.cast::<Job<T, W>>() };
    if let Some(work) = job.work.take() {
        job.outcome = Some(job.stop.within(|| abi::catch(work)));
    }
    std::ptr::null_mut()
}

/// Runs `work` on a thread with so much stack (address space: only what is touched takes memory), with this thread's
/// stop flag, and waits for it. Panics become failures. `purpose` is for the error where there is no thread.
pub fn on_stack<T: Send, W: FnOnce() -> Outcome<T> + Send>(stack_bytes: usize, purpose: &str, work: W) -> Outcome<T> {
    let mut job = Job { work: Some(work), stop: Stop::current(), outcome: None };
    let thread = create(stack_bytes, false, run_job::<T, W>, (&raw mut job).cast())
        .map_err(|e| Failure::exhausted(format!("there is no thread {purpose}: {e}")))?;
    // SAFETY: it was created joinable, and is joined once.
    let error = unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    assert_eq!(error, 0, "the thread is not joined: it uses what is on this stack");
    job.outcome.unwrap_or_else(|| Err(Failure { code: Code::Internal, message: "the thread did nothing".into() }))
}

type Work = Box<dyn FnOnce() + Send>;

extern "C" fn run_detached(work: *mut c_void) -> *mut c_void {
    // SAFETY: of detach(), which has given it away.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    let _ = abi::catch(|| {
        work();
        Ok(())
    });
    std::ptr::null_mut()
}

/// Runs `work` on a thread that nobody waits for. Panics end it.
pub fn detach(stack_bytes: usize, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let work = Box::into_raw(Box::new(Box::new(work) as Work));
    create(stack_bytes, true, run_detached, work.cast()).map(|_| ()).inspect_err(|_| {
        // SAFETY: there is no thread that has it.
        drop(unsafe { Box::from_raw(work) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn deep(levels: u64) -> u64 {
        let page = std::hint::black_box([levels; 512]);
        if levels == 0 {
            0
        } else {
            deep(levels - 1) + page[0] - (levels - 1)
        }
    }

    #[test]
    fn has_the_stack_that_was_asked_for() {
        assert_eq!(on_stack(256 << 20, "to test", || Ok(deep(10_000))).unwrap(), 10_000);
    }

    #[test]
    fn panics_and_threads_that_there_are_none_of_are_failures() {
        let failure = on_stack(1 << 20, "to test", || -> Outcome<()> { panic!("for a test") }).unwrap_err();
        assert_eq!((failure.code, failure.message.as_str()), (Code::Internal, "panic: for a test"));
        let failure = on_stack(isize::MAX as usize, "to test", || Ok(())).unwrap_err();
        assert_eq!(failure.code, Code::ResourceExhausted);
        assert!(failure.message.starts_with("there is no thread to test: "), "{}", failure.message);
        assert!(detach(isize::MAX as usize, || ()).is_err());
    }

    #[test]
    fn nobody_waits_for_a_detached_one() {
        let (sender, receiver) = channel();
        detach(1 << 20, move || sender.send(7).unwrap()).unwrap();
        assert_eq!(receiver.recv().unwrap(), 7);
    }
}

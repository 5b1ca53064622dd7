//! The plumbing of the C interface: owned byte buffers, errors as text, and the guard that every function runs in, so
//! that neither an error nor a panic of a crate crosses the border.
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Once;

/// Kinds of failure; the values of `WeftErrorCode` in bridge.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 1,
    Unsupported = 2,
    ResourceExhausted = 3,
    Internal = 4,
    Stopped = 5, // by the caller's stop flag
    TooLarge = 6,
}

#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Failure { code: Code::InvalidArgument, message: message.into() }
    }
    pub fn unsupported(message: impl Into<String>) -> Self {
        Failure { code: Code::Unsupported, message: message.into() }
    }
    pub fn exhausted(message: impl Into<String>) -> Self {
        Failure { code: Code::ResourceExhausted, message: message.into() }
    }
    pub fn too_large(message: impl Into<String>) -> Self {
        Failure { code: Code::TooLarge, message: message.into() }
    }
}

/// The caller's stop flag: a byte that becomes something else than 0 once the work is needed no more. Null: never.
#[derive(Clone, Copy)]
pub struct Stop(*const u8);

// SAFETY: the byte is read as an atomic, and lives as long as the call that it was given to.
unsafe impl Send for Stop {}
unsafe impl Sync for Stop {}

thread_local! {
    static CURRENT: Cell<Stop> = const { Cell::new(Stop(std::ptr::null())) };
}

impl Stop {
    /// # Safety
    /// `flag` is null or points at a byte that lives longer than the result and everything it is handed to.
    pub unsafe fn new(flag: *const u8) -> Self {
        Stop(flag)
    }
    /// The flag of the call that this thread works on.
    pub fn current() -> Self {
        CURRENT.with(Cell::get)
    }
    pub fn is_set(self) -> bool {
        // SAFETY: see `new`.
        !self.0.is_null() && unsafe { AtomicU8::from_ptr(self.0.cast_mut()) }.load(Ordering::Relaxed) != 0
    }
    pub fn check(self) -> Outcome<()> {
        match self.is_set() {
            true => Err(Failure { code: Code::Stopped, message: "stopped by the caller".into() }),
            false => Ok(()),
        }
    }
    /// Runs `work` with this flag as the current one.
    pub fn within<T>(self, work: impl FnOnce() -> T) -> T {
        struct Restore(Stop);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|current| current.set(self.0));
            }
        }
        let _restore = Restore(CURRENT.with(|current| current.replace(self)));
        work()
    }
}

/// Bytes that belong to the caller until `weft_bytes_free`.
#[repr(C)]
pub struct WeftBytes {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

impl From<Vec<u8>> for WeftBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        WeftBytes { data: bytes.as_mut_ptr(), size: bytes.len(), capacity: bytes.capacity() }
    }
}

impl From<String> for WeftBytes {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

/// Token ids that belong to the caller until `weft_ids_free`.
#[repr(C)]
pub struct WeftIds {
    data: *mut u32,
    size: usize,
    capacity: usize,
}

impl From<Vec<u32>> for WeftIds {
    fn from(ids: Vec<u32>) -> Self {
        let mut ids = std::mem::ManuallyDrop::new(ids);
        WeftIds { data: ids.as_mut_ptr(), size: ids.len(), capacity: ids.capacity() }
    }
}

#[repr(C)]
pub struct WeftError {
    code: i32,
    message: WeftBytes,
}

/// # Safety
/// `bytes` comes from this crate and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn weft_bytes_free(bytes: WeftBytes) {
    if !bytes.data.is_null() {
        drop(Vec::from_raw_parts(bytes.data, bytes.size, bytes.capacity));
    }
}

/// # Safety
/// `ids` comes from this crate and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn weft_ids_free(ids: WeftIds) {
    if !ids.data.is_null() {
        drop(Vec::from_raw_parts(ids.data, ids.size, ids.capacity));
    }
}

/// The bytes at `data`, valid for the call.
///
/// # Safety
/// `data` points at `size` readable bytes (or is null when `size` is 0).
pub unsafe fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    slice(data, size)
}

/// # Safety
/// As for `bytes`, with `size` elements.
pub unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// The text at `data`; not UTF-8 is the caller's error.
///
/// # Safety
/// As for `bytes`.
pub unsafe fn text<'a>(data: *const u8, size: usize) -> Outcome<&'a str> {
    std::str::from_utf8(bytes(data, size))
        .map_err(|e| Failure::invalid(format!("the text is not UTF-8 at byte {}", e.valid_up_to())))
}

/// What a panic said.
pub fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
        .unwrap_or_default()
}

/// Runs `work`; panics become failures. The default hook would print each panic to stderr, so it is replaced once.
pub fn catch<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(Failure { code: Code::Internal, message: format!("panic: {}", panic_text(panic)) }),
    }
}

/// `catch`, with the failure written to `*error` and `fallback` returned. Where hardly any memory is left, nothing is
/// run, unless nobody could be told.
///
/// # Safety
/// `error` is null or points at a writable WeftError.
pub unsafe fn guard<T>(error: *mut WeftError, fallback: T, work: impl FnOnce() -> Outcome<T>) -> T {
    let outcome = if error.is_null() || crate::reserve::suffices() {
        catch(work)
    } else {
        Err(Failure::exhausted("memory ran out"))
    };
    match outcome {
        Ok(value) => value,
        Err(failure) => {
            if !error.is_null() {
                error.write(WeftError { code: failure.code as i32, message: failure.message.into() });
            }
            fallback
        }
    }
}

/// `guard` for work that looks at a stop flag.
///
/// # Safety
/// As for `guard` and `Stop::new`.
pub unsafe fn guard_stop<T>(
    stop: *const u8,
    error: *mut WeftError,
    fallback: T,
    work: impl FnOnce() -> Outcome<T>,
) -> T {
    let stop = Stop::new(stop);
    guard(error, fallback, || {
        stop.check()?;
        stop.within(work)
    })
}

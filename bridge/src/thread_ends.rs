//! Destructors of threads' variables. The C library ends the process where it has no memory to note one down
//! (__cxa_thread_atexit_impl). The linker gives the program this function in its place (--wrap in CMakeLists.txt), for
//! Rust's variables and those of C++: the memory is the system's or the reserve's, and where neither has any the
//! variable is not destroyed. The main thread's last as long as the process.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::reserve;

type Destructor = unsafe extern "C" fn(*mut c_void);

struct Entry {
    destructor: Destructor,
    variable: *mut c_void,
    before: *mut Entry,
}

thread_local! {
    static LAST: Cell<*mut Entry> = const { Cell::new(std::ptr::null_mut()) };
}

/// The key whose destructor ends a thread's variables, plus 1; 0: there is none. Made before all others, since the
/// library calls destructors in the order of their keys, and Rust's own of a thread must come behind these.
static KEY: AtomicU64 = AtomicU64::new(0);

#[used]
#[link_section = ".init_array"]
static AT_START: extern "C" fn() = make_key;

extern "C" fn make_key() {
    let mut key = 0;
    // SAFETY: `key` is writable.
    if unsafe { libc::pthread_key_create(&mut key, Some(run_all)) } == 0 {
        KEY.store(u64::from(key) + 1, Ordering::Relaxed);
    }
}

/// The last first, also those that destructors add.
unsafe extern "C" fn run_all(_: *mut c_void) {
    loop {
        let entry = LAST.get();
        if entry.is_null() {
            return;
        }
        let Entry { destructor, variable, before } = std::ptr::read(entry);
        LAST.set(before);
        if reserve::owns(entry.cast()) {
            reserve::give_back(entry.cast(), Layout::new::<Entry>());
        } else {
            System.dealloc(entry.cast(), Layout::new::<Entry>());
        }
        destructor(variable);
    }
}

/// As __cxa_thread_atexit_impl; 0: noted down.
///
/// # Safety
/// `destructor(variable)` may be called when the calling thread ends.
#[no_mangle]
pub unsafe extern "C" fn __wrap___cxa_thread_atexit_impl(
    destructor: Destructor,
    variable: *mut c_void,
    _library: *mut c_void,
) -> c_int {
    let Some(key) = KEY.load(Ordering::Relaxed).checked_sub(1) else { return -1 };
    // Not this crate's allocator, which counts: these bytes are nobody's.
    let mut memory = System.alloc(Layout::new::<Entry>());
    if memory.is_null() {
        memory = reserve::take(Layout::new::<Entry>(), false);
    }
    let entry = memory.cast::<Entry>();
    if entry.is_null() {
        return -1;
    }
    entry.write(Entry { destructor, variable, before: LAST.get() });
    // It needs memory with more than 32 keys only. Where it has none, the entry stays for the next one that does.
    libc::pthread_setspecific(key as libc::pthread_key_t, entry.cast());
    LAST.set(entry);
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static ENDED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    unsafe extern "C" fn end(variable: *mut c_void) {
        ENDED.lock().unwrap().push(variable as usize);
        if variable as usize == 2 {
            __wrap___cxa_thread_atexit_impl(end, 3 as *mut c_void, std::ptr::null_mut());
        }
    }

    #[test]
    fn ends_the_last_first_and_what_is_added_meanwhile() {
        std::thread::spawn(|| unsafe {
            for variable in [1, 2] {
                assert_eq!(__wrap___cxa_thread_atexit_impl(end, variable as *mut c_void, std::ptr::null_mut()), 0);
            }
        })
        .join()
        .unwrap();
        assert_eq!(*ENDED.lock().unwrap(), [2, 3, 1]);
    }
}

//! Memory for when the system has none left. Rust ends the process where an allocation fails, so this crate's allocator
//! (memory.rs) goes on in a reserve: a call of the interface that is under way gets to its end, and new ones are
//! refused (abi.rs) while less than half of the reserve is left. It is part of the program's zeroed memory, which takes
//! no pages before it is used.
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SIZE: usize = 64 << 20;

#[repr(align(4096))]
struct Pool(UnsafeCell<[u8; SIZE]>);
// SAFETY: blocks are handed out under the lock, each to one owner.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([0; SIZE]));
static LOCK: AtomicBool = AtomicBool::new(false);
static USED: AtomicUsize = AtomicUsize::new(0); // bytes handed out since it was last whole
static BLOCKS: AtomicUsize = AtomicUsize::new(0); // in use

struct Locked;

impl Locked {
    fn new() -> Self {
        while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::hint::spin_loop();
        }
        Locked
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        LOCK.store(false, Ordering::Release);
    }
}

fn start() -> *mut u8 {
    POOL.0.get().cast()
}

/// A block from the reserve, zeroed where `zero` says so; null: there is not so much left.
pub fn take(layout: Layout, zero: bool) -> *mut u8 {
    let _locked = Locked::new();
    let used = USED.load(Ordering::Relaxed);
    let Some(first) = used.checked_next_multiple_of(layout.align().max(16)) else { return std::ptr::null_mut() };
    if layout.align() > 4096 || layout.size() > SIZE - first.min(SIZE) {
        return std::ptr::null_mut();
    }
    USED.store(first + layout.size(), Ordering::Relaxed);
    BLOCKS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: first + size is inside the pool, and nobody else has this part of it.
    unsafe {
        let block = start().add(first);
        if zero {
            block.write_bytes(0, layout.size());
        }
        block
    }
}

pub fn owns(block: *mut u8) -> bool {
    (block as usize).wrapping_sub(start() as usize) < SIZE
}

/// Of a block that it owns. The reserve is whole again when the last one has come back.
pub fn give_back() {
    let _locked = Locked::new();
    if BLOCKS.fetch_sub(1, Ordering::Relaxed) == 1 {
        USED.store(0, Ordering::Relaxed);
    }
}

/// Whether enough is left for another call.
pub fn suffices() -> bool {
    USED.load(Ordering::Relaxed) <= SIZE / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, since there is one reserve.
    #[test]
    fn serves_until_it_is_used_up_and_is_whole_again() {
        let small = Layout::from_size_align(100, 64).unwrap();
        let (a, b) = (take(small, true), take(small, false));
        assert!(owns(a) && owns(b) && a as usize % 64 == 0 && b as usize >= a as usize + 100);
        assert!(suffices() && !owns(Box::into_raw(Box::new(1u8))));
        let large = Layout::from_size_align(SIZE / 2, 16).unwrap();
        let c = take(large, false);
        assert!(owns(c) && !suffices());
        assert!(take(large, false).is_null(), "there is not so much left");
        assert!(take(Layout::from_size_align(isize::MAX as usize - 15, 16).unwrap(), false).is_null());
        for _ in 0..3 {
            give_back();
        }
        assert!(suffices());
        assert_eq!(take(small, false), a);
        give_back();
    }
}
